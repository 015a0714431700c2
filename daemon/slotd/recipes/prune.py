"""`cleanup`: retention of backups, quarantine and kept release files. A failure here is told and harms nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slotd.core import retention
from slotd.errors import SlotdError
from slotd.host import failpoint, files
from slotd.host.offloop import off_loop
from slotd.model import Backup, JobState
from slotd.recipes import shelf
from slotd.recipes.cache import prune_cache
from slotd.recipes.context import Work


async def prune_app(work: Work) -> None:
    """Remove what the definition no longer asks to keep: rows last, so that nothing on disk is forgotten."""
    store, app = work.host.store, work.app
    copies = await off_loop(store.backups, app.name)
    protected = await _in_use(work)
    expired = retention.expired(
        copies,
        retention_s=app.backup.retention_s,
        keep=app.backup.keep,
        now=work.host.clock.now(),
        protected=protected,
        most_bytes=app.backup.max_size,
        disk_bytes=await off_loop(_own_bytes, copies) if app.backup.max_size else {},
    )
    stuck: list[Exception] = []
    for copy in expired:
        try:
            await remove_copy(work, copy)
        except (SlotdError, OSError) as error:  # the others are not kept for it
            stuck.append(error)
    await failpoint.reach("cleanup:copies")
    for copy in copies:
        if copy.kind == "backup" and copy.sealed and copy not in expired:
            await off_loop(work.data.complete, Path(copy.path))
    await off_loop(prune_cache, work)
    active = await off_loop(work.engine.active)
    installed = await off_loop(store.version_in, app.name, active)
    await off_loop(shelf.prune, work.host.cache(app.name), app.source.scheme, installed)
    await failpoint.reach("cleanup:cache")
    await off_loop(store.prune)
    if stuck:
        raise stuck[0]


def _own_bytes(copies: Sequence[Backup]) -> dict[str, int]:
    """What each copy takes, the newest first: a file that several share is the newest one's, so that what is said of
    the oldest is what goes with it."""
    seen: set[tuple[int, int]] = set()
    found = {copy.id: files.tree_size(Path(copy.path), seen) for copy in copies if os.path.isdir(copy.path)}
    return {copy.id: found.get(copy.id, copy.bytes) for copy in copies}


async def _in_use(work: Work) -> set[str]:
    """Copies that an open trial or an unfinished job may still need."""
    store = work.host.store
    trial = await off_loop(store.trial, work.app.name)
    used = {trial.backup} if trial else set()
    for job in await off_loop(store.unfinished_jobs):
        if job.app == work.app.name and (job.id != work.job.id or job.state is JobState.RUNNING):
            used |= {str(job.plan.get(key, "")) for key in ("backup", "quarantine", "brings", "present")}
    return used - {""}


async def remove_copy(work: Work, copy: Backup) -> None:
    await off_loop(work.data.remove, Path(copy.path))
    await failpoint.reach("cleanup:removed")
    await off_loop(work.host.store.forget, copy)
