"""The daemon itself: leaves when idle, comes back when asked, goes on after a stop, is restarted when it stalls."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import PYTHON, World, wait_for

WATCHDOG = "2s"


@pytest.fixture(scope="module")
def world(tree: Path) -> Iterator[World]:
    with World(tree, watchdog=WATCHDOG) as session:
        yield session


@pytest.fixture(scope="module", autouse=True)
def _installed(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.write("one", "two")


def pid(world: World) -> str:
    return world.unit("slotd.service", "MainPID")["MainPID"]


def workers(world: World) -> str:
    """The units that do a job's work beside the daemon."""
    return world.systemctl("list-units", "--plain", "--no-legend", "slotd-worker-*").strip()


async def test_it_leaves_when_idle_and_the_next_call_brings_it_back(world: World, notes: Notes, desk: Desk) -> None:
    world.start(SLOTD_IDLE_SECONDS="0.3")
    await desk.until_unit("slotd.service", "inactive")
    assert world.unit("slotd.service", "Result")["Result"] == "success"
    assert (await desk.app("notes"))["Version"] == "1.0"
    await desk.until_unit("slotd.service", "inactive")
    assert notes.version == "1.0"


async def test_it_does_not_leave_as_idle_during_a_trial(world: World, notes: Notes, desk: Desk) -> None:
    notes.define(trial="1s")
    world.start(SLOTD_IDLE_SECONDS="0.1")
    notes.publish("1.1")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    first = pid(world)
    assert first != "0"
    assert (await desk.end_of(job))["result"] == "updated"
    await desk.until_unit("slotd.service", "inactive")
    assert (await desk.job(job))["Result"] == "updated"  # asked of the next one


@pytest.mark.parametrize("step", ["fetch", "stage", "preserve", "trial"])
async def test_told_to_stop_in_the_middle_of_a_job_it_goes_on_with_it_when_it_is_back(
    world: World, notes: Notes, desk: Desk, step: str
) -> None:
    """Each step has something in it that does not end by itself, so that it is this step that is interrupted."""
    go = notes.data.with_name("go")
    go.unlink(missing_ok=True)
    notes.define(trial="1h" if step == "trial" else "600ms")
    if step == "preserve":
        waits = f'before = [["sh", "-c", "until test -e {go}; do sleep 0.1; done"]]'
        world.write(notes.definition, notes.definition.read_text().replace("[data]", f"[data]\n{waits}"))
    version = {"fetch": "1.2", "stage": "1.3", "preserve": "1.4", "trial": "1.5"}[step]
    before = notes.says()
    notes.publish(version)
    if step in (hanging := {"fetch": "worker-fetch:begin", "stage": "worker-unpack:begin"}):
        world.fail_at(hanging[step], "hang")
    else:
        world.start()
    job = await desk.start("Update", "notes")
    await desk.step_of(job, step)
    if step != "trial":
        await asyncio.to_thread(wait_for, lambda: workers(world))
    world.systemctl("stop", "slotd.service")
    assert world.unit("slotd.service", "Result")["Result"] == "success"
    assert not workers(world)
    world.write(go, "")
    desk.removed.clear()
    world.systemctl("start", "slotd.service")
    if step == "trial":
        await desk.call("MarkGood", "sa{sv}", "notes")
    if job not in desk.removed and (await desk.job(job))["State"] == "running":
        await desk.end_of(job)
    assert (await desk.job(job))["Result"] == "updated"
    assert f"interrupted in step {step}" in world.slotctl("history", "notes")
    assert notes.says() == before | {"version": version}


@pytest.mark.parametrize("point", ["snapshot:saved", "backup:end"])
def test_a_backup_that_is_sealed_is_one_and_told_once_whatever_became_of_the_daemon(
    world: World, notes: Notes, point: str
) -> None:
    world.fail_at(point, "kill")
    known = [copy["id"] for copy in world.json("backups", "notes")]
    world.slotctl("backup", "notes")
    assert world.has_fired(point)
    (made,) = (copy for copy in world.json("backups", "notes") if copy["id"] not in known)
    told = [event["message"] for event in world.json("history", "notes") if event["kind"] == "backup-made"]
    assert len([each for each in told if each.startswith(f"backup {made['id']} of ")]) == 1
    assert "is whole" in world.slotctl("backups", "notes", made["id"], "--verify")
    world.start()


@pytest.mark.parametrize("step", ["stage", "stop", "trial"])
async def test_a_loop_that_stalls_is_ended_by_the_watchdog_and_the_next_daemon_settles_its_job(
    world: World, notes: Notes, desk: Desk, step: str
) -> None:
    notes.define(trial="300ms")
    before = notes.says()
    version, result = {"stage": ("2.0", "updated"), "stop": ("2.1", "failed"), "trial": ("2.1.1", "updated")}[step]
    notes.publish(version)
    world.fail_at(f"{step}:begin", "stall")
    first = pid(world)
    job = await desk.start("Update", "notes")
    # No answer while it stalls; systemd kills it for want of a sign of life, and starts the next.
    ended = await desk.end_of(job)
    assert world.has_fired(f"{step}:begin")
    assert pid(world) not in ("0", first)
    assert world.unit("slotd.service", "NRestarts")["NRestarts"] == "1"
    assert ended["result"] == result
    after = notes.says()
    assert after["digest"] == before["digest"]
    assert after["version"] == (version if result == "updated" else before["version"])
    assert f"interrupted in step {step}" in world.slotctl("history", "notes")


async def test_a_job_whose_plan_nobody_can_read_ends_held_and_told_and_stands_in_nobodys_way(
    world: World, notes: Notes, desk: Desk
) -> None:
    notes.define(trial="1h")
    notes.publish("2.2")
    world.start()
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    world.systemctl("stop", "slotd.service")
    with contextlib.closing(sqlite3.connect(world.state / "state.db")) as db, db:
        db.execute("UPDATE jobs SET plan = '{\"artifacts\": 7}' WHERE state = 'running'")
    before = notes.says()
    world.systemctl("start", "slotd.service")
    await asyncio.to_thread(wait_for, lambda: '"held": true' in world.slotctl("--json", "status", "notes"))
    assert (await desk.job(job))["Result"] == "failed"
    assert "cannot be read, and step trial was left as it was" in world.slotctl("status", "notes")
    assert "cannot be read" in world.slotctl("history", "notes")
    assert notes.says() == before
    notes.define(trial="300ms")
    await desk.call("Reload")
    world.slotctl("unhold", "notes")
    notes.publish("2.3")
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert notes.says() == before | {"version": "2.3"}


def test_what_runs_beside_it_does_not_take_a_damaged_state_away_from_it(world: World) -> None:
    world.start()
    with contextlib.closing(sqlite3.connect(world.state / "state.db", isolation_level=None)) as rows:
        found = rows.execute("SELECT * FROM slots").fetchone()
        columns = [column[1] for column in rows.execute("PRAGMA table_info(slots)")]
        values = dict(zip(columns, found, strict=True)) | {"app": "other", "state": "no such state"}
        rows.execute(f"INSERT INTO slots VALUES ({', '.join('?' * len(values))})", list(values.values()))
        said = world.run(PYTHON, "-m", "slotd", "--user", "prune", status=1)
        assert "it is damaged" in said
        assert "systemctl --user restart slotd" in said
        rows.execute("DELETE FROM slots WHERE app = 'other'")
    assert not list(world.state.glob("state.db.broken*"))
    world.slotctl("hold", "notes", "for now")
    world.start()
    assert world.json("status", "notes")["held"]
    world.slotctl("unhold", "notes")


async def test_a_bus_call_in_vain_does_not_keep_it(world: World, desk: Desk) -> None:
    world.start(SLOTD_IDLE_SECONDS="0.3")
    said = world.run(
        "busctl", "--user", "call", "org.slotd1", "/org/slotd1", "org.slotd1.Manager", "Nonsense", status=1
    )
    assert "has no method Nonsense" in said
    await desk.until_unit("slotd.service", "inactive")


def test_it_stops_in_time_whatever_a_thread_of_it_waits_for(world: World, notes: Notes) -> None:
    world.fail_at("data.pass.entry", "hang", SLOTD_LEAVE_SECONDS="1")
    world.slotctl("--no-wait", "backup", "notes")
    wait_for(lambda: world.has_fired("data.pass.entry"))
    world.systemctl("stop", "slotd.service")
    assert world.unit("slotd.service", "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
    world.start()
    assert "interrupted" in world.slotctl("history", "notes")
    world.slotctl("backup", "notes")
