"""What the bus is told of apps and jobs as they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.parts.bus_peer import NAME, ROOT
from tests.parts.bus_world import APP, JOB, MANAGER, PROPERTIES, World, world

from slotd.model import AppState, AppView, Mode, Result

OBJECTS = "org.freedesktop.DBus.ObjectManager"


class Ear:
    """Hears every signal of the daemon: its path, its name, its body."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, list[Any]]] = []

    def __call__(self, path: str, member: str, body: list[Any]) -> None:
        self.heard.append((path, member, body))

    def changes(self, path: str) -> list[dict[str, Any]]:
        return [body[1] for at, member, body in self.heard if (at, member) == (path, "PropertiesChanged")]

    def members(self) -> list[str]:
        return [member for _, member, _ in self.heard]


@asynccontextmanager
async def heard_world(*apps: str) -> AsyncIterator[tuple[World, Ear]]:
    async with world(*apps) as it:
        ear = Ear()
        await it.client.on_signal(ear, sender=NAME)
        yield it, ear


async def settled(it: World) -> None:
    """After one more turn of the loop and a round trip, all that was to be told has been heard."""
    await asyncio.sleep(0)
    await it.get(ROOT, MANAGER)


async def test_many_changes_in_one_turn_are_told_as_one() -> None:
    async with heard_world("notes") as (it, ear):
        it.core.change_app("notes", state=AppState.UPDATING)
        it.core.change_app("notes", available="1.2")
        it.core.change_app("notes", available="1.3", held=False)
        await settled(it)
        assert ear.heard == [
            (
                "/org/slotd1/app/notes",
                "PropertiesChanged",
                [APP, {"State": "updating", "AvailableVersion": "1.3"}, []],
            )
        ]


async def test_what_did_not_change_is_not_told() -> None:
    async with heard_world("notes") as (it, ear):
        it.core.change_app("notes", mode=Mode.APPROVE)
        await settled(it)
        assert ear.heard == []


async def test_a_job_is_told_from_its_beginning_to_its_end_in_order() -> None:
    async with heard_world("notes") as (it, ear):
        [job] = await it.call("Update", "sa{sv}", "notes", {})
        it.core.change_job(1, step="fetch", progress=10)
        await settled(it)
        it.core.change_job(1, step="cleanup", progress=99)
        it.core.change_app("notes", state=AppState.IDLE, version="1.1")
        it.core.end_job(1, Result.UPDATED, version="1.1", seconds=1.5, attempts=1, slots=["a", "b"])
        await settled(it)
        told = [(path, member) for path, member, _ in ear.heard if member != "PropertiesChanged"]
        assert told == [(ROOT, "InterfacesAdded"), (ROOT, "JobNew"), (ROOT, "JobRemoved")]
        assert ear.heard[1][2] == [1, job, "notes", "update"]
        *before, (_, _, removed) = ear.heard
        assert removed == [
            1,
            job,
            "notes",
            "updated",
            {"version": "1.1", "seconds": 1.5, "attempts": 1, "slots": ["a", "b"]},
        ]
        # All there is to know of the end was told before it.
        assert before[-3][2][1] == {
            "State": "done", "Step": "cleanup", "Progress": 100, "Result": "updated", "Finished": 2000
        }  # fmt: skip
        assert before[-2][2][1] == {"State": "idle", "Version": "1.1"}
        assert before[-1][2] == [MANAGER, {"NJobs": 0}, []]
        it.core.listeners[0].job_forgotten(1)
        await settled(it)
        assert ear.heard[-1] == (ROOT, "InterfacesRemoved", [job, [JOB]])


async def test_progress_is_told_ten_times_a_second_at_most_and_its_last_value_always() -> None:
    async with heard_world("notes") as (it, ear):
        [job] = await it.call("Update", "sa{sv}", "notes", {})
        loop = asyncio.get_running_loop()
        began = loop.time()
        for percent in range(1, 96):
            it.core.change_job(1, progress=percent)
            await asyncio.sleep(0.005)
        took_s = loop.time() - began
        await asyncio.sleep(0.15)
        told = [change["Progress"] for change in ear.changes(job)]
        assert told == sorted(told)
        assert told[-1] == 95
        assert 3 <= len(told) <= took_s * 10 + 2


async def test_a_new_step_is_told_at_once_whatever_the_progress_does() -> None:
    async with heard_world("notes") as (it, ear):
        [job] = await it.call("Update", "sa{sv}", "notes", {})
        for percent, step in ((1, "fetch"), (2, "fetch"), (3, "verify"), (4, "verify"), (5, "stage")):
            it.core.change_job(1, progress=percent, step=step)
            await settled(it)
        assert [change["Step"] for change in ear.changes(job) if "Step" in change] == ["fetch", "verify", "stage"]


async def test_progress_never_falls() -> None:
    async with heard_world("notes") as (it, ear):
        [job] = await it.call("Update", "sa{sv}", "notes", {})
        for percent, step in ((60, "fetch"), (20, "verify"), (61, "stage"), (-5, "stop"), (400, "start")):
            it.core.change_job(1, progress=percent, step=step)
            await settled(it)
        told = [change["Progress"] for change in ear.changes(job) if "Progress" in change]
        assert told == [60, 61, 100]
        assert (await it.get(job, JOB))["Progress"] == 100


async def test_apps_come_and_go() -> None:
    async with heard_world("notes") as (it, ear):
        it.core.views["blog"] = AppView("blog", state=AppState.ABSENT)
        it.core.listeners[0].app_added(it.core.views["blog"])
        it.core.change_app("blog", available="3")
        del it.core.views["notes"]
        it.core.listeners[0].app_removed("notes")
        await settled(it)
        assert ear.members() == ["InterfacesAdded", "InterfacesRemoved", "PropertiesChanged"]
        path, interfaces = ear.heard[0][2]
        assert (path, interfaces[APP]["State"]) == ("/org/slotd1/app/blog", "absent")
        name, _ = await it.error("GetAll", "s", APP, path="/org/slotd1/app/notes", interface=PROPERTIES)
        assert name == "org.freedesktop.DBus.Error.UnknownObject"
        [objects] = await it.call("GetManagedObjects", interface=OBJECTS)
        assert list(objects) == ["/org/slotd1/app/blog"]


async def test_what_cannot_be_told_does_not_stop_the_job() -> None:
    async with heard_world("notes") as (it, ear):
        await it.call("Update", "sa{sv}", "notes", {})
        it.core.change_job(1, started_at="yesterday")
        await settled(it)
        it.core.end_job(1, Result.UPDATED, nothing=object())
        it.core.change_job(1, started_at=5.0)
        await settled(it)
        assert ear.changes("/org/slotd1/job/1")[-1]["Result"] == "updated"


async def test_what_was_there_before_the_daemon_is_there_when_its_name_is() -> None:
    async with world("notes") as it:
        assert it.service.in_flight == 0
        before = it.service.last_call
        await it.call("ListApps")
        assert it.service.last_call > before
