"""A small real application for the tests: notes in SQLite and files beside it, served over HTTP.

It says READY to systemd, feeds its watchdog, migrates its database at start and has no way down: an older version
refuses a database that a newer one has migrated. `behaviour` beside this file makes a release misbehave.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = (HERE / "VERSION").read_text().strip()
BEHAVIOUR = (HERE / "behaviour").read_text().strip() if (HERE / "behaviour").exists() else "well"
# A release that signs leaves its name in the data that it migrates: data tell whose they are.
SIGNS = BEHAVIOUR.startswith("signing ")
BEHAVIOUR = BEHAVIOUR.removeprefix("signing ")
SCHEMA = int((HERE / "SCHEMA").read_text()) if (HERE / "SCHEMA").exists() else 1
DATA = Path(os.environ.get("NOTES_DATA", "/var/lib/notes/data"))
PORT = int(os.environ.get("NOTES_PORT", "8901"))
WITNESS = os.environ.get("NOTES_WITNESS", "")  # a file outside of the data that tells which versions ran
LINEAGE = os.environ.get("NOTES_LINEAGE", "")  # a file outside of the data: each start, and whose data it found
BEGAN = time.monotonic()


def notify(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.connect("\0" + address[1:] if address.startswith("@") else address)
            door.send(text.encode())


def connect() -> sqlite3.Connection:
    return sqlite3.connect(DATA / "notes.db", timeout=10)


def migrate() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "files").mkdir(exist_ok=True)
    with connect() as db:
        db.execute("PRAGMA journal_mode=WAL")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA:
            sys.exit(f"notes {VERSION}: the database has schema {found}, this version knows {SCHEMA}")
        db.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        db.execute("BEGIN")
        if SCHEMA >= 2 and found < 2:
            db.execute("ALTER TABLE notes RENAME COLUMN text TO body")  # no way down
        if SIGNS and found < SCHEMA:
            sign(db)
        db.execute(f"PRAGMA user_version = {SCHEMA}")


def sign(db: sqlite3.Connection) -> None:
    """The file first, on disk, then the row with the schema's number: whatever is cut short is made again."""
    with (DATA / "files" / f"signed-{VERSION}.txt").open("w") as file:
        file.write(f"signed by {VERSION}")
        file.flush()
        os.fsync(file.fileno())
    db.execute(f"INSERT INTO notes ({'body' if SCHEMA >= 2 else 'text'}) VALUES (?)", (f"signed by {VERSION}",))


def leave_mark() -> None:
    """This version was here: first in the data, on disk, then where no rollback reaches."""
    (DATA / "ran").mkdir(exist_ok=True)
    for path in (DATA / "ran" / VERSION, Path(WITNESS)):
        with path.open("a") as file:
            file.write(f"{VERSION}\n")
            file.flush()
            os.fsync(file.fileno())
        for folder in (path.parent, path.parent.parent):
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def tell_lineage() -> None:
    """Which versions these data have seen is written in them; outside, what this start found there."""
    path = DATA / "lineage"
    seen = path.read_text().split() if path.exists() else []
    with Path(LINEAGE).open("a") as file:
        file.write(json.dumps([VERSION, seen]) + "\n")
    if seen[-1:] != [VERSION]:
        path.with_name("lineage~").write_text("\n".join([*seen, VERSION]))
        path.with_name("lineage~").rename(path)


def texts() -> list[str]:
    column = "body" if SCHEMA >= 2 else "text"
    with connect() as db:
        return [row[0] for row in db.execute(f"SELECT {column} FROM notes ORDER BY id")]


def add(text: str) -> None:
    column = "body" if SCHEMA >= 2 else "text"
    with connect() as db:
        number = db.execute(f"INSERT INTO notes ({column}) VALUES (?)", (text,)).lastrowid
    (DATA / "files" / f"{number}.txt").write_text(text)


def state() -> dict[str, object]:
    lines = texts()
    files = sorted((p.name, p.read_text()) for p in (DATA / "files").iterdir())
    digest = hashlib.sha256(json.dumps([lines, files]).encode()).hexdigest()
    return {"version": VERSION, "notes": len(lines), "files": len(files), "digest": digest}


class Handler(BaseHTTPRequestHandler):
    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        red = BEHAVIOUR.startswith("red-after") and time.monotonic() - BEGAN > float(BEHAVIOUR.split()[1])
        if self.path == "/health":
            self.answer(503 if red else 200, {"version": VERSION})
        else:
            self.answer(200, state())

    def do_POST(self) -> None:
        add(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(201, state())

    def log_message(self, *_: object) -> None:
        return


def damage() -> None:
    """Delete half of the data, as a broken migration would."""
    for path in sorted((DATA / "files").iterdir())[::2]:
        path.unlink()
    with connect() as db:
        db.execute("DELETE FROM notes WHERE id % 2 = 0")


def main() -> None:
    if BEHAVIOUR == "crash-at-start":
        sys.exit(3)
    if BEHAVIOUR == "hang-at-start":
        time.sleep(3600)
    migrate()
    if WITNESS:
        leave_mark()
    if LINEAGE:
        tell_lineage()
    if BEHAVIOUR.endswith("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if BEHAVIOUR == "damage-data":
        damage()
        os.abort()
    if BEHAVIOUR == "lose-data":
        shutil.rmtree(DATA / "files")
        sys.exit(4)
    if BEHAVIOUR.startswith("flap"):
        starts = Path(WITNESS).read_text().split().count(VERSION)
        if starts <= int(BEHAVIOUR.split()[1]):
            threading.Timer(0.3, os._exit, [6]).start()
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    notify("READY=1")
    hoard: list[bytes] = []
    pause = int(os.environ.get("WATCHDOG_USEC", "3000000")) / 1e6 / 4
    while True:
        age = time.monotonic() - BEGAN
        if BEHAVIOUR.startswith("crash-after") and age > float(BEHAVIOUR.split()[1]):
            os._exit(5)
        if BEHAVIOUR.startswith("trap") and age > 1:
            trap = DATA.parent / "trap"  # the machine does the rest
            trap.with_suffix(".new").write_text(BEHAVIOUR.split()[1])
            trap.with_suffix(".new").rename(trap)
        if BEHAVIOUR == "eat-memory" and age > 1:
            hoard.append(b"x" * (32 << 20))
        if not (BEHAVIOUR.startswith("starve-watchdog-after") and age > float(BEHAVIOUR.split()[1])):
            notify("WATCHDOG=1")
        time.sleep(min(pause, 0.25))


if __name__ == "__main__":
    main()
