"""What a pass has found and done so far: the new index, the counts, and what is to be told."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from slotd import errors
from slotd.data import CopyStats
from slotd.data.entries import At
from slotd.data.index import NAMES_LIMIT, NONE, SETTLED, Seen, line_of, state_of
from slotd.host import files

SETTLE_NS = 2_000_000_000  # coarser than the time stamps of any file system in use
NAMES_TOLD = 200


@dataclass(slots=True)
class Tally:
    """Filled by one pass. `cancelled` is asked between entries."""

    cancelled: Callable[[], bool]
    dest: str
    index: dict[str, Seen] = field(default_factory=dict)
    links: dict[tuple[int, ...], At] = field(default_factory=dict)  # the first name of each file with several
    synced: dict[int, int] = field(default_factory=dict)  # when each file system that is read was put on disk
    files: int = 0
    total: int = 0  # bytes
    copied_files: int = 0
    copied_bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: int = 0  # bytes of the paths so far

    def met(self, key: str) -> None:
        """One more entry. Raises `Failed` when there are more than memory is for."""
        self.names += len(key)
        if self.names > NAMES_LIMIT:
            raise errors.Failed(
                f"cannot save the data: the paths of their files alone take more than {NAMES_LIMIT >> 20} MiB.",
                hint="See what makes so many files, or so deeply nested ones, and name it under `exclude` of [data].",
            )

    def tick(self) -> None:
        if self.cancelled():
            raise errors.Cancelled(f"the copy to {files.shown(self.dest)} was cancelled.")

    def tell(self, told: list[str], text: str) -> None:
        if len(told) < NAMES_TOLD:
            told.append(text)
        elif len(told) == NAMES_TOLD:
            told.append("… and more")

    def stats(self) -> CopyStats:
        counts = self.files, self.total, self.copied_files, self.copied_bytes
        return CopyStats(*counts, tuple(self.skipped), tuple(self.notes))

    # -- entries -----------------------------------------------------------------------------------------------------

    def carry(self, key: str, found: os.stat_result, seen: Seen) -> None:
        """Note an entry whose copy is right as it is."""
        self.index[key] = seen
        if stat.S_ISREG(found.st_mode):
            self.files += 1
            self.total += found.st_size

    def carry_file(self, at: At, found: os.stat_result, seen: Seen) -> None:
        """As `carry`, for a file that may have several names."""
        if found.st_nlink > 1:
            self.links[one_of(found)] = at
        self.carry(at.key, found, seen)

    def made_file(
        self, at: At, found: os.stat_result, fd: int, digest: str, kept: dict[str, bytes], written: int, flag: str = ""
    ) -> None:
        """Note a file whose copy `fd` was just made from what looked like `found`; `digest` "" is not known yet."""
        copy = os.fstat(fd)
        line = line_of("f", copy, f"sha256:{digest}" if digest else NONE, kept, at.key)
        self.carry_file(at, copy, self.seen(found, line, flag))
        if found.st_nlink > 1:
            self.links[one_of(found)] = at
        self.copied_files += 1
        self.copied_bytes += written

    def seen(self, found: os.stat_result, line: str, flag: str = "") -> Seen:
        flags = (SETTLED if self.is_settled(found) else "") + flag
        return Seen(flags or NONE, state_of(found), line)

    def is_settled(self, found: os.stat_result) -> bool:
        return found.st_ctime_ns < self.synced.get(found.st_dev, 0) - SETTLE_NS


def one_of(found: os.stat_result) -> tuple[int, ...]:
    """What the names of one file have in common: where several disks look like one, two files may have one number."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
