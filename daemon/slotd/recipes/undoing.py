"""An update that ends before its switch leaves no trace: what its steps did is undone, and the old version runs.

Nothing that only goes forward is imported here, nor by any other way back: `slotd recover` must do this with a build
that cannot fetch, verify or ask any more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from slotd.errors import BadOption, Cancelled, NoSuchVersion, NothingToDo, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import Result, Slot
from slotd.recipes import preserve, space, switch
from slotd.recipes.context import Work
from slotd.recipes.run import Stopped, Undo, undo

_log = logging.getLogger(__name__)

CANCELLED = "cancelled"  # what `Plan.gave_up` says of a person's cancellation


async def empty_slot(work: Work) -> None:
    """Leave no half-built slot behind; never the active one."""
    slot = work.plan.slot
    if slot is None or await off_loop(work.engine.active) == slot:
        return
    await off_loop(work.host.store.save, Slot(app=work.app.name, name=slot))
    await failpoint.reach("stage:forgotten")
    await off_loop(work.engine.empty, slot)


async def forget_data(work: Work) -> None:
    await space.give_back(work)
    await preserve.drop_copy(work)


UNDO: Mapping[str, Undo] = {
    "stage": empty_slot,
    "preserve": forget_data,
    "stop": preserve.start_old,
    "switch": switch.close_trial,
}


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
    await undo(work, UNDO, last=stopped.step)
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
