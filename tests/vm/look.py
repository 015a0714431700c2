"""In the guest: what lies on its disk, as JSON: the live data, the slots, every copy, what the state says of them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/slotd")
DATA = Path("/var/lib/notes/data")


def contents(data: Path) -> dict[str, Any]:
    """The notes and files of one copy; the database is read from a copy of its own, which reading may write to."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in data.glob("notes.db*"):
            shutil.copy(path, scratch)
        database = Path(scratch) / "notes.db"
        if not database.exists():
            return {"schema": 0, "notes": [], "files": {}}
        db = sqlite3.connect(database)
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        try:
            notes = [row[0] for row in db.execute(f"SELECT {'body' if schema >= 2 else 'text'} FROM notes ORDER BY id")]
        except sqlite3.Error as error:
            notes = [f"unreadable: {error}"]
        whole = db.execute("PRAGMA integrity_check").fetchone()[0]
        db.close()
    files = {path.name: path.read_text() for path in sorted((data / "files").glob("*"))}
    return {"schema": schema, "notes": notes, "files": files, "whole": whole}


def rows(db: sqlite3.Connection, sql: str) -> list[dict[str, Any]]:
    db.row_factory = sqlite3.Row
    return [dict(row) for row in db.execute(sql)]


def main() -> None:
    db = sqlite3.connect(f"file:{STATE}/state.db?mode=ro", uri=True)
    current = STATE / "apps/notes/current"
    said: dict[str, Any] = {"current": os.readlink(current), "data": contents(DATA)}
    said["slot"] = json.loads((current / ".slotd/slot.json").read_text())
    said["jobs"] = rows(
        db, "SELECT id, kind, state, step, result, error_message FROM jobs WHERE kind != 'check' ORDER BY id"
    )
    said["trials"] = rows(db, "SELECT version, attempts_left, boots FROM trials")
    said["events"] = rows(db, "SELECT kind, message FROM events ORDER BY id")
    said["copies"] = rows(db, "SELECT id, kind, version, path, sealed FROM backups")
    for copy in said["copies"]:
        found = [path.parent for path in Path(copy["path"]).rglob("notes.db")]
        copy["exists"] = Path(copy["path"]).is_dir()
        copy["contents"] = [contents(path) for path in found]
    known = {copy["path"] for copy in said["copies"]}
    on_disk = [str(path) for kind in ("backups", "quarantine") for path in (STATE / kind / "notes").glob("*")]
    said["unknown"] = sorted(set(on_disk) - known)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
