"""SQLite's own backup of a foreign database, made by a program that has no more rights than the database's owner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slotd.host import files

BACKUP_S = 3600.0
LOOK_S = 0.5
SAID = 300


def backup(source: Path, target: Path, *, uid: int, gid: int, cancelled: Callable[[], bool]) -> str:
    """Copy the database `source`, which may be in use, to `target` (made anew) as user `uid`.

    Gives why it could not, in words, or "" when it did. `cancelled` ends it early. Raises OSError for `target`.
    """
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    program = Path(__file__).with_name("sqlite_copy.py")
    argv = [sys.executable, "-I", str(program), str(source), str(target), str(uid), str(gid)]
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
