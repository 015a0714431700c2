"""Copy one SQLite database with SQLite's own backup, beside a live writer. A program of its own: standard library only.

    python3 -I sqlite_copy.py SOURCE TARGET UID GID MOST
    python3 -I sqlite_copy.py SOURCE - UID GID MOST        the copy goes to standard output, a file; already as UID

The target is opened first, in a directory that only the caller can reach; then all rights but those of UID are given
up for good, and only then is the source - a foreign file in a foreign directory - opened and read. So neither a
database made to hurt SQLite nor a link put in its place gains anything that its owner has not, nor does a small one
that says it is large: no file gets over MOST bytes. Exit status 0, or 1 with a sentence on standard error.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
import tempfile
from urllib.parse import quote

BUSY_S = 30.0


def main(source: str, target: str, uid: int, gid: int) -> None:
    if target != "-":
        copy_into(source, target, uid, gid)
        return
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as made:
        copy_into(source, made.name, uid, gid)
        with open(made.name, "rb") as whole:
            size, done = os.fstat(whole.fileno()).st_size, 0
            while done < size:
                done += os.sendfile(1, whole.fileno(), done, size - done)


def copy_into(source: str, target: str, uid: int, gid: int) -> None:
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
        most = int(sys.argv[5])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except (sqlite3.Error, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
