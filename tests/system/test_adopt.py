"""An application that was installed by hand: taken into slotd's care, updated, given back - and a crash at any step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import APP, UNIT, Notes, Publisher

ROOT = "/var/lib/slotd/apps/notes"
DROP_IN = "/etc/systemd/system/notes.service.d/45-slotd-adopted.conf"
STEPS = ("adopt:begin", "adopt:copied", "adopt:switched", "adopt:written", "adopt:healthy")
BACK = ("release:begin", "release:exchanged", "release:removed", "release:healthy")


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """Version 1.0 in /opt/notes with some notes in it, started by a unit of its own; slotd knows a definition."""
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s")
        for name, content in {
            "notes.py": APP.read_bytes(),
            "VERSION": b"1.0",
            "SCHEMA": b"1",
            "behaviour": b"well",
        }.items():
            container.write_file(f"/opt/notes/{name}", content)
        container.run("cd /opt/notes; install -d -m 700 roots; echo key | tee root.key >roots/key; chmod 600 root.key")
        container.run("chgrp notes /opt/notes && chmod 750 /opt/notes")
        unit = UNIT.format(port=app.port).replace(f"{ROOT}/current", "/opt/notes")
        container.write_file("/etc/systemd/system/notes.service", unit)
        container.run("systemctl daemon-reload && systemctl enable --now notes.service")
        app.wait_state()
        for number in range(10):
            app.write(f"note {number}")
        yield app


def runs_from(notes: Notes) -> str:
    pid = notes.machine.show("notes.service", "MainPID")["MainPID"]
    return notes.machine.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline").stdout.split()[-1]


def break_at(notes: Notes, point: str) -> None:
    """slotd dies there once; systemd starts it again."""
    text = f"[Service]\nEnvironment=SLOTD_FAILPOINTS={point}=kill SLOTD_FAILPOINTS_DIR=/run/fired\n"
    notes.machine.run("rm -rf /run/fired && mkdir /run/fired")
    notes.machine.write_file("/run/systemd/system/slotd.service.d/failpoint.conf", text)
    notes.machine.run("systemctl daemon-reload && systemctl restart slotd")


def mend(notes: Notes) -> None:
    notes.machine.run("rm -f /run/systemd/system/slotd.service.d/failpoint.conf; systemctl daemon-reload")
    notes.machine.wait_for('test "$(slotctl --json jobs | tr -d \' \\n\')" = "[]"')
    notes.machine.run("systemctl restart slotd")


@pytest.mark.parametrize("args", [("--version", "1.0"), ("--from", "/opt/notes")])
def test_what_is_not_said_is_asked_for(notes: Notes, args: tuple[str, ...]) -> None:
    assert "--from /opt/notes --version 1.2" in notes.slotctl("adopt", "notes", *args, status=2)


@pytest.mark.parametrize("version", ["latest", "../1.0", "1.0 (new)", "stable"])
def test_what_is_no_version_is_not_adopted_as_one(notes: Notes, version: str) -> None:
    printed = notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", version, status=2)
    assert "not a version" in printed
    assert not notes.machine.exists(ROOT + "/a")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/usr/share", "none of its units starts anything from there"),
        ("/var/lib", "lie there"),
        ("/var/lib/notes/data", "data of the app"),
        ("/nowhere", "not a directory"),
        ("/opt/../opt/notes/notes.py", "not a directory"),
    ],
)
def test_a_directory_that_is_not_the_app_is_refused_and_nothing_is_touched(
    notes: Notes, source: str, says: str
) -> None:
    before = notes.machine.show("notes.service", "InvocationID")
    printed = notes.slotctl("adopt", "notes", "--from", source, "--version", "1.0", status=1)
    assert says in printed
    assert notes.machine.show("notes.service", "InvocationID") == before
    assert not notes.machine.exists(DROP_IN)
    assert not notes.machine.exists(f"{ROOT}/current")


def test_what_is_for_the_app_alone_is_not_shown_to_others_of_its_group(notes: Notes) -> None:
    notes.machine.run("printf key >/opt/notes/own.key; chown notes: /opt/notes/own.key; chmod 600 /opt/notes/own.key")
    notes.machine.run("id visitor >/dev/null 2>&1 || useradd visitor; usermod --append --groups notes visitor")
    printed = notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "1.0", status=1)
    assert "/opt/notes/own.key is for notes alone" in printed
    assert "visitor" in printed
    assert not notes.machine.exists(f"{ROOT}/current")
    notes.machine.run("gpasswd --delete visitor notes")


def test_a_version_that_is_not_what_runs_is_noticed_and_all_is_as_it_was(notes: Notes) -> None:
    printed = notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "9.9", status=1)
    assert "9.9" in printed
    assert runs_from(notes) == "/opt/notes/notes.py"
    assert not notes.machine.exists(f"{ROOT}/current")
    assert notes.json("status", "notes")["state"] == "absent"


@pytest.mark.parametrize("point", STEPS)
def test_slotd_dies_while_it_adopts_and_the_app_runs_as_before(notes: Notes, point: str) -> None:
    before = notes.wait_state()
    break_at(notes, point)
    try:
        notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "1.0", status=1)
        assert notes.machine.exists(f"/run/fired/{point}")
    finally:
        mend(notes)
    assert notes.wait_state() == before
    assert runs_from(notes) == "/opt/notes/notes.py"
    assert not notes.machine.exists(DROP_IN)
    assert not notes.machine.exists(f"{ROOT}/a")


def test_it_is_adopted_with_one_restart_and_its_own_directory_stays(notes: Notes) -> None:
    before = notes.wait_state()
    listed = notes.machine.run("cd /opt/notes && find . -not -path '*/__pycache__*' | sort").stdout
    notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "1.0")
    assert notes.wait_state() == before
    assert runs_from(notes) == f"{ROOT}/current/notes.py"
    status = notes.json("status", "notes")
    assert (status["version"], status["slot"], status["state"]) == ("1.0", "a", "idle")
    assert notes.machine.run("cd /opt/notes && find . -not -path '*/__pycache__*' | sort").stdout == listed
    assert notes.machine.run(f"stat -c %U {ROOT}/a/notes.py").stdout.strip() == "root"
    assert "slots are not empty" in notes.slotctl(
        "adopt", "notes", "--from", "/opt/notes", "--version", "1.0", status=3
    )


def test_nobody_reads_in_the_slot_what_he_could_not_read_before(notes: Notes) -> None:
    def reads(user: str, path: str) -> bool:
        return notes.machine.run(["cat", path], user=user, check=False).returncode == 0

    current = f"{ROOT}/current"
    assert reads("notes", f"{current}/own.key")
    assert not reads("visitor", f"{current}/own.key")
    assert not reads("notes", f"{current}/root.key")
    assert not reads("notes", f"{current}/roots/key")
    assert not reads("visitor", f"{current}/VERSION"), "nobody else could get to /opt/notes"


def test_it_is_updated_like_any_other_and_a_bad_release_goes_back_to_what_was_adopted(notes: Notes) -> None:
    before = notes.wait_state()
    notes.publisher.publish("1.1", "crash-at-start")
    notes.slotctl("update", "notes", status=4)
    assert notes.wait_state() == before
    notes.publisher.publish("1.2")
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == "1.2"


@pytest.mark.parametrize("point", BACK)
def test_slotd_dies_while_it_gives_the_app_back_and_the_app_runs_as_before(notes: Notes, point: str) -> None:
    before = notes.wait_state()
    break_at(notes, point)
    try:
        notes.slotctl("release", "notes", "--present", status=1)
        assert notes.machine.exists(f"/run/fired/{point}")
    finally:
        mend(notes)
    assert notes.wait_state() == before
    assert runs_from(notes) == f"{ROOT}/current/notes.py"
    assert notes.machine.read_file("/opt/notes/VERSION") == "1.0"
    assert notes.machine.run("ls -d /opt/notes*").stdout.split() == ["/opt/notes"]


def test_it_is_given_back_with_the_version_that_runs(notes: Notes) -> None:
    before = notes.wait_state()
    notes.slotctl("release", "notes", "--present")
    assert notes.wait_state() == before
    assert runs_from(notes) == "/opt/notes/notes.py"
    assert notes.machine.read_file("/opt/notes/VERSION") == "1.2"
    assert notes.machine.read_file("/opt/notes.before-release/VERSION") == "1.0"
    assert not notes.machine.exists(DROP_IN)
    assert not notes.machine.exists(f"{ROOT}/current")
    assert notes.json("status", "notes")["state"] in ("absent", "update-available")


def test_who_was_not_adopted_is_not_given_back(notes: Notes) -> None:
    assert "was not adopted" in notes.slotctl("release", "notes", status=3)


def test_what_was_kept_when_it_was_given_back_before_is_in_the_way_and_neither_directory_is_touched(
    notes: Notes,
) -> None:
    notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "1.2")
    said = notes.slotctl("release", "notes", "--present", status=1)
    assert "/opt/notes.before-release is there already" in said
    assert notes.machine.read_file("/opt/notes/VERSION") == "1.2"
    assert notes.machine.read_file("/opt/notes.before-release/VERSION") == "1.0"
    notes.slotctl("release", "notes")


def test_slotd_dies_after_the_app_was_given_back_and_it_is_given_back(notes: Notes) -> None:
    notes.slotctl("adopt", "notes", "--from", "/opt/notes", "--version", "1.2")
    break_at(notes, "release:unlinked")
    try:
        notes.slotctl("release", "notes", status=None)
    finally:
        mend(notes)
    assert runs_from(notes) == "/opt/notes/notes.py"
    assert not notes.machine.exists(f"{ROOT}/a")
    assert not notes.machine.exists(DROP_IN)
