"""Running jobs: one task each, one mutating job per app, and a bound on how many work at once.

Every task has an owner here. A daemon that goes down cancels them without a word; the next one resumes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from slotd.core import machine
from slotd.errors import Busy, Failed, SlotdError, TooLate
from slotd.host.lock import only_one_on
from slotd.host.offloop import off_loop
from slotd.model import Job, JobKind, Result
from slotd.recipes import loops, recover
from slotd.recipes.context import Work
from slotd.recipes.run import forgive_cancellation

_log = logging.getLogger(__name__)

FINISHED_S = 600.0  # how long a finished job stays an object on the bus
CHECKS_AT_ONCE = 32  # a host may have hundreds of apps; most of these wait for one another (slotd.recipes.lists)
RETRY_S = 1.0  # before a job that must not stay as it is is taken up again; doubled each time
MOST_RETRY_S = 60.0
LOCK_S = 300.0  # for `slotd prune`, which has an app for as long as its old copies take to go

Recipe = Callable[[Work], Awaitable[Result]]


class Told(Protocol):
    """Who is told of jobs (the daemon, which tells the bus)."""

    def job_new(self, job: Job) -> None: ...
    def job_changed(self, job: Job) -> None: ...
    async def job_ended(self, work: Work, details: Mapping[str, Any]) -> None: ...
    def job_forgotten(self, job_id: int) -> None: ...


class Jobs:
    """The jobs of this daemon's life."""

    def __init__(
        self,
        told: Told,
        *,
        parallel: int,
        resume: Recipe = recover.resume,
        retry_s: float = RETRY_S,
        finished_s: float = FINISHED_S,
    ) -> None:
        """`resume` takes up what an error left, first after `retry_s`; a job is kept `finished_s` after its end."""
        self._told = told
        self._resume = resume
        self._retry_s = retry_s
        self._finished_s = finished_s
        self._updates = asyncio.Semaphore(parallel)
        self._looks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._works: dict[int, Work] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._mutating: dict[str, int] = {}
        self._recent: dict[int, Job] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    # -- looking ----------------------------------------------------------------------------------

    def running(self) -> int:
        return len(self._tasks)

    def of_app(self, app: str) -> Work | None:
        """The mutating job that runs on an app."""
        job_id = self._mutating.get(app)
        return self._works.get(job_id) if job_id is not None else None

    def check_of(self, app: str) -> int | None:
        """The check that runs on an app."""
        checks = (w.job for w in self._works.values() if w.job.kind is JobKind.CHECK and w.job.app == app)
        return next((job.id for job in checks if not job.is_finished), None)

    def apps(self) -> set[str]:
        """Apps with a running job, whatever became of their definitions. An import is of the host, not of one."""
        return {work.job.app for work in self._works.values() if work.job.app}

    def known(self) -> list[Job]:
        """Running and recently finished jobs, as they are now."""
        return [*self._recent.values(), *(work.job for work in self._works.values())]

    def find(self, job_id: int) -> Job | None:
        if job_id in self._works:
            return self._works[job_id].job
        return self._recent.get(job_id)

    def require_free(self, app: str) -> None:
        """Raises `Busy` at once when a mutating job runs on the app; the first goes on undisturbed (promise 9)."""
        job_id = self._mutating.get(app)
        if job_id is None:
            return
        job = self._works[job_id].job if job_id in self._works else None
        what = f"{job.kind} (job {job.id}, step {job.step or 'waiting'})" if job else "a job"
        if not app:
            raise Busy("cannot import another bundle: one is being imported.", hint="See `slotctl jobs`.")
        raise Busy(
            f"cannot start another job on {app}: {what} is running.", hint=f"Follow it with `slotctl follow {app}`."
        )

    def reserve(self, app: str) -> None:
        """Take the app before the first await, so that two callers at once cannot both have it."""
        self.require_free(app)
        self._mutating[app] = 0

    def unreserve(self, app: str, kind: JobKind | None = None) -> None:
        """Give it back. A check never took it: what is reserved then is another's."""
        if kind is not JobKind.CHECK and self._mutating.get(app) == 0:
            del self._mutating[app]

    # -- doing ------------------------------------------------------------------------------------

    def start(self, work: Work, recipe: Recipe) -> None:
        """Run a recipe in a task of its own. A mutating job's app must have been reserved."""
        job = work.job
        self._works[job.id] = work
        if job.kind is not JobKind.CHECK:
            self._mutating[job.app] = job.id
        self._told.job_new(job)
        self._tasks[job.id] = asyncio.create_task(self._run(work, recipe), name=f"job-{job.id}")

    async def _run(self, work: Work, recipe: Recipe) -> None:
        job_id = work.job.id
        lock = contextlib.ExitStack()
        try:
            if work.job.kind not in (JobKind.CHECK, JobKind.IMPORT):
                await self._lock(work, lock)
            if work.job.kind is JobKind.UPDATE and not work.job.step:
                await work.room.enter(self._updates)
            async with self._looks if work.job.kind is JobKind.CHECK else contextlib.nullcontext():
                await self._to_its_end(work, recipe)
        except asyncio.CancelledError:
            if not work.is_cancelled:
                raise
            forgive_cancellation()
            if not work.job.is_finished:
                await recover.cancelled(work)
        except Exception as error:
            _log.exception("job %d ended unexpectedly", job_id)
            reference = f"cannot go on with job {job_id}: internal error ({type(error).__name__})."
            try:
                await work.finish(Result.FAILED, Failed(reference, hint="See `journalctl -u slotd`."))
            except Exception:
                _log.exception("the end of job %d could not be written", job_id)
        finally:
            lock.close()
            work.room.leave()
            if work.job.is_finished:
                await self._end(work)

    async def _lock(self, work: Work, lock: contextlib.ExitStack) -> None:
        """Wait until nobody tidies up the app's copies. What cannot be locked for trouble with the disk goes on."""
        held = only_one_on(work.host.paths.state, work.job.app, wait_s=LOCK_S)
        try:
            await off_loop(lock.enter_context, held)
        except SlotdError as error:
            _log.warning("job %d goes on without its lock: %s", work.job.id, error)

    async def _to_its_end(self, work: Work, recipe: Recipe) -> None:
        """Run the recipe. Where an error escapes it with the app maybe stopped, what a crash would call for is done.

        Such an error is the store's: a disk that is full or failing. It is tried until that is over.
        """
        wait_s = self._retry_s
        while True:
            try:
                await recipe(work)
            except Exception as error:
                if machine.may_cancel(work.job.step) and not work.too_late:
                    raise
                _log.error(
                    "job %d cannot go on in step %s, and tries again", work.job.id, work.job.step, exc_info=error
                )
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(MOST_RETRY_S, 2 * wait_s)
            recipe = self._resume

    async def _end(self, work: Work) -> None:
        job = work.job
        self._works.pop(job.id, None)
        self._tasks.pop(job.id, None)
        if self._mutating.get(job.app) == job.id:
            del self._mutating[job.app]
        self._recent[job.id] = job
        details = {
            "version": job.version,
            "previous": job.previous_version,
            "step": job.step,
            "error": job.error_message,
        }
        await self._told.job_ended(work, details)
        self._timers = {t for t in self._timers if not t.cancelled() and t.when() > asyncio.get_running_loop().time()}
        self._timers.add(asyncio.get_running_loop().call_later(self._finished_s, self._forget, job.id))

    def _forget(self, job_id: int) -> None:
        if self._recent.pop(job_id, None) is not None:
            self._told.job_forgotten(job_id)

    def cancel(self, job: Job) -> None:
        """Cancel a job that has not stopped its app yet. Raises `TooLate`."""
        work = self._works.get(job.id)
        if work is None or work.job.is_finished:
            ended = f"it has ended as {job.result}" if job.is_finished else "it does not run now"
            raise TooLate(f"cannot cancel job {job.id}: {ended}.", hint="See `slotctl jobs`.")
        if work.cancel_asked:
            return  # it is on its way: a second cancellation would only cut its clearing up short
        if work.too_late or not machine.may_cancel(work.job.step):
            raise TooLate(
                f"cannot cancel job {job.id}: it is in step {work.job.step} already.",
                hint=f"Let it end, or go back with `slotctl rollback {work.job.app}`.",
            )
        work.cancel_asked = True
        # A task that has not begun yet would end without a word.
        asyncio.get_running_loop().call_soon(self._tasks[job.id].cancel)

    async def stop(self, *, asked: bool = True) -> None:
        """Leave all jobs where they are; their intents are on disk, the next daemon resumes them.

        `asked`: somebody wants the daemon to go down, and nothing that a job did is the reason.
        """
        tasks = list(self._tasks.values())
        for work in self._works.values():
            work.leaving = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if asked:
            for work in list(self._works.values()):
                await loops.end_row(work)
        for timer in self._timers:
            timer.cancel()
