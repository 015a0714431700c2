"""A version is installed, updated, found unchanged, taken back, saved and restored - by a daemon of the user's own."""

from __future__ import annotations

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World

from slotd.errors import SlotdError


def test_a_first_version_is_installed_by_a_daemon_that_the_bus_starts(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    printed = world.slotctl("update", "notes")
    assert "1.0" in printed
    assert notes.version == "1.0"
    shown = world.json("status", "notes")
    assert (shown["state"], shown["version"], shown["slot"]) == ("idle", "1.0", "a")


async def test_an_update_brings_the_new_version_up_on_the_same_data(world: World, notes: Notes, desk: Desk) -> None:
    before = notes.write("one", "two", "three")
    notes.publish("1.1")
    assert (await desk.do("Check", "notes"))["result"] == "done"
    assert (await desk.app("notes"))["AvailableVersion"] == "1.1"
    job = await desk.start("Update", "notes")
    assert (await desk.end_of(job))["result"] == "updated"
    after = notes.says()
    assert (after["version"], after["digest"]) == ("1.1", before["digest"])
    progress = desk.values(job, "Progress")
    assert progress == sorted(progress)
    assert progress[-1] == 100


async def test_going_back_after_the_trial_must_say_what_becomes_of_the_data(notes: Notes, desk: Desk) -> None:
    with pytest.raises(SlotdError, match="what was written since is set aside") as caught:
        await desk.start("Rollback", "notes")
    assert str(getattr(caught.value, "remote_name", "")).endswith(".DataChoiceRequired")
    assert notes.version == "1.1"


def test_going_back_with_the_data_restored_keeps_what_was_written_since_as_quarantine(
    world: World, notes: Notes
) -> None:
    notes.write("written by 1.1")
    world.slotctl("rollback", "notes", "--data=restore")
    assert (notes.says()["version"], notes.says()["notes"]) == ("1.0", 3)
    kept = [copy for copy in world.json("backups", "notes") if copy["kind"] == "quarantine"]
    assert [copy["version"] for copy in kept] == ["1.1"]


def test_a_version_that_was_left_by_hand_is_installed_again_when_it_is_asked_for(world: World, notes: Notes) -> None:
    world.slotctl("update", "notes", status=3)
    world.slotctl("update", "notes", "--version", "1.1")
    assert notes.version == "1.1"


def test_going_back_with_the_data_kept_hands_them_to_the_old_version(world: World, notes: Notes) -> None:
    before = notes.write("written by 1.1, for 1.0")
    world.slotctl("rollback", "notes", "--data=keep")
    after = notes.says()
    assert after["version"] == "1.0"
    assert after["digest"] == before["digest"]


def test_a_backup_by_hand_is_restored_by_hand(world: World, notes: Notes) -> None:
    before = notes.says()
    world.slotctl("backup", "notes")
    assert notes.says()["digest"] == before["digest"]
    saved = next(copy for copy in world.json("backups", "notes") if copy["reason"] == "manual")
    notes.write("too much")
    world.slotctl("restore", "notes", saved["id"])
    assert notes.says() == before
    assert "was restored" in world.slotctl("history", "notes")


async def test_a_backup_that_does_not_exist_is_refused_and_the_app_runs_on(notes: Notes, desk: Desk) -> None:
    running = notes.run_id()
    with pytest.raises(SlotdError, match="cannot find backup 'none'"):
        await desk.start("Restore", "notes", "none")
    assert notes.run_id() == running


async def test_a_release_that_damages_the_data_is_taken_back_with_them_and_not_tried_again(
    world: World, notes: Notes, desk: Desk
) -> None:
    before = notes.says()
    notes.publish("1.3", "damage-data", schema=2)
    ended = await desk.do("Update", "notes")
    assert ended["result"] == "rolled-back"
    assert notes.says() == before
    app = await desk.app("notes")
    assert (app["State"], app["Version"]) == ("idle", "1.0")
    assert app["LastError"].startswith("1.3 was rolled back:")
    assert (await desk.do("Update", "notes"))["result"] == "up-to-date"


async def test_a_release_with_the_same_files_ends_unchanged_and_the_app_is_not_restarted(
    world: World, notes: Notes, desk: Desk
) -> None:
    running = notes.run_id()
    current = {
        path.name: path.read_bytes() for path in (world.state / "apps/notes/current").iterdir() if path.is_file()
    }
    notes.publish_files("1.4", current)
    assert (await desk.do("Update", "notes"))["result"] == "unchanged"
    assert notes.run_id() == running
    assert (await desk.app("notes"))["Version"] == "1.0"
    assert "1.4 holds the same files as 1.0" in world.slotctl("history", "notes")
    world.slotctl("update", "notes", status=3)  # nothing to do: it is not looked into again
