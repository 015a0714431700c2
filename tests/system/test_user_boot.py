"""The host goes down, or alice's user manager does, while an app of hers is on trial: the count is her manager's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.alice import AlicesNotes
from tests.system.container import Container
from tests.system.image import Image
from tests.system.notes import Publisher


@pytest.fixture
def notes(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlicesNotes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher, Container(image) as machine:
        app = AlicesNotes(machine, publisher)
        app.set_up(trial="1h")
        app.slotctl("enable", "notes")
        app.install("1.0", trial="300ms")
        yield app


def begin_trial(notes: AlicesNotes) -> None:
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.wait_status("state", "trial")
    notes.write("written on trial")


def power_cut(notes: AlicesNotes) -> None:
    notes.machine.run("sync")
    notes.machine.crash()
    notes.machine.boot()
    notes.wait_unit("slotd-boot.service")


def test_a_trial_goes_on_after_a_power_cut(notes: AlicesNotes) -> None:
    begin_trial(notes)
    power_cut(notes)
    state = notes.wait_state()
    assert (state["version"], state["notes"]) == ("2.0", 11)
    notes.wait_status("state", "trial")
    assert "boot 1 during the trial" in notes.slotctl("history", "notes")


def test_after_as_many_power_cuts_as_attempts_the_old_version_is_back_with_its_data(notes: AlicesNotes) -> None:
    before = notes.wait_state()
    begin_trial(notes)
    for _ in range(3):
        power_cut(notes)
    assert notes.wait_state() == before
    notes.wait_status("trial", None)
    assert "your service manager was started 3 times during its trial" in notes.slotctl("history", "notes")
    assert "quarantine" in notes.slotctl("backups", "notes")


def test_slotd_boot_alone_goes_back_with_her_daemon_masked(notes: AlicesNotes) -> None:
    before = notes.wait_state()
    begin_trial(notes)
    notes.run("systemctl --user mask --quiet --now slotd.service slotd-recover.service")
    for _ in range(3):
        power_cut(notes)
    assert notes.wait_state() == before
    assert notes.run("systemctl --user is-active slotd", check=False).stdout.strip() != "active"


def test_a_manager_that_starts_again_counts_also_where_its_runtime_directory_stayed(notes: AlicesNotes) -> None:
    begin_trial(notes)
    manager = f"user@{notes.uid}.service"
    kept = f"/run/user/{notes.uid}/kept"
    notes.run(["touch", kept])
    needs = f"--property=Requires=user-runtime-dir@{notes.uid}.service"
    notes.machine.run(["systemd-run", "--unit=keeper", needs, "sleep", "infinity"])
    notes.machine.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", manager])
    notes.machine.wait_for(f"! systemctl is-active --quiet {manager}")
    notes.machine.run(["systemctl", "start", manager])
    assert notes.machine.exists(kept), "the case that this is about"
    notes.wait_unit("slotd-boot.service")
    assert notes.wait_state()["version"] == "2.0"
    notes.wait_status("state", "trial")
    assert "boot 1 during the trial" in notes.slotctl("history", "notes")


def test_a_daemon_that_is_only_restarted_counts_nothing(notes: AlicesNotes) -> None:
    begin_trial(notes)
    notes.run("systemctl --user restart slotd")
    notes.wait_status("state", "trial")
    assert "during the trial" not in notes.slotctl("history", "notes")
