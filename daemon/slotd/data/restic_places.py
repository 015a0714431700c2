"""What restic is shown of an app's data: each place held open while it is read, patterns as restic's, and change times
made new.

restic takes paths, not descriptors. So each place is reached as every store reaches it, without a link that the app can
change, and held by a descriptor; what restic's own unit finds at the path must be that very entry (`host.restic`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from slotd import errors
from slotd.data import SHARED_MEMORY, DataSpec
from slotd.data.mounts import require_mounted
from slotd.data.places import DEPTH, matcher, places, refuse_link, spot
from slotd.host import files
from slotd.host.restic import Shown

_SPECIAL: Final = "\\*?[]"


@contextmanager
def held(spec: DataSpec) -> Iterator[Mapping[int, Shown]]:
    """Where the places that are there really lie, by their number. While this lasts, no other entry can become them.

    A link on the way that the app can change fails.
    """
    with _opened(spec) as found:
        seen = {number: os.fstat(fd) for number, (_, fd) in found.items()}
        yield {number: Shown(real, seen[number].st_dev, seen[number].st_ino) for number, (real, _) in found.items()}


def sync(spec: DataSpec) -> None:
    """Put the file systems of the places on disk. What cannot be synced is still read."""
    with _opened(spec) as found:
        for _, fd in found.values():
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                with suppress(OSError), files.opened(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK) as whole:
                    files.syncfs_fd(whole)


@contextmanager
def _opened(spec: DataSpec) -> Iterator[Mapping[int, tuple[Path, int]]]:
    require_mounted(spec)
    found = {}
    with ExitStack() as stack:
        for place in places(spec):
            with files.explaining(f"cannot reach {place.path}"), spot(place.path) as at:
                if at and at.found and not place.volatile:
                    refuse_link(place.path, at)
                    fd = os.open(at.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at.parent)
                    stack.callback(os.close, fd)
                    found[place.number] = (at.real, fd)
        yield found


def excluded(spec: DataSpec, found: Sequence[Path]) -> Iterator[str]:
    """The patterns of `spec` as restic's, for each place; and what SQLite keeps in shared memory."""
    is_excluded = matcher(spec.exclude)
    for path in found:
        for other in found:
            if path != other and other.is_relative_to(path) and is_excluded(str(other.relative_to(path))):
                raise errors.Failed(f"cannot back up {other} with restic: `exclude` takes it out of {path}.")
        top = "".join(f"\\{char}" if char in _SPECIAL else char for char in str(path))
        patterns = [*spec.exclude, *(pattern + SHARED_MEMORY for pattern in spec.sqlite)]
        yield from (f"{top}/{pattern.strip('/').replace('[!', '[^')}" for pattern in patterns)


def renew(spec: DataSpec, since_ns: int) -> bool:
    """Make the change time of every file new that changed after `since_ns`; nothing else of it changes.

    False if that could not be done to one of them.
    """
    is_excluded = matcher(spec.exclude)
    all_done = True

    def entry(dir_fd: int, name: str, rel: str, depth: int) -> None:
        nonlocal all_done
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_ctime_ns >= since_ns:
            try:
                os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=dir_fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                    raise
                all_done = False
        elif stat.S_ISDIR(found.st_mode) and depth <= DEPTH:
            with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
                for child in os.listdir(fd):
                    below = f"{rel}/{child}" if rel else child
                    if not is_excluded(below):
                        entry(fd, child, below, depth + 1)

    for place in places(spec):
        with files.explaining(f"cannot read {place.path}"), spot(place.path) as at:
            if at and at.found and not place.volatile:
                entry(at.parent, at.name, "", 0)
    return all_done
