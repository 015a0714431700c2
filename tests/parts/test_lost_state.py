"""What the store learns from the disk, and what nobody but slotd may write there."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotd.core.schema import App, Limits
from slotd.data import DataSpec, make_data_store
from slotd.engines.directory import DirectoryEngine
from slotd.errors import NoSuchBackup, SlotdError
from slotd.model import Backup, Job, JobKind, JobState, Slot, SlotName, SlotState, Trial
from slotd.recipes import rebuild
from slotd.recipes.context import Clock
from slotd.service import requests, rolling
from slotd.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def engine(tmp_path: Path) -> DirectoryEngine:
    root = tmp_path / "slots"
    root.mkdir(exist_ok=True)
    return DirectoryEngine(App(name="x"), root, Limits(), user_mode=True)


def sealed_backup(tmp_path: Path, copy_id: str) -> Path:
    data, copy = tmp_path / "data", tmp_path / "backups" / "x" / copy_id
    data.mkdir(exist_ok=True)
    (data / "note").write_text("note")
    copy.parent.mkdir(parents=True, exist_ok=True)
    tree = make_data_store()
    tree.cold(DataSpec((data,)), copy)
    tree.seal(copy, {"app": "x", "id": copy_id, "version": "1.0", "reason": "manual", "created_at": 5.0, "job": 7})
    return copy


def test_a_lost_store_learns_from_a_backup_of_which_version_it_is(store: Store, tmp_path: Path) -> None:
    sealed_backup(tmp_path, "c1")
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=True, clock=Clock())
    rebuild.reconcile(store, engine(tmp_path), host)
    (found,) = store.backups("x")
    assert (found.id, found.version, found.reason, found.created_at, found.job) == ("c1", "1.0", "manual", 5.0, 7)
    assert rolling.newest_backup_of(store, "x", "1.0") == found


def test_a_quarantine_is_listed_again_from_its_own_header(store: Store, tmp_path: Path) -> None:
    sealed_backup(tmp_path, "c1")
    (tmp_path / "quarantine" / "x").mkdir(parents=True)
    (tmp_path / "backups" / "x" / "c1").rename(tmp_path / "quarantine" / "x" / "q1")
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=False, clock=Clock())
    rebuild.reconcile(store, engine(tmp_path), host)
    assert [(copy.id, copy.kind, copy.sealed) for copy in store.backups("x")] == [("q1", "quarantine", True)]
    assert store.events("x", 5) == []


@pytest.mark.parametrize("flip", range(0, 300, 7))
def test_a_slot_whose_record_has_a_flipped_bit_is_whole_or_not_trusted(store: Store, tmp_path: Path, flip: int) -> None:
    slots = engine(tmp_path)
    os.close(slots.open(SlotName.A))
    slots.finish(SlotName.A, Slot("x", SlotName.A, SlotState.WHOLE, "1.0", "sha256:ab"))
    record = slots.path(SlotName.A) / ".slotd" / "slot.json"
    text = bytearray(record.read_bytes())
    text[flip % len(text)] ^= 0x40
    record.write_bytes(text)
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=False, clock=Clock())
    rebuild.reconcile(store, slots, host)
    found = store.slots("x")[SlotName.A]
    assert found.state in (SlotState.EMPTY, SlotState.WHOLE)
    assert found.name is SlotName.A


def test_a_backup_that_is_no_longer_whole_is_not_restored(store: Store, tmp_path: Path) -> None:
    copy = sealed_backup(tmp_path, "c1")
    store.save(Backup("c1", "x", "backup", "1.0", "update", 1.0, str(copy), sealed=True))
    assert requests.whole_backup(store, "x", "c1").id == "c1"
    (copy / "header.json").unlink()
    with pytest.raises(NoSuchBackup, match="never finished"):
        requests.whole_backup(store, "x", "c1")


def test_a_trial_that_nobody_watches_is_closed_and_others_stay(store: Store) -> None:
    for app, state in (("x", JobState.FAILED), ("y", JobState.RUNNING)):
        job = store.new_job(app, JobKind.UPDATE, now=1.0, correlation="", plan={})
        store.save(Job(job.id, app, JobKind.UPDATE, state))
        store.save(Trial(app, job.id, "2.0", "", SlotName.B, "1.0", SlotName.A, "", 3, 1.0, 60.0))
    requests.close_stale_trials(store)
    assert [trial.app for trial in store.trials()] == ["y"]


def test_a_link_in_the_place_of_the_record_leads_root_nowhere(tmp_path: Path) -> None:
    slots, elsewhere = engine(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "slot.json").write_text("mine")
    os.close(slots.open(SlotName.A))
    (slots.path(SlotName.A) / "inner").mkdir()
    (slots.path(SlotName.A) / ".slotd").symlink_to("inner")
    slots.finish(SlotName.A, Slot("x", SlotName.A, SlotState.WHOLE, "1.0"))
    assert not (slots.path(SlotName.A) / ".slotd").is_symlink()
    assert list((slots.path(SlotName.A) / "inner").iterdir()) == []
    assert slots.record(SlotName.A) is not None

    (slots.path(SlotName.A) / ".slotd").rename(slots.path(SlotName.A) / "away")
    (slots.path(SlotName.A) / ".slotd").symlink_to(elsewhere)
    slots.empty(SlotName.A)
    assert (elsewhere / "slot.json").read_text() == "mine"
    assert not slots.path(SlotName.A).exists()


def test_a_slot_that_is_half_removed_does_not_say_that_it_is_whole(
    tmp_path: Path,
) -> None:
    slots = engine(tmp_path)
    os.close(slots.open(SlotName.A))
    slots.finish(SlotName.A, Slot("x", SlotName.A, SlotState.WHOLE, "1.0"))
    busy = slots.path(SlotName.A) / "busy"
    busy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(busy)], check=True)  # the removal stops at what is mounted
    try:
        with pytest.raises(SlotdError, match="is a mount point"):
            slots.empty(SlotName.A)
        assert slots.record(SlotName.A) is None
    finally:
        subprocess.run(["umount", str(busy)], check=True)


def install(slots: DirectoryEngine, name: SlotName, version: str, at: float) -> Slot:
    os.close(slots.open(name))
    (slots.path(name) / "VERSION").write_text(version)
    return slots.finish(name, Slot("x", name, SlotState.WHOLE, version, f"sha256:{version}", installed_at=at))


def without_newest_writes(store: Store, tmp_path: Path) -> Store:
    """The database as it is when its write-ahead log is lost."""
    older = tmp_path / "older.db"
    older.write_bytes(store.path.read_bytes())
    return Store(older)


def test_a_store_that_lost_its_log_learns_from_the_slots_what_is_installed_and_says_so(tmp_path: Path) -> None:
    slots = engine(tmp_path)
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=False, clock=Clock())
    store = Store(tmp_path / "state.db")
    for name, version, at in ((SlotName.B, "0.9", 1.0), (SlotName.A, "1.0", 2.0)):
        whole = install(slots, name, version, at)
        store.save(dataclasses.replace(whole, state=SlotState.GOOD))
    slots.switch(SlotName.A)
    store.close()  # all of this is in the database itself
    store = Store(tmp_path / "state.db")
    store.save(dataclasses.replace(install(slots, SlotName.B, "2.0", 3.0), state=SlotState.GOOD))
    slots.switch(SlotName.B)

    older = without_newest_writes(store, tmp_path)
    assert older.slots("x")[SlotName.B].version == "0.9"
    rebuild.reconcile(older, slots, host)
    known = older.slots("x")
    assert (known[SlotName.B].version, known[SlotName.B].state) == ("2.0", SlotState.GOOD)
    assert (known[SlotName.A].version, known[SlotName.A].state) == ("1.0", SlotState.GOOD)
    (told,) = older.events("x", 5)
    assert told.kind == "warning"
    assert "slot b holds 2.0, not 0.9" in told.message
    rebuild.reconcile(older, slots, host)
    assert len(older.events("x", 5)) == 1


def test_what_was_rolled_back_after_the_last_write_that_is_left_is_no_version_to_go_back_to(tmp_path: Path) -> None:
    slots = engine(tmp_path)
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=False, clock=Clock())
    store = Store(tmp_path / "state.db")
    for name, version, at in ((SlotName.B, "0.9", 1.0), (SlotName.A, "1.0", 2.0)):
        store.save(dataclasses.replace(install(slots, name, version, at), state=SlotState.GOOD))
    slots.switch(SlotName.A)
    store.close()
    store = Store(tmp_path / "state.db")
    store.save(dataclasses.replace(install(slots, SlotName.B, "2.0", 3.0), state=SlotState.BAD))

    older = without_newest_writes(store, tmp_path)
    rebuild.reconcile(older, slots, host)
    assert older.slots("x")[SlotName.B].state is SlotState.BAD
    assert older.slots("x")[SlotName.B].version == "2.0"


def test_a_slot_in_the_hands_of_an_unfinished_job_is_left_to_its_recovery(tmp_path: Path, store: Store) -> None:
    slots = engine(tmp_path)
    host: Any = SimpleNamespace(paths=SimpleNamespace(state=tmp_path), lost=False, clock=Clock())
    for name, version, at in ((SlotName.B, "0.9", 1.0), (SlotName.A, "1.0", 2.0)):
        store.save(dataclasses.replace(install(slots, name, version, at), state=SlotState.GOOD))
    slots.switch(SlotName.A)
    store.new_job("x", JobKind.UPDATE, now=3.0, correlation="", plan={})
    install(slots, SlotName.B, "2.0", 3.0)
    rebuild.reconcile(store, slots, host)
    assert store.slots("x")[SlotName.B].version == "0.9"
    assert store.events("x", 5) == []
