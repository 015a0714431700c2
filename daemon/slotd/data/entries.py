"""The entries of a walk over live data, and the directories of a copy beside them."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slotd.data.places import Place, stat_at
from slotd.host import files

VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


class Vanished(Exception):
    """The app took the entry away, or made it something else, between two looks."""


class Own:
    """A directory of the copy, opened (and made, where it is missing) only when something is to be done in it.

    `changed`: names in it were made or removed, so that its times are no longer those of the live directory.
    """

    __slots__ = ("_fd", "_name", "_parent", "changed")

    def __init__(self, parent: Own | None, name: str, fd: int = -1) -> None:
        self._parent, self._name, self._fd = parent, name, fd
        self.changed = False

    def fd(self) -> int:
        if self._fd < 0 and self._parent is not None:
            self._fd = self._open(self._parent)
        return self._fd

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def close(self) -> None:
        if self._fd >= 0 and self._parent is not None:
            os.close(self._fd)
            self._fd = -1

    def _open(self, parent: Own) -> int:
        holder, name = parent.fd(), self._name
        there = stat_at(name, holder)
        if there and not stat.S_ISDIR(there.st_mode):
            files.remove_at(holder, name)
            there = None
        if there is None:
            os.mkdir(name, 0o700, dir_fd=holder)
            parent.changed = True
        elif there.st_mode & 0o700 != 0o700:  # only matters without root: its own mode comes back at the end
            with files.opened(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=holder) as path_fd:
                os.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        return os.open(name, files.DIRECTORY, dir_fd=holder)

    def remove(self, name: str) -> None:
        """Take `name` away, whatever it is."""
        self.changed = True
        files.remove_at(self.fd(), name)

    def prune(self, keep: set[str]) -> None:
        for name in os.listdir(self.fd()):
            if name not in keep:
                self.remove(name)


class Base:
    """The same directory in the backup before, opened when first needed; `fd` is None where it has none."""

    __slots__ = ("_fd", "_name", "_parent", "_tried")

    def __init__(self, parent: Base | None, name: str, fd: int | None = None) -> None:
        self._parent, self._name, self._fd, self._tried = parent, name, fd, parent is None

    def fd(self) -> int | None:
        if not self._tried and self._parent is not None:
            self._tried = True
            holder = self._parent.fd()
            if holder is not None:
                with suppress(OSError):
                    self._fd = os.open(self._name, files.DIRECTORY, dir_fd=holder)
        return self._fd

    def close(self) -> None:
        if self._fd is not None and self._parent is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True, slots=True)
class At:
    """One entry of the walk: where it is, where its copy goes, where the base has it.

    `rel` is its path in its place, "" for the place itself; `key` its path in the manifest.
    """

    place: Place
    rel: str
    key: str
    src: int
    name: str
    dst: Own
    dst_name: str
    base: Base
    base_name: str
    depth: int = 0

    @property
    def inside(self) -> str:
        """The path of the copy below `data/`."""
        return f"{self.place.number}/{self.rel}" if self.rel else str(self.place.number)

    @property
    def live(self) -> Path:
        return self.place.path / self.rel if self.rel else self.place.path

    @property
    def matched(self) -> str:
        """What patterns are held against."""
        return self.rel or self.place.path.name


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
