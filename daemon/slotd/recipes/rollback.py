"""The way back: stop, set the present data aside, restore, switch, start, ask. A rollback destroys nothing (promise 3).

The same steps serve a failed trial, a person's `rollback`, and `slotd boot`, which does them before the app starts.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path

from slotd.core import machine
from slotd.core.words import about_it
from slotd.errors import Cancelled, Failed, NoSuchBackup, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import Backup, Blocked, Job, JobKind, Result, Slot, SlotState
from slotd.recipes import dumps, space
from slotd.recipes.context import Work
from slotd.recipes.copies import check_copy, know_what_is_whole, set_aside, where_to_set_aside
from slotd.recipes.preserve import dependents_of, hold_back_over_boots, last_runs, start_all, stop_all, was_started
from slotd.recipes.run import Step, Stopped, perform
from slotd.recipes.standing import is_active, is_stranded, puts_back
from slotd.recipes.trial import wait_until_healthy
from slotd.store import TROUBLE

MOST_RESTORES = 3


async def roll_back(work: Work, reason: str, *, first: str = "") -> Result:
    """Bring the old version and its data back, from step `first` on; the result says how it ended.

    A store that cannot be written does not stop it. Raises what that store raises only when all is done but its end:
    then the app runs, and whoever resumes the job commits that.
    """
    work.must_go_on = work.job.kind is JobKind.UPDATE or puts_back(work)
    if not first:
        if stays_stopped(work):
            return await stop_and_hold(work, reason)
        await work.remember(reason=reason, quarantine=work.plan.quarantine or await where_to_set_aside(work))
        await failpoint.reach("rb-begin:remembered")
        where = (
            f"going back to {work.plan.old_version}" if work.plan.old_version else f"removing {work.plan.version} again"
        )
        await work.tell("rollback-started", f"{where}: {reason}")
    by_hand = work.job.kind is JobKind.ROLLBACK
    work.rules = (machine.CHECK_COPY, *machine.ROLLBACK) if by_hand else work.rules
    try:
        await perform(work, (CHECK, *STEPS) if by_hand else STEPS, first=first)
    except Stopped as stopped:
        if stopped.step == CHECK.name:
            return await not_begun(work, stopped)
        if by_hand and await will_put_back(work, stopped):
            return await roll_back(work, reason, first="rb-restore")
        return await report_failed_rollback(work, stopped)
    if puts_back(work):
        return await report_put_back(work)
    await close(work)
    back = f"rolled back to {work.plan.old_version}" if work.plan.old_version else "removed again"
    await work.tell("rolled-back", f"{back}: {work.plan.reason}")
    error = Failed(work.plan.reason) if work.job.kind == "update" else None
    await work.finish(Result.ROLLED_BACK, error)
    return Result.ROLLED_BACK


async def not_begun(work: Work, stopped: Stopped) -> Result:
    """The copy is damaged, there is no room, or a person changed their mind: the app was not stopped."""
    is_cancelled = isinstance(stopped.error, Cancelled)
    if is_cancelled:
        await work.tell("cancelled", f"the {work.job.kind} was cancelled")
    else:
        await work.tell("warning", f"the {work.job.kind} did not begin, the app was not touched: {stopped.error}")
    await work.finish(Result.CANCELLED if is_cancelled else Result.FAILED, stopped.error)
    return work.job.result


async def will_put_back(work: Work, stopped: Stopped) -> bool:
    """Whether data that did not come back make room for those that were set aside: `rb-restore` does that then."""
    if stopped.step != "rb-restore" or work.plan.gave_up:
        return False
    work.must_go_on = True  # the disk that is full may be that of the state
    await work.remember(gave_up=str(stopped.error))
    return True


async def report_put_back(work: Work) -> Result:
    """The data are in their place again, and the version that they belong to runs on them."""
    aside = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
    if not await off_loop(aside.exists):  # else something turned up at their place meanwhile, and is kept in it
        with suppress(NoSuchBackup, *TROUBLE):
            await off_loop(lambda: work.host.store.forget(work.host.store.backup(work.app.name, work.plan.quarantine)))
    error = Failed(f"{work.plan.gave_up} The data are those that were there before the {work.job.kind}.")
    await work.tell("warning", f"backup {work.plan.backup} was not restored: {error}")
    await work.finish(Result.FAILED, error)
    return Result.FAILED


async def stop_units(work: Work) -> None:
    if not work.plan.dependents:
        await work.remember(dependents=tuple(await dependents_of(work)))
    await failpoint.reach("rb-stop:remembered")
    await _stop_to_move(work)
    await dumps.keep_present(work)


async def _stop_to_move(work: Work) -> None:
    aside = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
    if work.plan.restore and await off_loop(work.data.is_sealed, aside) and await was_started(work):
        # This is a second try, and in between the app was started: on data that may have been half there.
        await work.remember(disturbed=True)
    await stop_all(work)
    await work.remember(runs=await last_runs(work))


async def set_data_aside(work: Work) -> None:
    """What the failed version wrote becomes quarantine: a row first, then the renames, then the seal."""
    if not work.plan.restore:
        return
    backup = await _require_whole_backup(work)  # else the app would be left without any data
    await space.give_back(work)
    if backup is not None:
        aside = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
        await off_loop(work.data.ready, Path(backup.path), aside)
    reason = "restore" if work.job.kind == "restore" else "rollback"
    await set_aside(work, work.plan.quarantine, version=work.plan.version, reason=reason)


async def bring_data_back(work: Work) -> None:
    """Nothing comes back where nothing was before the update."""
    backup = await _require_whole_backup(work)
    if backup is None:
        return
    if puts_back(work):
        aside = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
        await stop_all(work)
        try:
            await off_loop(work.data.put_back, work.data_spec, Path(backup.path), aside)
        except SlotdError as error:
            raise Failed(f"{work.plan.gave_up} {error.message}", hint=error.hint) from error
        return
    for _ in range(MOST_RESTORES):
        aside = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
        await off_loop(work.data.restore, work.data_spec, Path(backup.path), aside)
        await failpoint.reach("rb-restore:restored")
        if not work.plan.disturbed and not await was_started(work):
            if work.job.kind != "restore":  # which tells it when the app runs again
                await work.tell(
                    "restored",
                    f"the data are those of backup {backup.id} again; what {work.plan.version} wrote is kept as"
                    f" {work.plan.quarantine}",
                )
            return
        # Someone (a socket, a person) started the app on data that were only half there, maybe the failed version.
        await set_aside_again(work)
    raise Failed(
        f"cannot restore the data of {work.app.name}: something starts it again and again meanwhile.",
        hint="Stop its sockets and timers, then restore the backup.",
    )


async def set_aside_again(work: Work) -> None:
    """What had come back was in somebody's hands: it goes the way of the data before it."""
    await stop_all(work)
    await work.remember(quarantine=f"{work.plan.quarantine}-again", disturbed=False, runs=await last_runs(work))
    await set_data_aside(work)


async def _require_whole_backup(work: Work) -> Backup | None:
    """The backup to bring back; None if there is none to. Raises `NoSuchBackup`."""
    if not work.plan.restore or not work.plan.backup:
        return None
    try:
        backup = await off_loop(work.host.store.backup, work.app.name, work.plan.backup)
    except TROUBLE:
        if not work.must_go_on:
            raise
        path = work.host.copy_path("backups", work.app.name, work.plan.backup)
        backup = Backup(work.plan.backup, work.app.name, "backup", work.plan.old_version, "update", 0.0, str(path))
    if work.plan.backup == work.plan.quarantine or not await off_loop(work.data.is_sealed, Path(backup.path)):
        raise NoSuchBackup(f"cannot restore {backup.path}: it is not a whole backup.")
    return backup


async def point_back(work: Work) -> None:
    """`current` at the old slot again, or gone where nothing was installed before. Not without its data."""
    if puts_back(work):
        return
    # The new link may take a block, on a disk that the new version has filled.
    await off_loop(space.with_room, work.host.paths.state, lambda: work.engine.switch(work.plan.old_slot))
    await failpoint.reach("rb-switch:link")
    if work.plan.restore and await was_started(work):
        # Of the other slot, most likely, and on the data that had just come back for this one.
        await set_aside_again(work)
        await bring_data_back(work)
    await stop_all(work)  # whatever was started meanwhile is of the other slot


async def start_units(work: Work) -> None:
    if dumps.come_back(work) and not work.plan.dumped:
        # `slotd boot` brought the files back without the server, and the app may run by now: once more, with the dumps.
        await stop_all(work)
        await dumps.keep_present(work, aside=f"{work.plan.quarantine}-again")
    if work.plan.dumped_over:
        # The dump in its place is the failed version's until the files have come back a second time.
        await _stop_to_move(work)
        await set_data_aside(work)
        await bring_data_back(work)
        await work.remember(dumped_over=False)
        await failpoint.reach("rb-start:brought")
    await dumps.load(work)
    if work.plan.old_version:
        await start_all(work)


async def ask_probes(work: Work) -> None:
    """Only a rollback that ends in a healthy app is one. A unit that stays stopped is not asked."""
    if work.plan.old_version and not work.plan.resting:
        stays = puts_back(work) and work.job.kind is JobKind.ROLLBACK
        await wait_until_healthy(work, work.plan.version if stays else work.plan.old_version)


STEPS: tuple[Step, ...] = (
    Step("rb-stop", stop_units),
    Step("rb-quarantine", set_data_aside),
    Step("rb-restore", bring_data_back),
    Step("rb-switch", point_back),
    Step("rb-start", start_units),
    Step("rb-verify", ask_probes),
)


async def check_what_comes_back(work: Work) -> None:
    if work.plan.restore and work.plan.backup:
        await check_copy(work, work.plan.backup)


CHECK = Step(machine.CHECK_COPY.name, check_what_comes_back)

assert tuple(step.name for step in STEPS) == tuple(rule.name for rule in machine.ROLLBACK)


async def close(work: Work) -> None:
    """One transaction: the trial is closed, the version remembered as bad (promise 6).

    Where nothing was installed before, the slot is emptied after it.
    """
    plan, is_update = work.plan, work.job.kind is JobKind.UPDATE
    why = about_it(plan.reason, plan.version)
    blocked = plan.reason if is_update else "an administrator went back from it"

    def commit(job: Job) -> None:
        store = work.host.store
        with store.transaction():
            store.close_trial(job.app, job.id)
            record = store.app(job.app)
            store.change_app(
                job.app,
                approved="" if record.approved == plan.version else record.approved,
                available="" if record.available == plan.version else record.available,
                last_error=f"{plan.version} was rolled back: {why}" if is_update else "",
            )
            if not plan.version:
                return
            store.save(
                Blocked(app=job.app, version=plan.version, digest=plan.digest, reason=blocked, at=work.host.clock.now())
            )
            slots = store.slots(job.app)
            if plan.old_slot is not None and slots[plan.old_slot].state is SlotState.WHOLE:
                # So a state that was lost meanwhile was rebuilt; it runs now, and is well.
                store.save(dataclasses.replace(slots[plan.old_slot], state=SlotState.GOOD))
            if plan.slot is not None:
                slot = slots[plan.slot]
                store.save(
                    dataclasses.replace(slot, state=SlotState.BAD) if plan.old_version else Slot(job.app, plan.slot)
                )
            failpoint.hit("rb-end:closing")

    await space.give_back(work)
    with suppress(*TROUBLE):
        await off_loop(know_what_is_whole, work)
    await off_loop(commit, work.job)
    await failpoint.reach("rb-end:closed")
    if not plan.old_version and plan.slot is not None:
        await off_loop(work.engine.empty, plan.slot)
        await failpoint.reach("rb-end:emptied")


async def report_failed_rollback(work: Work, stopped: Stopped) -> Result:
    """The last resort: hold the app, say where its data are, change nothing more."""
    where = (
        str(work.host.copy_path("backups", work.app.name, work.plan.backup)) if work.plan.backup else "none was made"
    )
    error = Failed(
        f"cannot go back to {work.plan.old_version} after {work.plan.version} failed ({work.plan.reason}):"
        f" {stopped.step}: {stopped.error} The backup of its data: {where}.",
        hint=await _way_out(work),
    )
    await hold(work, str(error))
    await work.tell("rollback-failed", str(error))
    await work.finish(Result.ROLLBACK_FAILED, error)
    return Result.ROLLBACK_FAILED


async def _way_out(work: Work) -> str:
    """What a person does next. Once the link is the old one, one more rollback would lead to the bad version."""
    name, old = work.app.name, work.plan.old_version
    if old and await is_active(work, work.plan.old_slot):
        again = f"systemctl restart {' '.join(work.app.service.units)}"
        return (
            f"{old} and its data are back in their place. Mend the cause, then `{again}` and `slotctl unhold {name}`."
        )
    return f"Mend the cause, then `slotctl rollback {name} --data=restore`, and unhold it."


def stays_stopped(work: Work) -> bool:
    """Whether `on_failure` keeps what failed from going back by itself. Where a person wants it back, it goes."""
    return work.app.policy.on_failure == "stop" and work.job.kind is JobKind.UPDATE and not work.marked_bad


async def stop_and_hold(work: Work, reason: str) -> Result:
    """`on_failure = "stop"`: the app stays down with its data as they are, for a person to look at."""
    error: SlotdError = Failed(
        f"{work.plan.version} failed: {reason}. The app was stopped, as its definition says.",
        hint=f"Go back with `slotctl rollback {work.app.name} --data=restore`.",
    )
    try:
        await stop_all(work)
        with suppress(*TROUBLE):  # only a restore asks for it, to know whether somebody started it since
            await work.remember(runs=await last_runs(work))
    except SlotdError as problem:
        error = Failed(f"{work.plan.version} failed: {reason}. Stopping it failed, too: {problem}")
    await hold(work, str(error))
    await work.tell("update-failed", str(error))
    await work.finish(Result.FAILED, error)
    return Result.FAILED


async def _may_be_stranded(work: Work) -> bool:
    try:
        return await is_stranded(work)
    except (OSError, SlotdError) as error:
        await work.tell("warning", f"nobody can say whether the data belong to the version: {error}")
        return True


async def hold(work: Work, reason: str, *, block: bool = True) -> None:
    """A person decides what comes next. `block`: a failure in a trial or after it is the version's own."""
    now = work.host.clock.now()
    try:
        if await _may_be_stranded(work):
            await hold_back_over_boots(work)
            reason += " Nothing starts it until then, or until it is unheld: it must not run on the data as they are."
    except (OSError, SlotdError) as error:
        await work.tell("warning", f"the app could not be kept from being started as it is: {error}")

    def commit(job: Job) -> None:
        with work.host.store.transaction():
            work.host.store.close_trial(job.app, job.id)
            if block and job.kind == "update" and work.plan.version and machine.may_block(job.step):
                # It failed here, even if there was no way back: an unhold must not try it again by itself (promise 6).
                why = work.plan.reason or reason
                work.host.store.save(Blocked(job.app, work.plan.version, work.plan.digest, why, now))
            work.host.store.change_app(job.app, held=True, hold_reason=reason, last_error=reason)

    await failpoint.reach("hold:begin")
    await space.give_back(work)
    await off_loop(commit, work.job)
    await failpoint.reach("hold:held")
