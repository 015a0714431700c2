"""A disk of its own for a container: it can be filled to its last byte, lose its power, and be failing or read-only."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.container import Container

SHUTDOWN = "import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1], 0), 0x8004587d, struct.pack('I', 2))"


class SmallDisk:
    """An ext4 file system of `mib`, mounted at `at` in a machine. Nothing of it is set aside for root."""

    def __init__(self, machine: Container, image: Path, *, mib: int, at: str = "/srv/disk") -> None:
        self.machine, self.image, self.mib, self.at = machine, image, mib, at
        self._loop = ""

    def __enter__(self) -> Self:
        with self.image.open("wb") as file:
            file.truncate(self.mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-e", "remount-ro", self.image], check=True)
        line = ["losetup", "--find", "--show", self.image]
        self._loop = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()
        subprocess.run(["losetup", "--detach", self._loop], check=False)
        self.image.unlink()

    def mount(self) -> None:
        number = self._loop.removeprefix("/dev/loop")
        self.machine.run(f"mkdir -p {self.at}; mknod {self._loop} b 7 {number} 2>/dev/null || test -b {self._loop}")
        self.machine.run(f"mount -t ext4 {self._loop} {self.at}")

    def unmount(self) -> None:
        self.machine.run(f"umount --lazy {self.at}", check=False)

    def fill(self, *, leave_mib: int = 0) -> None:
        """To the last byte, or until so much is left."""
        if leave_mib:
            free = int(self.machine.run(f"df --output=avail -B1 {self.at} | tail -1").stdout)
            self.machine.run(f"fallocate -l {free - (leave_mib << 20)} {self.at}/filler")
            return
        self.machine.run(f"dd if=/dev/zero of={self.at}/filler bs=64k 2>/dev/null; sync", check=False)
        self.machine.run(f"dd if=/dev/zero of={self.at}/filler.2 bs=512 2>/dev/null; sync", check=False)

    def empty(self) -> None:
        self.machine.run(f"rm -f {self.at}/filler*; sync")

    def make_read_only(self) -> None:
        """As the kernel does it when it finds an error on the disk."""
        name = self._loop.removeprefix("/dev/")
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")

    def fail(self) -> None:
        """Everything is an input/output error from now on, and what was not on disk never will be."""
        self.machine.run(["python3", "-c", SHUTDOWN, self.at])


class LastingDisk(SmallDisk):
    """One that is there when the machine boots, and at each boot after it. To be made before the first."""

    def mount(self) -> None:
        at = self.machine.offline_path(self.at)
        at.mkdir(parents=True, exist_ok=True)
        self._outside("mount", "-t", "ext4", self._loop, self._seen_at)

    def unmount(self) -> None:
        self._outside("umount", "--lazy", self._seen_at)

    @property
    def _seen_at(self) -> str:
        """Its place in the keeper's namespace, whose mounts every boot begins with."""
        return str(self.machine.offline_path(self.at)).removeprefix(f"/proc/{self.machine.keeper}/root")

    def _outside(self, *words: str) -> None:
        enter = ["nsenter", f"--target={self.machine.keeper}", "--mount", "--pid", "--"]
        subprocess.run([*enter, *words], check=True)
