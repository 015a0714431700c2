"""Files of a new tree that are the same as in an older one come to lie in the older one's blocks, where a file system
can do that (xfs, btrfs): they take no room of their own. The older tree is only read.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress
from dataclasses import dataclass

from slotd.host import files
from slotd.host.copy import clone, copy_blocks
from slotd.host.tree import DEPTH_MAX, RECORD_DIRECTORY, walk

LEAST_BYTES = 4096  # less than a block is not shared
COMPARED = 256 * 1024

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Shared:
    """How many files share their blocks now, and how many bytes these have."""

    files: int = 0
    bytes: int = 0


def share(new: int, old: int) -> Shared:
    """Descriptors of both trees. Nobody else may write into either meanwhile, and the new one must be ours.

    A file has the same bytes, owner, mode and times after it as before. What cannot be read is passed over; raises
    `OSError` only where a file could not be put back, and then the new tree is of no use.
    """
    done = Shared()
    if os.fstat(new).st_dev == os.fstat(old).st_dev and _can_clone(new):
        with closing(_Below(old)) as below:
            _walk(new, below, done)
    return done


def _can_clone(tree: int) -> bool:
    """Whether this file system shares blocks; tried with two files that have no name."""
    nameless = os.O_TMPFILE | os.O_RDWR
    try:
        with files.opened(".", nameless, dir_fd=tree) as one, files.opened(".", nameless, dir_fd=tree) as other:
            os.pwrite(one, b"x", 0)
            return clone(one, other)
    except OSError:
        return False


def _walk(new: int, old: _Below, done: Shared) -> None:
    for directory, parts, name, looked in walk(new, DEPTH_MAX):
        if not name or not stat.S_ISREG(looked.st_mode) or RECORD_DIRECTORY in parts[:1]:
            continue
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            before = old.at(parts)
            there = os.stat(name, dir_fd=before, follow_symlinks=False)
            if _may_share(looked, there) and _share_file(directory, before, name, looked):
                done.files += 1
                done.bytes += looked.st_size


class _Below:
    """Directories of a tree by their components; the last one stays open."""

    def __init__(self, top: int) -> None:
        self._top, self._fd = top, os.dup(top)
        self._parts: tuple[str, ...] = ()

    def at(self, parts: tuple[str, ...]) -> int:
        if parts != self._parts:
            fd = os.dup(self._top)
            for part in parts:
                try:
                    inner = os.open(part, files.DIRECTORY, dir_fd=fd)
                except OSError as error:
                    raise FileNotFoundError(error.errno, "no such directory", part) from None
                finally:
                    os.close(fd)
                fd = inner
            self.close()
            self._parts, self._fd = parts, fd
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def _may_share(new: os.stat_result, old: os.stat_result) -> bool:
    are_files = stat.S_ISREG(new.st_mode) and stat.S_ISREG(old.st_mode)
    return are_files and new.st_size == old.st_size >= LEAST_BYTES and new.st_nlink == 1 and new.st_dev == old.st_dev


def _share_file(new: int, old: int, name: str, looked: os.stat_result) -> bool:
    with files.opened(name, _READ, dir_fd=old) as source, files.opened(name, _WRITE, dir_fd=new) as target:
        if not _is_same(source, target, looked.st_size):
            return False
        # Emptied first: what was not written to disk yet need not be.
        os.ftruncate(target, 0)
        is_shared = False
        try:
            is_shared = clone(source, target)
        finally:
            if not is_shared:
                copy_blocks(source, target, looked.st_size)
            os.utime(target, ns=(looked.st_atime_ns, looked.st_mtime_ns))
        return is_shared


def _is_same(one: int, other: int, size: int) -> bool:
    left, right = bytearray(COMPARED), bytearray(COMPARED)
    offset = 0
    try:
        while offset < size:
            count = os.preadv(one, [left], offset)
            if count == 0 or count != os.preadv(other, [right], offset):
                return False
            if memoryview(left)[:count] != memoryview(right)[:count]:
                return False
            offset += count
    except OSError:
        return False
    return True
