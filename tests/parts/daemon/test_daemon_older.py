"""No way down by a source's doing, and not past what a publisher allows; a source that falls silent is told once."""

from __future__ import annotations

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World

REFUSED = "its publisher says with 2.0 that nothing older than 1.5 may be gone back to"


@pytest.fixture(scope="module")
def installed(world: World, notes: Notes) -> Notes:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.publish("2.0", oldest="1.5")
    world.slotctl("update", "notes")
    assert notes.version == "2.0"
    return notes


@pytest.mark.attack
def test_a_source_that_offers_only_older_releases_takes_nothing_down(world: World, installed: Notes) -> None:
    run = installed.run_id()
    kept = installed.server.root / "http" / "notes" / "2.0"
    hidden = kept.rename(installed.server.root / "2.0")
    assert "1.0 was passed over: it is older than the installed 2.0" in " ".join(
        world.slotctl("update", "notes", status=3).split()
    )
    hidden.rename(kept)
    assert (installed.version, installed.run_id()) == ("2.0", run)


@pytest.mark.attack
@pytest.mark.parametrize("to", [(), ("--to", "1.0")], ids=["to the other slot", "by its number"])
def test_nobody_goes_back_past_what_the_publisher_allows_without_force(
    world: World, installed: Notes, to: tuple[str, ...]
) -> None:
    said = " ".join(world.slotctl("rollback", "notes", "--data=keep", *to, status=1).split())
    assert REFUSED in said
    assert "slotctl update notes --version 1.0 --force" in said.replace("--user ", "")
    assert installed.version == "2.0"


def test_a_failed_trial_still_ends_where_it_began(world: World, installed: Notes) -> None:
    """What a version says of those before it counts from when it has passed."""
    installed.publish("3.0", "crash-at-start", oldest="3.0")
    world.slotctl("update", "notes", status=4)
    assert installed.version == "2.0"


def test_a_person_who_forces_it_goes_back_all_the_same(world: World, installed: Notes) -> None:
    world.slotctl("update", "notes", "--version", "1.0", "--force")
    assert installed.version == "1.0"


async def test_a_source_that_says_nothing_new_is_told_once_and_shown_until_it_does(
    world: World, installed: Notes, desk: Desk
) -> None:
    installed.define(quiet="1s")
    await desk.call("Reload")
    world.slotctl("check", "notes", status=None)
    told = "the source has said nothing new for"
    for _ in range(3):
        world.slotctl("check", "notes", status=None)
    assert told in " ".join(world.slotctl("status", "notes").split())
    events = [each["message"] for each in world.json("history", "notes")]
    assert len([each for each in events if each.startswith(told)]) == 1
    installed.publish("4.0")
    world.slotctl("check", "notes", status=None)
    assert told not in world.json("status", "notes")["last_error"]
