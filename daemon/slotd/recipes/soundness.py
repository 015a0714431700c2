"""Whether the SQLite databases of a backup are sound: before the app is stopped as far as it costs no downtime, before
the backup is sealed as far as it costs hardly any, and all the rest when the app runs again.

A database that is damaged in the live data is told, and blocks nothing: the backup is what the app had, and so is what
comes back. One that only the copy has damaged is no backup (promise 5).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slotd.data import Damage
from slotd.errors import Cancelled, Failed
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.host.sqlite import CHECK_S
from slotd.model import Backup
from slotd.recipes.context import Work

DAMAGED = "damaged"  # beside the data of a copy that was read and found so: what is wrong with it
ALL = sys.maxsize
STOPPED_BYTES = 64 << 20  # of databases that are checked while the app is down: some tenths of a second
STOPPED_S = 5.0  # that they may take then; what is not done by then is checked when the app runs again


async def look(work: Work, backup: Backup, base: Path | None) -> None:
    """With the app running, before it is stopped: what is found is told with the copy that is going to be sealed."""
    await _check(work, backup, ALL, CHECK_S, base)
    if work.cancel_asked:
        raise Cancelled("cancelled while the databases were checked")


async def require(
    work: Work, backup: Backup, *, most: int = STOPPED_BYTES, most_s: float = STOPPED_S, base: Path | None = None
) -> None:
    """Raises `Failed` for a copy that the copying has damaged; what the app itself has damaged is told."""
    await _tell(work, backup, await _check(work, backup, most, most_s, base))


async def check_rest(work: Work) -> None:
    """What was too large to be checked while the app was down. A copy that is worth nothing is marked: it is sealed."""
    if not work.plan.backup:
        return
    backup = await off_loop(work.host.store.backup, work.app.name, work.plan.backup)
    try:
        await _tell(work, backup, await _check(work, backup, ALL, CHECK_S, None))
    except Failed as error:
        await off_loop(mark_damaged, backup, [error.message])
        await work.tell("verify-failed", f"{backup.kind} {backup.id} is damaged: {error.message}")


def mark_damaged(backup: Backup, wrong: list[str]) -> None:
    """Say so beside it: what is shared with it must not go into another."""
    if os.path.isdir(backup.path):
        files.write_atomic(Path(backup.path) / DAMAGED, "\n".join(wrong).encode("utf-8", "replace") + b"\n", 0o600)


async def _check(work: Work, backup: Backup, most: int, most_s: float, base: Path | None) -> Sequence[Damage]:
    return await off_loop(
        work.data.check,
        work.data_spec,
        Path(backup.path),
        most,
        most_s,
        base,
        work.is_to_stop,
    )


async def _tell(work: Work, backup: Backup, found: Sequence[Damage]) -> None:
    for each in found:
        if each.by_copying:
            raise Failed(
                f"cannot trust the backup: the database {each.path} is damaged in it and sound in the data:"
                f" SQLite says {each.said!r}.",
                hint="Its disk or memory may be failing, or another program wrote it meanwhile. Try again.",
            )
        if each.is_damaged:
            await work.tell(
                "database-damaged",
                f"the database {each.path} is damaged: SQLite says {each.said!r}; backup {backup.id} holds it as it is",
            )
        else:
            await work.tell("backup-note", f"backup: {each.path} could not be checked by SQLite: {each.said}")
