"""A backup by hand: hot, then cold with the app stopped, sealed; and a look whether copies are what was sealed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from slotd.core import machine
from slotd.errors import Cancelled, NoSuchBackup, NothingToDo
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.host.sqlite import CHECK_S
from slotd.model import Backup, Result
from slotd.recipes import adopt as adopting
from slotd.recipes import hooks, preserve, soundness
from slotd.recipes.context import Work
from slotd.recipes.copies import damaged, require_room_for_backup
from slotd.recipes.run import Step, Stopped, perform, tell_once, undo, undos


async def make_backup(work: Work) -> Result:
    """The app is down only for the cold pass, and runs again whatever happens; a unit that did not run, does not."""
    if not await off_loop(preserve.wants_backup, work):
        why = await off_loop(_why_not, work)
        raise NothingToDo(f"cannot back up {work.app.name}: {why}.", hint="See [data] and [backup].")
    await require_room_for_backup(work)
    await work.remember(backup=work.plan.backup or preserve.new_copy_id(work))
    backup = await preserve.record_backup(work, reason="manual")
    await hooks.run_around_backup(work, "before")
    await off_loop(work.data.remove, Path(backup.path))
    base = await preserve.newest_sealed(work)
    await off_loop(work.data.hot, work.data_spec, Path(backup.path), base, work.is_to_stop)
    await failpoint.reach("backup:copied")
    work.progress(0.7)
    running = await preserve.is_up(work)
    work.too_late = running  # from here on a cancellation could only leave the app stopped
    if running:
        if work.cancel_asked:
            raise Cancelled("cancelled before the app was stopped")
        resting = await preserve.resting_units(work)
        await work.remember(stopped_at=work.host.clock.now(), resting=resting)
        await failpoint.reach("backup:dated")
    try:
        if running:
            await preserve.stop_units(work)
            await failpoint.reach("backup:stopped")
        await preserve.copy_cold(work, backup)
        await preserve.require_down(work)
    finally:
        if running:
            await preserve.start_all(work)
            await failpoint.reach("backup:started")
    await soundness.require(work, backup, most=soundness.ALL, most_s=CHECK_S, base=base)
    down = f"; the app was down for {work.host.clock.now() - work.plan.stopped_at:.1f} s" if running else ""
    sealed = await preserve.seal(work, backup)  # the copy is nobody else's: that it gets on disk is not waited for
    await work.tell("backup-made", f"{_made(sealed)}{down}")
    await off_loop(work.data.complete, Path(backup.path))
    return Result.DONE


def _made(sealed: Backup) -> str:
    return f"backup {sealed.id} of {sealed.version or 'the data'} was made ({sealed.bytes} bytes)"


async def undo_backup(work: Work) -> Result | None:
    """What is sealed is a backup, and stays, whatever came after it; retention takes the digests that it lacks."""
    with suppress(NoSuchBackup):
        copy = await off_loop(work.host.store.backup, work.app.name, work.plan.backup)
        if copy.sealed:
            await tell_once(work, "backup-made", _made(copy))
            return Result.DONE
    await preserve.drop_copy(work)
    return None


def _why_not(work: Work) -> str:
    if not work.app.backup.enabled:
        return "its definition says that no backups are made (backup.enabled)"
    if missing := preserve.missing_data(work):
        return f"there is no {' and no '.join(missing)} (data.paths)"
    return "its definition names no data (data.paths)"


async def verify_copies(work: Work) -> Result:
    """Read the copy that was asked for, or all that are sealed; the app runs on. What is damaged is told, all of it."""
    store, app = work.host.store, work.app.name
    asked = work.plan.backup
    copies = [await off_loop(store.backup, app, asked)] if asked else await off_loop(store.backups, app)
    copies = [copy for copy in copies if copy.sealed or asked]
    if not copies:
        raise NothingToDo(f"cannot verify backups of {app}: it has none.", hint=f"`slotctl backup {app}` makes one.")
    good: list[str] = []
    bad: list[tuple[Backup, list[str]]] = []
    for number, copy in enumerate(copies):
        wrong = await off_loop(work.data.verify, Path(copy.path))
        if wrong:
            bad.append((copy, wrong))
            await off_loop(soundness.mark_damaged, copy, wrong)
            await work.tell("verify-failed", f"{copy.kind} {copy.id} is damaged: {'; '.join(wrong[:20])}")
        else:
            good.append(f"{copy.id} is whole ({copy.kind} of {copy.version or 'no version'}, {copy.bytes} bytes)")
            good += [f"{copy.id}: {said}" for said in await off_loop(work.data.unsound, Path(copy.path))]
            await work.tell("backup-verified", f"{copy.kind} {copy.id} was read again and is whole")
        work.progress((number + 1) / len(copies))
    work.note = "\n".join(good)
    if bad:
        errors = [damaged(copy, wrong) for copy, wrong in bad]
        errors[0].message = "\n".join(error.message for error in errors)
        raise errors[0]
    return Result.DONE


BACKUP_STEPS: tuple[Step, ...] = (Step("backup", make_backup, undo=undo_backup),)
VERIFY_STEPS: tuple[Step, ...] = (Step("read", verify_copies),)


async def run_single(work: Work, steps: tuple[Step, ...]) -> Result:
    """A job of one step (check, backup, verify): a result, or an error after its undo."""
    work.rules = tuple(machine.rule(step.name) for step in steps)
    try:
        result = await perform(work, steps) or Result.DONE
    except Stopped as stopped:
        work.too_late = True
        if forward := await undo(work, undos(steps), last=stopped.step):
            await work.finish(forward)
            return forward
        cancelled = work.cancel_asked
        if cancelled:
            await work.tell("cancelled", f"the {work.job.kind} was cancelled")
        await work.finish(Result.CANCELLED if cancelled else Result.FAILED, stopped.error)
        return work.job.result
    await work.finish(result)
    return result


async def adopt(work: Work) -> Result:
    return await run_single(work, adopting.STEPS_ADOPT)


async def release(work: Work) -> Result:
    return await run_single(work, adopting.STEPS_RELEASE)


async def backup(work: Work) -> Result:
    return await run_single(work, BACKUP_STEPS)


async def verify(work: Work) -> Result:
    return await run_single(work, VERIFY_STEPS)
