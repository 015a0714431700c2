"""A backup by hand: hot, then cold with the app stopped, sealed; and a restore, always through quarantine."""

from __future__ import annotations

from pathlib import Path

from slotd.core import machine
from slotd.errors import Cancelled, Failed, NothingToDo, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import Result
from slotd.recipes import check as looking
from slotd.recipes import preserve, rollback
from slotd.recipes.context import Work
from slotd.recipes.run import Step, Stopped, perform, undo


async def make_backup(work: Work) -> Result:
    """The app is down only for the cold pass, and runs again whatever happens."""
    if not preserve.wants_backup(work):
        raise NothingToDo(f"cannot back up {work.app.name}: {_why_not(work)}.", hint="See [data] and [backup].")
    await work.remember(backup=work.plan.backup or preserve.new_copy_id(work))
    backup = await preserve.record_backup(work, reason="manual")
    await preserve.run_hooks(work, work.app.data.before, "before")
    await off_loop(work.data.remove, Path(backup.path))
    base = await preserve.newest_sealed(work)
    await off_loop(work.data.hot, work.data_spec, Path(backup.path), base, lambda: work.cancel_asked)
    await failpoint.reach("backup:copied")
    work.progress(0.7)
    running = [u for u in work.app.service.units if (await work.host.systemd.show(u)).active_state == "active"]
    work.too_late = bool(running)  # from here on a cancellation could only leave the app stopped
    if running:
        if work.cancel_asked:
            raise Cancelled("cancelled before the app was stopped")
        await work.remember(stopped_at=work.host.clock.now())
        await failpoint.reach("backup:dated")
    try:
        if running:
            await preserve.stop_units(work)
            await failpoint.reach("backup:stopped")
        sealed = await preserve.seal(work, backup)
    finally:
        if running:
            await preserve.start_all(work)
            await failpoint.reach("backup:started")
    await work.tell(
        "backup-made", f"backup {sealed.id} of {sealed.version or 'the data'} was made ({sealed.bytes} bytes)"
    )
    return Result.DONE


def _why_not(work: Work) -> str:
    if not work.app.backup.enabled:
        return "its definition says that no backups are made (backup.enabled)"
    if missing := preserve.missing_data(work):
        return f"there is no {' and no '.join(missing)} (data.paths)"
    return "its definition names no data (data.paths)"


BACKUP_STEPS: tuple[Step, ...] = (Step("backup", make_backup, undo=preserve.drop_copy),)

RESTORE_STEPS: tuple[Step, ...] = tuple(step for step in rollback.STEPS if step.name != "rb-switch")


async def run_single(work: Work, steps: tuple[Step, ...]) -> Result:
    """A job of one step (check, backup): a result, or an error after its undo."""
    work.rules = tuple(machine.rule(step.name) for step in steps)
    try:
        result = await perform(work, steps) or Result.DONE
    except Stopped as stopped:
        work.too_late = True
        await undo(work, steps, last=stopped.step)
        cancelled = work.cancel_asked
        if cancelled:
            await work.tell("cancelled", f"the {work.job.kind} was cancelled")
        await work.finish(Result.CANCELLED if cancelled else Result.FAILED, stopped.error)
        return work.job.result
    await work.finish(result)
    return result


async def backup(work: Work) -> Result:
    return await run_single(work, BACKUP_STEPS)


async def check(work: Work) -> Result:
    return await run_single(work, looking.STEPS)


async def restore(work: Work, *, first: str = "") -> Result:
    """Bring a backup's data back to the version that runs; what is there becomes quarantine."""
    work.rules = machine.RESTORE
    if not first:
        await work.remember(restore=True, quarantine=work.plan.quarantine or preserve.new_copy_id(work, "quarantine"))
    try:
        await perform(work, RESTORE_STEPS, first=first)
    except Stopped as stopped:
        error: SlotdError = stopped.error
        if stopped.step == "rb-stop":  # nothing was changed yet
            await preserve.start_again(work)
        else:
            where = work.host.copy_path("quarantine", work.app.name, work.plan.quarantine)
            error = Failed(f"{error.message} What was there before the restore: {where}.", hint=error.hint)
        await rollback.hold(work, str(error))
        await work.tell("rollback-failed", f"the restore stopped in {stopped.step}: {error}")
        await work.finish(Result.FAILED, error)
        return Result.FAILED
    await work.tell(
        "restored", f"backup {work.plan.backup} was restored; what was there is kept as {work.plan.quarantine}"
    )
    await work.finish(Result.DONE)
    return Result.DONE
