"""Databases in the data: whole while the app writes them, byte for byte once it is stopped or was killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.trees import let_in, look

from slotd.core.schema import Data
from slotd.data import DataSpec, spec_of
from slotd.data.tree import TreeStore

NOBODY = 65534

WRITER = """
import os, sqlite3, sys, time
path, journal, uid = sys.argv[1:4]
if os.geteuid() == 0:
    os.setresuid(int(uid), int(uid), int(uid))
db = sqlite3.connect(path, isolation_level=None, timeout=60)
db.execute(f"PRAGMA journal_mode={journal}")
db.execute("CREATE TABLE IF NOT EXISTS pairs(n INTEGER, side TEXT, filler TEXT)")
n = 0
while True:
    db.execute("BEGIN IMMEDIATE")
    for side in ("left", "right"):
        db.execute("INSERT INTO pairs VALUES(?, ?, ?)", (n, side, "x" * (n % 3000)))
    db.execute("COMMIT")
    n += 1
    print(n, flush=True)
    time.sleep(0.001)
"""


@pytest.fixture
def live(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    top.mkdir()
    os.chown(top, NOBODY, NOBODY)
    let_in(tmp_path)
    return top


@contextmanager
def writing(path: Path, journal: str) -> Iterator[subprocess.Popen[str]]:
    """An app that commits pairs of rows without a break."""
    argv = [sys.executable, "-c", WRITER, str(path), journal, str(NOBODY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout
            while int(app.stdout.readline()) < 50:
                pass
            yield app
        finally:
            app.kill()
            app.communicate()


def pairs(path: Path) -> int:
    """How many pairs are in a database; fails if it is damaged or holds half a transaction."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        sides = db.execute("SELECT side, count(*), max(n) FROM pairs GROUP BY side").fetchall()
    assert len({(count, last) for _, count, last in sides}) == 1
    return int(sides[0][1])


def never() -> bool:
    return False


@pytest.mark.parametrize("journal", ["WAL", "DELETE", "TRUNCATE", "PERSIST"])
def test_a_copy_made_while_the_app_writes_is_one_state_of_the_database(
    live: Path, tmp_path: Path, journal: str
) -> None:
    spec = DataSpec((live,), sqlite=("*.db",))
    store = TreeStore()
    with writing(live / "app.db", journal):
        stats = store.hot(spec, tmp_path / "backup", None, never)
        store.seal(tmp_path / "backup", {})
    assert stats.notes == ()
    assert os.listdir(tmp_path / "backup/data/0") == ["app.db"]
    assert store.verify(tmp_path / "backup") == []
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert (live / "app.db").stat().st_uid == NOBODY
    assert pairs(live / "app.db") >= 50


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_an_app_killed_in_the_middle_of_its_work_gets_back_all_it_had_committed(
    live: Path, tmp_path: Path, journal: str
) -> None:
    spec = DataSpec((live,), sqlite=("app.db",))
    store = TreeStore()
    with writing(live / "app.db", journal) as app:
        store.hot(spec, tmp_path / "backup", None, never)
        time.sleep(0.05)
        app.send_signal(signal.SIGKILL)
        assert app.stdout
        committed = int(app.stdout.read().split()[-1])
    before = {name: seen for name, seen in look(live).items() if not name.endswith("-shm")}
    store.cold(spec, tmp_path / "backup")
    store.seal(tmp_path / "backup", {})
    assert look(tmp_path / "backup/data/0") == before
    with closing(sqlite3.connect(live / "app.db")) as bad:
        bad.execute("DROP TABLE pairs")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(live) == before
    assert pairs(live / "app.db") >= committed


def test_a_database_that_is_a_place_of_its_own_brings_its_log(live: Path, tmp_path: Path) -> None:
    path = live / "app.db"
    spec = DataSpec((path,), sqlite=("app.db",))
    store = TreeStore()
    with writing(path, "WAL") as app:
        store.hot(spec, tmp_path / "backup", None, never)
        app.send_signal(signal.SIGKILL)
        assert app.stdout
        committed = int(app.stdout.read().split()[-1])
    assert (live / "app.db-wal").stat().st_size > 0
    store.cold(spec, tmp_path / "backup")
    store.seal(tmp_path / "backup", {})
    store.quarantine(spec, tmp_path / "aside")
    assert os.listdir(live) == []
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert sorted(os.listdir(live)) == ["app.db", "app.db-wal"]
    assert pairs(path) >= committed


def test_a_database_at_rest_is_copied_as_it_is_and_not_again(live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,), sqlite=("app.db",))
    store = TreeStore()
    with closing(sqlite3.connect(live / "app.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(x)")
        db.commit()
    store.hot(spec, tmp_path / "backup", None, never)
    assert os.listdir(live) == ["app.db"]
    assert store.cold(spec, tmp_path / "backup").copied_files == 0
    store.seal(tmp_path / "backup", {})
    assert look(tmp_path / "backup/data/0") == look(live)


def test_a_file_that_is_no_database_is_copied_plainly_and_that_is_told(live: Path, tmp_path: Path) -> None:
    (live / "app.db").write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    (live / "app.db-wal").write_bytes(b"x")
    for name in ("app.db", "app.db-wal"):
        os.chown(live / name, NOBODY, NOBODY)
    store = TreeStore()
    spec = DataSpec((live,), sqlite=("app.db",))
    stats = store.hot(spec, tmp_path / "backup", None, never)
    store.seal(tmp_path / "backup", {})
    assert len(stats.notes) == 1
    assert "copied as a plain file: SQLite says" in stats.notes[0]
    assert "not a database" in stats.notes[0]
    for name in ("/app.db", "/app.db-wal"):
        assert look(tmp_path / "backup/data/0")[name] == look(live)[name]


def test_a_database_is_read_with_no_more_rights_than_its_owner_has(live: Path, tmp_path: Path) -> None:
    """The app puts a link to another app's database where its own was: nothing of the other is copied."""
    secret = tmp_path / "other"
    secret.mkdir(mode=0o700)
    with closing(sqlite3.connect(secret / "app.db")) as db:
        db.execute("CREATE TABLE secrets(x)")
        db.execute("INSERT INTO secrets VALUES('hunter2')")
        db.commit()
    swapper = (
        "import os, sys\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "os.chdir(sys.argv[1])\n"
        "open('app.db', 'w').close()\n"
        "os.symlink(sys.argv[2], 'link')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    os.rename('app.db', 'file'); os.rename('link', 'app.db')\n"
        "    os.rename('app.db', 'link'); os.rename('file', 'app.db')\n"
    )
    (live / "app.db-journal").write_text("in use, so that SQLite is asked")
    store = TreeStore()
    spec = DataSpec((live,), sqlite=("app.db",))
    argv = [sys.executable, "-c", swapper, str(live), str(secret / "app.db")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as app:
        try:
            assert app.stdout
            app.stdout.readline()
            for _ in range(40):
                store.hot(spec, tmp_path / "backup", None, never)
                for copied in (tmp_path / "backup/data/0").iterdir():
                    assert copied.is_symlink() or b"hunter2" not in copied.read_bytes()
        finally:
            app.kill()


KILLED = """
import os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA journal_mode=WAL")
base.execute("PRAGMA wal_autocheckpoint=0")
base.execute("CREATE TABLE IF NOT EXISTS rows(body)")
for _ in range(int(sys.argv[2])):
    base.execute("INSERT INTO rows VALUES (randomblob(500))")
os.kill(os.getpid(), 9)
"""


def write_and_die(path: Path, rows: int) -> None:
    """An app that is killed: what it wrote last is in the log beside its database."""
    subprocess.run([sys.executable, "-c", KILLED, str(path), str(rows)], check=False)
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(base.execute("SELECT count(*) FROM rows").fetchone()[0])


def test_a_database_that_is_excluded_stays_with_its_log(tmp_path: Path) -> None:
    live, dest = tmp_path / "live", tmp_path / "backup"
    live.mkdir()
    (live / "kept").write_text("before")
    write_and_die(live / "cache.db", 100)
    spec = spec_of(Data(paths=(str(live),), exclude=("cache.db",)))
    store = TreeStore()
    store.hot(spec, dest, None, lambda: False)
    store.cold(spec, dest)
    store.seal(dest, {})
    assert sorted(os.listdir(dest / "data" / "0")) == ["kept"]
    (live / "kept").write_text("after")
    write_and_die(live / "cache.db", 400)
    store.quarantine(spec, tmp_path / "aside")
    store.restore(spec, dest, tmp_path / "aside")
    assert (live / "kept").read_text() == "before"
    assert rows_in(live / "cache.db") == 500


def test_one_database_comes_back_with_its_log_though_no_pattern_names_it(tmp_path: Path) -> None:
    live, dest = tmp_path / "live", tmp_path / "backup"
    live.mkdir()
    write_and_die(live / "app.db", 100)
    spec = DataSpec((live,))
    store = TreeStore()
    store.hot(spec, dest, None, lambda: False)
    store.cold(spec, dest)
    store.seal(dest, {})
    write_and_die(live / "app.db", 400)
    part = DataSpec((live,), parts=(live / "app.db",))
    store.quarantine(part, tmp_path / "aside")
    store.restore(part, dest, tmp_path / "aside")
    assert rows_in(live / "app.db") == 100
