"""The store: what was committed is there after a kill, and a damaged one is set aside."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slotd.errors import Failed, NoSuchBackup, NoSuchJob
from slotd.model import (
    AppRecord,
    Backup,
    Blocked,
    Event,
    Job,
    JobKind,
    JobState,
    Mode,
    Slot,
    SlotName,
    SlotState,
    Trial,
)
from slotd.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


VALUES = [
    AppRecord(
        app="x", mode=Mode.AUTO, held=True, hold_reason="why", source_state={"etag": '"1"', "n": [1, {"a": None}]}
    ),
    Slot(app="x", name=SlotName.B, state=SlotState.GOOD, version="1.0", digest="sha256:00", installed_at=1.5),
    Trial("x", 1, "2", "d", SlotName.A, "1", SlotName.B, "b1", 3, 10.0, 600.0, 1, "boot"),
    Trial("x", 1, "2", "d", SlotName.A, "", None, "", 3, 10.0, 600.0),
    Job(id=7, app="x", kind=JobKind.UPDATE, state=JobState.RUNNING, step="stop", plan={"a": [1, 2]}),
    Event(id=3, app="x", at=1.0, kind="updated", message="from 1 to 2 – ü", fields={"k": "v"}),
    Backup("b1", "x", "backup", "1", "update", 1.0, "/p", 5, True, 7),
    Blocked("x", "2", "sha256:ff", "it crashed", 4.0),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_saved_is_read_back_the_same_by_the_next_daemon(tmp_path: Path, value: object) -> None:
    Store(tmp_path / "state.db").save(value)
    again = Store(tmp_path / "state.db")
    assert again._all(type(value)) == [value]


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.change_app("x", held=True)
        assert store.app("x").held
        _ = 1 / 0
    assert not store.app("x").held


def test_job_ids_are_never_used_again(store: Store) -> None:
    ids = [store.new_job("x", JobKind.CHECK, now=1.0, correlation="c", plan={}).id for _ in range(5)]
    for job_id in ids:
        store.save(dataclasses.replace(store.job(job_id), state=JobState.DONE))
    store.prune(jobs=1)
    assert [job.id for job in store.jobs()] == [5]
    assert store.new_job("x", JobKind.CHECK, now=1.0, correlation="c", plan={}).id == 6
    assert ids == [1, 2, 3, 4, 5]


def test_how_an_app_was_left_is_known_however_many_copies_of_all_apps_were_made_since(store: Store) -> None:
    def ended(app: str, kind: JobKind) -> Job:
        job = dataclasses.replace(store.new_job(app, kind, now=1.0, correlation="c", plan={}), state=JobState.DONE)
        store.save(job)
        return job

    failed = ended("x", JobKind.UPDATE)
    with store.transaction():
        for number in range(300):
            for kind in (JobKind.CHECK, JobKind.BACKUP, JobKind.VERIFY):
                ended("x" if number % 2 else "y", kind)
    store.prune(jobs=10)
    assert store.jobs(app="x", limit=1, copies=False) == [failed]
    assert len(store.jobs()) <= 11


def test_what_is_not_there_is_named_with_a_way_to_find_it(store: Store) -> None:
    with pytest.raises(NoSuchJob, match="job 12"):
        store.job(12)
    with pytest.raises(NoSuchBackup, match="slotctl backups"):
        store.backup("x", "nope")


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with store.transaction():
            store.change_app("x", held=True)
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=write)
    thread.start()
    assert entered.wait(5)
    assert not store.app("x").held  # answered at once, with what is committed
    leave.set()
    thread.join()
    assert store.app("x").held


@pytest.mark.parametrize("damage", [b"", b"garbage" * 4096, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_database_is_set_aside_and_a_new_one_serves(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(damage)
    store, aside = open_store(path, now=5.0)
    store.change_app("x", held=True)
    assert store.app("x").held
    if damage:
        assert aside is not None
        assert aside.read_bytes() == damage


def test_a_database_of_a_newer_slotd_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Failed, match="newer slotd"):
        open_store(path, now=1.0)


def test_a_commit_survives_the_death_of_its_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from slotd.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.change_app('x', approved='2.0')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    import slotd

    environment = {"PYTHONPATH": str(Path(slotd.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "state.db")], env=environment, check=False)
    assert Store(tmp_path / "state.db").app("x").approved == "2.0"


def test_a_database_that_another_process_has_locked_is_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")  # so that opening it must write
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Failed, match="locked"):
        open_store(path, now=1.0, busy_s=0.05)
    other.close()
    assert [found.name for found in tmp_path.iterdir() if "broken" in found.name] == []


def test_opening_a_database_of_today_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # whoever wants to write now must wait
    Store(path).close()
    other.close()
