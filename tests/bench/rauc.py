"""Debian's RAUC as an opponent: the same archive in a signed bundle, for an ext4 slot on a loop device."""

from __future__ import annotations

from pathlib import Path

from tests.bench.machine import timed
from tests.system.container import Container, ContainerError

DIRECTORY = "/var/lib/rauc-bench"
LOOPS = 64
SYSTEM = """\
[system]
compatible=bench
bootloader=custom
bundle-formats=plain verity
[handlers]
bootloader-custom-backend={directory}/boot
[keyring]
path={directory}/cert.pem
[slot.app.0]
device={a}
type=ext4
bootname=A
[slot.app.1]
device={b}
type=ext4
bootname=B
"""
MANIFEST = """\
[update]
compatible=bench
version=1
[bundle]
format=plain
[image.app]
filename=payload.tar.zst
"""
BOOT = """\
#!/bin/sh
case $1 in get-primary | get-current) echo A ;; get-state) echo good ;; esac
"""
SERVICE = """\
[Service]
ExecStart=
ExecStart=/usr/bin/rauc --override-boot-slot=A service
"""
MAKE = """\
set -e
cd {directory}
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=bench 2>/dev/null
chmod +x boot
test -e /dev/loop-control || mknod /dev/loop-control c 10 237
for n in $(seq 0 {loops}); do test -e /dev/loop$n || mknod /dev/loop$n b 7 $n; done
rauc bundle --cert=cert.pem --key=key.pem bundle out.raucb
truncate -s {slot}M slot.a slot.b
systemctl daemon-reload
"""


class Rauc:
    """`problem` says why it cannot be measured, if so."""

    def __init__(self, machine: Container, release: Path, size_mib: int) -> None:
        self.problem = ""
        self._machine, self._release, self._size_mib = machine, release, size_mib
        self._loops: list[str] = []

    def set_up(self) -> None:
        machine, folder = self._machine, self._machine.path(DIRECTORY)
        try:
            (folder / "bundle").mkdir(parents=True)
            machine.write_file(f"{DIRECTORY}/boot", BOOT)
            machine.write_file(f"{DIRECTORY}/bundle/manifest.raucm", MANIFEST)
            machine.write_file("/etc/systemd/system/rauc.service.d/slot.conf", SERVICE)
            with self._release.open("rb") as source, (folder / "bundle" / "payload.tar.zst").open("wb") as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
            machine.run(MAKE.format(directory=DIRECTORY, loops=LOOPS, slot=self._size_mib * 3), timeout_s=600)
            for slot in "ab":
                self._loops.append(machine.run(f"losetup --find --show {DIRECTORY}/slot.{slot}").stdout.strip())
            text = SYSTEM.format(directory=DIRECTORY, a=self._loops[0], b=self._loops[1])
            machine.write_file("/etc/rauc/system.conf", text)
            machine.run("systemctl restart rauc")
        except ContainerError as error:
            self.problem = f"it could not be set up here: {' '.join(str(error).split())[-300:]}"

    def install(self) -> float:
        """Seconds of `rauc install`, and of the `sync` that brings what it wrote to the disk. 0 if it failed."""
        try:
            return timed(lambda: self._machine.run(f"rauc install {DIRECTORY}/out.raucb && sync", timeout_s=900))
        except ContainerError as error:
            self.problem = f"`rauc install` failed here: {' '.join(str(error).split())[-300:]}"
            return 0.0

    def close(self) -> None:
        """Gives the loop devices back, which are the host's."""
        for loop in self._loops:
            self._machine.run(f"umount {loop}; losetup --detach {loop}", check=False)
