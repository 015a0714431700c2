"""The index of a copy: how each entry looked in the live tree before it was read, and its line of the manifest.

    FLAGS INODE:SIZE:MTIME:CTIME LINE

The first line says in which boot of the host the pass ended and how many bytes the copy has. Whatever a pass finds
unchanged keeps its line as it is: neither the copy nor the live file is opened, read or hashed for it. So a seal has
nothing to compute, and the time an app is stopped follows what changed.

A manifest line is: type mode uid gid mtime_ns size digest-or-target attributes path (see `manifest`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from slotd import errors
from slotd.host import files

HEAD = "slotd-index-2"
_HEAD_BYTES = 256
RECENT_NAMES = 32 << 20  # bytes of the paths of an index that is kept between the passes
LIST_LIMIT = 2 << 30  # the index and the manifest, about 200 bytes an entry
# Of all paths of a copy together: what is known of each is in memory about ten times. A few million files of ordinary
# names; of the longest names, deeply nested, not many thousand, which cost whoever makes them next to nothing.
NAMES_LIMIT = min(512 << 20, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 32)
SETTLED, DERIVED, NONE = "s", "d", "-"
_PLAIN = re.compile(r"[!-\[\]-~]*").fullmatch


class Seen(NamedTuple):
    """One entry. `state` is of the live tree, `line` of the copy.

    Flags: SETTLED, its last change was well before the sync that came before the reading, so that any later change
    shows in its times (a write through a mapping shows only at the first fault after a writeback). DERIVED: the copy is
    SQLite's, not the file's own bytes.
    """

    flags: str
    state: str
    line: str

    @property
    def settled(self) -> bool:
        return SETTLED in self.flags

    @property
    def derived(self) -> bool:
        return DERIVED in self.flags

    @property
    def digest(self) -> str:
        """Hex, or "" for what was not read."""
        return self.line.split(" ", 7)[6].removeprefix("sha256:").replace("-", "")

    def is_still(self, found: os.stat_result) -> bool:
        """Whether the entry is surely the same, contents, owner, mode, attributes and all."""
        return self.state == state_of(found) and SETTLED in self.flags


@dataclass(frozen=True, slots=True)
class Index:
    """The entries of a finished pass by their manifest path. `boot` is "" where there was no pass."""

    boot: str = ""
    bytes: int = 0
    entries: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recent:
    """The index that a pass wrote, for the next one in this process: with the app stopped, reading it takes as long as
    looking at the data.
    """

    index: Index
    looks: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, total: int, entries: Mapping[str, Seen]) -> Recent | None:
        """None where it cannot be told from another: the file is read then."""
        with suppress(OSError):
            return cls(Index(boot_id(), total, entries), _looks(path))
        return None

    def still(self, path: Path) -> Index | None:
        """The index, if the file is the one that was written."""
        with suppress(OSError):
            if _looks(path) == self.looks:
                return self.index
        return None


def _looks(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def state_of(found: os.stat_result) -> str:
    """What changes whenever the contents, or anything else about an entry, do."""
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def line_of(kind: str, found: os.stat_result, what: str, kept: Mapping[str, bytes], key: str) -> str:
    """The manifest line of an entry whose copy looks like `found`; `kept` are its extended attributes."""
    size = found.st_size if kind == "f" else 0
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    attributes = attributes_digest(kept)
    return f"{kind} {mode} {found.st_uid} {found.st_gid} {found.st_mtime_ns} {size} {what} {attributes} {key}"


def attributes_digest(kept: Mapping[str, bytes]) -> str:
    if not kept:
        return "-"
    rows = sorted((name, value) for name, value in kept.items() if name != "security.selinux")
    return "sha256:" + hashlib.sha256(repr(rows).encode()).hexdigest() if rows else "-"


def escape(path: str) -> str:
    r"""A path or a link's target as a word of a line: other bytes than printable ASCII are `\xNN`."""
    if _PLAIN(path):
        return path
    return "".join(
        chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in os.fsencode(path)
    )


def unescape(path: str) -> str:
    """The path that `escape` made a word of."""
    raw = path.encode("ascii")
    parts = raw.split(b"\\x")
    return os.fsdecode(parts[0] + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in parts[1:]))


def read_index(path: Path) -> Index:
    """The index at `path`; an empty one if there is none, or none of this format: it is only a help."""
    try:
        text = files.read_bounded(path, LIST_LIMIT).decode("ascii", "replace")
    except (FileNotFoundError, errors.Failed):
        return Index()
    head, _, rest = text.partition("\n")
    try:
        boot, total = _head_of(head)
        entries = {}
        for row in rest.splitlines():
            seen = Seen(*row.split(" ", 2))
            entries[seen.line[seen.line.rindex(" ") + 1 :]] = seen
        return Index(boot, total, entries)
    except (ValueError, TypeError):
        return Index()


def read_head(path: Path) -> Index:
    """The same without its entries, at once however many these are."""
    try:
        with open(path, "rb") as file:
            boot, total = _head_of(file.readline(_HEAD_BYTES).decode("ascii", "replace").removesuffix("\n"))
        return Index(boot, total)
    except (FileNotFoundError, ValueError):
        return Index()


def _head_of(line: str) -> tuple[str, int]:
    """Boot and bytes. Raises ValueError for a line of another format."""
    name, boot, total = line.split(" ")
    if name != HEAD:
        raise ValueError(f"{name!r} is not {HEAD!r}")
    return boot, int(total)


def write_lists(index: Path, manifest: Path, total: int, entries: Iterable[Seen]) -> None:
    """Write both lists, not yet on disk. Raises the plain OSError, and `Failed` for an entry that was never read."""
    rows = [f"{seen.flags} {seen.state} {seen.line}\n" for seen in entries]
    lines = [row.split(" ", 2)[2] for row in rows]
    if "\n" in lines:
        raise errors.Failed(f"cannot write {index}: an entry of the copy has no line.", hint="Try again.")
    files.write_unsynced(index, f"{HEAD} {boot_id()} {total}\n{''.join(rows)}".encode("ascii"))
    files.write_unsynced(manifest, "".join(lines).encode("ascii"))


def boot_id() -> str:
    """What tells one boot of the host from the next.

    The kernel's id is hidden from units with `ProcSubset=pid`; they have slotd's mark in a directory that does not
    outlive a boot. Where neither is to be seen, no pass is taken for one of this boot.
    """
    marks = ("/proc/sys/kernel/random/boot_id", f"{os.environ.get('RUNTIME_DIRECTORY', '/run/slotd')}/boot")
    for mark in marks:
        with suppress(OSError):
            if found := Path(mark).read_text().strip():
                return found
    return uuid.uuid4().hex
