"""A restore: of all data or of some paths, always through quarantine.

What can fail without stopping the app does so before it is stopped (promise 4): the copy is read again and compared
with its manifest, and the room that it needs is counted.
"""

from __future__ import annotations

from slotd.core import machine
from slotd.core.plain import from_plain
from slotd.errors import Failed, SlotdError
from slotd.host.offloop import off_loop
from slotd.model import Job, JobKind, Result
from slotd.recipes import preserve, rebuild, rollback, standing
from slotd.recipes.context import Plan, Work
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
    work.must_go_on = standing.puts_back(work)
    if not first:
        await work.remember(
            restore=True,
            quarantine=work.plan.quarantine or await where_to_set_aside(work),
            resting=await _who_rests(work),
        )
    try:
        await perform(work, STEPS, first=first)
    except Stopped as stopped:
        if await rollback.will_put_back(work, stopped):
            return await restore(work, first="rb-restore")
        return await _stopped(work, stopped)
    if standing.puts_back(work):
        return await rollback.report_put_back(work)
    what = f"{len(work.plan.paths)} paths of backup" if work.plan.paths else "backup"
    kept = f"what was there is kept as {work.plan.quarantine}"
    still = f"; {', '.join(work.plan.resting)} stays stopped, as before" if work.plan.resting else ""
    await work.tell("restored", f"{what} {work.plan.backup} was restored; {kept}{still}")
    await work.finish(Result.DONE)
    return Result.DONE


async def _who_rests(work: Work) -> tuple[str, ...]:
    """The units that stay down: those that a person stopped, and not what slotd stopped and could not start again."""
    if await off_loop(rebuild.is_half, work.host, work.app.name):
        return ()
    down = await preserve.resting_units(work)
    if not down or (left := await off_loop(_left_down_by, work)) is None:
        return down
    if await preserve.were_started(work, left.runs):
        return down  # since that job: whoever did it has stopped it again
    return tuple(unit for unit in down if unit in left.resting)


def _left_down_by(work: Work) -> Plan | None:
    """The plan of the job that stopped the app and left it so; None if none did since a job last ended well."""
    for job in work.host.store.jobs(app=work.app.name, copies=False):
        if job.id == work.job.id or not _touched_the_app(job):
            continue
        if job.result not in (Result.FAILED, Result.ROLLBACK_FAILED):
            return None
        try:
            return from_plain(Plan, job.plan)
        except SlotdError:
            return None  # an older slotd's
    return None


def _touched_the_app(job: Job) -> bool:
    """Whether a job may have left the app otherwise than it found it: not one that was undone, or only looked."""
    if job.kind not in (JobKind.UPDATE, JobKind.ROLLBACK, JobKind.RESTORE):
        return False
    if job.kind is JobKind.RESTORE and job.step == "rb-stop":
        return False  # it started again what it had stopped
    return machine.may_block(job.step) or job.result in (Result.UPDATED, Result.DONE, Result.ROLLED_BACK)


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
