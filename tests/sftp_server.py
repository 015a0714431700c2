"""A real OpenSSH server on loopback that speaks SFTP and nothing else: with its own configuration and host key, for the
one key that it was told of."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = "/usr/sbin/sshd"
START_S = 30.0
CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""


class SftpServer:
    """Files are served as the user who runs the tests sees them. `address` is a repository's, without its path."""

    def __init__(self, directory: Path, port: int) -> None:
        assert os.path.exists(PROGRAM), "openssh-server is not installed: packaging/bootstrap installs it"
        self.directory, self.port, self.user = directory, port, pwd.getpwuid(os.geteuid()).pw_name
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o700, parents=True)
        self.new_host_key()
        (directory / "authorized_keys").touch()
        (directory / "config").write_text(CONFIGURATION.format(port=port, directory=directory))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"sftp://{self.user}@127.0.0.1:{self.port}/"

    @property
    def known(self) -> str:
        """The line of a known_hosts file."""
        return f"[127.0.0.1]:{self.port} {(self.directory / 'host_key.pub').read_text()}"

    def new_host_key(self) -> None:
        for path in self.directory.glob("host_key*"):
            path.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / "host_key"], check=True)

    def let_in(self, public_key: str) -> None:
        (self.directory / "authorized_keys").write_text(public_key)

    def start(self) -> None:
        line = [PROGRAM, "-D", "-e", "-f", str(self.directory / "config")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                ended = self._process.poll() is not None or time.monotonic() > deadline
                assert not ended, (self.directory / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """It takes no new connections; those that are open go, too."""
        if self._process is None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.kill()
        self._process.wait()
        self._process = None
        for child in children:
            subprocess.run(["kill", child], check=False, capture_output=True)
