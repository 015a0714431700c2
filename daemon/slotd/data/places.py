"""Where an app's data lie: the places a definition names, reached without being led astray, and its patterns.

**Places.** Each of `DataSpec.paths` is a place: a directory, a file, or nothing yet. A path that is itself an SQLite
file, by its name or by `DataSpec.sqlite`, brings the files that SQLite keeps beside it.

**Patterns** (`exclude`, `sqlite`) are relative to each place. `*`, `?`, `[…]` match within one name, `**/` any number
of directories. A pattern matches the whole relative path, so `temp` and `*.tmp` mean the top of the place, `a/b` that
one, and `**/*.tmp` any depth. What is excluded is excluded with all below it.

**Links.** On the way to a place a link is followed only when no one but root can change it (`/var/lib/NAME` of a
`DynamicUser=` unit is such a link); the app's user could point any other at `/etc` and have root copy it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slotd import errors
from slotd.data import SHARED_MEMORY, SIDECARS, DataSpec
from slotd.host import files

USUAL = (".db", ".db3", ".sqlite", ".sqlite3", ".s3db")  # names of databases, whether a definition says so or not
LINKS_FOLLOWED = 40
NAME_BYTES = 255
DEPTH = 150  # nested directories; each level of a walk holds up to three descriptors


@dataclass(frozen=True, slots=True)
class Place:
    """One of the numbered subtrees of a copy. `volatile`: an SQLite -shm, set aside but never saved."""

    number: int
    path: Path
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Spot:
    """A place as found: the open directory that holds it, its name there, its real path, and what it is (or None)."""

    parent: int
    name: str
    real: Path
    found: os.stat_result | None


def places(spec: DataSpec) -> tuple[Place, ...]:
    """The places of `spec` (its parts, if it has some), in the order of their paths, so that what holds another place
    comes before it.
    """
    is_sqlite = matcher(spec.sqlite)
    wanted: dict[Path, bool] = {}
    for path in spec.parts or spec.paths:
        wanted.setdefault(path, False)
        if path.suffix.lower() in USUAL or is_sqlite(within(spec, path) or path.name):
            for suffix in (*SIDECARS, SHARED_MEMORY):
                wanted.setdefault(path.with_name(path.name + suffix), suffix == SHARED_MEMORY)
    return tuple(Place(number, path, volatile) for number, (path, volatile) in enumerate(sorted(wanted.items())))


def within(spec: DataSpec, path: Path) -> str:
    """The relative path of `path` in the data path that holds it; "" for one that is a data path itself."""
    holders = [each for each in spec.paths if each in path.parents]
    return "" if path in spec.paths or not holders else str(path.relative_to(max(holders)))


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A predicate on relative paths: whether one of the patterns matches the whole of it."""
    if not patterns:
        return lambda _rel: False
    compiled = re.compile("|".join(f"(?:{_translate(pattern.strip('/'))})" for pattern in patterns), re.DOTALL)
    return lambda rel: compiled.fullmatch(rel) is not None


def left_out(exclude: Sequence[str], sqlite: Sequence[str]) -> Callable[[str], bool]:
    """What is no part of a backup: what is excluded, and the shared memory of databases, which SQLite makes anew."""
    return matcher((*exclude, *(f"{pattern}{SHARED_MEMORY}" for pattern in sqlite)))


def is_below(path: str, matches: Callable[[str], bool]) -> bool:
    """Whether a pattern takes the relative path, or a directory above it."""
    parts = path.split("/")
    return any(matches("/".join(parts[: count + 1])) for count in range(len(parts)))


def _translate(pattern: str) -> str:
    out = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out, at = out + "(?:[^/]+/)*", at + 3
            continue
        char = pattern[at]
        close = pattern.find("]", at + 2) if char == "[" else -1
        if close > 0:
            body = pattern[at + 1 : close].replace("\\", "\\\\").replace("[", "\\[")
            out, at = out + "(?!/)[" + ("^" + body[1:] if body[0] in "!^" else body) + "]", close + 1
            continue
        out += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return out


def beside(name: str, purpose: str) -> str:
    """The hidden name next to `name` (or, with "", in a directory) that slotd works under."""
    full = f".{name}.slotd-{purpose}" if name else f".slotd-{purpose}"
    if len(os.fsencode(full)) <= NAME_BYTES:
        return full
    return f".slotd-{purpose[:60]}-{hashlib.sha256(os.fsencode(full)).hexdigest()[:32]}"


def is_holder(name: str) -> bool:
    """Whether this is where slotd sets data aside, beside them or in a mount point: no data of the app."""
    return name.startswith((".slotd-aside-", ".slotd-found-"))


@contextmanager
def spot(path: Path, *, create: tuple[int, int, int] | None = None) -> Iterator[Spot | None]:
    """The place `path`; None when the directory that should hold it is not there.

    With `create` (mode, uid, gid of that directory) it is made. Raises Failed for a link on the way that others may
    change, OSError as the system says.
    """
    parent, name = _reach(path, create)
    if parent < 0:
        yield None
        return
    try:
        real = Path(os.readlink(f"/proc/self/fd/{parent}")) / name
        yield Spot(parent, name, real, stat_at(name, parent))
    finally:
        os.close(parent)


def real_of(path: Path) -> Path:
    """Where `path` lies, by the links on the way that only root (or we) can change; where it cannot be reached, `path`:
    whoever touches it says why.
    """
    try:
        parent, name = _reach(path, None)
    except (OSError, errors.Failed):
        return path
    if parent < 0:
        return Path(name)
    try:
        return Path(os.readlink(f"/proc/self/fd/{parent}")) / name
    finally:
        os.close(parent)


def stat_at(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def refuse_link(path: Path, at: Spot) -> None:
    """Raise Failed if the place is a link that the app could change: a copy of it would hold no data."""
    if at.found and stat.S_ISLNK(at.found.st_mode):
        raise errors.Failed(
            f"cannot save {path}: it is a symbolic link that its owner can change.",
            hint="Name the directory that it leads to in [data] paths.",
        )


def _reach(path: Path, create: tuple[int, int, int] | None) -> tuple[int, str]:
    """The open parent directory and the last name; when the parent is missing, -1 and the path that it would have."""
    todo = [part for part in str(path).split("/") if part not in ("", ".")]
    if not path.is_absolute() or not todo:
        raise errors.Failed(f"cannot use {path} as a data path: it is not an absolute path below /.")
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    followed = 0
    try:
        while True:
            name = todo.pop(0)
            found = stat_at(name, fd)
            if found and stat.S_ISLNK(found.st_mode):
                if _is_ours(fd, found):
                    target = os.readlink(name, dir_fd=fd)
                    followed += 1
                    if followed > LINKS_FOLLOWED:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                    if target.startswith("/"):
                        fd = _swap(fd, os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    todo = [part for part in target.split("/") if part not in ("", ".")] + todo
                    continue
                if todo:
                    raise errors.Failed(
                        f"cannot reach {path}: {name} on the way is a symbolic link that others than root can change.",
                        hint="Name the real directory in [data] paths.",
                    )
            if not todo:
                parent = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                return parent, name
            if found is None:
                if create is None:
                    missing = "/".join((os.readlink(f"/proc/self/fd/{fd}"), name, *todo))
                    return -1, os.path.normpath(missing)
                _make_directory(fd, name, create if len(todo) == 1 else (0o755, os.geteuid(), os.getegid()))
            fd = _swap(fd, os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd))
    finally:
        os.close(fd)


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _is_ours(dir_fd: int, link: os.stat_result) -> bool:
    """Whether only root (or we) can change this link: it and its directory are ours, and no one else writes there."""
    holder = os.fstat(dir_fd)
    trusted = (0, os.geteuid())
    closed = not holder.st_mode & 0o022 or holder.st_mode & stat.S_ISVTX
    return link.st_uid in trusted and holder.st_uid in trusted and bool(closed)


def _make_directory(dir_fd: int, name: str, owner: tuple[int, int, int]) -> None:
    mode, uid, gid = owner
    os.mkdir(name, 0o700, dir_fd=dir_fd)
    with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
        with suppress(PermissionError):
            os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
