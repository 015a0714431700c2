"""What is in a sealed copy, and how the live data differ from it by now: for people who choose what to bring back.

Nothing is read but the manifest and how the live files look (type, mode, owner, size, time of the last change): a file
whose contents were changed without a trace in those is not noticed here, but by `verify`, which reads.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from slotd import errors
from slotd.data import Change, DataSpec, Entry
from slotd.data.digests import completed
from slotd.data.entries import VANISHED
from slotd.data.layout import Layout, Scope
from slotd.data.places import DEPTH, is_holder, left_out, places, spot
from slotd.host import files

_KINDS = {"f": "file", "d": "directory", "l": "link"}
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class Look(NamedTuple):
    """What both sides know of an entry. A directory's time and size change with what is in it, and say nothing."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int


Written = Mapping[str, tuple[Look, str]]  # each live path, how it was, and its digest (of a link: where it led)
Reader = Callable[[Layout], Written]


def spelt(path: str) -> str:
    """A path as people and the bus can have it: bytes that are no text, and what does not print, as `\\xNN`."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in text)


def written(layout: Layout) -> Written:
    """What the manifest of a sealed copy says. Raises `Failed` for one that is not whole."""
    scope = layout.scope() if layout.sealed() else None
    if scope is None:
        raise errors.Failed(f"cannot read the backup in {layout.dest}: it is not whole.")
    found = {}
    for line in completed(layout).encode("ascii").splitlines():
        kind, mode, uid, gid, mtime_ns, size, what, _attributes, key = line.split(b" ")
        number, _, rel = _ESCAPED.sub(_byte, key).partition(b"/")
        top = scope.places[int(number)].path
        path = f"{top}/{os.fsdecode(rel)}" if rel else top
        digest = "" if what == b"-" else os.fsdecode(_ESCAPED.sub(_byte, what))
        look = look_of(_KINDS[kind.decode()], int(mode, 8), int(uid), int(gid), int(mtime_ns), int(size))
        found[path] = look, digest
    return found


def _byte(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 16)])


def contents(layout: Layout, read: Reader = written) -> list[Entry]:
    """Every entry of a sealed copy, in the order of its path, as `read` tells them."""
    return [_entry(path, look, digest) for path, (look, digest) in sorted(read(layout).items())]


def changes(layout: Layout, spec: DataSpec, read: Reader = written) -> list[Change]:
    """What would be undone by restoring the copy, in the order of the paths."""
    scope = layout.scope()
    if scope is None:
        raise errors.Failed(f"cannot compare with {layout.dest}: its tree.json is missing.")
    then = read(layout)
    now = _live(spec, scope)
    found = []
    for path in sorted(then.keys() | now.keys()):
        was, look = then.get(path), now.get(path)
        if was is None and look is not None:
            found.append(Change("added", _entry(path, look)))
        elif look is None and was is not None:
            found.append(Change("removed", _entry(path, was[0])))
        elif was is not None and look is not None and was[0] != look:
            found.append(Change("changed", _entry(path, look)))
    return found


def _entry(path: str, look: Look, digest: str = "") -> Entry:
    return Entry(path, look.kind, look.mode, look.size, look.mtime_ns / 1e9, digest)


def look_of(kind: str, mode: int, uid: int, gid: int, mtime_ns: int, size: int) -> Look:
    if kind == "directory":
        mtime_ns = size = 0
    return Look(kind, mode, uid, gid, mtime_ns, 0 if kind == "link" else size)


def _live(spec: DataSpec, scope: Scope) -> dict[str, Look]:
    """How the live data look, by path, without what a restore would leave alone."""
    is_excluded = left_out((*spec.exclude, *scope.exclude), spec.sqlite)
    found: dict[str, Look] = {}
    for place in places(spec):
        if place.volatile:
            continue
        with files.explaining(f"cannot look at {place.path}"), spot(place.path) as at:
            if at is not None and at.found is not None:
                _walk(at.parent, at.name, str(place.path), "", is_excluded, found, 0)
    return found


def _walk(
    dir_fd: int,
    name: str,
    path: str,
    rel: str,
    is_excluded: Callable[[str], bool],
    found: dict[str, Look],
    depth: int,
) -> None:
    try:
        seen = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}.get(stat.S_IFMT(seen.st_mode))
        if kind is None:
            return  # sockets and the like are never saved
        mode = stat.S_IMODE(seen.st_mode)
        found[path] = look_of(kind, mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, seen.st_size)
        if kind == "directory" and depth < DEPTH:
            with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
                for child in os.listdir(fd):
                    below = f"{rel}/{child}" if rel else child
                    if not is_excluded(below) and not is_holder(child):
                        _walk(fd, child, f"{path}/{child}", below, is_excluded, found, depth + 1)
    except OSError as error:
        if error.errno not in VANISHED:
            raise


def parts(layout: Layout, spec: DataSpec, wanted: Sequence[str], read: Reader = written) -> tuple[Path, ...]:
    """What to restore for the paths that a person named, absolute or relative to a data path; none named: all.

    Gives nothing for all of an ordinary copy, and the places of one that covers only parts (what a restore of parts set
    aside). Raises `NoSuchBackup` if the copy holds nothing of that name, or it is not data of the app (any more).
    """
    scope = layout.scope()
    if not wanted:
        covered = [Path(place.path) for place in scope.places] if scope else []
        return () if any(path in spec.paths for path in covered) else tuple(covered)
    held = read(layout)
    found: set[Path] = set()
    for name in wanted:
        named = os.path.normpath(name) if name.strip("/") else name
        near = [named] if named.startswith("/") else [f"{path}/{named}" for path in spec.paths]
        near += [os.fsdecode(_ESCAPED.sub(_byte, os.fsencode(path))) for path in near]
        holding = {Path(path) for path in near if path in held}
        if not holding:
            raise errors.NoSuchBackup(
                f"cannot restore {files.shown(name)}: the backup holds nothing of that name.",
                hint=f"`slotctl backups APP {layout.dest.name}` lists what it holds.",
            )
        found |= holding
    for path in found:
        if path not in spec.paths and not any(top in path.parents for top in spec.paths):
            raise errors.NoSuchBackup(
                f"cannot restore {files.shown(path)}: it does not belong to the app's data any more.",
                hint="See `paths` under [data].",
            )
    return tuple(sorted(path for path in found if not any(other in path.parents for other in found)))
