"""What was set aside and did not get into its quarantine: it stays beside its place, in `.slotd-aside-ID-…`.

Where the quarantine is on another file system, what is set aside must be copied there. A failing version must not be
able to keep that from coming to its end: by directories nested deeper than anybody copies, attributes that the other
file system does not take, or simply by more bytes than fit. So what cannot be copied is left where one rename has put
it, written down in the quarantine's `elsewhere`, and belongs to it from then on: it is listed, restored and removed
with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from slotd import errors
from slotd.data.layout import Layout
from slotd.data.places import spot
from slotd.host import btrfs, files

_FILE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Left:
    """One unit: the directory `path` has the holder `holder`, and that has `name`. The inodes are of the directory and
    of the unit: by them a disk that is not mounted is known, and what somebody has put in its place.
    """

    path: str
    holder: str
    name: str
    parent_inode: int
    inode: int


@dataclass(slots=True)
class _Read:
    """What was read of a file (its inode) until `end`, in bytes: more comes to its end, and nothing else changes."""

    file: int
    end: int = 0
    is_old: bool = False  # of a slotd that wrote one object, and all of it each time
    known: dict[str, Left] = field(default_factory=dict)
    kept: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        if not self.end and line.startswith(b"{"):
            self.is_old = True
            for key, each in json.loads(line).items():
                self._add(str(key), Left(**each))
        elif line.endswith(b"\n"):
            key, *each = json.loads(line)
            self._add(str(key), Left(*each))
        else:
            return  # a kill cut it short: what it was to say had not happened yet
        self.end += len(line)

    def _add(self, key: str, unit: Left) -> None:
        self.known[key] = unit
        self.kept.setdefault((unit.path, unit.holder), set()).add(unit.name)


def left(layout: Layout) -> Mapping[str, Left]:
    """The units that a quarantine has elsewhere, by where they would be below its `data/`."""
    return _read(layout).known


def kept_in(layout: Layout, parent: int, holder: str) -> Set[str]:
    """The names in a holder of the directory `parent` that stay there."""
    path = os.readlink(f"/proc/self/fd/{parent}")
    return _read(layout).kept.get((path, holder), frozenset())


def leave(layout: Layout, key: str, parent: int, holder: str, name: str, as_: str) -> None:
    """Write down that a unit stays in its holder, by the name `as_`, which it has then. On disk when it returns."""
    with holder_at(parent, holder) as fd:
        inode = btrfs.identity(fd, name)
        path = os.readlink(f"/proc/self/fd/{parent}")
        _append(layout, key, Left(path, holder, as_, os.fstat(parent).st_ino, inode))
        if as_ != name:  # killed before: it is as it was, and left again
            files.rename_new(name, as_, src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)


def _append(layout: Layout, key: str, unit: Left) -> None:
    """One line more, on disk when it returns: units may be many, and all of them are never written anew."""
    path, seen = layout.dest / _FILE, _read(layout)
    if seen.is_old:
        layout.replace(path, b"".join(_line(key, each) for key, each in seen.known.items()))
        seen = _read(layout)
    with files.opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        os.ftruncate(fd, seen.end)  # a line that a kill cut short
        os.lseek(fd, seen.end, os.SEEK_SET)
        with open(fd, "wb", closefd=False) as file:
            file.write(_line(key, unit))
        os.fsync(fd)
    if not seen.end:
        files.fsync_dir(layout.dest)


def _line(key: str, unit: Left) -> bytes:
    return json.dumps([key, *astuple(unit)]).encode() + b"\n"


def _read(layout: Layout) -> _Read:
    try:
        with open(layout.dest / _FILE, "rb") as file:
            found = os.fstat(file.fileno())
            seen = layout.memory.get(_FILE)
            if not isinstance(seen, _Read) or seen.file != found.st_ino or found.st_size < seen.end:
                seen = layout.memory[_FILE] = _Read(found.st_ino)
            if found.st_size > seen.end:
                file.seek(seen.end)
                for line in file:
                    seen.take(line)
            return seen
    except FileNotFoundError:
        return _Read(0)
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.Failed(f"cannot use {layout.dest}: its `{_FILE}` is damaged ({error}).") from error


def is_left(layout: Layout, key: str) -> bool:
    """Whether the unit is in its holder; not if it has gone back to its place."""
    each = left(layout).get(key)
    if each is None:
        return False
    with _opened(layout, each) as fd:
        return fd is not None


@contextmanager
def entry(layout: Layout, above: Sequence[str], name: str) -> Iterator[tuple[int, str]]:
    """Where a copy has `name` in the directory that `above` leads to from its `data/`: an open directory, and a name in
    it that may not be there. Raises `Failed` for a disk that is not mounted, the plain OSError.
    """
    each = left(layout).get("/".join((*above, name)))
    if each is not None:
        with _opened(layout, each) as fd:
            if fd is not None:
                yield fd, each.name
                return
    with _directory(layout, above) as fd:
        yield fd, name


@contextmanager
def _directory(layout: Layout, above: Sequence[str]) -> Iterator[int]:
    for count in range(len(above), 0, -1):
        if is_left(layout, "/".join(above[:count])):
            with entry(layout, above[: count - 1], above[count - 1]) as (fd, name):
                fds = [os.open(name, files.DIRECTORY, dir_fd=fd)]
                try:
                    for part in above[count:]:
                        fds.append(os.open(part, files.DIRECTORY, dir_fd=fds[-1]))
                    yield fds[-1]
                finally:
                    for each in fds:
                        os.close(each)
                return
    with files.opened(layout.data.joinpath(*above), files.DIRECTORY) as fd:
        yield fd


def below(layout: Layout, key: str) -> list[str]:
    """The names right below `key` that are elsewhere."""
    names = [k.removeprefix(f"{key}/") for k in left(layout) if k.startswith(f"{key}/")]
    return [name for name in names if "/" not in name and is_left(layout, f"{key}/{name}")]


def units(layout: Layout) -> Iterator[tuple[str, int, str]]:
    """All that is elsewhere: its key, the open holder and the name there."""
    for key, each in list(left(layout).items()):  # what is done with one may add another
        with _opened(layout, each) as fd:
            if fd is not None:
                yield key, fd, each.name


def require(layout: Layout) -> None:
    """Raises `Failed` for a disk that is not mounted."""
    for key in list(left(layout)):
        is_left(layout, key)


def remove(layout: Layout) -> None:
    """Remove what is elsewhere, and the holders that are empty then. Raises `Failed` for a disk that is not mounted."""
    for each in list(left(layout).values()):
        with files.explaining(f"cannot remove {each.path}/{each.holder}"):
            with _opened(layout, each) as fd:
                if fd is not None:
                    files.remove_at(fd, each.name)
            with suppress(OSError), files.opened(each.path, files.DIRECTORY) as parent:
                os.rmdir(each.holder, dir_fd=parent)


@contextmanager
def holder_at(parent: int, name: str) -> Iterator[int]:
    """The directory where a unit waits while it is copied; it must be ours, since its contents are removed after."""
    with files.opened(name, files.DIRECTORY, dir_fd=parent) as fd:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise errors.Failed(
                f"cannot set data aside: {name} beside them is not slotd's own directory.",
                hint="Move it away, then try again.",
            )
        yield fd


@contextmanager
def _opened(layout: Layout, each: Left) -> Iterator[int | None]:
    """The holder, with the unit in it; None if it is not there any more."""
    path = Path(each.path)
    with spot(path / each.holder) as at:
        if at is None or os.fstat(at.parent).st_ino != each.parent_inode:
            raise errors.Failed(
                f"cannot use {layout.dest}: a part of it lies in {path / each.holder}, and {path} is not what it was.",
                hint=f"Mount the file system of {path}.",
            )
        if at.found is None:
            yield None
            return
        with holder_at(at.parent, at.name) as fd:
            there = files.exists_at(each.name, fd)
            is_it = there and btrfs.identity(fd, each.name) == each.inode
            yield fd if is_it else None
