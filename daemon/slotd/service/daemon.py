"""The daemon behind the bus: cheap checks, then a job; views kept up to date; interrupted jobs resumed.

It implements `slotd.service.api.Core`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from slotd import __version__, engines
from slotd.core import policy
from slotd.core.events import BY_NAME
from slotd.core.plain import from_plain, to_plain
from slotd.core.schema import App
from slotd.errors import NoSuchApp, NoSuchVersion, NothingToDo, SlotdError
from slotd.host import definitions, journal
from slotd.host.offloop import off_loop
from slotd.model import AppView, Event, Job, JobKind, Mode
from slotd.recipes import backup as backup_recipe
from slotd.recipes import recover, space, update
from slotd.recipes.context import Host, Plan, Work
from slotd.recipes.rollback import roll_back
from slotd.service import requests, views
from slotd.service.api import Listener
from slotd.service.board import Board
from slotd.service.jobs import Jobs, Recipe

_log = logging.getLogger(__name__)


class Daemon:
    """All apps of this host, and the jobs on them."""

    version = __version__

    def __init__(self, host: Host) -> None:
        self.host = host
        self.store = host.store
        self.jobs_ = Jobs(self, parallel=host.settings.max_parallel)
        self._definitions = definitions.Definitions()
        self._board = Board(self._build_view, host.paths.runtime / "told")
        self._followups: set[asyncio.Task[Any]] = set()
        self._checking = asyncio.Lock()

    # -- life -------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Read the definitions, rebuild what the store does not know, resume what was interrupted."""
        await self.reload()
        for app in self._definitions.apps.values():
            try:
                await off_loop(requests.reconcile, self.store, self._engine(app), self.host)
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
        try:
            work = await off_loop(self._work, job)
        except BaseException:
            self.jobs_.unreserve(job.app, job.kind)
            raise
        if not work.app.name:
            work.app = self._definitions.apps.get(job.app, App(name=job.app))
        self.jobs_.start(work, recover.resume)
        await self._board.refresh(job.app)

    async def end(self) -> None:
        await self.jobs_.stop()
        for task in self._followups:
            task.cancel()
        await self._board.settled()

    @property
    def is_idle(self) -> bool:
        return not self.jobs_.running() and not self._followups

    # -- reads ------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        self._board.listeners.append(listener)

    def apps(self) -> Sequence[AppView]:
        return self._board.all()

    def app(self, name: str) -> AppView:
        return self._board.app(name)

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

    # -- jobs -------------------------------------------------------------------------------------

    def _definition(self, name: str) -> App:
        self.app(name)
        if name in self._definitions.broken:
            raise requests.unusable(name, self._definitions.broken[name])
        return self._definitions.apps[name]

    def _engine(self, app: App) -> engines.Engine:
        return engines.create(app, self.host.root(app), self.host.settings.limits, user_mode=self.host.user_mode)

    def _work(self, job: Job) -> Work:
        """Blocks: the first job of an engine or a store imports it."""
        app = from_plain(Plan, job.plan).definition
        return Work(self.host, app, job, self._engine(app), self.host.data_store(app), self.job_changed)

    async def _start(self, kind: JobKind, plan: Plan, recipe: Recipe, *, version: str = "", previous: str = "") -> int:
        """Commit the job, then run it. The app was reserved by the caller if the job mutates."""
        name = plan.definition.name
        try:
            job = await off_loop(
                lambda: self.store.new_job(
                    name, kind, now=self.host.clock.now(), correlation=uuid.uuid4().hex, plan=to_plain(plan)
                )
            )
            job = dataclasses.replace(job, version=version, previous_version=previous)
            work = await off_loop(self._work, job)
        except BaseException:
            self.jobs_.unreserve(name, kind)
            raise
        self.jobs_.start(work, recipe)
        await self._board.refresh(name)
        return job.id

    async def start_check(self, app: str) -> int:
        """One check of an app at a time: who asks while one runs is given that one."""
        plan = Plan(definition=self._definition(app))
        async with self._checking:
            if (running := self.jobs_.check_of(app)) is not None:
                return running
            return await self._start(JobKind.CHECK, plan, backup_recipe.check)

    async def start_update(
        self,
        app: str,
        *,
        version: str = "",
        force: bool = False,
        now: bool = False,
        only: str = "",
        automatic: bool = False,
    ) -> int:
        definition = self._definition(app)
        policy.require_version(app, version)
        self.jobs_.require_free(app)
        await off_loop(requests.require_updatable, self.store, app)
        self.jobs_.reserve(app)
        plan = Plan(definition, version, force, now, automatic, only)
        return await self._start(JobKind.UPDATE, plan, update.update, previous=self.app(app).version)

    async def start_rollback(self, app: str, *, data: str = "", to: str = "") -> int:
        definition = self._definition(app)
        running = self.jobs_.of_app(app)
        if running is not None and running.may_be_judged:
            requests.require_trial_choice(app, data, to, running.plan.old_version)
            await running.decide("bad", "an administrator, who asked for a rollback")
            return running.job.id
        self.jobs_.reserve(app)
        try:
            plan = await off_loop(
                lambda: requests.rollback_plan(self.host, definition, self._engine(definition), data=data, to=to)
            )
        except BaseException:
            self.jobs_.unreserve(app)
            raise
        reason = "an administrator asked for it" + {"keep": ", data kept", "restore": ", data restored"}.get(data, "")
        return await self._start(
            JobKind.ROLLBACK,
            plan,
            lambda work: roll_back(work, reason),
            version=plan.old_version,
            previous=plan.version,
        )

    async def start_backup(self, app: str) -> int:
        definition = self._definition(app)
        self.jobs_.reserve(app)
        version = self.app(app).version
        plan = Plan(definition=definition, old_version=version)
        return await self._start(JobKind.BACKUP, plan, backup_recipe.backup, version=version)

    async def start_restore(self, app: str, backup: str) -> int:
        definition = self._definition(app)
        self.jobs_.require_free(app)
        row = await off_loop(requests.whole_backup, self.store, app, backup)
        await off_loop(space.require_for_restore, app, definition.data.paths, self.host.paths.state, row.bytes)
        view = self.app(app)
        self.jobs_.reserve(app)
        release = dataclasses.replace(Plan().release, version=view.version)
        plan = Plan(definition=definition, backup=row.id, old_version=view.version, release=release)
        return await self._start(JobKind.RESTORE, plan, backup_recipe.restore, version=view.version)

    async def check_all(self) -> Sequence[int]:
        return await self._each(sorted(self._definitions.apps), self.start_check)

    async def apply_all(self) -> Sequence[int]:
        """Apply what may be applied without asking: everything in mode auto, what was approved in mode approve."""
        ready = [view.name for view in self.apps() if policy.may_apply_by_itself(view)]
        return await self._each([name for name in ready if self.jobs_.of_app(name) is None], self._apply)

    async def _apply(self, name: str) -> int:
        return await self.start_update(name, version=policy.version_to_apply(self.app(name)), automatic=True)

    async def _each(self, names: Sequence[str], start: Callable[[str], Awaitable[int]]) -> Sequence[int]:
        """A job for each app; one that cannot be started is told of, and keeps none of the others from theirs."""
        started: list[int] = []
        for name in names:
            try:
                started.append(await start(name))
            except SlotdError as error:
                _log.warning("%s: %s", name, error)
        return started

    # -- a person's word --------------------------------------------------------------------------

    async def approve(self, app: str, version: str) -> None:
        self._definition(app)
        record = await off_loop(self.store.app, app)
        if version != record.available:
            raise NoSuchVersion(
                f"cannot approve {app} {version}: {record.available or 'nothing'} is available.",
                hint=f"Look again with `slotctl check {app}`.",
            )
        await self._change(app, "approved", f"{version} was approved", approved=version)

    async def hold(self, app: str, reason: str) -> None:
        self.app(app)
        await self._change(app, "held", f"held{f': {reason}' if reason else ''}", held=True, hold_reason=reason)

    async def unhold(self, app: str) -> None:
        self.app(app)
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

    def job_changed(self, job: Job) -> None:
        if job.is_finished:
            return  # `job_ended` tells it, when the app is shown as it is then
        for listener in self._board.listeners:
            listener.job_changed(job)
        if self._board.find(job.app) is not None:
            self._board.refresh_soon(job.app)

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

    def _build_view(self, name: str) -> AppView:
        app, broken = self._definitions.apps.get(name), self._definitions.broken.get(name)
        work = self.jobs_.of_app(name)
        active = None
        problems = list(broken.problems) if broken else []
        if app is not None:
            try:
                active = self._engine(app).active()
            except SlotdError as error:
                problems.append(str(error))
        finished = [job for job in self.store.jobs(app=name, limit=20, checks=False) if job.is_finished]
        return views.view(
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
