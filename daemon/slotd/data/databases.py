"""SQLite databases that are copied while their app writes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from slotd.data.index import state_of
from slotd.data.places import SIDECARS, stat_at
from slotd.host import sqlite


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

    `found` and `holder` are the stats of the file and of its directory.
    """
    uid, gid = (found.st_uid, found.st_gid) if found.st_uid else (holder.st_uid, holder.st_gid)
    if uid == 0 and os.geteuid() == 0 and holder.st_mode & 0o022:
        return "it belongs to root in a directory where others may write"
    return sqlite.backup(live, target, uid=uid, gid=gid, cancelled=cancelled)
