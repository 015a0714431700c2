"""Saved copies before they are relied on: are they what was sealed, and is there room to make one or to bring one back?

Both are asked with the app running (promise 4).
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

from slotd.core.plain import from_plain
from slotd.data import Entry
from slotd.data.mounts import require_mounted
from slotd.errors import Failed, NoSpace, SlotdError
from slotd.host import failpoint, files
from slotd.host.offloop import off_loop
from slotd.model import Backup, JobKind
from slotd.recipes import space
from slotd.recipes.context import Plan, Work
from slotd.recipes.preserve import new_copy_id, newest_sealed
from slotd.recipes.soundness import mark_damaged
from slotd.recipes.space import RESERVE_BYTES

DAMAGE_TOLD = 5  # of what is wrong with a copy, so many in a message


async def check_copy(work: Work, backup_id: str) -> None:
    """Read what is going to be restored, and count the room. Raises `Failed`, `NoSpace`, `NoSuchBackup`."""
    backup = await off_loop(work.host.store.backup, work.app.name, backup_id)
    wrong = [each for each in await off_loop(work.data.verify, Path(backup.path)) if _concerns(work, each)]
    if wrong:
        await off_loop(mark_damaged, backup, wrong)
        raise damaged(backup, wrong)
    await off_loop(_room_for_restore, work, backup)


def damaged(backup: Backup, wrong: list[str]) -> Failed:
    more = f"; and {len(wrong) - DAMAGE_TOLD} more" if len(wrong) > DAMAGE_TOLD else ""
    return Failed(
        f"cannot trust {backup.kind} {backup.id} of {backup.app}: {'; '.join(wrong[:DAMAGE_TOLD])}{more}.",
        hint=f"What is whole of it can be restored by path: `slotctl restore {backup.app} {backup.id} PATH`.",
    )


def _concerns(work: Work, problem: str) -> bool:
    """Whether what `verify` says is about a path to restore: it names them as they lie in the copy."""
    spec = work.data_spec
    if not spec.parts:
        return True
    said = problem.split(" ", 1)[0].removeprefix("data/").partition("/")[2]
    wanted = [str(part.relative_to(top)) for part in spec.parts for top in spec.paths if top in part.parents]
    return any(said == each or said.startswith(f"{each}/") for each in wanted) or not wanted


async def require_room_for_backup(work: Work) -> None:
    """Raises `NoSpace` if a backup of the data as they are may not fit."""
    where = work.host.paths.state
    wanted = await off_loop(work.data.needs, work.data_spec, await newest_sealed(work))
    require_room(f"back up the data of {work.app.name}", wanted, where, await off_loop(files.free_bytes, where))


def require_room(what: str, wanted: int, where: Path, free: int) -> None:
    """Raises `NoSpace` unless what is `wanted` leaves the reserve free."""
    if free < wanted + RESERVE_BYTES:
        raise NoSpace(
            f"cannot {what}: that may take {-(-wanted >> 20)} MiB of {where}, {RESERVE_BYTES >> 20} MiB must stay free,"
            f" and {free >> 20} MiB are.",
            hint="Free some space, then try again; nothing was changed.",
        )


def _room_for_restore(work: Work, backup: Backup) -> None:
    """Raises `NoSpace`, naming the file system that would run full. What shares blocks with the copy needs none."""
    require_mounted(work.data_spec, Path(backup.path))
    spec, aside = work.data_spec, work.host.paths.state / "quarantine"
    tops = spec.parts or spec.paths
    entries = work.data.contents(Path(backup.path))
    needed: Counter[int] = Counter()
    where: dict[int, Path] = {}
    for top in tops:
        near, kept = _nearest(top), _nearest(aside)
        device, away = os.stat(near).st_dev, os.stat(kept).st_dev
        where[device] = near
        where.setdefault(away, kept)
        present = files.tree_size(top) if away != device else 0  # a rename does not reach: it is copied, and goes
        if not space.shares_blocks(Path(backup.path), near):
            size = sum(entry.bytes for entry in entries if _is_at_or_below(entry, str(top)))
            needed[device] += max(0, size - present)
        needed[away] += present
    for device, wanted in (+needed).items():
        require_room(
            f"restore {work.app.name} from {backup.id}", wanted, where[device], files.free_bytes(where[device])
        )


def _is_at_or_below(entry: Entry, top: str) -> bool:
    return entry.path == top or entry.path.startswith(f"{top}/")


def _nearest(path: Path) -> Path:
    """The path, or what of the way to it is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


async def where_to_set_aside(work: Work) -> str:
    """The id of the quarantine that this job will make.

    Where a person tries again what stopped half-way through setting the same data aside, it is the one that was begun:
    only together are the two what the version wrote, and only a whole one can be restored.
    """
    begun = "" if work.job.kind is JobKind.UPDATE else await off_loop(_begun_aside, work)
    return begun or new_copy_id(work, "quarantine")


def _begun_aside(work: Work) -> str:
    store, name = work.host.store, work.app.name
    last = next((job for job in store.jobs(app=name, limit=2, copies=False) if job.id != work.job.id), None)
    if last is None:
        return ""
    try:
        plan = from_plain(Plan, last.plan)
    except SlotdError:
        return ""  # an older slotd's
    row = next((each for each in store.backups(name) if each.kind == "quarantine" and each.id == plan.quarantine), None)
    if row is None or row.sealed or work.data.is_sealed(Path(row.path)):
        return ""
    is_same = (row.version, plan.definition.data, plan.paths) == (work.plan.version, work.app.data, work.plan.paths)
    return row.id if is_same else ""


def know_what_is_whole(work: Work) -> None:
    """A quarantine that is whole on disk is so in its row: an error may have kept that from being written. Blocking."""
    store = work.host.store
    for row in store.backups(work.app.name):
        if row.kind == "quarantine" and not row.sealed and work.data.is_sealed(Path(row.path)):
            store.save(dataclasses.replace(row, sealed=True))


async def set_aside(work: Work, copy_id: str, *, version: str, reason: str) -> None:
    """The present data, which `version` wrote, become a quarantine: a row first, then the renames, then the seal."""
    store, path = work.host.store, work.host.copy_path("quarantine", work.app.name, copy_id)
    row = Backup(
        id=copy_id,
        app=work.app.name,
        kind="quarantine",
        version=version,
        reason=reason,
        created_at=work.host.clock.now(),
        path=str(path),
        job=work.job.id,
    )
    await work.write(lambda: store.save(row))
    await failpoint.reach("rb-quarantine:recorded")
    size = await off_loop(work.data.quarantine, work.data_spec, path)
    await failpoint.reach("rb-quarantine:aside")
    await work.write(lambda: store.save(dataclasses.replace(row, bytes=size, sealed=True)))
