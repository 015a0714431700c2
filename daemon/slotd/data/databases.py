"""SQLite databases that are copied while their app writes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slotd.data import SIDECARS
from slotd.data.index import state_of
from slotd.data.places import stat_at
from slotd.host import sqlite

SPARE_BYTES = 64 << 20
COMPRESSED = 16  # how many times smaller a file system may make a database


def quiet_state(dir_fd: int, name: str) -> str | None:
    """What identifies the state of a database that has neither log nor journal; None for one in use.

    Raises the plain OSError when the database is not there.
    """
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    for suffix in SIDECARS:
        sidecar = stat_at(name + suffix, dir_fd)
        if sidecar and sidecar.st_size:
            return None
    return state_of(found)


def backup(
    live: Path, found: os.stat_result, holder: os.stat_result, target: Path, cancelled: Callable[[], bool]
) -> str:
    """Have SQLite copy the database `live` to `target`, with the rights of its owner. Why it could not, or "".

    `found` and `holder` are the stats of the file and of its directory. How large the copy may get follows what the
    database takes on its disk: what its own header or log say is the app's word.
    """
    uid, gid = (found.st_uid, found.st_gid) if found.st_uid else (holder.st_uid, holder.st_gid)
    if uid == 0 and os.geteuid() == 0 and (holder.st_mode & 0o022 or not _is_roots_way(live)):
        return "it belongs to root in a directory where others may write"
    most = SPARE_BYTES + _at_most(found)
    with suppress(OSError):
        most += _at_most(os.stat(f"{live}-wal", follow_symlinks=False))
    return sqlite.backup(live, target, uid=uid, gid=gid, most=most, cancelled=cancelled)


def _is_roots_way(live: Path) -> bool:
    """Whether nobody but root can put something else on the way to a file."""
    for above in live.parents:
        found = os.stat(above, follow_symlinks=False)
        if found.st_uid != 0 or not stat.S_ISDIR(found.st_mode):
            return False
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            return False
    return True


def _at_most(found: os.stat_result) -> int:
    """The bytes of a file that are worth a copy: holes are not, but a disk may compress."""
    return min(found.st_size, COMPRESSED * found.st_blocks * 512)
