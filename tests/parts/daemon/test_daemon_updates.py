"""A version is installed, updated, found unchanged, taken back, saved and restored - by a daemon of the user's own."""

from __future__ import annotations

from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World


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
