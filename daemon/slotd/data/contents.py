"""How the contents of one live file come into the copy: shared blocks, only the blocks that differ, or all of them.

A copy is private until it is sealed, and a file of it that has one name is in no other backup. So it may be written in
place: what a kill leaves half-written is not as the index says, and the next call writes it anew. A file that another
backup has too is never written, but replaced.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from slotd.data.entries import At
from slotd.data.layout import Layout
from slotd.data.places import stat_at
from slotd.host import copy, files

COPYING = "copying"
SMALL = 64 << 10  # up to here a copy is cheaper than sharing blocks, which first writes the source to disk
PATCH_FLOOR = 1 << 20
HASH_LATER = 4 << 20  # bytes from which on a file is not hashed while the app is stopped, but when it runs again
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Contents:
    """Brings files into the copy `layout`. `tick` may raise to stop."""

    def __init__(self, layout: Layout, tick: Callable[[], None]) -> None:
        self.layout = layout
        self.tick = tick
        self._no_clones: set[int] = set()  # file systems that share no blocks with the copy's

    def bring(self, at: At, src: int, found: os.stat_result, *, patched: bool, hashed: bool) -> tuple[int, str, int]:
        """The open copy of `src`, its digest in hex, and the bytes that were written.

        `patched`: there may be an older copy of this very file to start from. Without `hashed` a large file gets no
        digest ("") yet; one that is nearly all hole never does.
        """
        hashed = (hashed or found.st_size < HASH_LATER) and not copy.is_hollow(found)
        fd, digest, written = self._bring(at, src, found, patched, hashed)
        return fd, digest or (files.hash_fd(fd, tick=self.tick) if hashed else ""), written

    def _bring(self, at: At, src: int, found: os.stat_result, patched: bool, hashed: bool) -> tuple[int, str, int]:
        if found.st_size > SMALL and found.st_dev not in self._no_clones:
            fd = self._clone(at, src, found)
            if fd is not None:
                return fd, "", 0
        is_sparse = found.st_blocks * 512 < found.st_size
        if patched and not is_sparse and found.st_size >= PATCH_FLOOR:
            fd = self._older(at)
            if fd is not None:
                return fd, "", copy.patch(src, fd, found.st_size, self.tick)
        fd = self.make(at)
        if hashed and not is_sparse:
            return fd, copy.copy_hashed(src, fd, found.st_size, self.tick), found.st_size
        copy.copy_blocks(src, fd, found.st_size, self.tick)
        return fd, "", min(found.st_size, found.st_blocks * 512)

    def make(self, at: At) -> int:
        """A new empty file in place of whatever the copy has there."""
        at.dst.changed = True
        try:
            return os.open(at.dst_name, _NEW | os.O_CLOEXEC, 0o600, dir_fd=at.dst.fd())
        except FileExistsError:
            at.dst.remove(at.dst_name)
            return os.open(at.dst_name, _NEW | os.O_CLOEXEC, 0o600, dir_fd=at.dst.fd())

    def take(self, at: At) -> None:
        """Move what was made in tmp into its place."""
        there = stat_at(at.dst_name, at.dst.fd())
        if there and stat.S_ISDIR(there.st_mode):
            at.dst.remove(at.dst_name)
        at.dst.changed = True
        os.rename(self.layout.tmp / COPYING, at.dst_name, dst_dir_fd=at.dst.fd())

    def _clone(self, at: At, src: int, found: os.stat_result) -> int | None:
        tmp = self.layout.tmp / COPYING
        tmp.unlink(missing_ok=True)
        fd = os.open(tmp, _NEW | os.O_CLOEXEC, 0o600)
        try:
            if copy.clone(src, fd):
                os.ftruncate(fd, found.st_size)
                self.take(at)
                return fd
            self._no_clones.add(found.st_dev)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        tmp.unlink()
        return None

    def _older(self, at: At) -> int | None:
        """The copy that is there, open for writing, if no other backup has it."""
        try:
            fd = os.open(at.dst_name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at.dst.fd())
        except OSError:
            return None
        there = os.fstat(fd)
        if stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
            return fd
        os.close(fd)
        return None
