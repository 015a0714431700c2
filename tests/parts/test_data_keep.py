"""A restore gives back what did not change as the very file that it is, and copies the rest. Nothing is lost by it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.trees import call, digests, look, mounted

from slotd.data import DataSpec
from slotd.data.tree import TreeStore

POINTS = (
    "data.quarantine.renamed",
    "data.quarantine.seal",
    "data.copytree.entry",
    "data.restore.exchange",
    "data.restore.built",
    "data.restore.place",
    "data.restore.placed",
    "data.restore.carry",
    "data.restore.finish",
)


def fill(top: Path) -> DataSpec:
    """Data that are old enough to be known by their times."""
    live = top / "live"
    for number in range(12):
        path = live / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}")
    (live / "temp").mkdir()
    (live / "temp/cache").write_text("cache")
    (live / "d0/one").write_text("two names")
    os.link(live / "d0/one", live / "d1/other")
    (top / "settings").write_text("settings")
    for at in live.rglob("*"):
        os.utime(at, ns=(10**18, 10**18 + at.stat().st_ino))
    os.sync()
    time.sleep(2.1)
    return DataSpec((live, top / "settings"), exclude=("temp",))


def back_up(spec: DataSpec, dest: Path) -> None:
    store = TreeStore()
    store.hot(spec, dest, None, lambda: False)
    store.cold(spec, dest)
    store.seal(dest, {})


def damage(top: Path) -> None:
    (top / "live/d1/f1").write_text("ruined")
    (top / "live/d2/f2").unlink()
    (top / "live/d2/new").write_text("new")
    (top / "live/d0/f3").chmod(0o600)
    (top / "live/temp/cache").write_text("newer cache")


def without_temp(seen: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {rel: what for rel, what in seen.items() if "/temp" not in rel}


def test_what_did_not_change_comes_back_as_the_same_file_and_the_rest_as_a_copy(tmp_path: Path) -> None:
    spec, store = fill(tmp_path), TreeStore()
    live = tmp_path / "live"
    back_up(spec, tmp_path / "backup")
    good = look(live)
    inodes = {at: at.stat().st_ino for at in live.rglob("*") if at.is_file()}
    damage(tmp_path)
    bad = look(live)
    kept = tmp_path / "backup/data/0"
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert without_temp(look(live)) == without_temp(good)
    same = {at.name for at, inode in inodes.items() if at.stat().st_ino == inode}
    assert same == {"f0", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "cache"}
    assert not {at.stat().st_ino for at in live.rglob("*")} & {at.stat().st_ino for at in kept.rglob("*")}
    assert without_temp(look(tmp_path / "aside/data/0")) == without_temp(bad)
    assert store.verify(tmp_path / "aside") == []
    assert store.verify(tmp_path / "backup") == []
    for at in live.rglob("*"):
        if at.is_file():
            at.write_text("the app goes on")
    assert without_temp(look(tmp_path / "aside/data/0")) == without_temp(bad)
    assert store.verify(tmp_path / "backup") == []


def test_a_quarantine_that_shares_with_the_backup_outlives_it(tmp_path: Path) -> None:
    spec, store = fill(tmp_path), TreeStore()
    back_up(spec, tmp_path / "backup")
    damage(tmp_path)
    bad = look(tmp_path / "live")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    store.remove(tmp_path / "backup")
    store.restore(spec, tmp_path / "aside", tmp_path / "aside-2")
    assert without_temp(look(tmp_path / "live")) == without_temp(bad)


def test_a_link_that_the_app_put_into_its_data_leads_no_restore_astray(tmp_path: Path) -> None:
    spec, store = fill(tmp_path), TreeStore()
    back_up(spec, tmp_path / "backup")
    good = look(tmp_path / "live")
    (tmp_path / "live/d0").rename(tmp_path / "elsewhere")
    (tmp_path / "live/d0").symlink_to(tmp_path / "elsewhere")
    outside = look(tmp_path / "elsewhere")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert without_temp(look(tmp_path / "live")) == without_temp(good)
    assert look(tmp_path / "elsewhere") == outside


def kills() -> Iterator[str]:
    """Every point at every hit; the caller says with `send` whether it was reached."""
    for point in POINTS:
        for hit in range(1, 40):
            if not (yield f"{point}=kill*{hit}"):
                break


@contextmanager
def again(image: Path, mount: Path) -> Iterator[None]:
    """A copy of a disk, so that every file has the times and the inode that it had."""
    disk = image.with_name(f"disk-{time.monotonic_ns()}")
    subprocess.run(["cp", "--sparse=always", str(image), str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mount)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        disk.unlink()


@pytest.mark.slow
def test_a_restore_killed_while_it_gives_files_back_loses_none_and_is_finished_by_calling_again(
    tmp_path: Path,
) -> None:
    with mounted("ext4", tmp_path, size=16 << 20) as mount:
        spec, store = fill(mount), TreeStore()
        back_up(spec, mount / "backup")
        good, good_digests = look(mount / "live"), digests(mount / "live/d0", mount / "live/d1", mount / "live/d2")
        damage(mount)
        bad, bad_digests = look(mount / "live"), digests(mount / "live")
        # Not while it is written to: a journal that is copied piece by piece is of no one moment.
        subprocess.run(["fsfreeze", "--freeze", str(mount)], check=True)
        try:
            shutil.copy(tmp_path / "image", tmp_path / "first")
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(mount)], check=True)
    killed = 0
    points = kills()
    point = next(points)
    while point:
        with again(tmp_path / "first", mount):
            done = call("restore", spec, mount / "aside", src=mount / "backup", failpoint=point)
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            reached = done.returncode != 0
            killed += reached
            assert good_digests | bad_digests <= digests(mount), point
            done = call("restore", spec, mount / "aside", src=mount / "backup")
            assert done.returncode == 0, done.stderr
            assert without_temp(look(mount / "live")) == without_temp(good), point
            assert (mount / "live/temp/cache").read_text() == "newer cache"
            assert without_temp(look(mount / "aside/data/0")) == without_temp(bad), point
            assert store.verify(mount / "aside") == []
            assert store.verify(mount / "backup") == []
        try:
            point = points.send(reached)
        except StopIteration:
            break
    assert killed > 20
