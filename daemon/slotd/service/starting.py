"""How jobs begin: the cheap checks, the app reserved, the job committed, its recipe handed to its task."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence

from slotd import engines
from slotd.core import policy
from slotd.core.plain import from_plain, to_plain
from slotd.core.schema import App
from slotd.errors import NothingToDo, SlotdError
from slotd.host import definitions
from slotd.host.offloop import off_loop
from slotd.model import AppView, Job, JobKind, Result
from slotd.recipes import backup as backing
from slotd.recipes import check as looking
from slotd.recipes import import_ as importing
from slotd.recipes import preserve, update
from slotd.recipes import restore as restoring
from slotd.recipes.context import Host, Plan, Work
from slotd.recipes.rollback import roll_back
from slotd.service import adoption, inspecting, requests, rolling
from slotd.service.api import Inspection
from slotd.service.board import Board
from slotd.service.jobs import Jobs, Recipe

_log = logging.getLogger(__name__)


class Starter:
    """The half of the daemon that starts jobs: `start_*` of `slotd.service.api.Core`."""

    def __init__(self, host: Host, jobs: Jobs, board: Board) -> None:
        self.host = host
        self.store = host.store
        self.jobs_ = jobs
        self._definitions = definitions.Definitions()
        self._board = board
        self._checking = asyncio.Lock()

    def apps(self) -> Sequence[AppView]:
        return self._board.all()

    def app(self, name: str) -> AppView:
        return self._board.app(name)

    def job_changed(self, job: Job) -> None:
        if job.is_finished:
            return  # `job_ended` tells it, when the app is shown as it is then
        for listener in self._board.listeners:
            listener.job_changed(job)
        if self._board.find(job.app) is not None:
            self._board.refresh_soon(job.app)

    def _definition(self, name: str) -> App:
        self.app(name)
        if name in self._definitions.broken:
            raise requests.unusable(name, self._definitions.broken[name])
        return self._definitions.apps[name]

    def _engine(self, app: App) -> engines.Engine:
        return engines.create(app, self.host.root(app), self.host.settings.limits, user_mode=self.host.user_mode)

    def _work(self, job: Job) -> Work:
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
            work = self._work(job)
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
            return await self._start(JobKind.CHECK, plan, looking.check)

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
        if automatic:
            await self._require_in_use(definition)
        previous = self.app(app).version
        self.jobs_.reserve(app)
        plan = Plan(definition, version, force, now, automatic, only)
        return await self._start(JobKind.UPDATE, plan, update.update, previous=previous)

    async def _require_in_use(self, app: App) -> None:
        """What somebody has stopped is not started by an update that nobody asked for. Raises `NothingToDo`."""
        if self.app(app.name).version and await preserve.are_left_down(self.host.systemd, app.service.units):
            raise NothingToDo(
                f"cannot update {app.name} by itself: it is stopped, and would be started to try the new version.",
                hint=f"Start it (`systemctl start {app.service.units[0]}`), or `slotctl update {app.name}`.",
            )

    async def start_rollback(self, app: str, *, data: str = "", to: str = "") -> int:
        definition = self._definition(app)
        running = self.jobs_.of_app(app)
        if running is not None and running.may_be_judged:
            rolling.require_trial_choice(app, data, to, running.plan.old_version)
            await running.decide("bad", "an administrator, who asked for a rollback")
            return running.job.id
        self.jobs_.reserve(app)
        try:
            if await off_loop(rolling.is_elsewhere, self.host, definition, self._engine(definition), to):
                return await self._start_kept(definition, data=data, to=to)
            plan = await off_loop(
                lambda: rolling.rollback_plan(self.host, definition, self._engine(definition), data=data, to=to)
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

    async def _start_kept(self, app: App, *, data: str, to: str) -> int:
        """Back to a version that is in no slot any more: by the steps of an update, from its kept release."""
        await off_loop(requests.require_updatable, self.store, app.name)
        plan = await off_loop(lambda: rolling.kept_plan(self.host, app, self._engine(app), data=data, to=to))
        return await self._start(JobKind.UPDATE, plan, update.update, version=to, previous=self.app(app.name).version)

    async def start_backup(self, app: str) -> int:
        definition = self._definition(app)
        self.jobs_.reserve(app)
        version = self.app(app).version
        plan = Plan(definition=definition, old_version=version)
        return await self._start(JobKind.BACKUP, plan, backing.backup, version=version)

    async def start_restore(self, app: str, backup: str, *, paths: Sequence[str] = ()) -> int:
        definition = self._definition(app)
        self.jobs_.require_free(app)
        chosen = await off_loop(requests.parts_to_restore, self.store, definition, backup, paths)
        view = self.app(app)
        self.jobs_.reserve(app)
        release = dataclasses.replace(Plan().release, version=view.version)
        plan = Plan(definition, backup=backup, old_version=view.version, release=release, paths=chosen)
        return await self._start(JobKind.RESTORE, plan, restoring.restore, version=view.version)

    async def start_verify(self, app: str, backup: str) -> int:
        definition = self._definition(app)
        self.jobs_.require_free(app)
        if backup:
            await off_loop(self.store.backup, app, backup)
        self.jobs_.reserve(app)  # so that nothing is pruned under it
        return await self._start(JobKind.VERIFY, Plan(definition, backup=backup), backing.verify)

    async def inspect_backup(self, app: str, backup: str, *, diff: bool = False, offset: int = 0) -> Inspection:
        return await off_loop(inspecting.inspect, self.store, self._definition(app), backup, diff, offset)

    async def start_adopt(self, app: str, *, source: str, version: str) -> int:
        definition = self._definition(app)
        self.jobs_.require_free(app)
        engine = self._engine(definition)
        plan = await off_loop(
            lambda: adoption.adopt_plan(self.host, definition, engine, source=source, version=version)
        )
        self.jobs_.reserve(app)
        return await self._start(JobKind.ADOPT, plan, backing.adopt, version=version)

    async def start_release(self, app: str, *, present: bool = False) -> int:
        definition = self._definition(app)
        self.jobs_.require_free(app)
        engine = self._engine(definition)
        plan = await off_loop(lambda: adoption.release_plan(self.host, definition, engine, present=present))
        self.jobs_.reserve(app)
        return await self._start(
            JobKind.RELEASE, plan, backing.release, version=plan.version, previous=plan.old_version
        )

    async def start_import(self, descriptor: int, uid: int, *, force: bool = False) -> int:
        """A job of the whole host: whose releases are in the bundle is known when it has been read."""
        handed = importing.Handed(descriptor, uid, force, dict(self._definitions.apps))

        async def take_in(work: Work) -> Result:
            try:
                return await backing.run_single(work, importing.steps(handed))
            finally:
                await off_loop(os.close, descriptor)  # of a medium that does not answer, that may take its time

        try:
            self.jobs_.reserve("")
            return await self._start(JobKind.IMPORT, Plan(), take_in)
        except BaseException:
            await off_loop(os.close, descriptor)
            raise

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
