"""A place that is a btrfs subvolume: its copy is a read-only snapshot, made at once however much there is.

Hot, it is tried whether one can be made, and all is put on disk, so that the cold pass has little left to write. Cold,
with the app stopped, `data/N` becomes a snapshot of the place. Nothing of it is looked at while the app is down: its
lines of the manifest are written when the app runs again (`complete`), into `walked`, with the digests of what did not
change since the backup before. Until then they are made by a walk each time somebody asks. What is not part of a copy
(`exclude`, sockets) is taken out of the snapshot then, too.

A subvolume in a subvolume is not in its snapshot, nor is what is mounted there: with such a thing in it that is not
excluded, a place is copied file by file.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from slotd.data.entries import kind_of
from slotd.data.index import LIST_LIMIT, state_of, unescape
from slotd.data.layout import Layout
from slotd.data.manifest import Manifest, read, unknown
from slotd.data.places import DEPTH, Spot, is_below, left_out
from slotd.data.tally import SETTLE_NS, Tally
from slotd.host import btrfs, files
from slotd.host.failpoint import hit

NOT_HERE = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.EROFS)
_TRIED = "tried"


def why_not(at: Spot, subvolume: int, is_left_out: Callable[[str], bool]) -> str:
    """Why a snapshot of the place would not hold all of it, in words; "" if it would. Raises the plain OSError."""
    within = btrfs.children(subvolume)
    mounted = [str(point.relative_to(at.real)) for point in files.mounts_below(at.real) if point != at.real]
    for what, paths in (("a subvolume of its own", within), ("a mount point", mounted)):
        for path in sorted(paths):
            if not is_below(path, is_left_out):
                return f"{path} in it is {what}"
    return ""


def attempt(subvolume: int, layout: Layout) -> bool:
    """Whether a snapshot of it can be made for this copy: made, and removed. ENOSPC and the like are raised."""
    with files.opened(layout.tmp, files.DIRECTORY) as tmp:
        discard(tmp, _TRIED)
        try:
            btrfs.snapshot(subvolume, tmp, _TRIED, read_only=True)
        except OSError as error:
            if error.errno in NOT_HERE:
                return False
            raise
        hit("data.snapshot.tried")
        btrfs.remove_at(tmp, _TRIED)
    return True


def discard(dir_fd: int, name: str) -> None:
    """Remove a snapshot that an earlier pass made, if there is one."""
    if btrfs.is_subvolume_at(dir_fd, name):
        btrfs.remove_at(dir_fd, name)


def take(subvolume: int, data: int, name: str) -> dict[str, int]:
    """Make `name` a snapshot of the place. Gives what is to be remembered of it."""
    note = {"at_ns": time.time_ns()}
    hit("data.snapshot.take")
    btrfs.snapshot(subvolume, data, name, read_only=True)
    hit("data.snapshot.taken")
    return note


def measure(fd: int, live: Path, is_left_out: Callable[[str], bool], tally: Tally) -> int:
    """The bytes of the files of a place, which are counted and what is never copied named."""
    total = 0
    seen: set[int] = set()

    def directory(fd: int, rel: str, depth: int) -> None:
        nonlocal total
        for name in os.listdir(fd):
            below = f"{rel}/{name}" if rel else name
            if is_left_out(below):
                continue
            tally.tick()
            with suppress(FileNotFoundError, NotADirectoryError):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    tally.files += 1
                    if found.st_nlink == 1 or found.st_ino not in seen:
                        total += found.st_size
                    seen.add(found.st_ino)
                elif stat.S_ISDIR(found.st_mode) and depth < DEPTH:
                    with files.opened(name, files.DIRECTORY, dir_fd=fd) as child:
                        directory(child, below, depth + 1)
                elif not stat.S_ISLNK(found.st_mode):
                    tally.tell(tally.skipped, f"{files.shown(live / below)} ({kind_of(found.st_mode)})")

    directory(fd, "", 0)
    return total


# -- once the app runs again -----------------------------------------------------------------------------------------


def walked(layout: Layout) -> list[str]:
    """The lines of the manifest of all places that are snapshots; without digests where they were not taken yet."""
    numbers = layout.snapshots()
    if not numbers:
        return []
    try:
        return files.read_bounded(layout.walked, LIST_LIMIT).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return list(Manifest(unknown).walk(layout, numbers).lines.values())


def complete(layout: Layout) -> None:
    """Take out what is no part of the copy, and write its lines down, with digests. Nothing if that was done."""
    numbers = layout.snapshots()
    scope = layout.scope()
    if not numbers or scope is None or layout.walked.exists():
        return
    with files.opened(layout.data, files.DIRECTORY) as data:
        for number in numbers:
            with files.opened(number, files.DIRECTORY, dir_fd=data) as top:
                _clear(top, left_out(scope.exclude, scope.sqlite))
    before = _known(numbers)
    known = {
        os.lstat(layout.data / number).st_dev: before.get(scope.places[int(number)].path, {}) for number in numbers
    }

    def digest_of(fd: int) -> str:
        found = os.fstat(fd)
        return known.get(found.st_dev, {}).get(state_of(found)) or read(fd)

    lines = Manifest(digest_of).walk(layout, numbers).lines.values()
    hit("data.snapshot.walked")
    layout.replace(layout.walked, "".join(line + "\n" for line in lines).encode("ascii"))


def _clear(top: int, is_left_out: Callable[[str], bool]) -> None:
    """Take out of a snapshot what a copy does not have. A kill leaves it writable, and the next call goes on."""
    if not strip(top, is_left_out, tried=True):
        with suppress(OSError):  # of a copy that is no snapshot any more, but an ordinary tree
            btrfs.set_read_only(top, True)
        return
    if btrfs.is_subvolume(top):
        btrfs.set_read_only(top, False)
    hit("data.snapshot.opened")
    strip(top, is_left_out)
    if btrfs.is_subvolume(top):
        btrfs.set_read_only(top, True)


def strip(fd: int, is_left_out: Callable[[str], bool], rel: str = "", *, tried: bool = False) -> bool:
    """Remove what `left_out` says, and sockets and the like; directories keep their times. Whether there was any.

    `tried`: only look.
    """
    before = os.fstat(fd)
    with os.scandir(fd) as found:
        entries = list(found)
    here = below = False
    for entry in entries:
        path = f"{rel}/{entry.name}" if rel else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_left_out(path) or not (is_directory or entry.is_file(follow_symlinks=False) or entry.is_symlink()):
            here = True
            if not tried:
                files.remove_at(fd, entry.name)
        elif is_directory and rel.count("/") < DEPTH:
            with files.opened(entry.name, files.DIRECTORY, dir_fd=fd) as child:
                below = strip(child, is_left_out, path, tried=tried) or below
        if tried and (here or below):
            return True
    if here and not tried:
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    return here or below


def _known(numbers: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The digests of the backup before: for each live path of a place, by what the files looked like.

    A snapshot's files have the inodes and times of the live ones, so that what did not change is known by them.
    """
    base = next((Layout(Path(each["base"])) for each in numbers.values() if each.get("base")), None)
    scope = base.scope() if base and base.sealed() else None
    if base is None or scope is None:
        return {}
    found: dict[str, dict[str, str]] = {place.path: {} for place in scope.places}

    def note(line: str, state: str) -> None:
        words = line.split(" ")
        if words[0] == "f" and words[6] != "-":
            found[scope.places[int(words[-1].partition("/")[0])].path][state] = words[6]

    for seen in base.index().entries.values():
        if seen.settled and not seen.derived:
            note(seen.line, seen.state)
    since_ns = {number: int(each["at_ns"]) - SETTLE_NS for number, each in base.snapshots().items()}
    for line in walked(base):
        path = line.rpartition(" ")[2]
        with suppress(OSError):
            there = os.lstat(base.data / unescape(path))
            if there.st_ctime_ns < since_ns[path.partition("/")[0]]:
                note(line, state_of(there))
    return found
