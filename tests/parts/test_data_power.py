"""Power cuts and full disks in each pass: a backup is whole or it is not there, and the data are as they were.

The cut is the file system's own: its shutdown ioctl (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN) without a flush, on a loop
mount. What was not put on disk is gone, as it would be with the power.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.trees import call, look

from slotd.data import DataSpec
from slotd.data.tree import TreeStore

SHUTDOWN = 0x8004587D
NO_FLUSH = 2
POINTS = {
    "hot": ("data.pass.entry=kill*9", "data.pass.copied=kill*9", "data.pass.index=kill", "data.pass.synced=kill", ""),
    "cold": ("data.pass.copied=kill*2", "data.pass.index=kill", "data.pass.synced=kill", ""),
    "seal": ("data.seal.manifest=kill", "data.seal.header=kill", ""),
}


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, kind: str, room: Path) -> None:
        self.options = "loop,nouuid" if kind == "xfs" else "loop"
        self.image, self.mount = room / "image", room / "mount"
        self.mount.mkdir(parents=True)
        with open(self.image, "wb") as file:
            file.truncate(384 << 20)
        subprocess.run([f"mkfs.{kind}", "-q", str(self.image)], check=True, capture_output=True)
        self.on()

    def on(self) -> None:
        subprocess.run(["mount", "-o", self.options, str(self.image), str(self.mount)], check=True)

    def cut(self) -> None:
        """Lose what is not on the disk, and come up again.

        From a copy of the disk: the old mount may live on in the namespace of any container that began meanwhile.
        """
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(fd)
        survived = self.image.with_name(f"image-{time.monotonic_ns()}")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(survived)], check=True)
        self.off()
        self.image.unlink()
        self.image = survived
        self.on()

    def off(self) -> None:
        subprocess.run(["umount", str(self.mount)], check=True)


@contextmanager
def powered(kind: str, room: Path) -> Iterator[Disk]:
    disk = Disk(kind, room)
    try:
        yield disk
    finally:
        disk.off()
        disk.image.unlink()


def fill(live: Path) -> None:
    for number in range(20):
        path = live / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(3000))
    (live / "large").write_bytes(os.urandom(6 << 20))
    os.sync()


def change(live: Path, text: str) -> None:
    (live / "d0/f0").write_text(text)
    (live / "d1/f1").write_text(text)
    (live / "d2/f2").unlink(missing_ok=True)
    with open(live / "large", "r+b") as file:
        file.seek(3 << 20)
        file.write(text.encode())


def is_whole(store: TreeStore, dest: Path) -> bool:
    """Sealed, and every byte of it as it was."""
    if not store.is_sealed(dest):
        return False
    store.complete(dest)
    assert store.verify(dest) == []
    return True


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_in_any_pass_leaves_a_whole_backup_or_none_and_the_one_before(kind: str, tmp_path: Path) -> None:
    with powered(kind, tmp_path / "disk") as disk:
        live, room = disk.mount / "live", disk.mount / "room"
        fill(live)
        time.sleep(2.1)
        spec, store = DataSpec((live,)), TreeStore()
        assert [call(verb, spec, room / "first").returncode for verb in ("hot", "cold", "seal")] == [0, 0, 0]
        first = look(room / "first/data")
        outcomes = set()
        for verb, points in POINTS.items():
            for number, point in enumerate(points):
                dest = room / f"{verb}-{number}"
                change(live, f"before {verb} {number}")
                if verb != "hot":
                    assert call("hot", spec, dest, base=room / "first").returncode == 0
                    change(live, f"after {verb} {number}")
                if verb == "seal":
                    assert call("cold", spec, dest).returncode == 0
                os.sync()  # the app's own bytes; the copy's unsynced ones come after or are its own to sync
                then = look(live)
                done = call(verb, spec, dest, base=room / "first", failpoint=point)
                assert done.returncode in (0, -signal.SIGKILL), done.stderr
                disk.cut()
                whole = is_whole(store, dest)
                outcomes.add((verb, point, whole))
                assert whole is ((verb, point) == ("seal", "")), (verb, point)
                assert look(live) == then
                if whole:
                    assert look(dest / "data/0") == then
                assert is_whole(store, room / "first")
                assert look(room / "first/data") == first
                shutil.rmtree(dest, ignore_errors=True)
        assert len(outcomes) == sum(map(len, POINTS.values()))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_right_after_the_seal_loses_nothing_of_the_backup(kind: str, tmp_path: Path) -> None:
    """Nothing is put on disk but by the passes themselves; the data are elsewhere."""
    with powered(kind, tmp_path / "disk") as disk:
        live, room = tmp_path / "live", disk.mount / "room"
        fill(live)
        spec, store = DataSpec((live,)), TreeStore()
        base = None
        for number in range(3):
            dest = room / str(number)
            assert call("hot", spec, dest, base=base).returncode == 0
            change(live, f"round {number}")
            assert call("cold", spec, dest).returncode == 0
            assert call("seal", spec, dest).returncode == 0
            disk.cut()
            assert is_whole(store, dest)
            assert look(dest / "data/0") == look(live)
            base = dest


@pytest.mark.parametrize("verb", ["hot", "cold", "seal"])
def test_a_disk_that_fills_up_in_a_pass_fails_the_backup_and_harms_nothing_else(verb: str, tmp_path: Path) -> None:
    with powered("ext4", tmp_path / "disk") as disk:
        live, room = tmp_path / "live", disk.mount / "room"
        fill(live)
        spec, store = DataSpec((live,)), TreeStore()
        assert [call(each, spec, room / "first").returncode for each in ("hot", "cold", "seal")] == [0, 0, 0]
        first = look(room / "first/data")
        dest = room / "second"
        if verb != "hot":
            assert call("hot", spec, dest, base=room / "first").returncode == 0
        (live / "new").write_bytes(os.urandom(2 << 20))
        if verb == "seal":
            assert call("cold", spec, dest).returncode == 0
        filler = disk.mount / "filler"
        with open(filler, "wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue
        then = look(live)
        done = call(verb, spec, dest, base=room / "first")
        assert done.returncode != 0
        assert "slotd.errors.NoSpace: cannot " in done.stderr
        assert "No space left on device. Free some space" in done.stderr
        assert look(live) == then
        assert not store.is_sealed(dest)
        assert is_sealed_still(store, room / "first")
        assert look(room / "first/data") == first
        filler.unlink()
        for each in ("hot", "cold", "seal"):
            assert call(each, spec, dest, base=room / "first").returncode == 0
        assert is_whole(store, dest)
        assert look(dest / "data/0") == then


def is_sealed_still(store: TreeStore, dest: Path) -> bool:
    return store.is_sealed(dest) and store.verify(dest) == []
