"""What becomes of a job that was interrupted: the "after a crash" column of the table, nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError
from slotd.errors import Cancelled, Failed, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import JobKind, Result
from slotd.recipes import adopt, backup, dumps, loops, preserve, rollback, standing
from slotd.recipes import restore as restoring
from slotd.recipes.context import Work
from slotd.recipes.run import Stopped, Undo, undo, undos
from slotd.recipes.undoing import CANCELLED, give_up

_SINGLE = {kind for kind in JobKind if kind not in (JobKind.UPDATE, JobKind.ROLLBACK, JobKind.RESTORE)}


async def resume(work: Work) -> Result:
    """Take an unfinished job to its end. A job that comes no further, however often, is held."""
    step = work.job.step
    await failpoint.reach("resume:begin")
    action = machine.after_crash(step, link_is_new=await _link_is_new(work))
    await loops.count_resume(work)
    await failpoint.reach("resume:counted")
    if loops.is_loop(work):
        return await _give_up_a_loop(work, step, action)
    await work.tell("job-resumed", f"the {work.job.kind} was interrupted in step {step or 'nothing'}: {_says(action)}")
    if again := await standing.begun(work):
        await work.remember(reason=work.plan.reason or f"{work.plan.version} failed, and slotd was interrupted")
        return await rollback.roll_back(work, work.plan.reason, first=again)
    if machine.is_rollback_step(step):
        # Whoever was away may find the app running: no data are moved under it.
        first = "rb-stop" if step in ("rb-quarantine", "rb-restore", "rb-switch") else step
        if work.job.kind is JobKind.RESTORE:
            return await restoring.restore(work, first=first)
        return await rollback.roll_back(work, work.plan.reason, first=first)
    if work.job.kind in _SINGLE:
        return await _end_single(work, step)
    if work.job.kind is not JobKind.UPDATE:
        await work.finish(Result.FAILED, Failed("interrupted before it began; nothing was changed."))
        return Result.FAILED
    if work.plan.gave_up and action in (OnCrash.REDO, OnCrash.FORGET):
        return await give_up(work, Stopped(step or machine.UPDATE[0].name, OnError.UNDO, _why_it_gave_up(work)))
    interrupted = Failed(f"slotd was interrupted in step {step or 'resolve'}; the old version was left running.")
    match action:
        case OnCrash.FORGET | OnCrash.UNDO:
            return await give_up(work, Stopped(step or machine.UPDATE[0].name, OnError.UNDO, interrupted))
        case OnCrash.ROLL_BACK:
            return await rollback.roll_back(work, f"slotd was interrupted in step {step}")
        case _:
            from slotd.recipes.update import update  # all that goes forward; no way back must depend on it

            return await update(work, first=step)


async def abandon(work: Work, why: SlotdError) -> Result:
    """For a job whose plan cannot be read: nobody knows how far it came. Its app is held, and a person is asked."""
    error = Failed(
        f"the plan of job {work.job.id} cannot be read, and step {work.job.step or 'nothing'} was left as it was: "
        f"{why.message}",
        hint=f"See that {work.app.name} and its data are whole, then `slotctl unhold {work.app.name}`.",
    )
    return await _leave_to_a_person(work, error)


async def _give_up_a_loop(work: Work, step: str, action: OnCrash) -> Result:
    """For a job that slotd dies of. The app comes up wherever code and data in their places belong together."""
    told = f"job {work.job.id} was interrupted {work.job.resumed} times in step {step}"
    is_back = step == "rb-verify" or (step == "rb-start" and (work.plan.loaded or not dumps.come_back(work)))
    if (is_back and work.plan.old_version) or (action is OnCrash.UNDO and work.plan.stopped_at):
        await preserve.start_again(work)
    elif work.plan.backup and (machine.may_block(step) or step == "switch"):
        told += f"; the backup of its data: {work.host.copy_path('backups', work.app.name, work.plan.backup)}"
    hint = f"See `journalctl -u slotd`, then `slotctl unhold {work.app.name}`."
    # In a trial the version runs, and nothing was seen that told against it: it is slotd that died.
    return await _leave_to_a_person(work, Failed(f"{told}.", hint=hint), block=step != "trial" or bool(work.marked_bad))


async def _leave_to_a_person(work: Work, error: SlotdError, *, block: bool = True) -> Result:
    await rollback.hold(work, str(error), block=block)
    await work.tell("held", str(error))
    await work.finish(Result.FAILED, error)
    return Result.FAILED


async def settle(work: Work) -> Result:
    """For when no daemon will go on with the job: end it whole, on the old version wherever that is still possible."""
    step = work.job.step
    if work.job.kind is JobKind.UPDATE and step and not machine.is_rollback_step(step):
        if machine.may_cancel(step) and not work.plan.unchanged:
            return await give_up(
                work, Stopped(step, OnError.UNDO, Failed(f"slotd was interrupted in step {step} and could not go on."))
            )
        if step in ("start", "trial") or (step == "switch" and await _link_is_new(work)):
            reason = work.marked_bad or "it did not run, and slotd itself could not be started to watch it"
            return await rollback.roll_back(work, reason)
    return await resume(work)


async def cancelled(work: Work) -> Result:
    """A person cancelled the job outside of any step: before its first, or while it was being resumed."""
    if work.job.kind is JobKind.UPDATE and work.job.step:
        return await give_up(work, Stopped(work.job.step, OnError.UNDO, Cancelled("cancelled on request")))
    if work.job.kind in _SINGLE and work.job.step:
        return await _end_single(work, work.job.step)
    await work.finish(Result.CANCELLED)
    return Result.CANCELLED


async def _link_is_new(work: Work) -> bool:
    return await off_loop(work.engine.active) == work.plan.slot and work.plan.slot is not None


def _why_it_gave_up(work: Work) -> SlotdError:
    """What the interrupted undo was for: a person's cancellation stays one."""
    return Cancelled("cancelled on request") if work.plan.gave_up == CANCELLED else Failed(work.plan.gave_up)


async def _end_single(work: Work, step: str) -> Result:
    work.too_late = True  # an undo is not cancelled half-way
    if step:
        if work.job.kind is JobKind.BACKUP and work.plan.stopped_at:
            await preserve.start_again(work)  # first: the app is down as long as this takes
        if forward := await undo(work, _undo_of(work.job.kind), last=step):
            await work.finish(forward)
            return forward
    await work.finish(
        Result.FAILED, Failed(f"slotd was interrupted in step {step or work.job.kind}; nothing was changed.")
    )
    return Result.FAILED


def _undo_of(kind: JobKind) -> Mapping[str, Undo]:
    match kind:
        case JobKind.BACKUP:
            return undos(backup.BACKUP_STEPS)
        case JobKind.ADOPT:
            return undos(adopt.STEPS_ADOPT)
        case JobKind.RELEASE:
            return undos(adopt.STEPS_RELEASE)
        case JobKind.IMPORT:
            from slotd.recipes import import_  # no app is stopped for it

            return undos(import_.INTERRUPTED)
        case _:
            return {}


def _says(action: OnCrash) -> str:
    return {
        OnCrash.FORGET: "it ends here, nothing was touched",
        OnCrash.UNDO: "it is undone, the old version runs",
        OnCrash.ROLL_BACK: "it is rolled back",
    }.get(action, "it goes on")
