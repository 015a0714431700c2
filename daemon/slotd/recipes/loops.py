"""A job that slotd dies of, again and again at the same place, is a loop: it is held instead of being resumed for ever.

What counts are the resumes in a row that came to nothing. A step that was never reached before, watched time in a
trial, and a daemon that went down because it was asked to are each an end of the row; so a long trial on a host that
boots every night is none, and a resume that dies at once ends no row.
"""

from __future__ import annotations

import dataclasses
import logging

from slotd.core import machine
from slotd.core.plain import to_plain
from slotd.host.offloop import off_loop
from slotd.recipes.context import Work
from slotd.store import TROUBLE

_log = logging.getLogger(__name__)


async def count_resume(work: Work) -> None:
    """One more, on disk before anything is done about the job."""
    counted = dataclasses.replace(work.job, resumed=work.job.resumed + 1)
    try:
        await off_loop(work.host.store.save, counted)
        work.job = counted
    except Exception:  # a disk too full to count resumes must not keep a stopped app down, nor is it a loop
        _log.exception("job %d: that it was resumed could not be written", work.job.id)


def is_loop(work: Work) -> bool:
    return work.job.resumed > machine.MOST_RESUMES


def come_to(work: Work, step: str) -> None:
    """A step further than any before ends the row. It is written with the intent of that step, not here."""
    if machine.is_further(step, work.plan.furthest):
        work.plan = dataclasses.replace(work.plan, furthest=step)
        work.job = dataclasses.replace(work.job, resumed=0, plan=to_plain(work.plan))


async def end_row(work: Work) -> None:
    """What was done since the last resume is on disk, or nobody died. A disk that does not take this is no loop."""
    if not work.job.resumed or work.job.is_finished:
        return
    work.job = dataclasses.replace(work.job, resumed=0)

    def save() -> None:
        store = work.host.store
        with store.transaction():
            store.save(dataclasses.replace(store.job(work.job.id), resumed=0))  # and nothing else of the row

    try:
        await off_loop(save)
    except TROUBLE:
        _log.exception("job %d: that it made progress could not be written", work.job.id)
