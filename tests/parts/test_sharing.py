"""What two versions have in common takes its room once, where the file system can do that, and nothing else changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slot_trees import opened
from tests.trees import look, mounted

from slotd.core.schema import App, Limits, Slots
from slotd.engines.directory import DirectoryEngine
from slotd.host.sharing import share
from slotd.model import Slot, SlotName

MIB = 1024**2


@pytest.fixture(params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path) as mount:
        yield mount


def used(path: Path) -> int:
    """Bytes taken of the disk, once all is written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.sync()
        found = os.fstatvfs(descriptor)
        return (found.f_blocks - found.f_bfree) * found.f_frsize
    finally:
        os.close(descriptor)


def tree(path: Path, **changed: bytes) -> Path:
    """Thirty files of a mebibyte each, of which no two are the same."""
    (path / "lib").mkdir(parents=True)
    for number in range(30):
        body = changed.get(f"f{number}") or number.to_bytes(4, "big") * (MIB // 4)
        (path / "lib" / f"f{number}").write_bytes(body)
    (path / "lib" / "small").write_text("small")
    (path / "link").symlink_to("lib/f1")
    return path


def shared(new: Path, old: Path) -> tuple[int, int]:
    with opened(new) as one, opened(old) as other:
        done = share(one, other)
        return done.files, done.bytes


def test_equal_files_take_their_room_once(disk: Path) -> None:
    old = tree(disk / "a")
    alone = used(disk)
    new = tree(disk / "b", f3=bytes(MIB), f4=b"x" * (MIB + 1))
    os.utime(new / "lib/f5", ns=(10**18, 10**18))
    before, twice = look(new), used(disk)
    assert shared(new, old) == (28, 28 * MIB)
    deadline = time.monotonic() + 60
    while used(disk) > alone + 8 * MIB and time.monotonic() < deadline:
        time.sleep(0.1)  # btrfs counts what was freed at its next commit
    assert used(disk) < alone + 8 * MIB < twice
    assert look(new) == before
    (new / "lib/f5").write_bytes(b"written to later")
    assert (old / "lib/f5").read_bytes() == (5).to_bytes(4, "big") * (MIB // 4)


def test_where_the_file_system_cannot_nothing_is_touched(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path) as mount:
        old, new = tree(mount / "a"), tree(mount / "b")
        before = look(new)
        assert shared(new, old) == (0, 0)
        assert look(new) == before


@pytest.mark.attack
def test_links_odd_files_and_second_names_are_left_as_they_are(disk: Path, tmp_path: Path) -> None:
    old, new = tree(disk / "a"), tree(disk / "b")
    secret = tmp_path / "secret"
    secret.write_bytes((1).to_bytes(4, "big") * (MIB // 4))
    (old / "lib/f1").unlink()
    (old / "lib/f1").symlink_to(secret)
    (old / "lib/f2").unlink()
    os.mkfifo(old / "lib/f2")
    (disk / "elsewhere").hardlink_to(new / "lib/f3")
    (new / "more").mkdir()
    (new / "more/f0").write_bytes(bytes(MIB))
    (old / "more").symlink_to("lib")
    before, untouched = look(new), look(old)
    assert shared(new, old) == (27, 27 * MIB)
    assert look(new) == before
    assert look(old) == untouched


def test_a_slot_shares_what_is_the_same_with_the_active_one_and_is_whole(disk: Path) -> None:
    engine = DirectoryEngine(App(name="x"), disk / "x", Limits(), user_mode=True)
    assert stage(engine, SlotName.A, "1.0") == 0
    engine.switch(SlotName.A)
    assert stage(engine, SlotName.B, "1.1") == 30 * MIB
    one, other = engine.record(SlotName.A), engine.record(SlotName.B)
    assert one is not None
    assert other is not None
    assert one.manifest == other.manifest


def test_with_a_slot_that_its_app_may_write_nothing_is_shared(disk: Path) -> None:
    app = App(name="x", slots=Slots(writable=True))
    engine = DirectoryEngine(app, disk / "x", Limits(), user_mode=True)
    stage(engine, SlotName.A, "1.0")
    engine.switch(SlotName.A)
    assert stage(engine, SlotName.B, "1.1") == 0


def stage(engine: DirectoryEngine, slot: SlotName, version: str) -> int:
    os.close(engine.open(slot))
    tree(engine.path(slot))
    engine.settle(slot)
    found = engine.share(slot)
    engine.finish(slot, Slot(app="x", name=slot, version=version))
    return found
