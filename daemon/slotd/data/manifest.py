"""The manifest of a copy: one line per entry, and what differs from it.

    type mode uid gid mtime_ns size digest-or-target attributes path

`f`, `d` or `l`; the mode in octal; `sha256:<hex>` or `-` for a file, the target for a link, `-` for a directory; a
digest over the extended attributes or `-`; the path from `data/` on. Bytes that would break a line are `\\xNN`.
A digest is `-` where nothing was copied but only renamed (quarantine): there is nothing a copy could have got wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from slotd.data.layout import Layout, Seen
from slotd.data.places import DEPTH, matcher
from slotd.host import copy, files

_PLAIN = re.compile(r"[!-\[\]-~]*")  # nothing to escape, as in most paths: this runs with the app down


@dataclass(slots=True)
class Manifest:
    """The entries of a copy, walked anew. `digest_of(key, fd, stat)` gives a file's digest."""

    digest_of: Callable[[str, int, os.stat_result], str]
    lines: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    _counted: set[int] = field(default_factory=set)

    def walk(self, layout: Layout) -> Manifest:
        """Read the tree of `layout`, without what its own patterns exclude."""
        scope = layout.scope()
        left_out = matcher(scope.exclude if scope else ())
        with (
            files.explaining(f"cannot read the copy in {layout.dest}"),
            files.opened(layout.data, files.DIRECTORY) as data,
        ):
            for number in sorted(os.listdir(data)):
                self._entry(data, number, number, "", left_out, 0)
        return self

    def _entry(self, dir_fd: int, name: str, key: str, rel: str, left_out: Callable[[str], bool], depth: int) -> None:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            self._line("l", found, _escape(os.readlink(name, dir_fd=dir_fd)), "-", key)
        elif stat.S_ISREG(found.st_mode):
            if found.st_ino not in self._counted:
                self._counted.add(found.st_ino)
                self.bytes += found.st_size
            fd = copy.open_regular(dir_fd, name)
            try:
                self._line("f", found, self.digest_of(key, fd, found), _attributes(fd), key)
            finally:
                os.close(fd)
        elif stat.S_ISDIR(found.st_mode):
            with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
                self._line("d", found, "-", _attributes(fd), key)
                if depth < DEPTH:  # a renamed tree may be deeper than any we would copy: kept, but not listed
                    for child in sorted(os.listdir(fd)):
                        below = f"{rel}/{child}" if rel else child
                        if not left_out(below):
                            self._entry(fd, child, f"{key}/{child}", below, left_out, depth + 1)

    def _line(self, kind: str, found: os.stat_result, what: str, attributes: str, key: str) -> None:
        size = found.st_size if kind == "f" else 0
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        path = _escape(key)
        self.lines[path] = (
            f"{kind} {mode} {found.st_uid} {found.st_gid} {found.st_mtime_ns} {size} {what} {attributes} {path}"
        )


def indexed(index: Mapping[str, Seen]) -> Callable[[str, int, os.stat_result], str]:
    """Digests from the passes, which took them while copying; read now only where they did not."""

    def digest_of(key: str, fd: int, _found: os.stat_result) -> str:
        seen = index.get(key)
        return "sha256:" + (seen.digest if seen else files.hash_fd(fd))

    return digest_of


def unknown(_key: str, _fd: int, _found: os.stat_result) -> str:
    """For what was only renamed."""
    return "-"


def read(_key: str, fd: int, _found: os.stat_result) -> str:
    """The digest of what the file holds now."""
    return "sha256:" + files.hash_fd(fd)


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


def _attributes(fd: int) -> str:
    found = copy.attributes(fd)
    kept = sorted((name, value) for name, value in found.items() if name != "security.selinux")
    return "sha256:" + hashlib.sha256(repr(kept).encode()).hexdigest() if kept else "-"


def _escape(path: str) -> str:
    if _PLAIN.fullmatch(path):
        return path
    return "".join(
        chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in os.fsencode(path)
    )
