"""What an error of SQLite's means for the database file: a disk that is full or fails, or a file that is damaged."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


def code_of(error: BaseException | None) -> int:
    """SQLite's own code, without what it says more precisely; 0 for none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_full(error: BaseException | None) -> bool:
    return code_of(error) == sqlite3.SQLITE_FULL


def may_want_room(error: BaseException | None) -> bool:
    """Whether a full disk looks like this. SQLite cannot make its index there, and calls it an I/O error."""
    return code_of(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_damage(error: BaseException | None) -> bool:
    """Whether the file itself is no whole database. Only then may another take its place."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    return code_of(error) in (0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def parts(path: Path) -> list[tuple[Path, str]]:
    """The files of a database that are there, and what their names end in."""
    found = ((path.with_name(path.name + suffix), suffix) for suffix in ("", "-wal", "-shm"))
    return [(part, suffix) for part, suffix in found if part.exists()]


def room_beside(path: Path) -> str:
    """For a sentence about a file: what its file system has left."""
    try:
        found = os.statvfs(path.parent)
    except OSError as problem:
        return f"and its file system does not answer: {problem.strerror}"
    left = f"and {found.f_bavail * found.f_frsize >> 10} KiB are left"
    return f"{left}, read-only" if found.f_flag & os.ST_RDONLY else left
