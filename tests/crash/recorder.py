"""A file over FUSE that remembers what is written to it, in order: `python3 recorder.py MOUNTPOINT BACKING LOG FLAG`.

Once FLAG exists, each write is a record in LOG: offset and length as two numbers of eight bytes, then the bytes; a
flush of the disk is one of length 0. A loop device over the file is a disk of which every prefix can be had again.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<QQ")
NAME = "disk"


def records(log: Path) -> Iterator[tuple[int, bytes]]:
    """What was written, in order; a flush has no bytes."""
    with log.open("rb") as file:
        while head := file.read(HEADER.size):
            offset, length = HEADER.unpack(head)
            yield offset, file.read(length)


def main(mountpoint: str, backing: str, log: str, flag: str) -> None:
    import fusepy

    class Recorder(fusepy.Operations):  # type: ignore[misc]
        def __init__(self) -> None:
            self.file = os.open(backing, os.O_RDWR)
            self.log = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)

        def note(self, offset: int, data: bytes) -> None:
            if os.path.exists(flag):
                os.write(self.log, HEADER.pack(offset, len(data)) + data)

        def getattr(self, path: str, _handle: Any = None) -> dict[str, int]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path != f"/{NAME}":
                raise fusepy.FuseOSError(errno.ENOENT)
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self.file).st_size}

        def readdir(self, _path: str, _handle: Any) -> list[str]:
            return [".", "..", NAME]

        def open(self, _path: str, _flags: int) -> int:
            return 0

        def read(self, _path: str, size: int, offset: int, _handle: Any) -> bytes:
            return os.pread(self.file, size, offset)

        def write(self, _path: str, data: bytes, offset: int, _handle: Any) -> int:
            self.note(offset, data)
            return os.pwrite(self.file, data, offset)

        def fsync(self, _path: str, _datasync: int, _handle: Any) -> int:
            self.note(0, b"")
            return 0

    fusepy.FUSE(Recorder(), mountpoint, foreground=True, nothreads=True, big_writes=True, max_write=1 << 17)


if __name__ == "__main__":
    main(*sys.argv[1:])
