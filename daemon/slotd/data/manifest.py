"""The manifest of a copy: one line per entry, and what differs from it.

    type mode uid gid mtime_ns size digest-or-target attributes path

`f`, `d` or `l`; the mode in octal; `sha256:<hex>` or `-` for a file, the target for a link, `-` for a directory; a
digest over the extended attributes or `-`; the path from `data/` on. Bytes that would break a line are `\\xNN`.
A digest is `-` where nothing was copied but only renamed (quarantine): there is nothing a copy could have got wrong.
A quarantine is whatever a failed version left, and no way back fails because that cannot be described: what cannot be
read there, or lies too deep, or is too much, is kept and not listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from slotd.data import elsewhere
from slotd.data.index import NAMES_LIMIT, escape, line_of
from slotd.data.layout import Layout
from slotd.data.places import DEPTH, left_out
from slotd.host import copy, files


@dataclass(slots=True)
class Manifest:
    """The entries of a copy, walked anew. `digest_of(fd)` gives a file's digest."""

    digest_of: Callable[[int], str]
    lines: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    _counted: set[int] = field(default_factory=set)
    _forgives: bool = False
    _names: int = 0

    def walk(self, layout: Layout, numbers: Iterable[str] | None = None) -> Manifest:
        """Read the tree of `layout` (only the places `numbers`), without what is no part of it by its own patterns."""
        scope = layout.scope()
        patterns = (scope.exclude, scope.sqlite if scope.kind == "backup" else ()) if scope else ((), ())
        is_left_out = left_out(*patterns)
        self._forgives = scope is not None and scope.kind == "quarantine"
        with (
            files.explaining(f"cannot read the copy in {layout.dest}"),
            files.opened(layout.data, files.DIRECTORY) as data,
        ):
            for number in sorted(os.listdir(data) if numbers is None else numbers):
                self._entry(data, number, number, "", is_left_out, 0)
            if numbers is None and self._forgives:
                for key, holder, name in elsewhere.units(layout):
                    if not key.startswith("found/"):
                        self._entry(holder, name, key, key.partition("/")[2], is_left_out, key.count("/"))
        return self

    def _entry(
        self, dir_fd: int, name: str, key: str, rel: str, is_left_out: Callable[[str], bool], depth: int
    ) -> None:
        self._names += len(key)
        if self._forgives and self._names > NAMES_LIMIT:
            return
        try:
            self._read(dir_fd, name, key, rel, is_left_out, depth)
        except OSError:
            if not self._forgives:
                raise

    def _read(self, dir_fd: int, name: str, key: str, rel: str, is_left_out: Callable[[str], bool], depth: int) -> None:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            self._add(line_of("l", found, escape(os.readlink(name, dir_fd=dir_fd)), {}, escape(key)))
        elif stat.S_ISREG(found.st_mode):
            if found.st_ino not in self._counted:
                self._counted.add(found.st_ino)
                self.bytes += found.st_size
            fd = copy.open_regular(dir_fd, name)
            try:
                self._add(line_of("f", found, self.digest_of(fd), copy.attributes(fd), escape(key)))
            finally:
                os.close(fd)
        elif stat.S_ISDIR(found.st_mode):
            with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
                self._add(line_of("d", found, "-", copy.attributes(fd), escape(key)))
                if depth < DEPTH:  # a renamed tree may be deeper than any we would copy: kept, but not listed
                    for child in sorted(os.listdir(fd)):
                        below = f"{rel}/{child}" if rel else child
                        if not is_left_out(below):
                            self._entry(fd, child, f"{key}/{child}", below, is_left_out, depth + 1)

    def _add(self, line: str) -> None:
        self.lines[line[line.rindex(" ") + 1 :]] = line


def unknown(_fd: int) -> str:
    """For what was only renamed."""
    return "-"


def read(fd: int) -> str:
    """The digest of what the file holds now."""
    return unknown(fd) if copy.is_hollow(os.fstat(fd)) else "sha256:" + files.hash_fd(fd)


def differences(written: str, now: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the tree `now`, by the manifest as written: a sentence each."""
    expected = {line.rpartition(" ")[2]: line for line in written.splitlines()}
    for path, line in expected.items():
        if path not in now:
            yield f"data/{path} is missing"
            continue
        was, found = line.split(" "), now[path].split(" ")
        names = ("type", "mode", "owner", "group", "time", "size", "contents", "attributes")
        wrong = [
            name
            for name, one, other in zip(names, was, found, strict=False)
            if one != other and not (name == "contents" and one == "-" and was[0] == found[0] == "f")
        ]
        if wrong:
            yield f"data/{path} differs in {', '.join(wrong)}"
    for path in now.keys() - expected.keys():
        yield f"data/{path} is not in the manifest"
