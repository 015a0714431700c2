"""The update: what slotd is for, one row a step. Read it beside the table in `slotd.core.machine`.

undo       what an error or a crash in this step or a later one (up to `snapshot`) calls for
roll back  from `switch` on, an error brings the old version and its data back
"""

from __future__ import annotations

import logging

from slotd.core import machine
from slotd.core.machine import OnError
from slotd.errors import BadOption, Cancelled, NoSuchVersion, NothingToDo, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import Result
from slotd.recipes import fetching, install, obtain, preserve, prune, soundness, space, switch, trial
from slotd.recipes.context import Work
from slotd.recipes.rollback import roll_back
from slotd.recipes.run import Step, Stopped, perform, undo

_log = logging.getLogger(__name__)

CANCELLED = "cancelled"  # what `Plan.gave_up` says of a person's cancellation


async def save_data(work: Work) -> None:
    """The hot copy, and the room that a way back to it needs."""
    await space.give_back(work)  # what a crash left
    await preserve.copy_hot(work)
    await space.keep(work, restore=await off_loop(preserve.wants_backup, work))


async def tidy_up(work: Work) -> None:
    await preserve.rest_again(work)
    await space.give_back(work)
    await soundness.check_rest(work)
    await prune.prune_app(work)


async def forget_data(work: Work) -> None:
    await space.give_back(work)
    await preserve.drop_copy(work)


STEPS: tuple[Step, ...] = (
    Step("resolve", obtain.choose_release),
    Step("delay", obtain.wait_for_veto),
    Step("fetch", fetching.download),
    Step("verify", obtain.check_signatures),
    Step("stage", install.fill_slot, undo=install.empty_slot),
    Step("compare", install.end_if_unchanged),
    Step("preserve", save_data, undo=forget_data),
    Step("stop", preserve.stop_units, undo=preserve.start_old),
    Step("snapshot", preserve.seal_copy),
    Step("switch", switch.point_current, undo=switch.close_trial),
    Step("migrate", switch.run_migrations),
    Step("start", switch.start_on_trial),
    Step("trial", trial.watch),
    Step("commit", switch.mark_good),
    Step("cleanup", tidy_up),
)

assert tuple(step.name for step in STEPS) == tuple(rule.name for rule in machine.UPDATE)


async def update(work: Work, *, first: str = "") -> Result:
    """Update one app, from step `first` on when it is resumed. The result is committed; errors are in the job."""
    work.rules = machine.UPDATE
    try:
        result = await perform(work, STEPS, first=first) or Result.UPDATED
    except Stopped as stopped:
        if stopped.action is OnError.ROLL_BACK:
            return await roll_back(work, stopped.error.message)
        return await give_up(work, stopped)
    await switch.close_passed_trial(work)
    await space.give_back(work)  # once more: an error kept `cleanup` from it
    await work.finish(result)
    return result


def is_callers_own(work: Work, error: SlotdError) -> bool:
    """Whether the request made no sense, which is its caller's to know and nothing that went wrong with the app."""
    if isinstance(error, NoSuchVersion):
        return bool(work.plan.wanted) and not work.plan.automatic
    return isinstance(error, (NothingToDo, BadOption))


async def give_up(work: Work, stopped: Stopped) -> Result:
    """Undo what was done; the old version runs on, or runs again."""
    work.too_late = True  # an undo is not cancelled half-way
    gave_up = CANCELLED if isinstance(stopped.error, Cancelled) else str(stopped.error)
    try:
        # On disk before the first undo: whoever resumes the job goes on undoing, and not with what is half undone.
        await work.remember(gave_up=gave_up)
    except Exception:  # on a disk that takes no more, the old version must come back all the same
        _log.exception("job %d: that it gave up could not be written", work.job.id)
    await failpoint.reach("give-up:remembered")
    await undo(work, STEPS, last=stopped.step)
    await failpoint.reach("give-up:undone")
    if isinstance(stopped.error, Cancelled):
        await work.tell(
            "cancelled", f"the update to {work.job.version or 'a new version'} was cancelled; nothing was changed"
        )
        await work.finish(Result.CANCELLED, stopped.error)
        return Result.CANCELLED
    error = stopped.error
    if not is_callers_own(work, error):
        await work.tell("update-failed", f"not updated: {error}")
        await off_loop(work.host.store.change_app, work.app.name, last_error=str(error))
    await work.finish(Result.FAILED, error)
    return Result.FAILED
