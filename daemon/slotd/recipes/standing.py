"""How far a way back has come, and what it leaves: asked of the disk where the store may not know."""

from __future__ import annotations

import os

from slotd.errors import SlotdError
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.model import JobKind, SlotName
from slotd.recipes import dumps
from slotd.recipes.context import Plan, Work


async def begun(work: Work) -> str:
    """The step from which to go on with a way back of which the store knows nothing; empty if there is none.

    A store that could not be written did not stop it. What it did is on the disk: data set aside, the old link.
    """
    plan, step = work.plan, work.job.step
    if work.job.kind is not JobKind.UPDATE or step not in ("switch", "migrate", "start", "trial") or plan.slot is None:
        return ""
    if step in ("start", "trial") and await off_loop(work.engine.active) == plan.old_slot:
        return "rb-start"  # the link is the last thing to go back
    return "rb-stop" if await off_loop(is_set_aside, work.host.paths, work.app.name, plan) else ""


def is_set_aside(paths: Paths, app: str, plan: Plan) -> bool:
    """Whether the data began to be moved out of their place. Blocking.

    Raises SlotdError where the disk does not say: that is no "no".
    """
    if not plan.quarantine:
        return False
    aside = paths.copy("quarantine", app, plan.quarantine)
    with files.explaining(f"cannot look for {aside}"):
        try:
            os.lstat(aside)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def puts_back(work: Work) -> bool:
    """Whether this way back, which a person asked for, is given up: its data could not be brought back."""
    return bool(work.plan.gave_up) and work.job.kind is not JobKind.UPDATE


async def is_stranded(work: Work) -> bool:
    """Whether the data in their place are not those of the version that is active, as this job leaves them.

    True, too, for a failed version that is still the active one while its way back had begun.
    """
    plan, step = work.plan, await begun(work) or work.job.step
    if step in ("switch", "migrate") and (plan.brings or work.app.slots.migrate):
        return plan.slot is not None and await is_active(work, plan.slot)
    if not plan.restore:
        return False
    if step in ("rb-quarantine", "rb-stop"):
        begins = step == "rb-quarantine" and work.job.kind is JobKind.UPDATE
        return begins or await off_loop(is_set_aside, work.host.paths, work.app.name, plan)
    if step in ("rb-restore", "rb-switch"):
        return step == "rb-restore" or not (puts_back(work) or await is_active(work, plan.old_slot))
    return step == "rb-start" and not dumps.are_back(work)


async def is_active(work: Work, slot: SlotName | None) -> bool:
    try:
        return await off_loop(work.engine.active) == slot
    except SlotdError:  # a link that cannot be read leads nowhere
        return False
