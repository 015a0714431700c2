"""The entries of a walk over live data, and how two looks at one are compared."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from slotd.data.places import Place

VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


class Vanished(Exception):
    """The app took the entry away, or made it something else, between two looks."""


class At(NamedTuple):
    """One entry of the walk: where it is, where its copy goes, where the base has it. `rel` is "" for the place."""

    place: Place
    rel: str
    src: int
    name: str
    dst: int
    dst_name: str
    base: int | None
    base_name: str
    depth: int = 0

    @property
    def key(self) -> str:
        return f"{self.place.number}/{self.rel}" if self.rel else str(self.place.number)

    @property
    def live(self) -> Path:
        return self.place.path / self.rel if self.rel else self.place.path

    @property
    def matched(self) -> str:
        """What patterns are held against."""
        return self.rel or self.place.path.name


def state_of(found: os.stat_result) -> tuple[int, int, int, int]:
    """What changes whenever the contents do."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def outside_of(found: os.stat_result) -> tuple[int, ...]:
    """What two files must have alike to be worth comparing, and to be shared."""
    return found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid, found.st_gid


def kind_of(mode: int) -> str:
    """In words, what is not copied."""
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a fifo"
    return "a device"
