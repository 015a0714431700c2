"""Definitions come, break, are mended and go, while the daemon runs."""

from __future__ import annotations

import pytest
from tests.keys import MinisignKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer

from slotd.errors import SlotdError


@pytest.fixture(scope="module")
def diary(world: World, server: ReleaseServer, minisign: MinisignKey, notes: Notes) -> Notes:
    app = Notes(world, server, minisign, name="diary")
    app.set_up()
    for each in (notes, app):
        each.publish("1.0")
        world.slotctl("update", each.name)
    return app


async def test_a_broken_definition_disables_its_own_app_only_and_says_where(
    world: World, notes: Notes, diary: Notes, desk: Desk
) -> None:
    running = notes.run_id()
    notes.define(more='[poliscy]\nmode = "auto"\n')
    await desk.call("Reload")
    app = await desk.app("notes")
    assert app["State"] == "misconfigured"
    assert "notes.toml" in app["LastError"]
    assert 'did you mean "policy"' in app["LastError"]
    assert "poliscy" in world.slotctl("status", "notes")
    with pytest.raises(SlotdError, match="cannot work on notes") as caught:
        await desk.start("Update", "notes")
    assert str(getattr(caught.value, "remote_name", "")).endswith(".Misconfigured")
    assert (await desk.do("Check", "diary"))["result"] == "up-to-date"
    assert notes.run_id() == running


async def test_a_broken_definition_does_not_take_the_way_to_see_its_version_and_history(
    world: World, notes: Notes, diary: Notes
) -> None:
    assert "1.0 was installed" in world.slotctl("history", "notes")
    assert "poliscy" in world.slotctl("verify", "notes", status=1)


async def test_a_mended_definition_is_taken_up_at_the_next_reload(notes: Notes, diary: Notes, desk: Desk) -> None:
    notes.define()
    await desk.call("Reload")
    app = await desk.app("notes")
    assert (app["State"], app["Version"], app["LastError"]) == ("idle", "1.0", "")
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"


async def test_a_removed_definition_takes_the_app_from_the_list_and_leaves_it_running(
    notes: Notes, diary: Notes, desk: Desk
) -> None:
    running = diary.run_id()
    diary.definition.unlink()
    await desk.call("Reload")
    assert [row[0] for row in await desk.call("ListApps")] == ["notes"]
    with pytest.raises(SlotdError, match="cannot find an app named 'diary'"):
        await desk.call("GetApp", "s", "diary")
    assert diary.run_id() == running
    diary.define()
    await desk.call("Reload")
    assert (await desk.app("diary"))["Version"] == "1.0"


async def test_a_definition_that_goes_while_its_app_is_updated_does_not_disturb_the_update(
    notes: Notes, diary: Notes, desk: Desk
) -> None:
    diary.define(trial="1s")
    await desk.call("Reload")
    diary.publish("1.1")
    job = await desk.start("Update", "diary")
    await desk.step_of(job, "trial")
    diary.definition.unlink()
    await desk.call("Reload")
    assert (await desk.end_of(job))["result"] == "updated"
    assert diary.version == "1.1"


async def test_what_cannot_be_read_in_slotd_toml_leaves_the_defaults(
    world: World, notes: Notes, diary: Notes, desk: Desk
) -> None:
    world.write(world.config / "slotd.toml", "max_parallel = 0\n")
    await desk.call("Reload")
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"
    assert "max_parallel is 0" in world.slotctl("status")
