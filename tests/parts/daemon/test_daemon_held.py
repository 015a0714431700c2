"""A way back that a failing disk, or a person, gets in the way of."""

from __future__ import annotations

import asyncio

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World, wait_for


@pytest.fixture(scope="module", autouse=True)
def _installed(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.write("one", "two")


def quarantines(world: World) -> dict[str, bool]:
    """Each by its id: is it whole?"""
    ids = [copy["id"] for copy in world.json("backups", "notes") if copy["kind"] == "quarantine"]
    return {each: (world.state / "quarantine" / "notes" / each / "header.json").exists() for each in ids}


def test_a_rollback_tried_again_ends_with_one_whole_quarantine_of_what_the_bad_version_wrote(
    world: World, notes: Notes
) -> None:
    before = notes.says()
    notes.publish("2.0", "damage-data")
    world.fail_at("data.quarantine.renamed", "eio")
    world.slotctl("update", "notes", status=1)
    assert world.json("status", "notes")["held"]
    ((begun, is_whole),) = quarantines(world).items()
    assert not is_whole
    world.slotctl("unhold", "notes")
    world.slotctl("rollback", "notes", "--data=restore")
    assert notes.says() == before
    assert quarantines(world) == {begun: True}
    world.slotctl("backups", "notes", "--verify")


def test_a_restore_tried_again_goes_on_with_the_quarantine_that_was_begun(world: World, notes: Notes) -> None:
    world.slotctl("backup", "notes")
    saved = next(copy for copy in world.json("backups", "notes") if copy["reason"] == "manual")
    before = notes.says()
    after = notes.write("too much")
    known = quarantines(world)
    world.fail_at("data.quarantine.renamed", "eio")
    world.slotctl("restore", "notes", saved["id"], status=1)
    world.slotctl("unhold", "notes")
    world.slotctl("restore", "notes", saved["id"])
    assert notes.says() == before
    ((kept, is_whole),) = (each for each in quarantines(world).items() if each[0] not in known)
    assert is_whole
    world.slotctl("restore", "notes", kept)
    assert notes.says() == after


async def test_a_bad_version_that_someone_starts_on_the_data_that_have_just_come_back_does_not_keep_them(
    world: World, notes: Notes, desk: Desk
) -> None:
    before = notes.says()
    notes.publish("3.0", "damage-data")
    world.fail_at("rb-switch:begin", "hang")
    job = await desk.start("Update", "notes")
    await asyncio.to_thread(wait_for, lambda: world.has_fired("rb-switch:begin"))
    world.systemctl("start", "notes.service", status=1)  # it is the bad one still: it damages them, and dies
    (world.root / "fired" / "rb-switch:begin").write_text("go")
    assert (await desk.end_of(job))["result"] == "rolled-back"
    assert notes.says() == before
