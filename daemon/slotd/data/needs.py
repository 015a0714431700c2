"""How much room a backup will take, before it is begun."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from slotd.data import DataSpec
from slotd.data.entries import VANISHED, outside_of
from slotd.data.layout import Layout
from slotd.data.places import DEPTH, is_holder, matcher, places, spot, stat_at
from slotd.host import files

ENTRY_BYTES = 4096 + 512  # what a file or directory takes besides its contents: a block's rounding, our lists


def needs(spec: DataSpec, base: Path | None) -> int:
    """The bytes a backup of `spec` would take now: what is in files, less what looks the same in `base`.

    An estimate: shared blocks (reflinks) may make it less, a busy app more.
    """
    is_excluded = matcher(spec.exclude)
    shared = Layout(base) if base and Layout(base).sealed() else None
    scope = shared.scope() if shared else None
    seen: set[tuple[int, int]] = set()

    def entry(dir_fd: int, name: str, base_fd: int | None, base_name: str, rel: str, depth: int) -> int:
        try:
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                return _file(found, stat_at(base_name, base_fd) if base_fd is not None else None)
            if not stat.S_ISDIR(found.st_mode) or depth > DEPTH:
                return ENTRY_BYTES
            with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
                return ENTRY_BYTES + _directory(fd, base_fd, base_name, rel, depth)
        except OSError as error:
            if error.errno in VANISHED:
                return 0
            raise

    def _file(found: os.stat_result, theirs: os.stat_result | None) -> int:
        if theirs and outside_of(theirs) == outside_of(found):
            return ENTRY_BYTES
        if found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in seen:
                return ENTRY_BYTES
            seen.add((found.st_dev, found.st_ino))
        return ENTRY_BYTES + min(found.st_size, found.st_blocks * 512)

    def _directory(fd: int, base_fd: int | None, base_name: str, rel: str, depth: int) -> int:
        inner = None
        if base_fd is not None:
            with suppress(OSError):
                inner = os.open(base_name, files.DIRECTORY, dir_fd=base_fd)
        try:
            total = 0
            for name in os.listdir(fd):
                below = f"{rel}/{name}" if rel else name
                if not is_excluded(below) and not is_holder(name):
                    total += entry(fd, name, inner, name, below, depth + 1)
            return total
        finally:
            if inner is not None:
                os.close(inner)

    def measured(base_fd: int | None) -> int:
        total = 0
        for place in places(spec):
            number = scope.number_of(place.path) if scope else None
            with files.explaining(f"cannot measure {place.path}"), spot(place.path) as at:
                if at and at.found and not place.volatile:
                    total += entry(at.parent, at.name, base_fd if number is not None else None, str(number), "", 0)
        return total

    if shared is None:
        return measured(None)
    with files.explaining(f"cannot read {shared.dest}"), files.opened(shared.data, files.DIRECTORY) as base_fd:
        return measured(base_fd)
