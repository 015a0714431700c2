"""Alice has no root: a slotd of her own, under her own user manager, does for her apps what the system's does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from tests.system.alice import DATA, HOME, SLOTS, AlicesNotes
from tests.system.container import Container
from tests.system.image import REPOSITORY
from tests.system.notes import Notes, Publisher

STATUS = f"{HOME}/.local/state/slotd/fired"
_versions = itertools.count(1)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as serving:
        yield serving


@pytest.fixture(scope="module")
def notes(container: Container, publisher: Publisher) -> AlicesNotes:
    app = AlicesNotes(container, publisher)
    app.set_up(trial="500ms")
    assert "notes: good" in app.slotctl("verify", "notes")
    app.slotctl("enable", "notes")
    app.install("1.0")
    return app


def next_version() -> str:
    return f"2.{next(_versions)}"


def test_what_enable_and_the_first_update_make_is_hers(notes: AlicesNotes) -> None:
    assert notes.state()["version"] == "1.0"
    drop_in = notes.machine.read_file(f"{HOME}/.config/systemd/user/notes.service.d/50-slotd.conf")
    assert "After=slotd-boot.service" in drop_in
    assert "OnFailure=slotd-failed@%n.service" in drop_in
    owners = notes.machine.run(f"find {SLOTS} {DATA} -printf '%u:%g\\n' | sort -u").stdout
    assert owners == "alice:alice\n"
    assert "root" not in notes.machine.run(f"find {HOME}/.local {HOME}/.cache {HOME}/.config -printf '%u\\n'").stdout
    for unit in ("slotd.service", "slotd-boot.service", "slotd-check.timer", "slotd-apply.timer", "slotd-prune.timer"):
        assert notes.run(["systemctl", "--user", "is-enabled", unit]).stdout == "enabled\n"


def test_her_timers_will_fire(notes: AlicesNotes) -> None:
    listed = notes.run("systemctl --user list-timers --no-pager").stdout
    for timer in ("slotd-check.timer", "slotd-apply.timer", "slotd-prune.timer"):
        assert timer in listed


@pytest.mark.parametrize("errand", ["slotd-check", "slotd-apply", "slotd-prune", "slotd-check@notes"])
def test_what_a_timer_starts_succeeds(notes: AlicesNotes, errand: str) -> None:
    notes.run(["systemctl", "--user", "start", f"{errand}.service"])
    shown = notes.run(["systemctl", "--user", "show", f"{errand}.service", "--property=Result,NRestarts"]).stdout
    assert "Result=success" in shown


def test_a_good_release_comes_with_all_data(notes: AlicesNotes) -> None:
    before = notes.wait_state()
    version = next_version()
    notes.publisher.publish(version, schema=2)
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert after["version"] == version
    assert (after["notes"], after["digest"]) == (before["notes"], before["digest"])


@pytest.mark.parametrize(
    ("behaviour", "why"), [("damage-data", "signal 6"), ("crash-after 1", "status 5"), ("crash-at-start", "status 3")]
)
def test_a_bad_release_goes_back_with_her_data_and_her_journal_tells_why(
    notes: AlicesNotes, behaviour: str, why: str
) -> None:
    before, version = notes.wait_state(), next_version()
    notes.publisher.publish(version, behaviour, schema=9)
    notes.set_trial("6s")
    printed = notes.slotctl("update", "notes", status=4)
    notes.set_trial("")
    assert notes.wait_state() == before
    assert why in printed
    notes.machine.run("journalctl --sync")
    story = notes.run("journalctl --user --unit=notes.service --no-pager --output=cat").stdout
    assert f"rolled back to {before['version']}: {version}" in story or f"{version} was rolled back" in story
    assert why in story
    assert notes.slotctl("update", "notes", status=3), "it is not tried again by itself"


def test_a_forged_release_is_never_unpacked(notes: AlicesNotes) -> None:
    before = notes.wait_state()
    notes.publisher.publish("8.0", forged=True)
    assert "cannot" in notes.slotctl("update", "notes", status=1)
    assert notes.wait_state() == before
    notes.publisher.withdraw("8.0")


def test_hold_backup_and_restore_work_for_her(notes: AlicesNotes) -> None:
    before = notes.wait_state()
    notes.slotctl("hold", "notes", "on holiday")
    notes.publisher.publish(version := next_version(), schema=2)
    assert "on holiday" in notes.slotctl("update", "notes", status=None)
    assert notes.wait_state() == before
    notes.slotctl("unhold", "notes")
    notes.slotctl("backup", "notes")
    saved = next(copy["id"] for copy in notes.json("backups", "notes") if copy["reason"] == "manual")
    notes.wait_state()
    notes.write("written after the backup")
    notes.slotctl("restore", "notes", saved)
    assert notes.wait_state() == before
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == version


def crash_at(notes: AlicesNotes, point: str, more: str = "") -> None:
    notes.run(f"rm -rf {STATUS} && mkdir -p {STATUS}")
    notes.write_file(
        f"{HOME}/.config/systemd/user/slotd.service.d/failpoint.conf",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\n"
        f"Environment=SLOTD_FAILPOINTS={point}=kill SLOTD_FAILPOINTS_DIR={STATUS}\nRestartSec=50ms\n{more}",
    )
    notes.run("systemctl --user daemon-reload && systemctl --user restart slotd")


@pytest.mark.parametrize(
    "point", ["fetch:downloaded", "stage:unpacked", "preserve:end", "snapshot:copied", "switch:link", "trial:begin"]
)
def test_her_daemon_killed_in_an_update_leaves_one_whole_version_with_its_data(notes: AlicesNotes, point: str) -> None:
    before, new = notes.wait_state(), next_version()
    notes.publisher.publish(new, schema=2)
    crash_at(notes, point)
    notes.slotctl("update", "notes", status=None)
    notes.wait_idle()
    assert notes.machine.exists(f"{STATUS}/{point}")
    state, shown = notes.wait_state(), notes.json("status", "notes")
    assert state["version"] in (before["version"], new)
    assert state["digest"] == before["digest"]
    assert (shown["version"], shown["trial"]) == (state["version"], None)
    link = notes.machine.run(["readlink", f"{SLOTS}/current"]).stdout.strip()
    assert notes.machine.read_file(f"{SLOTS}/{link}/VERSION") == state["version"]


def test_when_her_daemon_cannot_be_kept_running_what_it_left_is_settled_without_it(notes: AlicesNotes) -> None:
    before, new = notes.wait_state(), next_version()
    notes.publisher.publish(new, schema=2)
    crash_at(notes, "stop:remembered", "Restart=no\n")
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for(
        "journalctl --quiet --sync; journalctl --output=cat _SYSTEMD_USER_UNIT=slotd-recover.service"
        " + USER_UNIT=slotd-recover.service | grep -q Finished"
    )
    assert notes.wait_state() == before
    notes.wait_idle()
    assert notes.json("status", "notes")["version"] == before["version"]


def test_it_leaves_when_idle_and_her_bus_starts_it_again(notes: AlicesNotes) -> None:
    drop_in = f"{HOME}/.config/systemd/user/slotd.service.d/failpoint.conf"
    notes.write_file(drop_in, "[Service]\nEnvironment=SLOTD_IDLE_SECONDS=1\n")
    notes.run("systemctl --user daemon-reload && systemctl --user restart slotd")
    notes.machine.wait_for(
        f"XDG_RUNTIME_DIR=/run/user/{notes.uid} setpriv --reuid=alice --regid=alice --init-groups"
        " systemctl --user show slotd --property=ActiveState,Result | sort | tr '\\n' ' '"
        " | grep 'ActiveState=inactive Result=success'"
    )
    assert "notes" in notes.slotctl("list")
    assert notes.run("systemctl --user is-active slotd").stdout == "active\n"
    notes.run(f"rm {drop_in} && systemctl --user daemon-reload && systemctl --user restart slotd")


def test_the_systems_slotd_and_hers_do_not_know_each_other(notes: AlicesNotes) -> None:
    machine = notes.machine
    assert "notes" not in machine.run("slotctl list").stdout
    hers = notes.wait_state()
    hosts = Notes(machine, notes.publisher)
    hosts.set_up(trial="500ms")
    hosts.install("1.5")
    assert hosts.slotctl("update", "notes", status=None)
    assert notes.wait_state() == hers
    assert hosts.json("status", "notes")["version"] == hosts.wait_state()["version"]
    assert notes.json("status", "notes")["version"] == hers["version"]
    assert machine.run("stat -c %U /var/lib/slotd/apps/notes/a").stdout == "root\n"
    denied = notes.machine.run(["slotctl", "hold", "notes", "mine"], user="alice", check=False)
    assert denied.returncode == 5, "she is nobody special to the system's"


def test_another_user_reaches_neither_her_daemon_nor_her_files(notes: AlicesNotes) -> None:
    machine = notes.machine
    machine.run("useradd --create-home bob")
    bus = f"unix:path=/run/user/{notes.uid}/bus"
    words = ["org.slotd1", "/org/slotd1", "org.slotd1.Manager", "ListApps"]
    denied = machine.run(["busctl", f"--address={bus}", "call", *words], user="bob", check=False)
    assert denied.returncode != 0
    assert "Permission denied" in denied.stderr
    told = machine.run(
        ["slotctl", "--user", "list"], user="bob", check=False, env={"XDG_RUNTIME_DIR": f"/run/user/{notes.uid}"}
    )
    assert told.returncode == 1
    assert "belongs to alice" in told.stderr
    assert machine.run(["ls", f"{HOME}/.local/state/slotd"], user="bob", check=False).returncode != 0


@pytest.mark.parametrize("command", [("list",), ("enable", "notes")])
def test_without_a_session_it_says_what_to_do(notes: AlicesNotes, command: tuple[str, ...]) -> None:
    machine = notes.machine
    machine.run("id carol || useradd --create-home carol")
    machine.run(f"cp -r {notes.config} /home/carol/.config.slotd && mkdir -p /home/carol/.config && "
                "rm -rf /home/carol/.config/slotd && mv /home/carol/.config.slotd /home/carol/.config/slotd && "
                "chown -R carol: /home/carol/.config")  # fmt: skip
    told = machine.run(["slotctl", "--user", *command], user="carol", check=False)
    assert told.returncode == 1
    assert "there is no /run/user/" in told.stderr
    assert "machinectl shell carol@" in told.stderr
    assert "loginctl enable-linger carol" in told.stderr
    assert "Traceback" not in told.stderr


def test_with_lingering_even_su_is_enough(notes: AlicesNotes) -> None:
    plain = notes.machine.run(["su", "alice", "-c", "slotctl --user list"])
    assert "notes" in plain.stdout
    assert notes.machine.run(["su", "alice", "-c", "slotctl --user enable notes"]).returncode == 0


def test_an_app_of_hers_cannot_be_someone_elses(notes: AlicesNotes) -> None:
    drop_in = f"{notes.config}/apps.d/notes.toml.d/user.toml"
    notes.write_file(drop_in, '[service]\nuser = "root"\n')
    told = notes.slotctl("verify", "notes", status=1)
    assert 'service.user is "root"' in told
    assert "leave it out" in told
    notes.write_file(drop_in, '[service]\nuser = "alice"\n')
    assert "notes: good" in notes.slotctl("verify", "notes")
    notes.run(["rm", drop_in])


def test_hints_name_the_commands_that_reach_her_daemon(notes: AlicesNotes) -> None:
    told = notes.slotctl("status", "nobody", status=1)
    assert "`slotctl --user list`" in told
    assert "`slotctl --user reload`" in told


def test_the_drop_in_of_the_manual_keeps_an_app_from_its_own_slots(notes: AlicesNotes) -> None:
    manual = (REPOSITORY / "docs/user.md").read_text()
    hardening = re.findall(r"```ini\n(.*?)```", manual, re.DOTALL)[-1]
    before, drop_in = notes.wait_state(), f"{HOME}/.config/systemd/user/notes.service.d/hardening.conf"
    outside = f"{HOME}/.bashrc {HOME}/.config {HOME}/.local/state/slotd/state.db /run/user/{notes.uid}/bus"
    look = (
        f"ExecStartPost=/bin/sh -c 'echo x >{SLOTS}/current/x; ls -d {outside}; echo x >{DATA}/../notes/look; true'\n"
    )
    notes.write_file(drop_in, hardening + look)
    notes.run("systemctl --user daemon-reload && systemctl --user restart notes")
    after = notes.wait_state()
    assert (after["version"], after["notes"]) == (before["version"], before["notes"])
    notes.publisher.publish(version := next_version(), "damage-data", schema=2)
    notes.slotctl("update", "notes", status=4)
    notes.publisher.publish(version := next_version(), schema=2)
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == version
    notes.write("still written")
    assert not notes.machine.exists(f"{SLOTS}/current/x")
    assert notes.machine.exists(f"{DATA}/look")
    notes.machine.run("journalctl --sync")
    said = notes.run("journalctl --user --unit=notes.service --no-pager --output=cat").stdout
    assert "Read-only file system" in said
    for path in outside.split():
        assert f"cannot access '{path}'" in said
    notes.run(f"rm {drop_in} && systemctl --user daemon-reload && systemctl --user restart notes")
