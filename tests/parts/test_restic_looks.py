"""What people ask of backups in a repository: what is in one, what has changed since, single paths of it; and a restore
that could not be finished is undone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from tests.parts.test_restic import back_up, call, store_in, wait_for
from tests.trees import look

from slotd import errors
from slotd.data import DataSpec, DataStore, make_data_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners can be given away by root only")
ODD = os.fsdecode(b"latin \xe9\nline")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> DataStore:
    return store_in(home)


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    top = tmp_path / "srv" / "data"
    (top / "files" / "deep").mkdir(parents=True)
    for number in range(12):
        (top / "files" / f"{number}.txt").write_text(f"note {number}")
    (top / "files" / "deep" / "ä ö").write_text("umlauts")
    (top / "temp").mkdir()
    (top / "link").symlink_to("files/1.txt")
    os.mkfifo(top / "fifo")
    settings = tmp_path / "srv" / "settings.ini"
    settings.write_text("good")
    settings.chmod(0o4750)
    os.chown(settings, 4711, 4712)
    settings.chmod(0o4750)
    os.utime(settings, ns=(10**18 + 1, 10**18 + 12345))
    return DataSpec((top, settings, tmp_path / "srv" / "later"), exclude=("temp",))


def seen(store: DataStore, dest: Path) -> list[tuple[object, ...]]:
    """What a person is shown of a copy; a digest is not known of what lies in a repository."""
    return [(e.path, e.kind, e.mode, e.bytes if e.kind == "file" else 0, e.mtime) for e in store.contents(dest)]


def changed(store: DataStore, spec: DataSpec, dest: Path) -> list[tuple[str, str]]:
    return [(each.how, each.entry.path) for each in store.changes(spec, dest)]


@pytest.mark.parametrize("odd", [False, True], ids=["names that are text", "a name that is no text"])
def test_a_look_into_a_repository_shows_what_a_tree_shows(
    store: DataStore, spec: DataSpec, tmp_path: Path, odd: bool
) -> None:
    top = spec.paths[0]
    if odd:
        (top / ODD).write_text("odd")
    back_up(make_data_store(), spec, tmp_path / "tree")
    back_up(store, spec, tmp_path / "one")
    assert seen(store, tmp_path / "one") == seen(store, tmp_path / "tree")
    assert changed(store, spec, tmp_path / "one") == []
    (top / "files" / "1.txt").write_text("another")
    (top / "files" / "2.txt").unlink()
    (top / "new").mkdir()
    (tmp_path / "srv" / "later").write_text("later")
    spec.paths[1].chmod(0o600)
    assert changed(store, spec, tmp_path / "one") == changed(store, spec, tmp_path / "tree")
    assert ("changed", str(spec.paths[1])) in changed(store, spec, tmp_path / "one")
    assert (tmp_path / "one" / "tree").exists() == odd, "only what JSON cannot say has to be brought back"
    store.complete(tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == ["data", "restic.json", "tmp", "tree.json"]
    assert seen(store, tmp_path / "one") == seen(store, tmp_path / "tree")


def test_a_single_path_comes_back_and_all_else_stays_as_it_is(store: DataStore, spec: DataSpec, tmp_path: Path) -> None:
    top = spec.paths[0]
    back_up(store, spec, tmp_path / "one")
    (top / "files" / "deep" / "ä ö").write_text("bad")
    (top / "files" / "2.txt").write_text("newer")
    found = store.parts(spec, tmp_path / "one", ["files/deep", str(spec.paths[1])])
    assert found == (top / "files" / "deep", spec.paths[1])
    store.restore(DataSpec(spec.paths, exclude=spec.exclude, parts=found), tmp_path / "one", tmp_path / "aside")
    assert (top / "files" / "deep" / "ä ö").read_text() == "umlauts"
    assert (top / "files" / "2.txt").read_text() == "newer"
    for name in ("files/none", "/etc/passwd", "temp"):
        with pytest.raises(errors.NoSuchBackup, match="cannot restore"):
            store.parts(spec, tmp_path / "one", [name])


@pytest.mark.parametrize("point", ["data.copytree.entry", "data.restore.finish"])
def test_a_restore_that_found_no_room_is_put_back_and_can_be_done_later(
    store: DataStore, spec: DataSpec, tmp_path: Path, home: Path, point: str
) -> None:
    top = spec.paths[0]
    one = DataSpec((top,))
    back_up(store, one, tmp_path / "one")
    good = look(top)
    (top / "files" / "1.txt").write_text("written since")
    before = look(top)
    done = subprocess.run(
        call("restore", top, home, tmp_path / "aside", tmp_path / "one", f"{point}=enospc"), capture_output=True
    )
    os.environ.pop("SLOTD_FAILPOINTS")
    assert b"No space left" in done.stderr
    store.put_back(one, tmp_path / "one", tmp_path / "aside")
    assert look(top) == before
    store.restore(one, tmp_path / "one", tmp_path / "again")
    fifo = {rel: was for rel, was in good.items() if was[0] == "other"}
    assert look(top) | fifo == good, "pipes are never saved"


def test_no_room_to_bring_a_backup_back_is_said_so_and_the_backup_is_not_called_damaged(
    store: DataStore, spec: DataSpec, tmp_path: Path
) -> None:
    (spec.paths[0] / "large").write_bytes(random.Random(1).randbytes(24 << 20))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        back_up(store, spec, disk / "one")
        with pytest.raises(errors.NoSpace, match="needs room there, and 7 MiB are free"):
            store.verify(disk / "one")
        with pytest.raises(errors.NoSpace, match="all of it, 25 MiB"):
            store.restore(spec, disk / "one", disk / "aside")
        assert sorted(os.listdir(disk / "one")) == ["data", "restic.json", "tmp", "tree.json"]
        assert (spec.paths[0] / "large").exists()
        assert len(store.contents(disk / "one")) > 12, "a look needs no room"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_who_reads_a_backup_is_not_disturbed_by_a_restore_of_it_or_by_tidying_up(
    store: DataStore, spec: DataSpec, tmp_path: Path
) -> None:
    """As a push does, beside the daemon."""
    back_up(store, spec, tmp_path / "one")
    with store.lent(tmp_path / "one") as lent:
        before = look(lent / "data")
        store.ready(tmp_path / "one")
        store.complete(tmp_path / "one")
        assert look(lent / "data") == before
        shutil.rmtree(lent / "data" / "0")
        store.restore(spec, tmp_path / "one", tmp_path / "aside")
    assert (spec.paths[0] / "files" / "1.txt").read_text() == "note 1"
    store.complete(tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == ["data", "restic.json", "tmp", "tree.json"]


def test_an_app_whose_neighbour_tidies_up_their_repository_waits_for_it_while_it_runs(
    store: DataStore, spec: DataSpec, tmp_path: Path, home: Path
) -> None:
    back_up(store, spec, tmp_path / "one")
    line = ["restic", "--no-cache", "--repo", str(home / "repository"), "--password-file", str(home / "password")]
    with subprocess.Popen([*line, "check"], stdout=subprocess.DEVNULL) as neighbour:
        wait_for(lambda: os.listdir(home / "repository" / "locks") or neighbour.poll() is not None)
        neighbour.send_signal(signal.SIGSTOP)
        goes_on = threading.Timer(1, neighbour.send_signal, (signal.SIGCONT,))
        goes_on.start()
        back_up(store, spec, tmp_path / "two", tmp_path / "one")
        goes_on.join()
    assert neighbour.returncode == 0
    assert store.verify(tmp_path / "two") == []
