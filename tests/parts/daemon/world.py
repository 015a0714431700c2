"""A user's session of our own: a real `systemd --user` with a bus, and in it the real daemon, from the source tree.

It runs as an unprivileged user in namespaces of its own (`enter.sh`), so nothing of it outlasts the tests and nothing
of the host is seen: works as root on a Debian without systemd as PID 1, whatever control groups it has.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"
USER = "nobody"  # on every host, with nothing of its own
START_S = 20.0

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={bus}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{root}/services</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
BARE = "[Unit]\nDefaultDependencies=no\n"
UNITS = {
    "basic.target": BARE + "Wants=dbus.socket dbus.service\nAfter=dbus.socket dbus.service\n",
    "default.target": "[Unit]\nRequires=basic.target\n",
    "shutdown.target": BARE,
    "dbus.socket": BARE + "[Socket]\nListenStream=%t/bus\n",
    "dbus.service": BARE + "Requires=dbus.socket\n[Service]\nType=notify\n"
    "ExecStart=/usr/bin/dbus-daemon --config-file={root}/bus.conf"
    " --address=systemd: --nofork --nopidfile --systemd-activation\n",
    "slotd.service": """[Unit]
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
BusName=org.slotd1
ExecStart={python} -m slotd --user
Restart=on-failure
RestartSec=50ms
WatchdogSec={watchdog}
TimeoutStopSec=20s
KillMode=mixed
StandardError=append:{root}/slotd.log
""",
}
# With the second, the bus holds back what is sent to systemd before it has come to the bus itself.
SERVICES = {
    "org.slotd1": "[D-BUS Service]\nName=org.slotd1\nExec=/bin/false\nSystemdService=slotd.service\n",
    "org.freedesktop.systemd1": "[D-BUS Service]\nName=org.freedesktop.systemd1\nExec=/bin/false\n",
}


def wait_for(condition: Callable[[], object], *, deadline_s: float = 30) -> None:
    """For what nobody signals."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Ended(AssertionError):
    """The session did not come up."""


@contextmanager
def source_tree() -> Iterator[Path]:
    """A copy of the daemon's sources, compiled: any user may read it, and nothing is written into the repository."""
    folder = Path(tempfile.mkdtemp(prefix="slotd-tree-"))
    folder.chmod(0o755)
    try:
        shutil.copytree(REPOSITORY / "daemon", folder / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([PYTHON, "-m", "compileall", "-q", folder / "daemon"], check=True)
        yield folder / "daemon"
    finally:
        shutil.rmtree(folder)


class World:
    """One user's session. `with World(tree) as world: …`"""

    def __init__(self, tree: Path, *, watchdog: str = "30s") -> None:
        # Not below /tmp: a worker has a /tmp of its own, and no home could be hidden from it there.
        self.root = Path(tempfile.mkdtemp(prefix="slotd-user-", dir="/var/tmp"))
        self.tree = tree
        self.watchdog = watchdog
        entry = pwd.getpwnam(USER)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self._session: subprocess.Popen[bytes] | None = None

    # -- places -----------------------------------------------------------------------------------

    @property
    def runtime(self) -> Path:
        return self.root / "run"

    @property
    def address(self) -> str:
        return f"unix:path={self.runtime}/bus"

    @property
    def units(self) -> Path:
        return self.root / "config" / "systemd" / "user"

    @property
    def config(self) -> Path:
        return self.root / "config" / "slotd"

    @property
    def state(self) -> Path:
        return self.root / "state" / "slotd"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(self.root),
            "USER": USER,
            "SHELL": "/bin/sh",
            "PYTHONPATH": str(self.tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_CONFIG_DIRS": str(self.root / "none"),
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_DATA_HOME": str(self.root / "share"),
            "DBUS_SESSION_BUS_ADDRESS": self.address,
        }

    # -- life -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.root.chmod(0o755)
        os.chown(self.root, self.uid, self.gid)
        self.make(self.runtime, mode=0o700)
        self.write(self.root / "environment", "\n".join(f"{k}={v}" for k, v in self.environment.items()))
        self.write(self.root / "bus.conf", BUS.format(root=self.root, bus=self.runtime / "bus"))
        for name, text in SERVICES.items():
            self.write(self.root / "services" / f"{name}.service", text)
        for name, text in UNITS.items():
            self.write(self.units / name, text.format(root=self.root, python=PYTHON, watchdog=self.watchdog))
        for name in ("apps.d", "keys.d"):
            self.make(self.config / name)
        argv = ["unshare", "--mount", "sh", str(HERE / "enter.sh"), str(self.root), str(self.uid), str(self.gid)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.bind(str(self.root / "ready"))
            os.chown(self.root / "ready", self.uid, self.gid)
            self._session = subprocess.Popen(argv, stdin=subprocess.PIPE)
            try:
                self._wait_ready(door)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def _wait_ready(self, door: socket.socket) -> None:
        """systemd itself says when its basic.target is reached, as it does to the one above it."""
        door.settimeout(START_S)
        try:
            while "READY=1" not in door.recv(4096).decode().splitlines():
                pass
        except TimeoutError:
            log = self.root / "systemd.log"
            said = log.read_text() if log.exists() else "it said nothing"
            raise Ended(f"the user manager was not up in {START_S:.0f} s:\n{said}") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            assert self._session.stdin is not None
            self._session.stdin.close()
            self._session.wait(START_S)
        shutil.rmtree(self.root)

    # -- files, as the user's own -----------------------------------------------------------------

    def make(self, path: Path, *, mode: int = 0o755) -> Path:
        """A directory, and those above it, of the user."""
        if not path.parent.exists():
            self.make(path.parent)
        if not path.exists():
            path.mkdir()
        path.chmod(mode)
        os.chown(path, self.uid, self.gid)
        return path

    def write(self, path: Path, content: str | bytes) -> Path:
        if not path.parent.exists():
            self.make(path.parent)
        beside = path.with_name(f".{path.name}.new")
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.chmod(0o644)
        os.chown(beside, self.uid, self.gid)
        beside.rename(path)
        return path

    @property
    def log(self) -> str:
        """What the daemon said on standard error."""
        path = self.root / "slotd.log"
        return path.read_text() if path.exists() else ""

    # -- programs, as the user --------------------------------------------------------------------

    def run(self, *argv: str, status: int | None = 0, timeout_s: float = 180.0) -> str:
        """A program of the user's. Gives what it said; `status` None takes any exit status."""
        # systemd's own socket hangs up on those whose process it cannot see: we are outside of its process namespace.
        environment = self.environment | {"SYSTEMCTL_FORCE_BUS": "1"}
        done = subprocess.run(
            argv, env=environment, user=self.uid, group=self.gid, extra_groups=[], cwd="/", check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
        )  # fmt: skip
        assert status is None or done.returncode == status, (
            f"{' '.join(argv)} gave {done.returncode}:\n{done.stdout}\n--- slotd:\n{self.log[-3000:]}"
        )
        return done.stdout

    def systemctl(self, *words: str, status: int | None = 0) -> str:
        return self.run("systemctl", "--user", *words, status=status)

    def slotctl(self, *words: str, status: int | None = 0, timeout_s: float = 180.0) -> str:
        said = self.run(PYTHON, "-m", "slotd.cli.main", "--user", *words, status=status, timeout_s=timeout_s)
        assert "Traceback" not in said
        return said

    def json(self, *words: str) -> Any:
        return json.loads(self.slotctl("--json", *words))

    # -- the daemon -------------------------------------------------------------------------------

    def start(self, **environment: str) -> None:
        """Start the daemon anew; with variables, until the next `start`."""
        drop_in = self.units / "slotd.service.d" / "environment.conf"
        lines = [f'Environment="{key}={value}"' for key, value in environment.items()]
        self.write(drop_in, "\n".join(["[Service]", *lines, ""]))
        self.systemctl("daemon-reload")
        self.systemctl("restart", "slotd.service")

    def fail_at(self, point: str, action: str, **environment: str) -> None:
        """Start the daemon with a failpoint that acts once, also across restarts."""
        fired = self.root / "fired"
        if fired.exists():
            shutil.rmtree(fired)
        self.make(fired)
        self.start(SLOTD_FAILPOINTS=f"{point}={action}", SLOTD_FAILPOINTS_DIR=str(fired), **environment)

    def has_fired(self, point: str) -> bool:
        return (self.root / "fired" / point).exists()

    def unit(self, name: str, *keys: str) -> dict[str, str]:
        """Properties of a unit as systemd shows them."""
        said = self.systemctl("show", f"--property={','.join(keys)}", "--", name)
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
