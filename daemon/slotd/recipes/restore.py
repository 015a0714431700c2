"""A restore: of all data or of some paths, always through quarantine.

What can fail without stopping the app does so before it is stopped (promise 4): the copy is read again and compared
with its manifest, and the room that it needs is counted.
"""

from __future__ import annotations

from contextlib import suppress

from slotd.core import machine
from slotd.errors import Failed, NoSuchBackup, SlotdError
from slotd.host.offloop import off_loop
from slotd.model import JobState, Result
from slotd.recipes import preserve, rollback
from slotd.recipes.context import Work
from slotd.recipes.copies import where_to_set_aside
from slotd.recipes.run import Step, Stopped, perform
from slotd.store import TROUBLE

STEPS: tuple[Step, ...] = (
    rollback.CHECK,
    *(step for step in rollback.STEPS if step.name != "rb-switch"),
)

assert tuple(step.name for step in STEPS) == tuple(rule.name for rule in machine.RESTORE)


async def restore(work: Work, *, first: str = "") -> Result:
    """Bring a backup's data back to the version that runs; what is there becomes quarantine."""
    work.rules = machine.RESTORE
    work.must_go_on = bool(work.plan.gave_up)
    if not first:
        await work.remember(
            restore=True,
            quarantine=work.plan.quarantine or await where_to_set_aside(work),
            resting=() if await off_loop(_was_left_down, work) else await preserve.resting_units(work),
        )
    try:
        await perform(work, STEPS, first=first)
    except Stopped as stopped:
        if stopped.step == "rb-restore" and not work.plan.gave_up:
            work.must_go_on = True  # the disk that is full may be that of the state
            await work.remember(gave_up=str(stopped.error))
            return await restore(work, first="rb-restore")  # which puts back what was set aside
        return await _stopped(work, stopped)
    if work.plan.gave_up:
        error = Failed(f"{work.plan.gave_up} The data are those that were there before the restore.")
        await work.tell("warning", f"backup {work.plan.backup} was not restored: {error}")
        await _forget_quarantine(work)
        await work.finish(Result.FAILED, error)
        return Result.FAILED
    what = f"{len(work.plan.paths)} paths of backup" if work.plan.paths else "backup"
    kept = f"what was there is kept as {work.plan.quarantine}"
    still = f"; {', '.join(work.plan.resting)} stays stopped, as before" if work.plan.resting else ""
    await work.tell("restored", f"{what} {work.plan.backup} was restored; {kept}{still}")
    await work.finish(Result.DONE)
    return Result.DONE


async def _forget_quarantine(work: Work) -> None:
    """Its data are in their place again; what else turned up there stays."""
    if await off_loop(work.host.copy_path("quarantine", work.app.name, work.plan.quarantine).exists):
        return
    with suppress(NoSuchBackup, *TROUBLE):
        await off_loop(lambda: work.host.store.forget(work.host.store.backup(work.app.name, work.plan.quarantine)))


def _was_left_down(work: Work) -> bool:
    """Whether the app is down because slotd could not go on, not because a person stopped it."""
    last = [job for job in work.host.store.jobs(app=work.app.name, limit=2, checks=False) if job.id != work.job.id]
    return bool(last) and (last[0].state is JobState.FAILED or last[0].result is Result.ROLLBACK_FAILED)


async def _stopped(work: Work, stopped: Stopped) -> Result:
    error: SlotdError = stopped.error
    if stopped.step == rollback.CHECK.name:
        return await rollback.not_begun(work, stopped)
    if stopped.step == "rb-stop":  # nothing was changed yet
        await preserve.start_again(work)
    else:
        where = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
        error = Failed(f"{error.message} What was there before the restore: {where}.", hint=error.hint)
    await rollback.hold(work, str(error))
    await work.tell("rollback-failed", f"the restore stopped in {stopped.step}: {error}")
    await work.finish(Result.FAILED, error)
    return Result.FAILED
