"""The worker's verb `copy`: a file that a caller handed over as a descriptor becomes one of ours, read once.

What is at the other end may be anything: a stick that is pulled out, a file that somebody still writes, a file system
in a program that never answers. All that happens here, in a process that may be ended.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slotd.errors import Failed, NoSpace, SlotdError, SourceFailed
from slotd.host import files

PIECE = 1024**2
_PROGRESS_EVERY_S = 0.2
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
}


def copy(request: Mapping[str, Any], fds: Sequence[int], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """{limit_bytes, room_bytes} and two files, to read and to write -> {bytes, sha256}. Progress: {bytes, total}.

    Raises `SourceFailed` for what is no file, or does not stay as it is while it is read; `NoSpace`.
    """
    if len(fds) != 2:
        raise Failed("cannot copy: the worker was not given exactly two files")
    source, target = fds
    size, limit = require_file(source), int(request["limit_bytes"])
    if size > limit:
        raise SourceFailed(
            f"cannot read the file: it has {size} bytes, more than {limit}.",
            hint="If it is right, raise `bundle_bytes` in [limits].",
        )
    if size > int(request["room_bytes"]):
        raise NoSpace(
            f"cannot store the file: it has {size} bytes, and there is room for {request['room_bytes']}.",
            hint="Free some space in the cache, then try again; nothing was changed.",
        )
    digest, done, told = hashlib.sha256(), 0, time.monotonic()
    while done < size:
        piece = _read(source, min(PIECE, size - done), done)
        if not piece:
            raise _changed(f"it ended after {done} of {size} bytes")
        with files.explaining("cannot store the file"):
            files.write_all(target, piece)
        digest.update(piece)
        done += len(piece)
        if time.monotonic() - told >= _PROGRESS_EVERY_S:
            told = time.monotonic()
            progress({"bytes": done, "total": size})
    if _read(source, 1, size):
        raise _changed(f"it is longer now than the {size} bytes that it had")
    return {"bytes": done, "sha256": digest.hexdigest()}


def require_file(descriptor: int) -> int:
    """The size of the regular file that is open for reading there. Raises `SourceFailed` for anything else."""
    try:
        flags, found = fcntl.fcntl(descriptor, fcntl.F_GETFL), os.fstat(descriptor)
    except OSError as error:
        raise _unreadable(error) from None
    if kind := _KINDS.get(stat.S_IFMT(found.st_mode)):
        raise SourceFailed(f"cannot read the file: it is {kind}.", hint="Give a file.")
    if not stat.S_ISREG(found.st_mode):
        raise SourceFailed("cannot read the file: it is none.", hint="Give a file.")
    if flags & os.O_PATH or flags & os.O_ACCMODE == os.O_WRONLY:
        raise SourceFailed("cannot read the file: it was not opened for reading.")
    return found.st_size


def _read(source: int, count: int, offset: int) -> bytes:
    try:
        return os.pread(source, count, offset)
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> SlotdError:
    hint = ""
    if error.errno in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESTALE, errno.ENOTCONN):
        hint = "Is the medium still there? Nothing was changed: try again, or from another one."
    return SourceFailed(f"cannot read the file: {os.strerror(error.errno or errno.EIO)}.", hint=hint)


def _changed(how: str) -> SlotdError:
    return SourceFailed(f"cannot read the file: {how}.", hint="Wait until it is written in whole, then try again.")
