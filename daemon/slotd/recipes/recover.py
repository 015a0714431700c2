"""What becomes of a job that was interrupted: the "after a crash" column of the table, nothing else."""

from __future__ import annotations

import dataclasses

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError
from slotd.errors import Failed
from slotd.host.offloop import off_loop
from slotd.model import JobKind, Result
from slotd.recipes import backup, preserve, rollback
from slotd.recipes.context import Work
from slotd.recipes.run import Stopped, undo
from slotd.recipes.update import STEPS, give_up, update


async def resume(work: Work) -> Result:
    """Take an unfinished job to its end. A job that is resumed without end is held instead."""
    step = work.job.step
    link_is_new = await off_loop(work.engine.active) == work.plan.slot and work.plan.slot is not None
    action = machine.after_crash(step, link_is_new=link_is_new)
    work.job = dataclasses.replace(work.job, resumed=work.job.resumed + 1)
    await off_loop(work.host.store.save, work.job)
    if work.job.resumed > machine.MOST_RESUMES:
        error = Failed(
            f"job {work.job.id} was interrupted {work.job.resumed} times in step {step}.",
            hint=f"See `journalctl -u slotd`, then `slotctl unhold {work.app.name}`.",
        )
        await rollback.hold(work, str(error))
        await work.finish(Result.FAILED, error)
        return Result.FAILED
    await work.tell("job-resumed", f"the {work.job.kind} was interrupted in step {step or 'nothing'}: {_says(action)}")
    if machine.is_rollback_step(step):
        if work.job.kind is JobKind.RESTORE:
            return await backup.restore(work, first=step)
        return await rollback.roll_back(work, work.plan.reason, first=step)
    if work.job.kind in (JobKind.CHECK, JobKind.BACKUP):
        return await _end_single(work, step)
    if work.job.kind is not JobKind.UPDATE:
        await work.finish(Result.FAILED, Failed("interrupted before it began; nothing was changed."))
        return Result.FAILED
    interrupted = Failed(f"slotd was interrupted in step {step or 'resolve'}; the old version was left running.")
    match action:
        case OnCrash.FORGET | OnCrash.UNDO:
            return await give_up(work, Stopped(step or STEPS[0].name, OnError.UNDO, interrupted))
        case OnCrash.ROLL_BACK:
            return await rollback.roll_back(work, f"slotd was interrupted in step {step}")
        case _:
            return await update(work, first=step)


async def _end_single(work: Work, step: str) -> Result:
    if work.job.kind is JobKind.BACKUP and step:
        await undo(work, backup.BACKUP_STEPS, last=step)
        if work.plan.stopped_at:
            await preserve.start_all(work)
    await work.finish(
        Result.FAILED, Failed(f"slotd was interrupted in step {step or work.job.kind}; nothing was changed.")
    )
    return Result.FAILED


def _says(action: OnCrash) -> str:
    return {
        OnCrash.FORGET: "it ends here, nothing was touched",
        OnCrash.UNDO: "it is undone, the old version runs",
        OnCrash.ROLL_BACK: "it is rolled back",
    }.get(action, "it goes on")
