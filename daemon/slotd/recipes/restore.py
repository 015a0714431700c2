"""A restore: of all data or of some paths, always through quarantine.

What can fail without stopping the app does so before it is stopped (promise 4): the copy is read again and compared
with its manifest, and the room that it needs is counted.
"""

from __future__ import annotations

from slotd.core import machine
from slotd.errors import Failed, SlotdError
from slotd.host.offloop import off_loop
from slotd.model import JobState, Result
from slotd.recipes import preserve, rebuild, rollback
from slotd.recipes.context import Work
from slotd.recipes.copies import where_to_set_aside
from slotd.recipes.run import Step, Stopped, perform

STEPS: tuple[Step, ...] = (
    rollback.CHECK,
    *(step for step in rollback.STEPS if step.name != "rb-switch"),
)

assert tuple(step.name for step in STEPS) == tuple(rule.name for rule in machine.RESTORE)


async def restore(work: Work, *, first: str = "") -> Result:
    """Bring a backup's data back to the version that runs; what is there becomes quarantine."""
    work.rules = machine.RESTORE
    work.must_go_on = rollback.puts_back(work)
    if not first:
        await work.remember(
            restore=True,
            quarantine=work.plan.quarantine or await where_to_set_aside(work),
            resting=() if await off_loop(_was_left_down, work) else await preserve.resting_units(work),
        )
    try:
        await perform(work, STEPS, first=first)
    except Stopped as stopped:
        if await rollback.will_put_back(work, stopped):
            return await restore(work, first="rb-restore")
        return await _stopped(work, stopped)
    if rollback.puts_back(work):
        return await rollback.report_put_back(work)
    what = f"{len(work.plan.paths)} paths of backup" if work.plan.paths else "backup"
    kept = f"what was there is kept as {work.plan.quarantine}"
    still = f"; {', '.join(work.plan.resting)} stays stopped, as before" if work.plan.resting else ""
    await work.tell("restored", f"{what} {work.plan.backup} was restored; {kept}{still}")
    await work.finish(Result.DONE)
    return Result.DONE


def _was_left_down(work: Work) -> bool:
    """Whether the app is down because slotd could not go on, not because a person stopped it."""
    if rebuild.is_half(work.host, work.app.name):
        return True
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
