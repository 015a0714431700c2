"""A release file in the daemon's own hands."""

from __future__ import annotations

import os


class Held:
    """A release file that the daemon measured: open for reading, root's alone, and how it looked then."""

    def __init__(self, descriptor: int, sha256: str) -> None:
        self.descriptor = descriptor
        self.sha256 = sha256
        self._looked = _looks(descriptor)

    def is_unchanged(self) -> bool:
        """Whether nothing was written since, by anyone: the time of the last change is the kernel's alone to set."""
        return _looks(self.descriptor) == self._looked

    def close(self) -> None:
        os.close(self.descriptor)


def _looks(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
