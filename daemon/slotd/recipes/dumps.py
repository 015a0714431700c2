"""Databases in a server of their own: what the definition's `dump` wrote is loaded again by its `restore` commands.

A backup holds what `dump` wrote with the app stopped. On the way back the present content is dumped first, so that it
goes into the quarantine with the other data (promise 3), and the old one is loaded before the app starts. Both need the
server, so that `slotd boot` does neither: it brings the files back, and the daemon does the rest, with the app down.
"""

from __future__ import annotations

import asyncio
import logging

from slotd.errors import Failed
from slotd.host import failpoint
from slotd.recipes import hooks, space
from slotd.recipes.context import Plan, Work

_log = logging.getLogger(__name__)

_WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # for the server, before the app is held


def come_back(work: Work) -> bool:
    """Whether this way back has a database to load."""
    return _come_back(work.plan)


def are_back(work: Work) -> bool:
    """Whether no database is left to load."""
    return have_come_back(work.plan)


def have_come_back(plan: Plan) -> bool:
    """The same, by what the job remembers alone."""
    return plan.loaded or not _come_back(plan)


def _come_back(plan: Plan) -> bool:
    return plan.restore and bool(plan.backup and plan.definition.data.restore)


async def keep_present(work: Work, *, aside: str = "") -> None:
    """Dump what the failed version left, once, before any data are moved.

    `aside`: the quarantine that it goes into, where the old files are in their place already: it was written over the
    old dump. In one commit with that it was: else a crash in between would leave nobody to know whose it is.
    """
    if not come_back(work) or work.plan.dumped:
        return
    await space.give_back(work)  # what is dumped needs room, too, and the app is down
    if aside:
        await _run_patiently(work, "dump")
        await work.remember(dumped=True, dumped_over=True, quarantine=aside)
        await failpoint.reach("rb-start:dumped")
    else:
        await hooks.run_around_backup(work, "dump")
        await work.remember(dumped=True)


async def load(work: Work) -> None:
    """Load the dumps that came back, once, with the app down."""
    if are_back(work):
        return
    await _run_patiently(work, "restore")
    await work.remember(loaded=True)
    await failpoint.reach("rb-start:loaded")


async def _run_patiently(work: Work, when: str) -> None:
    """After a boot the server may come up later than slotd does, and be busy with its own recovery."""
    for wait_s in _WAITS_S:
        try:
            return await hooks.run_around_backup(work, when)
        except Failed as error:
            _log.warning("%s: tried again in %.0f s: %s", work.app.name, wait_s, error)
        await asyncio.sleep(wait_s)
    await hooks.run_around_backup(work, when)
