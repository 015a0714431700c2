"""The daemon behind the bus: cheap checks, then a job; views kept up to date; interrupted jobs resumed.

It implements `slotd.service.api.Core`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any

from slotd import __version__
from slotd.core import policy, replaced
from slotd.core.events import BY_NAME
from slotd.core.schema import App
from slotd.errors import NoSuchApp, NoSuchVersion, NothingToDo, SlotdError
from slotd.host import definitions, holdback, journal
from slotd.host.offloop import off_loop
from slotd.model import AppView, Event, Job, JobKind, Mode
from slotd.recipes import rebuild, recover
from slotd.recipes.context import Host, Work
from slotd.service import requests, views
from slotd.service.api import Listener
from slotd.service.board import Board
from slotd.service.jobs import Jobs, Recipe
from slotd.service.starting import Starter

_log = logging.getLogger(__name__)


class Daemon(Starter):
    """All apps of this host, and the jobs on them."""

    version = __version__

    def __init__(self, host: Host) -> None:
        board = Board(self._build_view, host.paths.runtime / "told")
        super().__init__(host, Jobs(self, parallel=host.settings.max_parallel), board)
        self._followups: set[asyncio.Task[Any]] = set()

    # -- life -------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Read the definitions, rebuild what the store does not know, resume what was interrupted."""
        await self.reload()
        for app in self._definitions.apps.values():
            try:
                await off_loop(rebuild.reconcile, self.store, self._engine(app), self.host)
            except Exception:  # one app's disk must not keep the others from being served (promise 7)
                _log.exception("%s: what is on the disk could not be read", app.name)
        await off_loop(requests.close_stale_trials, self.store)
        for name in self._board.names():
            await self._board.refresh(name)
        await off_loop(journal.send, BY_NAME["daemon-started"], f"slotd {__version__} is up", fields={}, units=())
        for job in await off_loop(self.store.unfinished_jobs):
            try:
                await self._resume(job)
            except Exception as error:
                _log.error("job %d cannot be resumed: %s", job.id, error)

    async def _resume(self, job: Job) -> None:
        if job.kind is not JobKind.CHECK:
            self.jobs_.reserve(job.app)
        recipe: Recipe = recover.resume
        try:
            work = await off_loop(self._work, job)
        except SlotdError as error:
            # Not left open: it would stand in the way of this app's jobs for ever, and nobody would know.
            work = self._work(dataclasses.replace(job, plan={}))
            recipe = partial(recover.abandon, why=error)
        except BaseException:
            self.jobs_.unreserve(job.app, job.kind)
            raise
        if not work.app.name:
            work.app = self._definitions.apps.get(job.app, App(name=job.app))
        self.jobs_.start(work, recipe)
        await self._board.refresh(job.app)

    async def end(self, *, asked: bool = True) -> None:
        await self.jobs_.stop(asked=asked)
        for task in self._followups:
            task.cancel()
        await self._board.settled()

    @property
    def is_idle(self) -> bool:
        return not self.jobs_.running() and not self._followups

    # -- reads ------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        self._board.listeners.append(listener)

    def jobs(self, *, finished: bool = False) -> Sequence[Job]:
        known = {job.id: job for job in self.jobs_.known()}
        if finished:
            known = {job.id: job for job in self.store.jobs()} | known
        return [job for _, job in sorted(known.items()) if finished or not job.is_finished]

    def job(self, job_id: int) -> Job:
        return self.jobs_.find(job_id) or self.store.job(job_id)

    def running(self) -> int:
        return self.jobs_.running()

    def problems(self) -> Sequence[str]:
        return self._board.problems

    def history(self, app: str, limit: int) -> Sequence[Event]:
        if app:
            self.app(app)
        return self.store.events(app, limit)

    # -- a person's word --------------------------------------------------------------------------

    async def approve(self, app: str, version: str) -> None:
        self._definition(app)
        record = await off_loop(self.store.app, app)
        _, is_pending = replaced.accept(record.source_state.get(replaced.KEY), version)
        if version != record.available and not is_pending:
            raise NoSuchVersion(
                f"cannot approve {app} {version}: {record.available or 'nothing'} is available.",
                hint=f"Look again with `slotctl check {app}`.",
            )
        if is_pending:
            await off_loop(self._accept_replaced, app, version)
        await self._change(app, "approved", f"{version} was approved", approved=version)

    def _accept_replaced(self, app: str, version: str) -> None:
        """Whoever approves a version whose files were replaced at the source takes them as they were last seen."""
        with self.store.transaction():
            record = self.store.app(app)
            seen, _ = replaced.accept(record.source_state.get(replaced.KEY), version)
            state = {**record.source_state, replaced.KEY: seen}
            errors = [
                line for line in record.last_error.splitlines() if not line.startswith(f"{version} was passed over: ")
            ]
            more = {"last_error": "\n".join(errors), "available": version, "approved": ""}
            self.store.change_app(app, source_state=state, **more)

    async def hold(self, app: str, reason: str) -> None:
        self.app(app)
        await self._change(app, "held", f"held{f': {reason}' if reason else ''}", held=True, hold_reason=reason)

    async def unhold(self, app: str) -> None:
        units = self.app(app).units
        if self.jobs_.of_app(app) is None:  # a job starts its app itself
            await off_loop(holdback.let_start, self.host.paths, *units)
        await self._change(app, "released", "the hold was lifted", held=False, hold_reason="")

    async def set_mode(self, app: str, mode: Mode | None) -> None:
        said = self._definition(app).policy.mode
        told = f"{mode} now" if mode else f"{said} again, as its definition says"
        await self._change(app, "mode-changed", f"the mode is {told}", mode=mode)

    async def _change(self, app: str, kind: str, message: str, **changes: Any) -> None:
        record = await off_loop(self.store.app, app)
        if all(getattr(record, key) == value for key, value in changes.items()):
            return  # said once already
        await off_loop(lambda: self.store.change_app(app, **changes))
        await self._tell(app, kind, message)
        await self._board.refresh(app)

    async def mark_good(self, app: str) -> None:
        await self._on_trial(app).decide("good", "an administrator")

    async def mark_bad(self, app: str) -> None:
        await self._on_trial(app).decide("bad", "an administrator")

    def _on_trial(self, app: str) -> Work:
        self.app(app)
        work = self.jobs_.of_app(app)
        if work is None or not work.may_be_judged:
            raise NothingToDo(f"cannot judge {app}: no version of it is on trial.")
        return work

    async def report_failure(self, unit: str) -> None:
        """A unit gave up (`OnFailure=`): wake the trial, or write it down."""
        for app in self._definitions.apps.values():
            if unit in app.service.units:
                work = self.jobs_.of_app(app.name)
                if work is not None:
                    work.woken.set()
                else:
                    told = f"{unit} failed and systemd gave up on it; no version is on trial"
                    await self._tell(app.name, "warning", told)
                return
        raise NoSuchApp(f"cannot find an app with the unit {unit!r}.")

    async def cancel(self, job_id: int) -> None:
        self.jobs_.cancel(self.job(job_id))

    async def reload(self) -> None:
        """Read the definitions again. A broken one disables its app only."""
        self._definitions = await off_loop(definitions.load, self.host.paths)
        self.host.settings = self._definitions.settings
        await self._board.tell_problems(self._definitions)
        for name in sorted(self._names()):
            await self._board.refresh(name)
        await self._board.keep(self._names())

    def _names(self) -> set[str]:
        """All apps that are shown: one whose definition is gone stays while a job runs on it."""
        return {*self._definitions.apps, *self._definitions.broken, *self.jobs_.apps()}

    # -- telling ----------------------------------------------------------------------------------

    async def _tell(self, app: str, kind: str, message: str) -> None:
        view, told = self._board.find(app), self.host.worded(message)
        version, units = (view.version, view.units) if view else ("", ())
        event = Event(id=0, app=app, at=self.host.clock.now(), kind=kind, message=told, version=version)
        await off_loop(self.store.add_event, event)
        fields = {"SLOTD_APP": app, "SLOTD_VERSION": version}
        await off_loop(journal.send, BY_NAME[kind], f"{app}: {message}", fields=fields, units=units)

    def job_new(self, job: Job) -> None:
        for listener in self._board.listeners:
            listener.job_new(job)

    async def job_ended(self, work: Work, details: Mapping[str, Any]) -> None:
        try:
            await self._board.refresh(work.app.name)
        except Exception:  # the end is told all the same
            _log.exception("%s: its view could not be put together", work.app.name)
        for listener in self._board.listeners:
            listener.job_changed(work.job)
            listener.job_removed(work.job, details)
        await self._board.keep(self._names())
        if work.job.kind is JobKind.CHECK:
            self._follow_up(work.app)
        for name in work.plan.taken:
            await self._board.refresh(name)
            if name in self._definitions.apps:
                self._follow_up(self._definitions.apps[name])

    def job_forgotten(self, job_id: int) -> None:
        for listener in self._board.listeners:
            listener.job_forgotten(job_id)

    def _follow_up(self, app: App) -> None:
        """`apply = "check"`: what may be applied by itself is, right after the check that found it."""
        view = self._board.find(app.name)
        if view is None or app.policy.apply != "check" or not policy.may_apply_by_itself(view):
            return
        self._own(self._apply(app.name))

    def _own(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._followups.add(task)

        def ended(done: asyncio.Future[Any]) -> None:
            self._followups.discard(task)
            if not done.cancelled() and (error := done.exception()) is not None:
                _log.warning("%s", error)

        task.add_done_callback(ended)

    def _build_view(self, name: str) -> tuple[AppView, str]:
        """The view, and why its active version could not be read, if so."""
        app, broken = self._definitions.apps.get(name), self._definitions.broken.get(name)
        active, trouble, work = None, "", self.jobs_.of_app(name)
        problems = list(broken.problems) if broken else []
        finished = [job for job in self.store.jobs(app=name, limit=20, checks=False) if job.is_finished]
        known = app or requests.last_definition(finished)
        if known is not None:
            try:
                active = self._engine(known).active()
            except SlotdError as error:
                trouble = str(error)
                problems.append(trouble)
        view = views.view(
            name,
            app,
            self.store.app(name),
            active=active,
            slots=self.store.slots(name),
            trial=self.store.trial(name),
            job=work.job if work else None,
            last=finished[0] if finished else None,
            backups=self.store.backups(name),
            problems=problems,
        )
        return view, trouble
