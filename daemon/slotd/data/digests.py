"""Digests that were not taken while the app was stopped: of large files that the cold pass brought up to date.

A seal does not wait for them, as it puts the files themselves on disk; they are there to tell later whether those
rotted. So they are taken when the app runs again, at the latest before the next backup, and kept in `digests` beside
the manifest, which stays as it was sealed: one line each, `sha256:<hex> path`.
"""

from __future__ import annotations

import os

from slotd.data import snapshots
from slotd.data.index import LIST_LIMIT, unescape
from slotd.data.layout import Layout
from slotd.host import copy, files

_KIND, _DIGEST, _PATH = 0, 6, 8  # columns of a manifest line


def complete(layout: Layout) -> None:
    """Take the digests that a sealed backup still lacks. Nothing for any other copy. Raises the plain OSError."""
    scope = layout.scope()
    if scope is None or scope.kind != "backup" or layout.sealed() is None:
        return
    snapshots.complete(layout)
    if layout.digests.exists():
        return
    lines = []
    with files.opened(layout.data, files.DIRECTORY) as data:
        for line in _manifest(layout):
            words = line.split(" ")
            is_lacking = words[_KIND] == "f" and words[_DIGEST] == "-"
            if is_lacking and (digest := _hashed(data, unescape(words[_PATH]))):
                lines.append(f"sha256:{digest} {words[_PATH]}\n")
    layout.replace(layout.digests, "".join(lines).encode("ascii"))


def completed(layout: Layout) -> str:
    """The manifest with what was taken later: digests, and the lines of places that are snapshots."""
    late = known(layout)
    lines = [*_manifest(layout), *snapshots.walked(layout)]
    if not late:
        return "\n".join(lines)
    return "\n".join(with_digest(line, late) for line in lines)


def known(layout: Layout) -> dict[str, str]:
    """The digests that were taken later, by path; empty if there are none or the list is damaged."""
    try:
        rows = files.read_bounded(layout.digests, LIST_LIMIT).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return {}
    return {path: digest for digest, _, path in (row.partition(" ") for row in rows)}


def with_digest(line: str, late: dict[str, str]) -> str:
    """A manifest line, its digest filled in if it lacked one that is known."""
    words = line.split(" ")
    if words[_KIND] == "f" and words[_DIGEST] == "-" and words[_PATH] in late:
        words[_DIGEST] = late[words[_PATH]]
        return " ".join(words)
    return line


def _manifest(layout: Layout) -> list[str]:
    return files.read_bounded(layout.manifest, LIST_LIMIT).decode("ascii", "replace").splitlines()


def _hashed(data: int, path: str) -> str:
    *above, name = path.split("/")
    fds = [data]
    try:
        for part in above:
            fds.append(os.open(part, files.DIRECTORY, dir_fd=fds[-1]))
        fds.append(copy.open_regular(fds[-1], name))
        return "" if copy.is_hollow(os.fstat(fds[-1])) else files.hash_fd(fds[-1])
    finally:
        for fd in fds[1:]:
            os.close(fd)
