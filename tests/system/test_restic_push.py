"""Second copies at the far end of SFTP and S3: pushed by the unit of the package, as the manual says to set it up, to
real servers. What fails is told, tried again, and holds up nothing - unless the definition says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.s3_server import S3Server
from tests.sftp_server import SftpServer
from tests.system.container import Container, free_port
from tests.system.image import Image, image_with
from tests.system.notes import Notes, Publisher

PASSWORD = "correct horse"
DROP_IN = "/etc/slotd/apps.d/notes.toml.d/push.toml"
BACKUP = """
[backup]
push = "{address}"
push_credential = "restic-push"
push_required = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with SftpServer(tmp_path_factory.mktemp("far") / "sshd", free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: SftpServer) -> str:
    return f"{server.address}{server.directory.parent}/repository"


@pytest.fixture(scope="module")
def notes(image: Image, server: SftpServer, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """Root has a key that is let in; the host is not known, and there is no repository yet."""
    more = image_with(image, ["openssh-client"])
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher, Container(more) as machine:
        app = Notes(machine, publisher)
        machine.run("mkdir -m 0700 -p /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        server.let_in(machine.read_file("/root/.ssh/id_ed25519.pub"))
        machine.write_file("/etc/slotd/restic-push", f"{PASSWORD}\n", mode=0o600)
        machine.write_file(
            "/etc/systemd/system/slotd-push.service.d/restic.conf",
            "[Service]\nLoadCredential=restic-push:/etc/slotd/restic-push\n",
        )
        # A busy host starves what is nice; all else of the unit is as it is shipped.
        machine.write_file("/etc/systemd/system/slotd-push.service.d/awake.conf", "[Service]\nNice=0\nCPUWeight=100\n")
        machine.run("systemctl daemon-reload; systemctl stop slotd-push.timer")  # not in the middle of a test
        app.set_up(trial="500ms", more=BACKUP.format(address=address))
        machine.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0")
        app.publisher.publish("1.1")
        app.slotctl("update", "notes")
        yield app


def restic(notes: Notes, address: str, words: str, environment: str = "") -> str:
    """What a person types, who has read the manual."""
    line = f"restic --no-cache --repo {address} --password-file /etc/slotd/restic-push {words}"
    return notes.machine.run(line, env=dict(each.split("=", 1) for each in environment.splitlines())).stdout


def push(notes: Notes, *, succeeds: bool) -> str:
    """What the unit says of one run."""
    since = notes.machine.run("date +%s.%N").stdout.strip()
    done = notes.machine.run("systemctl start slotd-push.service", check=False)
    notes.machine.run("journalctl --sync")
    said = notes.machine.run(f"journalctl --quiet --output=cat --unit=slotd-push.service --since=@{since}").stdout
    assert (done.returncode == 0) == succeeds, said
    return said


def backups(notes: Notes) -> list[str]:
    return [copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup"]


def pushed(notes: Notes, address: str, environment: str = "") -> set[str]:
    found = json.loads(restic(notes, address, "snapshots --json --tag pass=push", environment))
    return {tag.removeprefix("id=") for each in found or [] for tag in each["tags"] if tag.startswith("id=")}


def test_it_is_the_hour_that_tries_again(notes: Notes) -> None:
    timer = notes.machine.show("slotd-push.timer", "UnitFileState", "TimersCalendar")
    assert timer["UnitFileState"] == "enabled"
    assert "*-*-* *:00:00" in timer["TimersCalendar"]


def test_a_push_that_fails_is_told_with_what_to_do_and_the_required_one_holds_up_the_update_not_the_app(
    notes: Notes,
) -> None:
    assert "its host is not known here yet. Log in there once as root" in push(notes, succeeds=False)
    assert "backups wait to be pushed" in notes.slotctl("history", "notes")
    began = notes.machine.show("notes.service", "ActiveEnterTimestampMonotonic")
    notes.publisher.publish("1.2")
    printed = notes.slotctl("update", "notes", status=1)
    assert "(push_required)" in printed
    assert "systemctl start slotd-push.service" in printed
    assert notes.state()["version"] == "1.1"
    assert notes.machine.show("notes.service", "ActiveEnterTimestampMonotonic") == began


def test_where_it_is_not_required_an_update_goes_on_without_it(notes: Notes) -> None:
    notes.machine.write_file(DROP_IN, "[backup]\npush_required = false\n")
    notes.machine.run("systemctl reload slotd")
    notes.slotctl("update", "notes")
    notes.machine.run(f"rm {DROP_IN}; systemctl reload slotd")
    assert notes.wait_state()["version"] == "1.2"


def test_once_the_repository_is_there_all_that_waited_is_pushed_and_the_next_update_is_let_go(
    notes: Notes, server: SftpServer, address: str
) -> None:
    notes.machine.write_file("/root/.ssh/known_hosts", server.known, mode=0o600)
    assert "it is not there" in push(notes, succeeds=False)
    restic(notes, address, "init")
    push(notes, succeeds=True)
    assert pushed(notes, address) == set(backups(notes))
    assert len(backups(notes)) == 2
    notes.publisher.publish("1.3")
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == "1.3"


def test_an_archive_host_that_shows_another_key_gets_nothing(notes: Notes, server: SftpServer, address: str) -> None:
    server.stop()
    server.new_host_key()
    server.start()
    assert "its host shows another key than the one that is known. Nothing was sent." in push(notes, succeeds=False)
    notes.machine.write_file("/root/.ssh/known_hosts", server.known, mode=0o600)
    push(notes, succeeds=True)
    assert pushed(notes, address) == set(backups(notes))


def test_a_wrong_password_is_told_apart_from_a_host_that_is_gone(notes: Notes, server: SftpServer) -> None:
    notes.slotctl("backup", "notes")
    notes.machine.write_file("/etc/slotd/restic-push", "wrong\n", mode=0o600)
    assert "the password is not the one that it was made with" in push(notes, succeeds=False)
    notes.machine.write_file("/etc/slotd/restic-push", f"{PASSWORD}\n", mode=0o600)
    server.stop()
    assert "Connection refused" in push(notes, succeeds=False)
    server.start()
    push(notes, succeeds=True)


def test_a_backup_that_this_host_has_lost_comes_back_as_the_manual_says(notes: Notes, address: str) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "backups.md").read_text()
    before = notes.state()
    (lost,) = [copy for copy in notes.json("backups", "notes") if copy["reason"] == "manual"]
    notes.write("written since")
    notes.machine.run(f"rm -rf /var/lib/slotd/backups/notes/{lost['id']}")
    notes.machine.run(["sqlite3", "/var/lib/slotd/state.db", f"DELETE FROM backups WHERE id = '{lost['id']}'"])
    notes.machine.run("systemctl reload slotd")
    assert lost["id"] not in backups(notes)
    (line,) = [each.strip() for each in manual.splitlines() if each.strip().startswith("systemd-run --pipe")]
    example = line.split()[-1]
    assert "is back" in notes.machine.run(line.replace(example, lost["id"])).stdout
    notes.slotctl("restore", "notes", lost["id"])
    assert notes.wait_state() == before


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), free_port()) as server:
        yield server


def test_by_s3_it_is_the_same_with_keys_of_a_credential(notes: Notes, s3: S3Server) -> None:
    machine, address = notes.machine, f"{s3.address}copies"
    machine.write_file("/etc/slotd/s3-keys", s3.environment, mode=0o600)
    unit = "/etc/systemd/system/slotd-push.service.d/s3.conf"
    machine.write_file(unit, "[Service]\nLoadCredential=s3-keys:/etc/slotd/s3-keys\n")
    machine.write_file(DROP_IN, f'[backup]\npush = "{address}"\npush_environment = "s3-keys"\n')
    machine.run("systemctl daemon-reload; systemctl reload slotd")
    assert "Make it with `restic init`" in push(notes, succeeds=False)
    assert "created restic repository" in restic(notes, address, "init", s3.environment)
    push(notes, succeeds=True)
    assert pushed(notes, address, s3.environment) == set(backups(notes))


def test_no_password_and_no_key_is_in_a_log_in_what_systemd_tells_or_on_the_bus(notes: Notes, s3: S3Server) -> None:
    told = notes.machine.run(
        "journalctl --output=export; systemctl show slotd-push.service; slotctl --json history notes;"
        " busctl introspect org.slotd1 /org/slotd1/app/notes"
    ).stdout
    key = notes.machine.read_file("/root/.ssh/id_ed25519").splitlines()[1]
    assert "backups wait to be pushed" in told
    assert [secret for secret in (PASSWORD, key, s3.secret) if secret in told] == []
