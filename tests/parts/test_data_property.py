"""Random trees, changed at random: what a backup and a restore give back is what was there, in every detail."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.trees import acl, clear, look, make_place, mounted

from slotd.data import DataSpec
from slotd.data.tree import TreeStore

NAMES = st.sampled_from(["a", "b", "c.tmp", "d e", "f\n", "é", os.fsdecode(b"\xff"), "-g", "h" * 120])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(parts))
ACTS = st.sampled_from(
    [
        *("write", "append", "grow", "remove", "mkdir", "link", "symlink", "mode", "owner", "time", "xattr"),
        *("large", "patch", "hole", "acl", "default acl", "move", "swap"),
    ]
)
CHANGES = st.lists(st.tuples(ACTS, PATHS, PATHS, st.binary(max_size=40), st.integers(0, 0o7777)), max_size=14)


LARGE = 1 << 20  # from here on a copy is mended in place


def change(top: Path, act: str, rel: str, other: str, data: bytes, number: int) -> None:
    """One thing that an app may do; what the file system refuses does not happen."""
    path = top / rel
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        match act:
            case "write":
                path.write_bytes(data)
            case "append":
                with open(path, "ab") as file:
                    file.write(data)
            case "grow":
                os.truncate(path, number * 1000)
            case "remove" if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            case "remove":
                path.unlink()
            case "mkdir":
                path.mkdir()
            case "link":
                os.link(top / other, path, follow_symlinks=False)
            case "symlink":
                os.symlink(other, path)
            case "mode":
                os.chmod(path, number)
            case "owner":
                os.chown(path, number, number + 1, follow_symlinks=False)
            case "time":
                os.utime(path, ns=(number, number * 10**9 + 1), follow_symlinks=False)
            case "large":
                path.write_bytes(data * (-(-LARGE // max(1, len(data)))))
            case "patch":
                with open(path, "r+b") as file:
                    file.seek(number * 300)
                    file.write(data)
            case "hole":
                with open(path, "wb") as file:
                    file.seek(number * 1000)
                    file.write(data)
                    file.truncate(number * 2000)
            case "acl" | "default acl":
                kind = "access" if act == "acl" else "default"
                os.setxattr(path, f"system.posix_acl_{kind}", acl(1 + number, number & 7))
            case "move":
                os.rename(path, top / other)
            case "swap":  # what was a file is a directory, or the other way round
                was_directory = path.is_dir()
                shutil.rmtree(path) if was_directory else path.unlink(missing_ok=True)
                path.write_bytes(data) if was_directory else path.mkdir()
            case "xattr":
                os.setxattr(path, "user.test", data, follow_symlinks=True)
    except OSError:
        return


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=CHANGES, while_hot=CHANGES, after=CHANGES, later=CHANGES)
def test_a_restore_gives_back_what_was_there_when_the_app_was_stopped(first, while_hot, after, later) -> None:  # type: ignore[no-untyped-def]
    check(None, first, while_hot, after, later)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted("btrfs", tmp_path_factory.mktemp("btrfs"), size=1 << 30) as mount:
        yield mount


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=CHANGES, while_hot=CHANGES, after=CHANGES, later=CHANGES)
def test_so_does_one_from_a_snapshot_of_a_subvolume(disk, first, while_hot, after, later) -> None:  # type: ignore[no-untyped-def]
    check(disk, first, while_hot, after, later)


def check(disk, first, while_hot, after, later) -> None:  # type: ignore[no-untyped-def]
    """Two backups of data that are changed before, during and after them; then back, and forth again."""
    room = Path(tempfile.mkdtemp(prefix="slotd-property-", dir=disk))
    try:
        live = room / "live"
        make_place(live)
        spec = DataSpec((live,))
        store = TreeStore()
        for one in first:
            change(live, *one)
        store.hot(spec, room / "one", None, lambda: False)
        for one in while_hot:
            change(live, *one)
        store.cold(spec, room / "one")
        store.seal(room / "one", {})
        then = look(live)
        for one in after:
            change(live, *one)
        store.hot(spec, room / "two", room / "one", lambda: False)
        store.cold(spec, room / "two")
        store.seal(room / "two", {})
        second = look(live)
        for one in later:
            change(live, *one)
        damaged = look(live)
        for name in ("one", "two"):
            assert store.verify(room / name) == []
        assert look(room / "one/data/0") == then
        assert look(room / "two/data/0") == second
        store.restore(spec, room / "one", room / "aside-1")
        assert look(live) == then
        assert look(room / "aside-1/data/0") == damaged
        store.restore(spec, room / "two", room / "aside-2")
        assert look(live) == second
        store.restore(spec, room / "aside-1", room / "aside-3")
        assert look(live) == damaged
    finally:
        clear(room)
