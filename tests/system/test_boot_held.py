"""A way back that failed leaves an app without its data: nothing starts it on what is there until a person says how."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import arm, wait_until_done
from tests.system.notes import Notes, Publisher

_versions = itertools.count(2)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1h")
        container.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0", trial="300ms")
        yield app


def fail_to_go_back(notes: Notes) -> str:
    """A version that somebody calls bad, and a disk that fails when the data are to come back."""
    version = f"{next(_versions)}.0"
    notes.publisher.publish(version, schema=2)
    arm(notes, "rb-restore:begin=eio")
    notes.slotctl("--no-wait", "update", "notes", "--version", version)
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "failed"\'', timeout_s=60)
    wait_until_done(notes)
    arm(notes, "")
    return version


def require_down(notes: Notes) -> None:
    """Nobody starts it, and it is told why, and what to do."""
    assert notes.machine.show("notes.service", "ActiveState")["ActiveState"] == "inactive"
    assert notes.machine.run("systemctl start notes.service", check=False).returncode != 0
    shown = notes.json("status", "notes")
    assert shown["held"]
    said = " ".join(notes.slotctl("status", "notes").split())
    assert "slotctl rollback notes --data=restore" in said
    assert "Nothing starts it" in said


def reboot(notes: Notes) -> None:
    notes.machine.reboot()
    warned = notes.machine.journal_entries("SLOTD_APP=notes", "_SYSTEMD_UNIT=slotd-boot.service")
    assert any("notes stays stopped while it is held" in entry["MESSAGE"] for entry in warned)


def test_after_a_way_back_that_failed_nothing_starts_the_app_until_a_person_goes_back(notes: Notes) -> None:
    before = notes.wait_state()
    fail_to_go_back(notes)
    require_down(notes)
    reboot(notes)
    require_down(notes)
    notes.slotctl("backup", "notes", status=None)  # nor does a job that changes nothing
    reboot(notes)
    require_down(notes)

    notes.slotctl("rollback", "notes", "--data=restore")
    assert notes.wait_state() == before
    notes.slotctl("unhold", "notes")
    notes.machine.reboot()
    assert notes.wait_state() == before


def test_a_person_may_restore_the_data_or_start_it_as_it_is(notes: Notes) -> None:
    before = notes.wait_state()
    version = fail_to_go_back(notes)
    backup = next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup")
    reboot(notes)
    require_down(notes)

    notes.slotctl("unhold", "notes")
    notes.machine.run("systemctl start notes.service")
    assert notes.wait_state()["version"] == version

    notes.slotctl("hold", "notes", "until its data are back")
    notes.machine.run("systemctl stop notes.service")
    notes.slotctl("restore", "notes", backup)
    notes.machine.run("systemctl is-active notes.service || systemctl start notes.service")
    assert notes.wait_state()["notes"] == before["notes"]
    notes.machine.reboot()
    state = notes.wait_state()
    assert (state["version"], state["notes"]) == (version, before["notes"])
