"""The update: what slotd is for, one row a step. Read it beside the table in `slotd.core.machine`.

undo       what an error or a crash in this step or a later one (up to `snapshot`) calls for
roll back  from `switch` on, an error brings the old version and its data back
"""

from __future__ import annotations

from slotd.core import machine
from slotd.core.machine import OnError
from slotd.host.offloop import off_loop
from slotd.model import Result
from slotd.recipes import fetching, install, obtain, preserve, prune, soundness, space, switch, trial
from slotd.recipes.context import Work
from slotd.recipes.rollback import roll_back
from slotd.recipes.run import Step, Stopped, perform
from slotd.recipes.undoing import UNDO, give_up


async def save_data(work: Work) -> None:
    """The hot copy, and the room that a way back to it needs."""
    await space.give_back(work)  # what a crash left
    await preserve.copy_hot(work)
    await space.keep(work, restore=await off_loop(preserve.wants_backup, work))


async def seal_data(work: Work) -> None:
    await preserve.seal_copy(work)
    if work.app.data.dump and work.plan.backup:
        await space.keep(work, restore=True)  # what was dumped comes back, too: only now it is known how much that is


async def tidy_up(work: Work) -> None:
    await preserve.rest_again(work)
    await space.give_back(work)
    await soundness.check_rest(work)
    await prune.prune_app(work)


STEPS: tuple[Step, ...] = (
    Step("resolve", obtain.choose_release),
    Step("delay", obtain.wait_for_veto),
    Step("fetch", fetching.download),
    Step("verify", obtain.check_signatures),
    Step("stage", install.fill_slot, undo=UNDO["stage"]),
    Step("compare", install.end_if_unchanged),
    Step("preserve", save_data, undo=UNDO["preserve"]),
    Step("stop", preserve.stop_units, undo=UNDO["stop"]),
    Step("snapshot", seal_data),
    Step("switch", switch.point_current, undo=UNDO["switch"]),
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
