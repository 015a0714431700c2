"""Following jobs to their end: subscribe, call, wait, and live through a restart of the daemon.

slotd may be upgraded, killed or restarted while a job runs; it goes on with the job under the same number. So when its
name leaves the bus this waits for it to come back, and asks for the job again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from slotd.cli.client import APP, JOB, Client, Gone, Signal, Unreachable
from slotd.cli.progress import Screen, trial_note
from slotd.cli.views import Job, Trial, trial_of
from slotd.errors import NoSuchJob, SlotdError

REREAD_S = 30.0  # a signal that got lost is made up for after this long
RETURN_S = 120.0  # how long slotd may be away in the middle of a job
LOOK_S = 2.0  # between two looks at whether systemd still tries to start it, which nobody is told


class Follower:
    """Follows any number of jobs. `start` before the call that makes them, so that no signal is missed."""

    def __init__(self, client: Client, screen: Screen, now: Callable[[], float]) -> None:
        self._client = client
        self._screen = screen
        self._now = now
        self._seen: dict[str, dict[str, Any]] = {}  # what signals said, by the job's path
        self._removed: set[str] = set()
        self._news = asyncio.Event()
        self._present = True
        self._was_away = False  # since all was read last: what was told meanwhile was told to nobody
        self._back = asyncio.Event()
        self._trials: dict[str, Trial | None] = {}  # by app, of those whose jobs got that far
        self._apps: dict[str, str] = {}  # app by its object's path
        self.running: dict[int, Job] = {}  # what is not over yet, for who is interrupted

    async def start(self) -> None:
        await self._client.subscribe(self._signal, self._owner)

    def _signal(self, signal: Signal) -> None:
        if signal.member == "JobRemoved" and len(signal.body) >= 2:
            self._removed.add(str(signal.body[1]))
        elif signal.member == "PropertiesChanged" and signal.body[0] == JOB:
            self._seen.setdefault(signal.path, {}).update(signal.body[1])
        elif signal.path in self._apps and signal.member == "PropertiesChanged" and "Trial" in signal.body[1]:
            self._trials[self._apps[signal.path]] = trial_of(signal.body[1]["Trial"])
        else:
            return
        self._news.set()

    def _owner(self, present: bool) -> None:
        self._present = present
        self._was_away = self._was_away or not present
        (self._back.set if present else self._back.clear)()
        self._news.set()

    async def finish(self, paths: list[str], on_end: Callable[[Job], Awaitable[None]] | None = None) -> list[Job]:
        """All jobs at their ends, in the order given; `on_end` is awaited as each ends."""
        known = {path: await self._read(path) for path in paths}
        ended: dict[str, Job] = {}
        while True:
            for path in paths:
                if path in ended:
                    continue
                job = known[path] = self._merged(path, known[path])
                if path in self._removed or job["State"] in ("done", "failed", "cancelled"):
                    known[path] = await self._read(path, known[path])
                    last = Job.of(known[path])
                    self.running.pop(last.id, None)
                    self._screen.ended(last)
                    ended[path] = last
                    if on_end is not None:
                        await on_end(last)
                else:
                    await self._show(Job.of(job))
            if len(ended) == len(paths):
                return [ended[path] for path in paths]
            if await self._wait():
                for path in paths:
                    if path not in ended:
                        known[path] = await self._read(path, known[path])

    def _merged(self, path: str, read: dict[str, Any]) -> dict[str, Any]:
        """What was read, with what signals said since on top."""
        return read | self._seen.pop(path, {})

    async def _read(self, path: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
        """The job's properties, from a daemon that may be killed while it answers."""
        while True:
            try:
                return await self._read_once(path, before)
            except Unreachable:
                if self._client.lost.done():
                    raise
                await self._return()

    async def _read_once(self, path: str, before: dict[str, Any] | None) -> dict[str, Any]:
        """A finished job's object goes after ten minutes; `GetJob` brings it back."""
        self._seen.pop(path, None)
        number = int(path.rsplit("/", 1)[-1])
        try:
            try:
                values = await self._client.properties(path, JOB)
            except Gone:
                again = await self._client.call("GetJob", "t", [number])
                values = await self._client.properties(str(again), JOB)
        except (Gone, NoSuchJob):
            if before is None:
                raise
            values = before
        # Signals that came while we waited were sent before the reply or say something newer: they win.
        return {"Id": number, "State": ""} | (before or {}) | self._merged(path, values)

    async def _show(self, job: Job) -> None:
        self.running[job.id] = job
        if job.step == "trial" and job.app not in self._trials:
            trial = self._trials[job.app] = await self._trial(job.app)
            self._screen.show(job, trial)
            self._screen.note(trial_note(job, trial, self._now()))
        self._screen.show(job, self._trials.get(job.app))

    async def _trial(self, app: str) -> Trial | None:
        try:
            path = str(await self._client.call("GetApp", "s", [app]))
            self._apps[path] = app
            return trial_of((await self._client.properties(path, APP)).get("Trial"))
        except SlotdError:  # only the remaining time is lost
            return None

    def trial(self, job: Job) -> Trial | None:
        """The open trial of a job, if it got that far."""
        return self._trials.get(job.app)

    async def _wait(self) -> bool:
        """Waits for news; True when everything should be read again."""
        if not self._present:
            await self._return()
        if self._was_away:
            self._was_away = False
            return True
        deadline = asyncio.get_running_loop().time() + REREAD_S
        while not self._news.is_set():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return True
            try:
                await asyncio.wait_for(self._news_or_loss(), min(left, self._screen.tick_s or left))
            except TimeoutError:
                for job in self.running.values():
                    self._screen.show(job, self._trials.get(job.app))
        self._news.clear()
        return False

    async def _news_or_loss(self) -> None:
        news: asyncio.Future[Any] = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({news, self._client.lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        self._check_bus()

    def _check_bus(self) -> None:
        if self._client.lost.done():
            raise Unreachable("cannot follow the job any longer: the message bus closed the connection.")

    async def _return(self) -> None:
        """Waits until slotd is back on the bus."""
        self._screen.note("slotd has left the bus; waiting for it to come back and go on with the job")
        self._back.clear()
        asked = asyncio.ensure_future(self._ask())
        clock = asyncio.get_running_loop().time
        deadline = clock() + RETURN_S
        try:
            while not await self._is_back(min(LOOK_S, deadline - clock())):
                if asked.done():
                    asked.result()  # a refusal ends the waiting
                if await self._client.is_given_up():
                    raise Unreachable(
                        "cannot follow the job any longer: slotd fails again and again, and systemd has given it up.",
                        hint="See `journalctl -u slotd`. The job is ended without it by slotd-recover.service; after"
                        " `systemctl reset-failed slotd.service`, `slotctl status` tells how.",
                    )
                if clock() >= deadline:
                    raise Unreachable(
                        "cannot follow the job any longer: slotd left the bus and did not come back.",
                        hint="See `systemctl status slotd.service`; slotd goes on with the job when it starts again.",
                    )
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        self._present = self._was_away = True
        self._news.clear()

    async def _ask(self) -> None:
        """Makes the bus start it. Where it cannot, or not yet, somebody else does."""
        with suppress(Unreachable):
            await self._client.call("ListJobs", "a{sv}", [{}], timeout_s=RETURN_S)
            self._back.set()

    async def _is_back(self, wait_s: float) -> bool:
        self._check_bus()
        try:
            return await asyncio.wait_for(self._back.wait(), wait_s)
        except TimeoutError:
            return False
