"""Ways in which an app once could be lost, or left stopped: each was found by reading, and none may come back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher
from tests.system.test_crash import check_promises, crash_at, fired, wait_until_done

_versions = itertools.count(1)

CURRENT = "/var/lib/slotd/apps/notes/current"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher, port=8941)
        app.set_up(trial="500ms")
        container.run("systemctl enable notes.service")
        app.install("1.0")
        app.slotctl("enable", "notes")
        yield app


def last_backup(notes: Notes) -> str:
    return str(next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup"))


# Inside of rb-quarantine and rb-restore, off the event loop.
@pytest.mark.parametrize("point", ["data.quarantine.rename", "data.quarantine.seal", "data.restore.place"])
def test_a_host_that_goes_down_in_a_restore_comes_up_with_its_version_and_the_restored_data(
    notes: Notes, point: str
) -> None:
    notes.slotctl("backup", "notes")
    saved, copy_id = notes.wait_state(), last_backup(notes)
    notes.write(f"written after the backup, before {point}")
    assert notes.wait_state() != saved
    crash_at(notes, point, action="hang")
    notes.slotctl("--no-wait", "restore", "notes", copy_id)
    notes.machine.wait_for(f"test -e /run/slotd-fired/{point}")

    notes.machine.crash()
    notes.machine.boot()

    wait_until_done(notes)
    assert notes.machine.run(f"readlink {CURRENT}").stdout.strip() in ("a", "b")
    assert notes.wait_state() == saved


def test_a_restore_of_a_backup_that_is_not_whole_is_refused_before_the_app_is_stopped(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    copy_id, pid = last_backup(notes), notes.machine.run("systemctl show -P MainPID notes").stdout
    notes.machine.run(f"mv /var/lib/slotd/backups/notes/{copy_id}/header.json /root/")
    printed = notes.slotctl("restore", "notes", copy_id, status=None)
    assert "never finished" in printed
    assert notes.machine.run("systemctl show -P MainPID notes").stdout == pid
    assert notes.json("status", "notes")["state"] != "held"


@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("point", ["commit:begin", "snapshot:copied", "switch:trial", "switch:link", "start:counted"])
def test_a_disk_error_in_the_late_steps_leaves_a_running_app_and_no_open_trial(
    notes: Notes, point: str, action: str
) -> None:
    before = notes.wait_state()
    new = f"3.{next(_versions)}"
    notes.publisher.publish(new)
    crash_at(notes, point, action)
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, point)
    check_promises(notes, before, new)
    if notes.wait_state()["version"] != new:
        notes.slotctl("update", "notes", "--version", new, "--force")
    assert notes.wait_state()["version"] == new


def test_an_update_that_failed_goes_on_failing_after_a_crash_in_its_undo(notes: Notes) -> None:
    """Killed while a failed update is undone: the half undone rest is not taken for one to go on with."""
    before, pid = notes.wait_state(), notes.machine.run("systemctl show -P MainPID notes").stdout
    notes.publisher.publish(f"3.{next(_versions)}")
    crash_at(notes, "preserve:end", "enospc")
    notes.machine.write_file(
        "/run/systemd/system/slotd.service.d/second.conf",
        "[Service]\nEnvironment=SLOTD_FAILPOINTS=preserve:end=enospc,data.remove.begun=kill\n",
    )
    notes.machine.run("systemctl daemon-reload && systemctl restart slotd")
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, "data.remove.begun")
    job = notes.json("history", "notes")
    assert notes.wait_state() == before
    assert notes.machine.run("systemctl show -P MainPID notes").stdout == pid, job
    notes.machine.run("rm -f /run/systemd/system/slotd.service.d/second.conf; systemctl daemon-reload")


def test_an_app_that_is_started_while_its_data_come_back_is_stopped_and_they_come_back_again(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    saved, copy_id = notes.wait_state(), last_backup(notes)
    notes.write("written after the backup")
    crash_at(notes, "data.restore.finish", "hang")
    notes.slotctl("--no-wait", "restore", "notes", copy_id)
    notes.machine.wait_for("test -e /run/slotd-fired/data.restore.finish")
    notes.machine.run("systemctl start notes")
    notes.wait_state()
    notes.write("on half restored data")
    notes.machine.run("systemctl kill -s KILL slotd")
    wait_until_done(notes)
    assert notes.wait_state() == saved
    assert not [found for found in notes.json("history", "notes") if found["kind"] == "rollback-failed"]
