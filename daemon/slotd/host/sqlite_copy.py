"""Copy one SQLite database with SQLite's own backup, beside a live writer. A program of its own: standard library only.

    python3 -I sqlite_copy.py SOURCE TARGET UID GID

The target is opened first, in a directory that only the caller can reach; then all rights but those of UID are given
up for good, and only then is the source - a foreign file in a foreign directory - opened and read. So neither a
database made to hurt SQLite nor a link put in its place gains anything that its owner has not. Exit status 0, or 1
with a sentence on standard error.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from urllib.parse import quote

BUSY_S = 30.0


def main(source: str, target: str, uid: int, gid: int) -> None:
    copy = sqlite3.connect(f"file:{quote(target)}?mode=rw", uri=True, isolation_level=None)
    copy.execute("PRAGMA journal_mode=OFF")  # so that no second file is opened once the rights are gone
    copy.execute("PRAGMA locking_mode=EXCLUSIVE")
    copy.execute("PRAGMA synchronous=OFF")  # the caller puts it on disk
    copy.execute("CREATE TABLE opened(x)")
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    live = sqlite3.connect(f"file:{quote(source)}?mode=ro", uri=True, timeout=BUSY_S)
    live.backup(copy, pages=-1)
    live.close()
    copy.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except (sqlite3.Error, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
