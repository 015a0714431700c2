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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slotd import errors
from slotd.data.layout import Layout, read_json
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


def left(layout: Layout) -> Mapping[str, Left]:
    """The units that a quarantine has elsewhere, by where they would be below its `data/`."""
    try:
        raw = read_json(layout.dest / _FILE)
        return {str(key): Left(**each) for key, each in raw.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise errors.Failed(f"cannot use {layout.dest}: its `{_FILE}` is damaged ({error}).") from error


def leave(layout: Layout, key: str, parent: int, holder: str, name: str, as_: str) -> None:
    """Write down that a unit stays in its holder, by the name `as_`, which it has then. On disk when it returns."""
    with holder_at(parent, holder) as fd:
        inode = btrfs.identity(fd, name)
        path = os.readlink(f"/proc/self/fd/{parent}")
        known = {**left(layout), key: Left(path, holder, as_, os.fstat(parent).st_ino, inode)}
        layout.replace(layout.dest / _FILE, json.dumps({k: asdict(each) for k, each in known.items()}).encode())
        if as_ != name:  # killed before: it is as it was, and left again
            files.rename_new(name, as_, src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)


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
    for key, each in left(layout).items():
        with _opened(layout, each) as fd:
            if fd is not None:
                yield key, fd, each.name


def require(layout: Layout) -> None:
    """Raises `Failed` for a disk that is not mounted."""
    for key in left(layout):
        is_left(layout, key)


def remove(layout: Layout) -> None:
    """Remove what is elsewhere, and the holders that are empty then. Raises `Failed` for a disk that is not mounted."""
    for each in left(layout).values():
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
