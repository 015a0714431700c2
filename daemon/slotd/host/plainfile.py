"""Files of this host that others put there: opened without following a link, and only if they are plain files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from slotd.errors import SourceFailed

PIECE = 1024 * 1024


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """A small file of this host, under the same rules as `copy`."""
    with open_plain(path) as source:
        if os.fstat(source).st_size > limit_bytes:
            raise SourceFailed(f"cannot read {path}: it is larger than {limit_bytes} bytes")
        body = bytearray()
        while len(body) <= limit_bytes and (piece := os.read(source, min(PIECE, limit_bytes + 1))):
            body += piece
    if len(body) > limit_bytes:
        raise SourceFailed(f"cannot read {path}: it is larger than {limit_bytes} bytes")
    return bytes(body)


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[int]:
    """A descriptor of a regular file, reached without following any symbolic link. Raises `SourceFailed`."""
    if not path.is_absolute() or ".." in path.parts:
        raise SourceFailed(f"cannot read {path}: it is not an absolute path")
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    found = -1
    try:
        for part in path.parts[1:-1]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Not blocking: a fifo of that name would wait for a writer for ever.
        found = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise SourceFailed(f"cannot read {path}: it is not a regular file")
        yield found
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise SourceFailed(f"cannot read {path}: a part of that path is a symbolic link") from None
        hint = "Is the folder mounted, and readable for all?"
        raise SourceFailed(f"cannot read {path}: {error.strerror}", hint=hint) from None
    finally:
        os.close(folder)
        if found >= 0:
            os.close(found)
