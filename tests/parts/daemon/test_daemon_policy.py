"""What may be applied by itself, what waits for a person's word, and what a person may still stop."""

from __future__ import annotations

import pytest
from tests.keys import MinisignKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer

from slotd.errors import SlotdError


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    app = Notes(world, server, minisign)
    app.set_up()
    app.publish("1.0")
    world.write(world.config / "slotd.toml", "max_parallel = 1\n")
    world.slotctl("update", "notes")
    return app


@pytest.fixture(scope="module")
def diary(world: World, server: ReleaseServer, minisign: MinisignKey, notes: Notes) -> Notes:
    app = Notes(world, server, minisign, name="diary")
    app.set_up()
    app.publish("1.0")
    world.systemctl("daemon-reload")
    world.systemctl("reload-or-restart", "slotd")
    world.slotctl("update", "diary")
    return app


def error_name(error: BaseException) -> str:
    return str(getattr(error, "remote_name", "")).rpartition(".")[2]


async def test_a_held_app_is_not_updated_until_the_hold_is_lifted(world: World, notes: Notes, desk: Desk) -> None:
    notes.publish("1.1")
    world.slotctl("hold", "notes", "the", "auditors", "are", "here")
    app = await desk.app("notes")
    assert (app["State"], app["HoldReason"]) == ("held", "the auditors are here")
    with pytest.raises(SlotdError, match="it is held \\(the auditors are here\\)") as caught:
        await desk.start("Update", "notes")
    assert error_name(caught.value) == "Held"
    assert (await desk.do("Check", "notes"))["version"] == "1.1"
    assert await desk.call("ApplyAll", "a{sv}") == []
    world.slotctl("unhold", "notes")
    assert (await desk.app("notes"))["State"] == "awaiting-approval"


async def test_only_what_is_available_can_be_approved_and_only_that_is_applied(
    world: World, notes: Notes, desk: Desk
) -> None:
    assert await desk.call("ApplyAll", "a{sv}") == []
    with pytest.raises(SlotdError, match=r"1\.1 is available") as caught:
        await desk.call("Approve", "ssa{sv}", "notes", "7.0")
    assert error_name(caught.value) == "NoSuchVersion"
    world.slotctl("approve", "notes", "1.1")
    assert (await desk.app("notes"))["State"] == "update-available"
    notes.publish("1.2")  # what came later was not approved
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "updated"
    assert notes.version == "1.1"
    assert await desk.call("ApplyAll", "a{sv}") == []


async def test_in_mode_manual_nothing_is_applied_by_itself(world: World, notes: Notes, desk: Desk) -> None:
    world.slotctl("mode", "notes", "manual")
    assert (await desk.do("Check", "notes"))["version"] == "1.2"
    assert await desk.call("ApplyAll", "a{sv}") == []
    assert (await desk.app("notes"))["State"] == "update-available"


async def test_in_mode_auto_the_window_applies_what_the_check_found(world: World, notes: Notes, desk: Desk) -> None:
    world.slotctl("mode", "notes", "auto")
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "updated"
    assert notes.version == "1.2"


async def test_an_automatic_update_waits_for_a_veto_and_can_be_cancelled(
    world: World, notes: Notes, desk: Desk
) -> None:
    notes.define(delay="10min")
    await desk.call("Reload")
    notes.publish("1.3")
    await desk.do("Check", "notes")
    running = notes.run_id()
    [job] = await desk.call("ApplyAll", "a{sv}")
    await desk.step_of(job, "delay")
    assert "slotctl --user cancel" in world.slotctl("history", "notes")
    world.slotctl("cancel", job.rpartition("/")[2])
    assert (await desk.end_of(job))["result"] == "cancelled"
    assert (await desk.job(job))["State"] == "cancelled"
    assert notes.run_id() == running
    assert (await desk.app("notes"))["Version"] == "1.2"


async def test_once_the_app_was_stopped_it_is_too_late_to_cancel(notes: Notes, desk: Desk) -> None:
    notes.define(trial="1s")
    await desk.call("Reload")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    with pytest.raises(SlotdError, match="it is in step trial already") as caught:
        await desk.call("Cancel", path=job, interface="org.slotd1.Job")
    assert error_name(caught.value) == "TooLate"
    with pytest.raises(SlotdError, match="another job on notes") as busy:
        await desk.start("Update", "notes")
    assert error_name(busy.value) == "Busy"
    assert (await desk.end_of(job))["result"] == "updated"
    assert notes.version == "1.3"


async def test_with_apply_check_the_check_itself_is_followed_by_the_update(notes: Notes, desk: Desk) -> None:
    notes.define(apply="check")
    await desk.call("Reload")
    notes.publish("1.4")
    await desk.do("Check", "notes")
    await desk.until(lambda: len(desk.new) == 2, "the update")
    assert (await desk.end_of(desk.new[1]))["result"] == "updated"
    assert notes.version == "1.4"


async def test_two_apps_take_turns_when_one_may_work_at_a_time(
    notes: Notes, diary: Notes, server: ReleaseServer, desk: Desk
) -> None:
    for app in (notes, diary):
        app.define()
        app.publish("3.0")
    await desk.call("Reload")
    server.misbehave("slow-start", "/http/*/3.0/*.tar.gz", seconds=0.4)
    jobs = [await desk.start("Update", app.name) for app in (notes, diary)]
    await desk.step_of(jobs[0], "fetch")
    assert (await desk.job(jobs[1]))["State"] == "waiting"
    assert [(await desk.end_of(job))["result"] for job in jobs] == ["updated", "updated"]
    order = [path for path, changed in desk.changes if path in jobs and changed.get("Step") in ("fetch", "trial")]
    # The heavy work of one is over when that of the other begins; their trials may overlap.
    assert order == [jobs[0], jobs[0], jobs[1], jobs[1]]
    assert (notes.version, diary.version) == ("3.0", "3.0")
    server.behave()


async def test_a_job_that_waits_for_its_turn_can_be_cancelled(notes: Notes, diary: Notes, desk: Desk) -> None:
    for app in (notes, diary):
        app.publish("3.1")
    first, second = [await desk.start("Update", app.name) for app in (notes, diary)]
    await desk.call("Cancel", path=second, interface="org.slotd1.Job")
    assert (await desk.end_of(second))["result"] == "cancelled"
    assert (await desk.end_of(first))["result"] == "updated"
    assert (notes.version, diary.version) == ("3.1", "3.0")
