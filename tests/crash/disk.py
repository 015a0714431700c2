"""A disk of our own under a container's /var/lib and /var/cache/slotd, which can be cut off, filled and mended.

It is a file in memory behind a loop device, mounted in the container's own namespace of mounts before it boots. What
was not synced when it is cut off is gone; what was synced is there when it is mounted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.container import Container

SIZE = 512 * 2**20  # xfs takes no less than 300 MB
KINDS = ("ext4", "xfs")
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],  # no blocks kept back: a full disk is full for root, too
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
SHUT_DOWN = 0x8004587D  # the ioctl of xfs and ext4; with 2 the log is not flushed: as if the power had failed
NO_FLUSH = (2).to_bytes(4, "little")
TOP = "/var/lib"
CACHE = "/var/cache/slotd"
FILLER = f"{TOP}/filler"


MEMORY = Path("/dev/shm")


def make_image(kind: str, path: Path) -> None:
    """An empty file system in a new file."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    _run([*MAKE[kind], str(path)])


class Disk:
    """The disk of one container that does not run yet."""

    def __init__(self, machine: Container, kind: str, image: Path | None = None) -> None:
        self.machine = machine
        self.kind = kind
        self._own = tempfile.TemporaryDirectory(prefix="slotd-disk-", dir=MEMORY if MEMORY.is_dir() else None)
        if image is None:
            image = Path(self._own.name) / "image"
            make_image(kind, image)
        self._loop = _run(["losetup", "--find", "--show", str(image)]).strip()

    def __enter__(self) -> Self:
        root = self.machine.offline_path("/")
        aside = root / "disk"
        aside.mkdir()
        inside = str(aside).partition(f"/proc/{self._keeper}/root")[2]
        self._in_keeper("mount", self._loop, inside)
        self._in_keeper("cp", "-a", f"{self._root}{TOP}/.", f"{inside}/")
        self._in_keeper("mkdir", "-p", f"{inside}/cache")
        self._in_keeper("chmod", "700", f"{inside}/cache")
        self._in_keeper("umount", inside)
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.crash()
        with contextlib.suppress(AssertionError):
            self.unmount()
        subprocess.run(["losetup", "--detach", self._loop], check=False)
        self._own.cleanup()

    def mount(self) -> None:
        """As the first thing at boot. A disk that was cut off recovers here, from its log."""
        self._in_keeper("mount", self._loop, f"{self._root}{TOP}")
        self._in_keeper("mkdir", "-p", f"{self._root}{CACHE}")
        self._in_keeper("mount", "--bind", f"{self._root}{TOP}/cache", f"{self._root}{CACHE}")

    def unmount(self) -> None:
        for path in (CACHE, TOP):  # a path that is not looked up: a dead xfs finds nothing any more
            self._in_keeper("umount", "--no-canonicalize", f"{self._root}{path}")

    def cut(self) -> None:
        """The disk is gone: every call on it is an I/O error from now on."""
        handle = os.open(self.machine.offline_path(TOP), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, SHUT_DOWN, NO_FLUSH)
        finally:
            os.close(handle)

    def power_cycle(self, *, cut: bool = True, look: Callable[[], None] | None = None) -> None:
        """The power fails and comes back; `look` sees the disk before anything runs on it."""
        if cut:
            self.cut()
        self.machine.crash()
        self.unmount()
        self.mount()
        if look is not None:
            look()
        self.machine.boot()

    def fill(self) -> None:
        """To the last block. Inodes remain, as they do on a real full disk."""
        self.machine.run(
            f"fallocate -l {SIZE} {FILLER} 2>/dev/null; for size in 1M 4k; do "
            f"dd if=/dev/zero of={FILLER}-$size bs=$size status=none 2>/dev/null; done; sync -f {TOP}; "
            f"dd if=/dev/zero of={FILLER}-last bs=4k status=none 2>/dev/null; true"
        )

    def free(self) -> None:
        self.machine.run(f"rm -f {FILLER}*; sync -f {TOP}")

    @property
    def _keeper(self) -> int:
        return self.machine.keeper

    @property
    def _root(self) -> str:
        return str(self.machine.offline_path("/")).partition(f"/proc/{self._keeper}/root")[2].rstrip("/")

    def _in_keeper(self, *argv: str) -> None:
        _run(["nsenter", f"--target={self._keeper}", "--mount", "--pid", "--", *argv])


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
