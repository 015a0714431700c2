"""slotd's own bus objects over a core that holds everything in memory and plays jobs as a test scripts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from slotd.data import Entry
from slotd.errors import NoSuchApp, NoSuchJob, SlotdError
from slotd.host.bus import Bus
from slotd.model import AppState, AppView, Event, Job, JobKind, JobState, Mode, Result, SlotName, Trial
from slotd.service.api import Inspection, Listener
from slotd.service.publish import Service, serve

Play = Callable[["Slotd", int], Awaitable[None]]


class Slotd:
    """A `Core`. `script[kind]` plays the jobs of a kind; `refuse[verb]` is raised instead of starting one."""

    version = "1"

    def __init__(self) -> None:
        self.views: dict[str, AppView] = {}
        self.all_jobs: dict[int, Job] = {}
        self.events: list[Event] = []
        self.script: dict[str, Play] = {}
        self.refuse: dict[str, SlotdError] = {}
        self.needs_choice: SlotdError | None = None
        self.options: dict[str, Any] = {}
        self.cancelled: list[int] = []
        self.wrong: list[str] = []
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._bus: Bus | None = None
        self._service: Service | None = None

    # -- on the bus --------------------------------------------------------------------------------

    async def connect(self, address: str) -> None:
        """With the rules of a user's bus: the caller's own user may do all."""
        self._bus = await Bus.connect(address)
        self._service = serve(self._bus, self, user_mode=True)
        await self._bus.request_name("org.slotd1")

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        assert self._bus is not None
        assert self._service is not None
        await self._bus.release_name("org.slotd1")
        await self._service.finish()
        await self._bus.close()
        self._listeners.clear()

    @property
    def last_call(self) -> float:
        """When somebody asked last, by the loop's clock."""
        assert self._service is not None
        return self._service.last_call

    # -- what a test does --------------------------------------------------------------------------

    def add(self, name: str, **values: Any) -> None:
        self.views[name] = AppView(name, **values)
        for listener in self._listeners:
            listener.app_added(self.views[name])

    def change(self, name: str, **values: Any) -> None:
        self.views[name] = replace(self.views[name], **values)
        for listener in self._listeners:
            listener.app_changed(self.views[name])

    def tell(self, message: str, at: float, kind: str = "step", app: str = "notes") -> None:
        self.events.append(Event(len(self.events) + 1, app, at, kind, message, job=3))

    def step(self, number: int, step: str, progress: int, **values: Any) -> None:
        job = replace(self.all_jobs[number], step=step, progress=progress, **values)
        self.all_jobs[number] = job
        for listener in self._listeners:
            listener.job_changed(job)

    def open_trial(self, app: str, *, left_s: float, attempts: int = 3) -> None:
        now = time.time()
        trial = Trial(app, 1, "1.1", "", SlotName.B, "1.0", SlotName.A, "", attempts, now, left_s)
        self.change(app, state=AppState.TRIAL, trial=trial)

    def end(self, number: int, result: str, state: str = "done", **values: Any) -> None:
        job = self.all_jobs[number]
        self.all_jobs[number] = job = replace(
            job, state=JobState(state), result=Result(result), progress=100, finished_at=job.started_at + 2, **values
        )
        for listener in self._listeners:
            listener.job_changed(job)
            listener.job_removed(job, {})

    def play(self, number: int) -> None:
        task = asyncio.ensure_future(self.script[self.all_jobs[number].kind](self, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self, app: str, kind: str) -> int:
        if kind in self.refuse:
            raise self.refuse[kind]
        number = len(self.all_jobs) + 1
        job = Job(number, self.app(app).name, JobKind(kind), JobState.RUNNING, started_at=float(int(time.time())))
        self.all_jobs[number] = job
        for listener in self._listeners:
            listener.job_new(job)
        self.play(number)
        return number

    # -- the core ----------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def apps(self) -> Sequence[AppView]:
        return [self.views[name] for name in sorted(self.views)]

    def app(self, name: str) -> AppView:
        if name not in self.views:
            raise NoSuchApp(f"cannot find the app {name}: no definition has that name.")
        return self.views[name]

    def jobs(self, *, finished: bool = False) -> Sequence[Job]:
        return [job for job in self.all_jobs.values() if finished or not job.is_finished]

    def job(self, job_id: int) -> Job:
        if job_id not in self.all_jobs:
            raise NoSuchJob(f"cannot find job {job_id}: there was none.")
        return self.all_jobs[job_id]

    def running(self) -> int:
        return len(self.jobs())

    def problems(self) -> Sequence[str]:
        return self.wrong

    def history(self, app: str, limit: int) -> Sequence[Event]:
        return [event for event in reversed(self.events) if app in ("", event.app)][:limit]

    async def start_check(self, app: str) -> int:
        return self._begin(app, "check")

    async def start_update(
        self, app: str, *, version: str = "", force: bool = False, now: bool = False, only: str = ""
    ) -> int:
        self.options = {"version": version, "force": force, "now": now}
        return self._begin(app, "update")

    async def start_rollback(self, app: str, *, data: str = "", to: str = "") -> int:
        if self.needs_choice is not None and not data:
            raise self.needs_choice
        self.options = {"data": data, "to": to}
        return self._begin(app, "rollback")

    async def start_backup(self, app: str) -> int:
        return self._begin(app, "backup")

    async def start_adopt(self, app: str, *, source: str, version: str) -> int:
        return self._begin(app, "adopt")

    async def start_release(self, app: str, *, present: bool = False) -> int:
        return self._begin(app, "release")

    async def start_verify(self, app: str, backup: str) -> int:
        return self._begin(app, "verify")

    async def inspect_backup(self, app: str, backup: str, *, diff: bool = False, offset: int = 0) -> Inspection:
        held = next(each for each in self.app(app).backups if each.id == backup)
        entry = Entry("/var/lib/notes/notes.db", "file", 0o640, 7, 1000.0, "sha256:00")
        said = ({"when": "before", "command": "pg_dump", "status": 0, "output": "done"},)
        return Inspection(held, said, (("changed" if diff else "", entry),), 1, 7, 0)

    async def start_restore(self, app: str, backup: str, *, paths: Sequence[str] = ()) -> int:
        self.options = {"backup": backup}
        return self._begin(app, "restore")

    async def check_all(self) -> Sequence[int]:
        return [self._begin(name, "check") for name in sorted(self.views)]

    async def apply_all(self) -> Sequence[int]:
        return []

    async def approve(self, app: str, version: str) -> None:
        self.change(app, approved=version)

    async def hold(self, app: str, reason: str) -> None:
        self.change(app, held=True, hold_reason=reason, state=AppState.HELD)

    async def unhold(self, app: str) -> None:
        self.change(app, held=False, hold_reason="", state=AppState.IDLE)

    async def set_mode(self, app: str, mode: Mode | None) -> None:
        self.change(app, mode=mode or Mode.APPROVE)

    async def mark_good(self, app: str) -> None: ...
    async def mark_bad(self, app: str) -> None: ...
    async def report_failure(self, unit: str) -> None: ...

    async def cancel(self, job_id: int) -> None:
        if "cancel" in self.refuse:
            raise self.refuse["cancel"]
        self.cancelled.append(job_id)

    async def reload(self) -> None: ...


def quick(result: str, state: str = "done", **values: Any) -> Play:
    """Ends at once."""

    async def play(slotd: Slotd, number: int) -> None:
        await asyncio.sleep(0.01)
        slotd.end(number, result, state, **values)

    return play


def through(*steps: str, wait: asyncio.Event | None = None) -> Play:
    """Passes the steps to the end of an update to 1.1; at `trial` opens one; waits at the last step if told to."""

    async def play(slotd: Slotd, number: int) -> None:
        app = slotd.all_jobs[number].app
        for count, step in enumerate(steps):
            if step == "trial":
                slotd.open_trial(app, left_s=600)
            slotd.step(number, step, count * 10, version="1.1", previous_version="1.0")
            await asyncio.sleep(0.05)
        if wait is not None:
            await wait.wait()
        slotd.change(app, state=AppState.IDLE, version="1.1", trial=None)
        slotd.end(number, "updated")

    return play
