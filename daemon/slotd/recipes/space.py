"""Room on the disk: counted before anything is stopped, and kept for the way back while a version is on trial.

A rollback must work on a disk that the new version has filled to its last byte. So what it will need - the data once
more, where blocks cannot be shared, and a little for the state - is taken as a file before the app is stopped, and
given back when it is needed. The state has room of its own, always: slotd must start on a full disk, and count boots.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from slotd.data import DataSpec
from slotd.data.places import spot
from slotd.errors import NoSpace, SlotdError
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.recipes.context import Work
from slotd.recipes.preserve import newest_sealed, wants_backup

T = TypeVar("T")
RESERVE_BYTES = 32 * 1024**2  # of the disk that nothing of ours may take from the running apps
UNPACKED_FACTOR = 4  # how much larger a release is expected to be unpacked; `slots.max_size` bounds it for sure
OWN_BYTES = 4 * 1024**2  # what the state, records and directories of a rollback take
STATE_BYTES = 2 * 1024**2  # kept for the state itself
PIECE_BYTES = 512 * 1024  # so much of what is kept is given to the state at once
NEEDED_BYTES = 256 * 1024  # to open the database, and to write down what a boot has to
SHARED_FRACTION = 64  # of data whose blocks are shared, this part is new: extents, directories
_FICLONE = 0x40049409
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _mib(count: int) -> str:
    return f"{-(-count >> 20)} MiB"


def _device(path: Path) -> tuple[int, Path]:
    """The file system of a path, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.stat().st_dev, path


async def require(work: Work) -> None:
    """Counted for each file system. Raises `NoSpace` with the numbers."""
    base = await newest_sealed(work)
    await off_loop(_require, work, base, await off_loop(wants_backup, work))


def _require(work: Work, base: Path | None, backup: bool) -> None:
    state = work.host.paths.state
    wanted: list[tuple[str, Path, int]] = [
        ("its files unpacked", work.engine.root, UNPACKED_FACTOR * sum(a.size for a in work.plan.artifacts))
    ]
    if backup:
        wanted.append(("a backup of its data", state, work.data.needs(work.data_spec, base)))
    wanted += [("the way back", path, count) for path, count in _for_the_way_back(work, backup).items()]
    each: dict[int, list[tuple[str, Path, int]]] = defaultdict(list)
    for what, path, count in wanted:
        each[_device(path)[0]].append((what, path, count))
    for parts in each.values():
        place = parts[0][1]
        free, total = files.free_bytes(place), sum(count for _, _, count in parts)
        if free < total + RESERVE_BYTES:
            raise _too_little(work, place, [(what, count) for what, _, count in parts], free)


def _too_little(work: Work, place: Path, parts: list[tuple[str, int]], free: int) -> NoSpace:
    needed = ", ".join(f"{_mib(count)} for {what}" for what, count in parts if count)
    return NoSpace(
        f"cannot update {work.app.name} to {work.plan.version}: on the file system of {place} that may take {needed},"
        f" {_mib(RESERVE_BYTES)} must stay free, and {_mib(free)} are.",
        hint="Free some space there, then update again; nothing was changed.",
    )


def _for_the_way_back(work: Work, restore: bool) -> dict[Path, int]:
    """The file to keep on each file system, and its bytes."""
    state = work.host.paths.state
    own = _file(state, work.app.name)
    sizes, names = {own: OWN_BYTES}, {_device(state)[0]: own}
    for path in map(Path, map(os.path.realpath, work.app.data.paths if restore else ())):
        spec = DataSpec(paths=(path,), exclude=work.data_spec.exclude, sqlite=work.data_spec.sqlite)
        count = work.data.needs(spec, None)
        if work.app.backup.store == "restic":
            sizes[own] += count  # a snapshot is brought back beside first
        if shares_blocks(state, path.parent):
            count //= SHARED_FRACTION
        if work.app.data.dump and work.plan.stopped_at:
            count += _written_since(path, work.plan.stopped_at - 1.0)  # by the dump: the way back begins with another
        name = names.setdefault(_device(path.parent)[0], path.parent / f".slotd-reserve-{work.app.name}")
        sizes[name] = sizes.get(name, 0) + count
    return sizes


def _written_since(path: Path, since: float) -> int:
    """Bytes in the files below that were changed since then, in seconds since the epoch."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(folder, name))
                total += found.st_size if stat.S_ISREG(found.st_mode) and found.st_mtime >= since else 0
    return total


def _file(state: Path, app: str) -> Path:
    return state / "reserve" / app


def shares_blocks(state: Path, other: Path) -> bool:
    """Whether a file of the one can be had in the other without new blocks. Tried, with one block."""
    if _device(state)[0] != _device(other)[0]:
        return False
    try:
        one, two = (os.open(_device(state)[1], os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600) for _ in range(2))
    except OSError:
        return False
    try:
        os.write(one, bytes(4096))
        fcntl.ioctl(two, _FICLONE, one)
    except OSError:
        return False
    finally:
        os.close(one)
        os.close(two)
    return True


async def keep(work: Work, *, restore: bool) -> None:
    """Take the room that the way back needs, before anything is stopped. Raises `NoSpace`."""
    await off_loop(_keep, work, restore)


def _keep(work: Work, restore: bool) -> None:
    own = _file(work.host.paths.state, work.app.name)
    for path, count in _for_the_way_back(work, restore).items():
        with files.explaining(f"cannot keep room in {path.parent}"):
            if path == own:
                path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                take(path, count)
            except OSError as error:
                if error.errno not in (*_FULL, errno.EFBIG):
                    raise
                raise _too_little(work, path.parent, [("the way back", count)], files.free_bytes(path.parent)) from None


def take(path: Path, count: int) -> None:
    """Make a file of so many bytes, or none. Reached as the data are: what is on the way there may be the app's.

    Raises the plain OSError, `Failed` for a link on the way.
    """
    with spot(path) as at:
        if at is None:
            return
        files.remove_at(at.parent, at.name)
        try:
            with files.opened(at.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=at.parent) as made:
                os.posix_fallocate(made, 0, count)
                os.fsync(made)
        except OSError:
            files.remove_at(at.parent, at.name)
            raise


async def give_back(work: Work) -> None:
    """The room is free again, at once. Never raises: what is kept must not keep anyone."""
    state, app = work.host.paths.state, work.app
    places = [
        _file(state, app.name),
        *(Path(os.path.realpath(p)).parent / f".slotd-reserve-{app.name}" for p in app.data.paths),
    ]
    await off_loop(free, places)


def free(places: list[Path]) -> None:
    """Remove what `take` has made there. Never raises."""
    for path in places:
        with suppress(OSError, SlotdError), spot(path) as at:
            if at is not None and at.found is not None and stat.S_ISREG(at.found.st_mode):
                os.unlink(at.name, dir_fd=at.parent)
                os.fsync(at.parent)  # what the journal has not freed yet cannot be written


def has_room_for_state(state: Path) -> bool:
    """Whether the disk takes so much more. Tried: free blocks may be somebody's alone."""
    try:
        descriptor = os.open(state, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error.errno not in _FULL
    try:
        os.posix_fallocate(descriptor, 0, NEEDED_BYTES)
    except OSError as error:
        return error.errno not in _FULL  # what else is wrong here is no matter of room
    finally:
        os.close(descriptor)
    return True


def keep_for_state(state: Path) -> None:
    """Keep room for the state itself, where there is plenty. Never raises."""
    with suppress(OSError, SlotdError):
        if not _of_state(state).exists() and files.free_bytes(state) > RESERVE_BYTES:
            take(_of_state(state), STATE_BYTES)


def with_room(state: Path, act: Callable[[], T]) -> T:
    """Do what takes a block or two, on a full disk with what is kept for the state. Raises what `act` does."""
    while True:
        try:
            return act()
        except NoSpace:
            if not make_room_for_state(state):
                raise


def make_room_for_state(state: Path) -> bool:
    """Give the state a piece of what is kept, of its own room first; False once nothing is left. Never raises.

    What is kept for the way back of an app comes after that: a boot that is not counted leads to no way back at all.
    """
    return any(_shrink(path) for path in (_of_state(state), *sorted((state / "reserve").glob("*"))))


def _of_state(state: Path) -> Path:
    return state / "state.room"


def _shrink(path: Path) -> bool:
    with suppress(OSError, SlotdError), spot(path) as at:
        if at is None or at.found is None or not stat.S_ISREG(at.found.st_mode):
            return False
        if at.found.st_size <= PIECE_BYTES:
            os.unlink(at.name, dir_fd=at.parent)
            os.fsync(at.parent)
            return True
        with files.opened(at.name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=at.parent) as file:
            os.ftruncate(file, at.found.st_size - PIECE_BYTES)
            os.fsync(file)
        return True
    return False
