"""A version on trial: probes that crash or hang, a person's verdict, a unit that gives up."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import PYTHON, World, wait_for

from slotd.errors import SlotdError

# Only a new version fails it: the way back must find the old one well.
PROBE = """
[[health]]
type = "exec"
command = ["/bin/sh", "-c", '[ "$(cat {slot}/VERSION)" = 1.0 ] || { %s; }']
interval = "100ms"
timeout = "%s"
grace = "0"
failures = 2
"""


@pytest.fixture(scope="module", autouse=True)
def _installed(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.write("one", "two")


@pytest.mark.parametrize(
    ("version", "script", "timeout", "why"),
    [
        ("1.1", "echo the parts are missing; exit 7", "1s", "exited with status 7: the parts are missing"),
        ("1.2", "kill -SEGV $$", "1s", "exited with status 139"),
        ("1.3", "sleep 60", "300ms", "did not end within"),
    ],
)
async def test_a_probe_that_crashes_or_hangs_takes_the_version_back_and_is_quoted(
    world: World, notes: Notes, desk: Desk, version: str, script: str, timeout: str, why: str
) -> None:
    before = notes.says()
    notes.define(more=PROBE % (script, timeout), trial="5s")
    await desk.call("Reload")
    notes.publish(version)
    ended = await desk.do("Update", "notes")
    assert ended["result"] == "rolled-back"
    assert why in ended["error"]
    assert notes.says() == before
    assert why in world.slotctl("status", "notes")
    assert not world.systemctl("list-units", "--plain", "--no-legend", "slotd-worker-*").strip()


async def test_a_version_marked_bad_goes_back_at_once(world: World, notes: Notes, desk: Desk) -> None:
    before = notes.says()
    notes.define(trial="1h")
    await desk.call("Reload")
    notes.publish("2.0")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    await desk.until(lambda: "trial" in desk.values("/org/slotd1/app/notes", "State"))
    notes.write("by 2.0")
    await desk.call("MarkBad", "sa{sv}", "notes")
    ended = await desk.end_of(job)
    assert ended["result"] == "rolled-back"
    assert "marked bad by an administrator" in ended["error"]
    assert notes.says() == before
    with pytest.raises(SlotdError, match="no version of it is on trial"):
        await desk.call("MarkGood", "sa{sv}", "notes")


async def test_a_version_marked_good_is_good_before_its_time(notes: Notes, desk: Desk) -> None:
    notes.publish("2.1")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    trial = (await desk.app("notes"))["Trial"]
    assert trial["version"] == "2.1"
    await desk.call("MarkGood", "sa{sv}", "notes")
    assert (await desk.end_of(job))["result"] == "updated"
    app = await desk.app("notes")
    assert (app["State"], app["Version"], app["Trial"]) == ("idle", "2.1", {})


async def test_going_back_during_the_trial_restores_the_data_without_being_asked(notes: Notes, desk: Desk) -> None:
    before = notes.says()
    notes.publish("2.2")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    notes.write("by 2.2")
    await desk.call("Rollback", "sa{sv}", "notes")
    assert (await desk.end_of(job))["result"] == "rolled-back"
    assert notes.says() == before


async def test_a_release_that_crashes_over_and_over_uses_up_its_attempts(notes: Notes, desk: Desk) -> None:
    before = notes.says()
    notes.publish("2.3", "crash-after 0.2")
    ended = await desk.do("Update", "notes")
    assert ended["result"] == "rolled-back"
    assert "exited with status 5" in ended["error"]
    assert notes.says() == before


def in_store(world: World, question: str) -> list[str]:
    """The first column of what the state says; read beside the daemon."""
    with contextlib.closing(sqlite3.connect(f"file:{world.state}/state.db?mode=ro", uri=True)) as db:
        return [str(row[0]) for row in db.execute(question)]


def plan_of_last_job(world: World) -> str:
    return in_store(world, "SELECT plan FROM jobs ORDER BY id DESC LIMIT 1")[0]


async def on_trial(notes: Notes, desk: Desk, version: str, trial: str) -> str:
    notes.define(trial=trial)
    await desk.call("Reload")
    notes.publish(version)
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    return job


async def test_what_an_administrator_stopped_is_started_by_no_other_daemon_nor_by_the_way_back_without_one(
    world: World, notes: Notes, desk: Desk
) -> None:
    job = await on_trial(notes, desk, "8.0", "1h")
    world.systemctl("stop", "notes.service")
    await asyncio.to_thread(wait_for, lambda: 'stopped_by_hand": ["' in plan_of_last_job(world))
    world.fail_at("trial:looked", "hang")  # another daemon, which stands still after its first look
    await asyncio.to_thread(wait_for, lambda: world.has_fired("trial:looked"))
    world.systemctl("kill", "--signal=KILL", "slotd.service")
    world.systemctl("stop", "slotd.service")
    world.run(PYTHON, "-m", "slotd", "--user", "recover")
    assert world.unit("notes.service", "ActiveState")["ActiveState"] == "inactive"
    world.start()
    await desk.step_of(job, "trial")
    world.systemctl("start", "notes.service")
    assert notes.version == "8.0"
    await desk.call("MarkGood", "sa{sv}", "notes")
    assert (await desk.end_of(job))["result"] == "updated"


def test_that_a_version_passed_is_told_also_where_the_disk_fails_right_after_it_was_written_down(
    world: World, notes: Notes
) -> None:
    notes.define()
    notes.publish("8.1")
    world.fail_at("commit:closed", "eio")
    world.slotctl("update", "notes")
    assert world.has_fired("commit:closed")
    assert notes.version == "8.1"
    assert "updated from 8.0 to 8.1" in world.slotctl("history", "notes")


async def test_a_trial_outlasts_any_number_of_orderly_restarts(world: World, notes: Notes, desk: Desk) -> None:
    job = await on_trial(notes, desk, "8.2", "1h")
    running = notes.run_id()
    resumed = "SELECT id FROM events WHERE kind = 'job-resumed' AND version = '8.2'"
    for number in range(1, 26):
        await asyncio.to_thread(world.systemctl, "restart", "slotd.service")
        await asyncio.to_thread(wait_for, lambda number=number: len(in_store(world, resumed)) == number)
    app = await desk.app("notes")
    assert (app["State"], app["Version"], app["Held"]) == ("trial", "8.2", False)
    assert notes.run_id() == running
    await desk.call("MarkGood", "sa{sv}", "notes")
    assert (await desk.end_of(job))["result"] == "updated"


async def test_a_trial_that_slotd_dies_of_each_time_is_held_and_the_version_that_runs_is_not_blamed(
    world: World, notes: Notes, desk: Desk
) -> None:
    world.fail_at("trial:looked", "kill+100")
    notes.define(trial="1h")
    await desk.call("Reload")
    notes.publish("8.3")
    world.slotctl("update", "notes", status=1)
    app = await desk.app("notes")
    assert (app["Version"], app["Held"], app["Trial"]) == ("8.3", True, {})
    assert "was interrupted 21 times in step trial" in app["HoldReason"]
    assert notes.says()["version"] == "8.3"
    assert "8.3" not in in_store(world, "SELECT version FROM blocked")
    world.start()
    world.slotctl("unhold", "notes")
    notes.define()
    await desk.call("Reload")
    notes.publish("8.4")
    assert (await desk.do("Update", "notes"))["result"] == "updated"
