"""Debian's SWUpdate as an opponent: the same archive in a signed image, downloaded and unpacked into a directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.bench.machine import timed
from tests.bench.shelf import Shelf
from tests.system.container import Container, ContainerError

DIRECTORY = "/var/lib/swupdate-bench"
DESCRIPTION = """\
software =
{{
  version = "1.0";
  hardware-compatibility: [ "1.0" ];
  stable = {{ main = {{ files: (
    {{ filename = "payload.tar.zst"; type = "archive"; path = "{directory}/slot";
       installed-directly = true; sha256 = "{sha256}"; }}
  ); }}; }};
}};
"""
MAKE = """\
set -e
systemctl --quiet mask --now swupdate-progress swupdate swupdate.socket  # the first boots the machine after an update
cd {directory}
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=bench \
    -addext extendedKeyUsage=emailProtection -addext keyUsage=digitalSignature 2>/dev/null
openssl cms -sign -in sw-description -out sw-description.sig -signer cert.pem -inkey key.pem \
    -outform DER -nosmimecap -binary
printf '%s\\n' sw-description sw-description.sig payload.tar.zst | cpio --quiet -o -H crc >payload.swu
"""
INSTALL = """\
set -e
swupdate -H bench:1.0 -k {directory}/cert.pem -e stable,main -d '-u {url}/payload.swu' >{directory}/log 2>&1
grep -q 'SWUPDATE successful' {directory}/log
sync -f {directory}/slot
"""


class Swupdate:
    """`problem` says why it cannot be measured, if so."""

    def __init__(self, machine: Container, shelf: Shelf, release: Path) -> None:
        self.problem = ""
        self.image = Path()  # what is downloaded
        self._machine, self._shelf, self._release = machine, shelf, release

    def set_up(self) -> None:
        machine, folder = self._machine, self._machine.path(DIRECTORY)
        try:
            folder.mkdir(parents=True)
            with self._release.open("rb") as source, (folder / "payload.tar.zst").open("wb") as target:
                sha256 = hashlib.file_digest(source, "sha256").hexdigest()
                source.seek(0)
                while piece := source.read(1 << 20):
                    target.write(piece)
            machine.write_file(f"{DIRECTORY}/sw-description", DESCRIPTION.format(directory=DIRECTORY, sha256=sha256))
            machine.run(MAKE.format(directory=DIRECTORY), timeout_s=600)
            self.image = self._shelf.add("swupdate", folder / "payload.swu")
        except (ContainerError, OSError) as error:
            self.problem = f"it could not be set up here: {' '.join(str(error).split())[-300:]}"

    def clean(self) -> None:
        self._machine.run(f"rm -rf {DIRECTORY}/slot; mkdir {DIRECTORY}/slot")

    def install(self) -> float:
        """Seconds until it is downloaded, verified, unpacked and on the disk. 0 if it failed."""
        script = INSTALL.format(directory=DIRECTORY, url=self._shelf.url("swupdate"))
        try:
            return timed(lambda: self._machine.run(script, timeout_s=900))
        except ContainerError as error:
            self.problem = f"it failed here: {' '.join(str(error).split())[-300:]}"
            return 0.0
