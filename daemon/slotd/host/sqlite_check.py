"""Ask SQLite whether one database is sound. A program of its own: standard library only.

    python3 -I sqlite_check.py DIRECTORY NAME UID GID QUICK ALONE SECONDS

As root it first shuts itself into DIRECTORY and gives up all rights but those of UID: the database is a foreign file.
QUICK (1 or 0): look at the pages alone, not at whether indexes agree with their tables. ALONE (1 or 0): it has neither
a log nor a journal, so that it is opened without writing anything; else it must be a copy that may be written.

What it says on standard output, first line: `ok`, `damaged` or `unknown` (it cannot tell: an app's own collation, an
encrypted file, too little time), the rest why. Exit status 0 for each of these.
"""

from __future__ import annotations

import math
import os
import resource
import sqlite3
import sys
import time
from urllib.parse import quote

SAID_ROWS = 5
SAID = 300
TICK = 1000  # of SQLite's own steps, between two looks at the clock
MEMORY = 512 << 20
HEADER = 16  # bytes by which a database is known; nothing but zeros there is damage, anything else may be encrypted
TOO_NEW = "malformed database schema"  # also what SQLite says of words that only a newer one knows


def main(directory: str, name: str, uid: int, gid: int, quick: bool, alone: bool, seconds: float) -> tuple[str, str]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    busy = math.ceil(seconds) + 1  # one step of SQLite's can be made to take as long as a database likes
    resource.setrlimit(resource.RLIMIT_CPU, (busy, busy))
    os.chdir(directory)
    if os.geteuid() == 0 and uid != 0:
        os.chroot(".")
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        directory = "/"
    path = os.path.join(directory, name)
    how = "mode=ro&immutable=1" if alone else "mode=rw"
    deadline = time.monotonic() + seconds
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER)
        if not header:
            return "ok", ""  # what an app made and has not filled yet
        database = sqlite3.connect(f"file:{quote(path)}?{how}", uri=True, isolation_level=None)
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA ignore_check_constraints=ON")  # an app's own rules say nothing of damage
        database.execute("PRAGMA temp_store=MEMORY")
        database.execute("PRAGMA cell_size_check=ON")
        database.set_progress_handler(lambda: time.monotonic() > deadline, TICK)
        rows = database.execute(f"PRAGMA {'quick' if quick else 'integrity'}_check({SAID_ROWS})").fetchall()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            return "unknown", f"it is not done after {seconds:.0f} s"
        is_damage = code == sqlite3.SQLITE_CORRUPT and TOO_NEW not in str(error)
        is_damage = is_damage or (code == sqlite3.SQLITE_NOTADB and not any(header))
        return "damaged" if is_damage else "unknown", str(error)[:SAID]
    said = "; ".join(" ".join(str(row[0]).split()) for row in rows)[:SAID]
    return ("ok", "") if said == "ok" else ("damaged", said)


if __name__ == "__main__":
    try:
        where, name, uid, gid, quick, alone, seconds = sys.argv[1:8]
        verdict = main(where, name, int(uid), int(gid), quick == "1", alone == "1", float(seconds))
        sys.stdout.write("\n".join(verdict))
    except (OSError, MemoryError, ValueError) as error:
        sys.stdout.write(f"unknown\n{type(error).__name__}: {error}")
