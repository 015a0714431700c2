"""Data that are a subvolume of btrfs: a backup is a snapshot while the app is stopped; all else is as on any disk."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trees import call, is_on_btrfs, look, make_place, mounted

from slotd import errors
from slotd.data import DataSpec
from slotd.data.tree import TreeStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file systems are mounted by root only")
SLOTD_CAPABILITIES = "-all,+chown,+dac_override,+fowner,+fsetid,+lease,+setfcap"  # of units/slotd.service


def never() -> bool:
    return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted("btrfs", tmp_path / "disk") as mount:
        yield mount


@pytest.fixture
def live(disk: Path) -> Path:
    top = disk / "srv" / "data"
    make_place(top)
    for name in ("notes", "temp"):
        (top / name).mkdir()
    for number in range(30):
        (top / "notes" / f"note {number}").write_text(f"note {number}")
    (top / "temp" / "cache").write_text("cache")
    os.link(top / "notes" / "note 1", top / "same")
    os.chown(top / "notes" / "note 2", 4711, 4712)
    return top


def back_up(spec: DataSpec, dest: Path, base: Path | None = None) -> tuple[str, ...]:
    """A sealed copy; gives what was noted."""
    store = TreeStore()
    notes = store.hot(spec, dest, base, never).notes
    notes += store.cold(spec, dest).notes
    store.seal(dest, {"version": "1"})
    return notes


def is_snapshot(path: Path) -> bool:
    said = subprocess.run(["btrfs", "property", "get", str(path), "ro"], capture_output=True, text=True, check=False)
    return said.stdout.strip() == "ro=true" and path.stat().st_ino == 256


def is_subvolume(path: Path) -> bool:
    return path.stat().st_ino == 256 and is_on_btrfs(path)


def without(seen: dict[str, tuple[object, ...]], *names: str) -> dict[str, tuple[object, ...]]:
    return {rel: what for rel, what in seen.items() if not rel.startswith(names)}


def test_the_copy_is_a_read_only_snapshot_and_what_was_written_until_the_stop_is_in_it(live: Path, disk: Path) -> None:
    store, spec, dest = TreeStore(), DataSpec((live,)), disk / "backup"
    store.hot(spec, dest, None, never)
    (live / "notes" / "late").write_text("written after the hot pass")
    store.cold(spec, dest)
    then = look(live)
    (live / "notes" / "later").write_text("written when the app ran again")
    assert store.seal(dest, {}) > 0
    assert is_snapshot(dest / "data" / "0")
    assert store.verify(dest) == []
    assert look(dest / "data" / "0") == then


def test_what_is_no_part_of_a_copy_is_not_kept_in_the_snapshot(live: Path, disk: Path) -> None:
    os.mkfifo(live / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(live / "notes" / "socket"))
    base = sqlite3.connect(live / "app.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE rows(body)")
    spec, store = DataSpec((live,), exclude=("temp",), sqlite=("*.db",)), TreeStore()
    then = look(live)
    skipped = store.hot(spec, disk / "backup", None, never).skipped
    store.cold(spec, disk / "backup")
    store.seal(disk / "backup", {})
    assert sorted(each.rpartition("/")[2] for each in skipped) == ["fifo (a fifo)", "socket (a socket)"]
    before = {entry.path for entry in store.contents(disk / "backup")}
    store.complete(disk / "backup")
    assert is_snapshot(disk / "backup/data/0")
    gone = ("/fifo", "/notes/socket", "/temp", "/app.db-shm")
    assert "/app.db-shm" in then
    assert look(disk / "backup/data/0") == without(then, *gone)
    assert store.verify(disk / "backup") == []
    assert before == {entry.path for entry in store.contents(disk / "backup")}
    base.close()
    listener.close()


@pytest.mark.parametrize("completed", [True, False])
def test_a_restore_brings_all_back_and_the_place_is_a_subvolume_again(live: Path, disk: Path, completed: bool) -> None:
    spec, store = DataSpec((live,), exclude=("temp",)), TreeStore()
    good = look(live)
    back_up(spec, disk / "backup")
    if completed:
        store.complete(disk / "backup")
    (live / "notes" / "note 1").write_text("ruined")
    (live / "notes" / "note 2").unlink()
    (live / "temp" / "cache").write_text("newer cache")
    bad = look(live)
    store.restore(spec, disk / "backup", disk / "aside")
    assert without(look(live), "/temp") == without(good, "/temp")
    assert (live / "temp" / "cache").read_text() == "newer cache"
    assert is_subvolume(live)
    assert without(look(disk / "aside/data/0"), "/temp") == without(bad, "/temp")
    (live / "notes" / "note 3").write_text("the app goes on")
    assert store.verify(disk / "backup") == []
    assert is_snapshot(disk / "backup/data/0")
    assert back_up(spec, disk / "again") == ()
    assert is_snapshot(disk / "again/data/0")
    store.restore(spec, disk / "aside", disk / "aside-2")
    assert without(look(live), "/temp") == without(bad, "/temp")
    assert is_subvolume(live)


def test_one_path_comes_back_and_all_else_stays(live: Path, disk: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    back_up(spec, disk / "backup")
    good = look(live / "notes/note 7")
    (live / "notes/note 7").write_text("ruined")
    (live / "notes/note 8").write_text("mine")
    (wanted,) = store.parts(spec, disk / "backup", ["notes/note 7"])
    store.restore(DataSpec((live,), parts=(wanted,)), disk / "backup", disk / "aside")
    assert look(live / "notes/note 7") == good
    assert (live / "notes/note 8").read_text() == "mine"
    assert is_subvolume(live)


def test_what_has_changed_since_is_told_before_and_after_the_digests_are_taken(live: Path, disk: Path) -> None:
    spec, store = DataSpec((live,), exclude=("temp",)), TreeStore()
    back_up(spec, disk / "backup")
    assert store.changes(spec, disk / "backup") == []
    (live / "notes/note 7").write_text("another length")
    (live / "notes/note 8").unlink()
    (live / "temp/cache").write_text("is excluded")
    told = [("changed", "note 7"), ("removed", "note 8")]
    for _ in range(2):
        changes = store.changes(spec, disk / "backup")
        assert [(change.how, Path(change.entry.path).name) for change in changes] == told
        store.complete(disk / "backup")


def test_damage_that_comes_later_is_found(live: Path, disk: Path) -> None:
    store = TreeStore()
    back_up(DataSpec((live,)), disk / "backup")
    assert store.verify(disk / "backup") == []
    copy = disk / "backup/data/0"
    subprocess.run(["btrfs", "property", "set", str(copy), "ro", "false"], check=True)
    found = (copy / "notes/note 4").stat()
    (copy / "notes/note 4").write_text("nota 4")
    os.utime(copy / "notes/note 4", ns=(found.st_atime_ns, found.st_mtime_ns))
    (copy / "notes/note 5").unlink()
    assert store.verify(disk / "backup") == [
        "data/0/notes differs in time",
        "data/0/notes/note\\x204 differs in contents",
        "data/0/notes/note\\x205 is missing",
    ]


def test_a_snapshot_that_somebody_removed_is_no_backup_any_more(live: Path, disk: Path) -> None:
    store = TreeStore()
    back_up(DataSpec((live,)), disk / "backup")
    good = look(live)
    subprocess.run(["btrfs", "-q", "subvolume", "delete", str(disk / "backup/data/0")], check=True)
    assert not store.is_sealed(disk / "backup")
    with pytest.raises(errors.Failed, match="not a whole backup"):
        store.restore(DataSpec((live,)), disk / "backup", disk / "aside")
    assert look(live) == good


def test_digests_of_what_did_not_change_are_those_of_the_backup_before(live: Path, disk: Path) -> None:
    """Also where a file was written again in the very moment of the snapshot, with the same size."""
    spec, store = DataSpec((live,)), TreeStore()
    time.sleep(2.1)
    (live / "notes/note 1").write_text("note A")
    back_up(spec, disk / "one")
    found = (live / "notes/note 1").stat()
    store.complete(disk / "one")
    (live / "notes/note 1").write_text("note B")
    os.utime(live / "notes/note 1", ns=(found.st_atime_ns, found.st_mtime_ns))
    (live / "notes/note 9").write_text("note X")
    back_up(spec, disk / "two", disk / "one")
    store.complete(disk / "two")
    assert store.verify(disk / "two") == []
    assert look(disk / "two/data/0") == look(live)


@pytest.mark.parametrize("excluded", [True, False])
def test_a_subvolume_within_is_saved_with_the_rest_file_by_file_unless_it_is_excluded(
    live: Path, disk: Path, excluded: bool
) -> None:
    make_place(live / "temp" / "inner")
    (live / "temp" / "inner" / "kept").write_text("kept")
    spec, store = DataSpec((live,), exclude=("temp/inner",) if excluded else ()), TreeStore()
    good = look(live)
    notes = back_up(spec, disk / "backup")
    assert is_snapshot(disk / "backup/data/0") is excluded
    if excluded:
        assert notes == ()
    else:
        text = f"{live} is copied file by file, not as a snapshot: temp/inner in it is a subvolume of its own"
        assert notes == (text,)
        assert look(disk / "backup/data/0") == good
    assert store.verify(disk / "backup") == []
    (live / "notes/note 1").write_text("ruined")
    store.restore(spec, disk / "backup", disk / "aside")
    assert without(look(live), "/temp") == without(good, "/temp")
    assert (live / "temp/inner/kept").read_text() == "kept"
    assert is_subvolume(live / "temp/inner") is excluded
    store.restore(spec, disk / "aside", disk / "aside-2")
    assert (live / "notes/note 1").read_text() == "ruined"
    assert (live / "temp/inner/kept").read_text() == "kept"


def test_a_subvolume_that_the_app_makes_between_the_passes_is_not_lost(live: Path, disk: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    store.hot(spec, disk / "backup", None, never)
    make_place(live / "inner")
    (live / "inner" / "late").write_text("late")
    assert "inner in it is a subvolume of its own" in store.cold(spec, disk / "backup").notes[0]
    store.seal(disk / "backup", {})
    assert store.verify(disk / "backup") == []
    assert look(disk / "backup/data/0") == look(live)


def test_what_is_mounted_within_is_saved_with_the_rest(live: Path, disk: Path) -> None:
    (live / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(live / "mounted")], check=True)
    try:
        (live / "mounted/file").write_text("there")
        notes = back_up(DataSpec((live,)), disk / "backup")
        assert notes[0].endswith("mounted in it is a mount point")
        assert (disk / "backup/data/0/mounted/file").read_text() == "there"
    finally:
        subprocess.run(["umount", str(live / "mounted")], check=True)


def test_a_subvolume_that_is_mounted_at_its_place_goes_there_and_back(live: Path, disk: Path, tmp_path: Path) -> None:
    """As in /etc/fstab with subvol=: the place cannot be renamed."""
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(live), str(place)], check=True)
    try:
        spec, store = DataSpec((place,), exclude=("temp",)), TreeStore()
        good = look(place, inodes=False)
        back_up(spec, disk / "backup")
        assert is_snapshot(disk / "backup/data/0")
        (place / "notes/note 1").write_text("ruined")
        (place / "new").write_text("new")
        bad = look(place, inodes=False)
        store.restore(spec, disk / "backup", disk / "aside")
        assert without(look(place, inodes=False), "/temp") == without(good, "/temp")
        aside = look(disk / "aside/data/0", inodes=False)
        assert without(aside | {"": bad[""]}, "/temp") == without(bad, "/temp")  # the mount's own time has gone on
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_copies_on_another_disk_are_files(live: Path, tmp_path: Path) -> None:
    spec, store = DataSpec((live,), exclude=("temp",)), TreeStore()
    good = look(live)
    assert back_up(spec, tmp_path / "backup") == ()
    assert store.verify(tmp_path / "backup") == []
    assert look(tmp_path / "backup/data/0") == without(good, "/temp")
    (live / "notes/note 1").write_text("ruined")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert without(look(live), "/temp") == without(good, "/temp")


def test_an_ordinary_directory_of_btrfs_is_copied_by_files_that_share_their_blocks(live: Path, disk: Path) -> None:
    shutil.copytree(live, disk / "plain")
    assert back_up(DataSpec((disk / "plain",)), disk / "backup") == ()
    assert not is_snapshot(disk / "backup/data/0")
    assert look(disk / "backup/data/0") == look(disk / "plain")


@pytest.mark.parametrize("option", ["nouser_subvol_rm_allowed", "user_subvol_rm_allowed"])
def test_slotd_needs_no_more_rights_for_it_than_its_unit_has(live: Path, disk: Path, option: str) -> None:
    """Not CAP_SYS_ADMIN, without which no snapshot is removed by one act, unless the mount allows it."""
    if not option.startswith("no"):
        subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)
    bounded = ("setpriv", f"--bounding-set={SLOTD_CAPABILITIES}", f"--inh-caps={SLOTD_CAPABILITIES}")
    spec, good = DataSpec((live,), exclude=("temp",)), look(live)

    def run(verb: str, dest: Path, src: Path | None = None) -> None:
        done = call(verb, spec, dest, src=src, prefix=bounded)
        assert done.returncode == 0, done.stderr

    for verb in ("hot", "cold", "seal", "complete"):
        run(verb, disk / "backup")
    assert is_snapshot(disk / "backup/data/0")
    (live / "notes/note 1").write_text("ruined")
    run("restore", disk / "aside", disk / "backup")
    assert without(look(live), "/temp") == without(good, "/temp")
    assert is_subvolume(live)
    for name in ("backup", "aside"):
        run("remove", disk / name)
    assert sorted(os.listdir(disk)) == ["srv"]


def test_a_removed_backup_gives_its_room_back(live: Path, disk: Path) -> None:
    (live / "large").write_bytes(os.urandom(64 << 20))
    back_up(DataSpec((live,)), disk / "backup")
    (live / "large").unlink()
    os.sync()
    before = shutil.disk_usage(disk).free
    TreeStore().remove(disk / "backup")
    subprocess.run(["btrfs", "subvolume", "sync", str(disk)], check=True, capture_output=True)
    os.sync()
    assert shutil.disk_usage(disk).free - before > 60 << 20


def test_a_subvolume_that_turns_up_at_the_place_in_the_middle_of_a_restore_is_not_taken_for_the_data(
    live: Path, disk: Path
) -> None:
    """systemd-tmpfiles makes one for a line of type v. All of them have the same inode."""
    spec, good = DataSpec((live,)), look(live)
    back_up(spec, disk / "backup")
    done = call("restore", spec, disk / "aside", src=disk / "backup", failpoint="data.restore.place=kill")
    assert done.returncode < 0
    make_place(live)
    (live / "surprise").write_text("surprise")
    done = call("restore", spec, disk / "aside", src=disk / "backup")
    assert done.returncode == 0, done.stderr
    assert look(live) == good
    assert [at.name for at in (disk / "aside/found").rglob("*") if at.is_file()] == ["surprise"]


def test_a_full_disk_fails_a_backup_or_a_restore_in_a_sentence_and_loses_nothing(live: Path, disk: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    back_up(spec, disk / "first")
    good = look(live)
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (8 << 20, 1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
                    os.fdatasync(file.fileno())
            except OSError:
                continue
    for verb in ("hot", "cold", "seal"):
        done = call(verb, spec, disk / "second", base=disk / "first")
        if done.returncode:
            assert "slotd.errors.NoSpace: cannot " in done.stderr, done.stderr
            break
    assert look(live) == good
    assert store.verify(disk / "first") == []
    (disk / "filler").unlink()
    os.sync()
    store.remove(disk / "second")
    back_up(spec, disk / "second", disk / "first")
    assert store.verify(disk / "second") == []
    assert look(disk / "second/data/0") == good


@pytest.mark.parametrize("point", ["data.restore.snapshot", "data.restore.place", "data.restore.finish"])
def test_a_restore_that_cannot_be_finished_is_taken_back(live: Path, disk: Path, point: str) -> None:
    spec = DataSpec((live,), exclude=("temp",))
    back_up(spec, disk / "backup")
    (live / "notes/note 1").write_text("ruined")
    (live / "temp/cache").write_text("newer cache")
    bad = look(live)
    assert call("restore", spec, disk / "aside", src=disk / "backup", failpoint=f"{point}=kill").returncode < 0
    done = call("put_back", spec, disk / "aside", src=disk / "backup")
    assert done.returncode == 0, done.stderr
    assert look(live) == bad
    assert is_subvolume(live)
    assert not (disk / "aside").exists()
