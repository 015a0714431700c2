"""The ways back that need neither network, nor bus, nor the daemon (promise 10).

`slotd boot` runs before the apps at every boot: it counts the boots of an open trial and finishes the data part of a
rollback that a crash cut short, so that no app ever starts on half-restored data. What is left - starting the old
version, asking its probes - is done by the daemon, which finds the job in step `rb-start`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial

from slotd import engines
from slotd.core.health import UnitStatus
from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.errors import Busy, Failed, SlotdError
from slotd.host import definitions, failpoint, holdback
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.host.systemd import CommandSystemd, Systemd, Told
from slotd.model import Job, JobKind, JobState, Result, Trial
from slotd.recipes import blind, dumps, rebuild, rollback, space, standing
from slotd.recipes import recover as recovering
from slotd.recipes.context import Host, Plan, Work
from slotd.recipes.hosting import make_host
from slotd.recipes.preserve import hold_back, hold_back_over_boots, let_start
from slotd.recipes.restore import STEPS as RESTORE_STEPS
from slotd.recipes.run import Stopped, perform
from slotd.store import TROUBLE, StoreFull

_log = logging.getLogger(__name__)

_DATA_STEPS = ("rb-quarantine", "rb-restore", "rb-switch")
_AGAIN_S = (0.2, 1.0, 3.0)  # the waits before the state is read again
_STARTED = ("start", "trial", "commit", "cleanup", "rb-start", "rb-verify")  # the data were in their place by then


class NothingRuns:
    """systemd at early boot, before any app: nothing runs, and nothing is to be started yet."""

    async def show(self, unit: str) -> UnitStatus:
        return UnitStatus(name=unit)

    async def start(self, unit: str, *, timeout_s: float) -> str:
        return "done"

    async def stop(self, unit: str, *, timeout_s: float) -> str:
        return "done"

    async def kill(self, unit: str) -> None: ...

    async def reset_failed(self, unit: str) -> None: ...

    async def active_dependents(self, unit: str) -> list[str]:
        return []

    async def reload(self) -> None: ...

    @asynccontextmanager
    async def watch(self, units: Sequence[str], told: Told) -> AsyncIterator[None]:
        yield


def host_of(systemd: Systemd, *, user_mode: bool, alone: bool = False) -> Host:
    return make_host(Paths.from_environment(user_mode, os.environ), systemd, user_mode=user_mode, alone=alone)


def _work(host: Host, job: Job) -> Work:
    app = from_plain(Plan, job.plan).definition
    engine = engines.create(app, host.root(app), host.settings.limits, user_mode=host.user_mode)
    return Work(host, app, job, engine, host.data_store(app), lambda _job: None)


async def boot(alone: Callable[[], AbstractContextManager[None]], *, user_mode: bool) -> int:
    """Count this boot of every open trial; do the data part of every rollback that is due. 0 unless one failed.

    `alone`: within it no other slotd has the state. Raises `Busy` where one does not give it back. A disk that does not
    give the state is asked again. If it stays so, what is half changed is held back without it.
    """
    for wait_s in (*_AGAIN_S, None):
        try:
            with alone():
                return await _boot(user_mode=user_mode)
        except Busy:
            raise
        except Exception as error:
            _log_failure("the state cannot be read" + (" yet" if wait_s else ""), error)
        if wait_s is not None:
            await asyncio.sleep(wait_s)
    held = await off_loop(blind.hold_back_unfinished, Paths.from_environment(user_mode, os.environ))
    _log.error("no trial was looked at, %s", f"{', '.join(held)} held back" if held else "and no app is held back")
    return 1


async def _boot(*, user_mode: bool) -> int:
    host = await off_loop(lambda: host_of(NothingRuns(), user_mode=user_mode, alone=True))
    unfinished = await off_loop(host.store.unfinished_jobs)
    apps = (await off_loop(definitions.load, host.paths)).apps
    known = sorted({*apps, *(job.app for job in await off_loop(partial(host.store.jobs, copies=False)))})
    waits = iter(_AGAIN_S)  # for all of them together: a boot is not kept waiting for each
    failed = False
    for name in known:
        if not await _surely(name, waits, partial(_keep_stopped, host, name, apps.get(name))):
            failed = True
            await off_loop(blind.hold_back_again, host.paths)
    for job in unfinished:
        done = await _surely(job.app, waits, partial(_go_on_at_boot, host, job))
        if done is None:
            await off_loop(blind.hold_back_if_half, host.paths, job.app, job)
        failed |= not done
    return 1 if failed else 0


async def _surely(app: str, waits: Iterator[float], act: Callable[[], Awaitable[bool]]) -> bool | None:
    """What `act` gives, or None if it raised to the end: the other apps must not go without, whatever it is.

    What the disk does not give just now is asked for again, as long as there are `waits`, in seconds.
    """
    while True:
        try:
            return await act()
        except Exception as error:
            _log_failure(app, error)
        if (wait_s := next(waits, None)) is None:
            return None
        await asyncio.sleep(wait_s)


def _log_failure(what: str, error: Exception) -> None:
    is_known = isinstance(error, (SlotdError, Stopped, *TROUBLE))
    _log.error("%s: %s", what, error, exc_info=None if is_known else error)


async def _keep_stopped(host: Host, name: str, app: App | None) -> bool:
    """What was stopped after a failure does not come up with the next boot while it is held."""
    record = await off_loop(host.store.app, name)
    if not record.held:
        return True
    if app is not None and await off_loop(rebuild.is_half, host, name):
        await off_loop(holdback.hold_back_over_boots, host.paths, *app.service.units)
    elif work := await _stopped_by(host, name):
        await hold_back_over_boots(work)
        await work.tell("warning", f"{name} stays stopped while it is held: {record.hold_reason}")
    return True


async def _stopped_by(host: Host, app: str) -> Work | None:
    """The last job that changed the app, if it left it as nothing may start it."""
    for job in await off_loop(partial(host.store.jobs, app=app, copies=False)):
        work = _work(host, job)
        if job.result is Result.FAILED and rollback.stays_stopped(work):
            return work if await off_loop(work.engine.active) == work.plan.slot else None
        if await standing.is_stranded(work):
            return work
        if job.state is JobState.DONE or job.step in _STARTED:
            return None
    return None


async def _go_on_at_boot(host: Host, job: Job) -> bool:
    """False if its data could not be brought back. Then the app is held back, and the daemon goes on."""
    now = await off_loop(host.store.job, job.id)
    if now.is_finished:
        return True  # by the try before this one
    try:
        await _at_boot(_work(host, now))
    except Stopped as error:
        _log_failure(job.app, error)
        return False
    return True


async def _at_boot(work: Work) -> None:
    step = work.job.step
    await failpoint.reach("boot:begin")
    if step in ("rb-stop", *_DATA_STEPS):
        await finish_data_part(work, first="rb-quarantine" if step == "rb-stop" else step)
        return
    if step == "rb-start" and not dumps.are_back(work):
        await hold_back(work)  # the daemon loads them, and starts the app after it
        return
    if step in ("commit", "cleanup"):
        return  # it has passed its trial: nothing rolls it back by itself any more
    if again := await standing.begun(work):
        if again == "rb-stop":
            await go_back(work, "slotd was interrupted while it went back")
        return
    trial = await off_loop(work.host.store.trial, work.app.name)
    if trial is None or trial.job != work.job.id or await off_loop(work.engine.active) != trial.slot:
        return  # the old version is the active one: the daemon undoes the rest
    if step == "migrate" or (step == "switch" and (work.app.slots.migrate or work.plan.brings)):
        # Half migrated, or not at all: the new version must not be started on these data.
        await go_back(work, "the host went down before its migrations were done")
        return
    if work.marked_bad:
        await go_back(work, work.marked_bad)
        return
    if trial.boot_id == work.host.boot_id:
        return  # this boot was counted already
    if trial.attempts_left <= 0:
        what = "your service manager was started" if work.host.user_mode else "the host booted"
        await go_back(work, f"{what} {trial.boots + 1} times during its trial")
        return
    await count_boot(work, trial)


async def count_boot(work: Work, trial: Trial) -> None:
    """A boot starts the app, so it uses up an attempt, before the start is made."""
    counted = dataclasses.replace(
        trial, boots=trial.boots + 1, attempts_left=trial.attempts_left - 1, boot_id=work.host.boot_id
    )
    await _save_for_sure(work, counted)
    await failpoint.reach("boot:counted")
    await work.tell(
        "boot-counted",
        f"boot {counted.boots} during the trial of {trial.version}; attempts left: {counted.attempts_left}",
    )


async def _save_for_sure(work: Work, trial: Trial) -> None:
    """With all the room that slotd keeps, if need be: a version that fills the disk and then hangs the host is counted.

    Raises what a disk that fails or is read-only raises. Then nobody knows of this boot, but nothing that may be
    healthy is taken back for it: the daemon watches it as ever.
    """
    try:
        while True:
            try:
                return await off_loop(work.host.store.save, trial)
            except StoreFull:
                if not await off_loop(space.make_room_for_state, work.host.paths.state):
                    raise
    except TROUBLE as error:
        raise Failed(f"this boot could not be counted against the trial of {trial.version}: {error}") from error


async def go_back(work: Work, reason: str) -> None:
    """Data and symlink back, before the app starts. A store that takes nothing does not stop it."""
    from slotd.recipes.preserve import new_copy_id

    await _hold_back_if_it_can(work)  # before all that may fail: the new version must not start after it
    if rollback.stays_stopped(work):
        await rollback.stop_and_hold(work, reason)
        return
    work.must_go_on = True
    await work.remember(reason=reason, quarantine=work.plan.quarantine or new_copy_id(work, "quarantine"))
    await work.tell("rollback-started", f"going back to {work.plan.old_version or 'nothing'} at boot: {reason}")
    await failpoint.reach("boot:back")
    await finish_data_part(work, first="rb-quarantine")


async def finish_data_part(work: Work, *, first: str) -> None:
    # A restore changes no version: `rb-switch` is none of its steps, and its plan knows no slot to switch to.
    # A failure, or another power cut, must not leave the app to start on what is half there.
    await _hold_back_if_it_can(work)
    work.must_go_on = True
    own = RESTORE_STEPS if work.job.kind is JobKind.RESTORE else rollback.STEPS
    await perform(work, [step for step in own if step.name in _DATA_STEPS], first=first)
    if work.job.kind is JobKind.RESTORE:
        _log.info("%s: the restore was finished before the app's start", work.app.name)
    await failpoint.reach("boot:data")
    # The daemon goes on from here: start, and ask the probes.
    work.job = dataclasses.replace(work.job, step="rb-start")
    await work.write(lambda: work.host.store.save(work.job))
    await failpoint.reach("boot:end")
    if dumps.are_back(work):  # a database is loaded by the daemon, which starts the app after it
        await let_start(work)


async def _hold_back_if_it_can(work: Work) -> None:
    """Where /run takes nothing any more, data that are whole are all the better."""
    try:
        await hold_back(work)
    except OSError as error:
        _log.error("%s cannot be held back meanwhile: %s", work.app.name, error)


async def recover(*, user_mode: bool) -> int:
    """The daemon does not start: end its interrupted jobs, and the trials of apps that do not run. Needs no bus."""
    host = await off_loop(lambda: host_of(CommandSystemd(user_manager=user_mode), user_mode=user_mode, alone=True))
    failed = False
    for job in await off_loop(host.store.unfinished_jobs):
        try:
            work = _work(host, job)
            if job.step == "trial" and not work.marked_bad and await _is_well(work):
                continue  # nothing healthy is rolled back because of slotd's own trouble
            await failpoint.reach("recover:begin")
            await recovering.settle(work)
            await failpoint.reach("recover:end")
        except Exception as error:
            _log.error("%s: %s", job.app, error)
            failed = True
    return 1 if failed else 0


async def _is_well(work: Work) -> bool:
    """Whether all units run, but for those that an administrator stopped during the trial: it waits for them."""
    states = {unit: (await work.host.systemd.show(unit)).active_state for unit in work.app.service.units}
    return all(
        state in ("active", "reloading") or (state == "inactive" and unit in work.plan.stopped_by_hand)
        for unit, state in states.items()
    )
