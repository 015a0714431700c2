"""An app that somebody has stopped: no timer starts it, and who updates it by hand finds it stopped again."""

from __future__ import annotations

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World


@pytest.fixture(scope="module", autouse=True)
def installed(world: World, notes: Notes) -> None:
    world.make(notes.data)
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.write("one")


def state(world: World) -> str:
    return world.unit("notes.service", "ActiveState")["ActiveState"]


def current(world: World) -> str:
    return (world.state / "apps/notes/current/VERSION").read_text()


def test_what_was_there_before_the_first_version_is_called_that(world: World) -> None:
    printed = world.slotctl("backups", "notes")
    assert "none yet" in printed
    (saved,) = world.json("backups", "notes")
    assert saved["version"] == ""
    assert "of what was there before the first version" in world.slotctl("backups", "notes", saved["id"])


def test_a_backup_by_hand_says_how_long_the_app_was_down(world: World, notes: Notes) -> None:
    running = notes.run_id()
    world.slotctl("backup", "notes")
    assert notes.run_id() != running
    assert "; the app was down for " in world.slotctl("history", "notes")


async def test_no_window_updates_an_app_that_is_stopped(world: World, notes: Notes, desk: Desk) -> None:
    notes.publish("1.1")
    world.systemctl("stop", "notes.service")
    world.slotctl("mode", "notes", "auto")
    world.slotctl("check", "notes")
    assert await desk.call("ApplyAll", "a{sv}") == []
    assert (state(world), current(world)) == ("inactive", "1.0")
    assert "cannot update notes by itself: it is stopped" in world.log
    world.slotctl("mode", "notes", "manual")


def test_by_hand_the_new_version_has_its_trial_and_is_stopped_again(world: World, notes: Notes) -> None:
    printed = world.slotctl("update", "notes")
    assert (state(world), current(world)) == ("inactive", "1.1"), printed
    told = world.slotctl("history", "notes")
    assert "notes was stopped already: it runs for the trial of the new version, and is stopped again" in told
    assert "stopped notes.service again, as before the update" in told
    world.systemctl("start", "notes.service")
    assert (notes.says()["version"], notes.says()["notes"]) == ("1.1", 1)


def test_one_that_does_not_pass_is_taken_back_and_the_app_stays_stopped(world: World, notes: Notes) -> None:
    before = notes.says()
    world.systemctl("stop", "notes.service")
    notes.publish("1.2", "crash-at-start")
    world.slotctl("update", "notes", status=4)
    assert (state(world), current(world)) == ("inactive", "1.1")
    world.systemctl("start", "notes.service")
    assert notes.says() == before


def test_an_update_that_fails_before_the_switch_does_not_start_it(world: World, notes: Notes) -> None:
    world.systemctl("stop", "notes.service")
    notes.publish("1.3")
    world.fail_at("snapshot:copied", "enospc")
    world.slotctl("update", "notes", status=1)
    world.start()
    assert (state(world), current(world)) == ("inactive", "1.1")


async def test_one_that_has_failed_is_not_one_that_somebody_stopped(world: World, notes: Notes, desk: Desk) -> None:
    """The update may be what mends it."""
    world.systemctl("start", "notes.service")
    world.systemctl("kill", "--signal=KILL", "notes.service")
    await desk.until_unit("notes.service", "active")
    world.slotctl("update", "notes")
    assert (state(world), notes.version) == ("active", "1.3")
