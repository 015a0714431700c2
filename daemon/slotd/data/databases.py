"""SQLite databases that are copied while their app writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slotd.data.places import SIDECARS, stat_at
from slotd.host import files

BACKUP_S = 3600.0
LOOK_S = 0.5
SAID = 300


def quiet_state(dir_fd: int, name: str) -> tuple[int, ...] | None:
    """What identifies the state of a database that has neither log nor journal; None for one in use.

    Raises the plain OSError when the database is not there.
    """
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    for suffix in SIDECARS:
        sidecar = stat_at(name + suffix, dir_fd)
        if sidecar and sidecar.st_size:
            return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def backup(
    live: Path, found: os.stat_result, holder: os.stat_result, target: Path, cancelled: Callable[[], bool]
) -> str:
    """Have SQLite copy the database `live` to `target`, with the rights of its owner. Why it could not, or "".

    `found` and `holder` are the stats of the file and of its directory. Ends early, with a reason, when `cancelled`.
    """
    uid, gid = (found.st_uid, found.st_gid) if found.st_uid else (holder.st_uid, holder.st_gid)
    if uid == 0 and os.geteuid() == 0 and holder.st_mode & 0o022:
        return "it belongs to root in a directory where others may write"
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    program = Path(__file__).with_name("sqlite_copy.py")
    argv = [sys.executable, "-I", str(program), str(live), str(target), str(uid), str(gid)]
    deadline = time.monotonic() + BACKUP_S
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/") as child:
        while True:
            try:
                _, said = child.communicate(timeout=LOOK_S)  # `cancelled` can only be asked, not waited for
                break
            except subprocess.TimeoutExpired:
                if cancelled() or time.monotonic() > deadline:
                    child.kill()
    if child.returncode == 0:
        return ""
    text = files.shown(said.decode("utf-8", "replace").strip().rpartition("\n")[2])[:SAID]
    return f"SQLite says {text!r}" if text else f"SQLite's copy ended with status {child.returncode}"
