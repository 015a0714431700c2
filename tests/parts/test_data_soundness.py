"""Whether databases in a backup are sound: SQLite is asked, and what the app has damaged is not laid to the copy."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.trees import let_in

from slotd.data import Damage, DataSpec
from slotd.data.tree import TreeStore
from slotd.host import sqlite

NOBODY = 65534
ALL = 1 << 40
LONG_S = 120.0


@pytest.fixture
def live(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    top.mkdir()
    let_in(tmp_path)
    fill(top / "app.db")
    return top


def never() -> bool:
    return False


def fill(path: Path, rows: int = 3000) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body TEXT)")
        db.execute("CREATE INDEX titles ON notes(title)")
        db.executemany("INSERT INTO notes(title, body) VALUES(?, ?)", ((f"note {n}", "x" * 200) for n in range(rows)))
        db.commit()
    given(path.parent)


def given(top: Path) -> None:
    """To the app's user, as data are."""
    for path in (top, *top.iterdir()):
        os.chown(path, NOBODY, NOBODY)


def spoil(path: Path) -> None:
    """Some pages in its middle hold something else, with the times as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(os.urandom(16384))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied(live: Path, dest: Path, **more: str) -> tuple[TreeStore, DataSpec]:
    store, spec = TreeStore(), DataSpec((live,), sqlite=("*.db", "**/*.db"))
    store.hot(spec, dest, None, never)
    store.cold(spec, dest)
    return store, spec


def test_a_sound_database_is_found_sound_and_nothing_is_left_beside_it(live: Path, tmp_path: Path) -> None:
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    assert store.check(spec, dest, ALL, LONG_S, None, never) == ()
    assert os.listdir(dest / "tmp") == []
    assert os.listdir(dest / "data/0") == ["app.db"]
    store.seal(dest, {})
    assert store.verify(dest) == []
    assert store.unsound(dest) == []


def test_a_database_that_the_app_itself_has_damaged_is_told_and_saved_as_it_is(live: Path, tmp_path: Path) -> None:
    spoil(live / "app.db")
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    (found,) = store.check(spec, dest, ALL, LONG_S, None, never)
    assert (found.path, found.is_damaged, found.by_copying) == (f"{live}/app.db", True, False)
    assert "page" in found.said.lower() or "malformed" in found.said
    store.seal(dest, {})
    assert store.unsound(dest) == [f"the database {live}/app.db is damaged: {found.said}"]
    assert store.verify(dest) == []
    assert (dest / "data/0/app.db").read_bytes() == (live / "app.db").read_bytes()


@pytest.mark.parametrize("goes_on", [False, True], ids=["the app is stopped", "the app has gone on"])
def test_damage_that_only_the_copy_has_is_known_from_that_of_the_app(live: Path, tmp_path: Path, goes_on: bool) -> None:
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    spoil(dest / "data/0/app.db")
    if goes_on:
        with closing(sqlite3.connect(live / "app.db")) as db:
            db.execute("DELETE FROM notes WHERE id % 7 = 0")
            db.commit()
    (found,) = store.check(spec, dest, ALL, LONG_S, None, never)
    assert found.by_copying


def test_what_lies_only_in_the_log_of_a_killed_app_counts_and_the_copy_keeps_its_log(
    live: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(live / "app.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO notes(title) VALUES('in the log')")
        db.commit()
        for name in ("app.db", "app.db-wal"):
            shutil.copy(live / name, tmp_path / name)
    for name in ("app.db", "app.db-wal"):
        shutil.copy(tmp_path / name, live / name)
    given(live)
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    before = {path.name: path.read_bytes() for path in (dest / "data/0").iterdir()}
    assert sorted(before) == ["app.db", "app.db-wal"]
    assert store.check(spec, dest, ALL, LONG_S, None, never) == ()
    assert {path.name: path.read_bytes() for path in (dest / "data/0").iterdir()} == before


def test_a_database_that_is_a_data_path_of_its_own_is_checked_with_its_journal(live: Path, tmp_path: Path) -> None:
    (live / "app.db-journal").write_bytes(b"no journal that SQLite knows, which it passes over")
    given(live)
    spoil(live / "app.db")
    dest = tmp_path / "backup"
    store, spec = TreeStore(), DataSpec((live / "app.db",), sqlite=("app.db",))
    store.cold(spec, dest)
    assert [found.path for found in store.check(spec, dest, ALL, LONG_S, None, never)] == [f"{live}/app.db"]


def test_while_the_app_is_down_no_more_is_read_than_was_asked_for_and_the_rest_later(
    live: Path, tmp_path: Path
) -> None:
    fill(live / "small.db", rows=10)
    spoil(live / "app.db")
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    most = (8 << 20) + os.stat(live / "app.db").st_size - 1
    assert store.check(spec, dest, most, LONG_S, None, never) == ()
    store.seal(dest, {})
    assert [found.path for found in store.check(spec, dest, ALL, LONG_S, None, never)] == [f"{live}/app.db"]
    assert store.check(spec, dest, ALL, LONG_S, None, never) == (), "it is told once"


def test_what_was_found_with_the_app_running_is_told_of_the_copy_that_is_sealed(live: Path, tmp_path: Path) -> None:
    spoil(live / "app.db")
    dest = tmp_path / "backup"
    store, spec = TreeStore(), DataSpec((live,), sqlite=("*.db",))
    store.hot(spec, dest, None, never)
    store.check(spec, dest, ALL, LONG_S, None, never)
    store.cold(spec, dest)
    assert [found.path for found in store.check(spec, dest, 0, LONG_S, None, never)] == [f"{live}/app.db"]


@pytest.mark.parametrize("content", [b"", b"an encrypted database looks like nothing at all" * 100])
def test_what_sqlite_cannot_read_is_not_called_damaged(live: Path, tmp_path: Path, content: bytes) -> None:
    (live / "app.db").write_bytes(content)
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    found = store.check(spec, dest, ALL, LONG_S, None, never)
    assert not any(each.is_damaged for each in found)
    assert [each.said for each in found] == (["file is not a database"] if content else [])


def test_a_database_whose_collation_only_the_app_has_is_not_called_damaged(live: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(live / "app.db")) as db:
        db.create_collation("theirs", lambda one, other: (one > other) - (one < other))
        db.execute("CREATE INDEX by_theirs ON notes(title COLLATE theirs)")
        db.commit()
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    (found,) = store.check(spec, dest, ALL, LONG_S, None, never)
    assert found == Damage(f"{live}/app.db", "no such collation sequence: theirs", is_damaged=False)


def test_a_database_whose_first_page_is_gone_is_damaged(live: Path, tmp_path: Path) -> None:
    with (live / "app.db").open("r+b") as file:
        file.write(bytes(4096))
    dest = tmp_path / "backup"
    store, spec = copied(live, dest)
    assert [(each.is_damaged, each.by_copying) for each in store.check(spec, dest, ALL, LONG_S, None, never)] == [
        (True, False)
    ]


def test_what_there_is_no_time_for_now_is_asked_later(live: Path, tmp_path: Path) -> None:
    spoil(live / "app.db")
    dest = tmp_path / "one"
    store, spec = copied(live, dest)
    assert store.check(spec, dest, ALL, 0.0, None, never) == ()
    assert [found.path for found in store.check(spec, dest, ALL, LONG_S, None, never)] == [f"{live}/app.db"]


@pytest.mark.attack
def test_an_apps_own_rules_are_not_run_when_its_database_is_checked(live: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(live / "slow.db")) as db:
        db.execute("PRAGMA ignore_check_constraints=ON")
        db.execute("CREATE TABLE t(a, CHECK(instr(hex(zeroblob(8000000 + a)), 'f') = 0 AND a < 0))")
        db.executemany("INSERT INTO t VALUES(?)", ((number,) for number in range(20_000)))
        db.commit()
    given(live)
    dest = tmp_path / "one"
    store, spec = copied(live, dest)
    assert store.check(spec, dest, ALL, LONG_S, None, never) == ()
    assert store.unsound(dest) == []


@pytest.mark.attack
def test_a_program_of_a_stranger_that_says_too_much_is_ended(tmp_path: Path) -> None:
    status, told, said = sqlite.run(["-c", "while True: print('x' * 9999)"], None, LONG_S, never)
    assert (status, told, said) == (-9, "", "it says too much")


@pytest.mark.attack
def test_whoever_keeps_a_programs_output_open_does_not_keep_us(tmp_path: Path) -> None:
    line = "import os, time; os.fork() or time.sleep(20); print('done', flush=True)"
    assert sqlite.run(["-c", line], None, LONG_S, never)[:2] == (0, "done\n")
