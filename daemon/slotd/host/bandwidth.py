"""What all downloads together may take of the network, divided among those that run at the moment.

The share is eight bytes in a sealed memory file: the daemon writes it when a download begins or ends, each worker
reads it as it goes. A worker cannot write it; one that does not keep to it is not held back by this.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_SHARE: Final = struct.Struct("<Q")


class Bandwidth:
    """One for the daemon; used from its event loop alone."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}  # descriptor -> the whole that it was begun with

    @contextmanager
    def share(self, total: int) -> Iterator[int]:
        """The descriptor to give to a worker while it downloads. `total`: bytes per second, 0 for unlimited."""
        written = os.memfd_create("slotd-bandwidth", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        readable = -1
        try:
            os.fchmod(written, 0o444)  # it could else be opened anew for writing, by its place in /proc
            os.pwrite(written, _SHARE.pack(total), 0)
            fcntl.fcntl(written, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            readable = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
            self._running[written] = total
            self._divide()
            yield readable
        finally:
            self._running.pop(written, None)
            os.close(written)
            if readable >= 0:
                os.close(readable)
            self._divide()

    def _divide(self) -> None:
        for descriptor, total in self._running.items():
            share = max(1, total // len(self._running)) if total else 0
            os.pwrite(descriptor, _SHARE.pack(share), 0)


def reader(descriptor: int) -> Callable[[], int]:
    """Gives the share of now, in bytes per second, 0 for unlimited."""

    def read() -> int:
        content = os.pread(descriptor, _SHARE.size, 0)
        return int(_SHARE.unpack(content)[0]) if len(content) == _SHARE.size else 0

    return read
