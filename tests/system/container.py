"""A booted Debian, in about two seconds: systemd as PID 1, a system bus, polkit, and the host's network.

    with Container(slotd_image(deb)) as host:
        host.write_file("/etc/slotd/apps.d/demo.toml", "…")
        host.run("slotctl update demo")
        host.crash()                      # every process gone at once, as with kill -9
        host.boot()

The tree is an overlay over a cached image; what the container wrote goes with it. Mounts and processes live in
namespaces held by one process, the keeper, which dies with the one that made the container: a killed test run leaves
only a directory and empty control groups, which the next one removes.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from tests.system.image import REPOSITORY, Image, cgroup_roots, own_cgroup, remove_cgroup

MACHINES = REPOSITORY / "build" / "machines"
PREFIX = "slotd-test-"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 90.0
STOP_S = 120.0
# A child of the test run must not outlive it, however that ends.
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class ContainerError(AssertionError):
    """A command in a container that failed, or a container that did not boot."""


class Container:
    """One machine. Make and use it from one thread: the kernel ends its processes with the thread that started them."""

    def __init__(self, image: Image, *, hostname: str = "testhost") -> None:
        clean_leftovers()
        self.hostname = hostname
        self.name = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.directory = MACHINES / self.name
        self.console = self.directory / "console.log"
        self._bind = image.bind
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._exit = contextlib.ExitStack()
        self._exit.callback(self._remove_directory)
        self.directory.mkdir(parents=True)
        self._lock = self._exit.enter_context((self.directory / "lock").open("w"))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._enter_cgroup = self._exit.enter_context(own_cgroup(self.name))
        self._keeper = self._keep(image)
        self._exit.callback(self.crash)
        atexit.register(self.close)
        self.offline_path("/etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        self.offline_path("/etc/hostname").write_text(f"{hostname}\n")

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def boot(self, *, timeout_s: float = BOOT_S) -> None:
        """Boots, and waits until the start-up jobs are done. A unit that fails is no error here: `run` shows it."""
        assert self._nspawn is None, "the container is running"
        for file in ("/etc/resolv.conf", "/etc/hosts"):
            with contextlib.suppress(FileNotFoundError):
                self.offline_path(file).write_bytes(Path(file).read_bytes())
        nspawn = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
        nspawn += [f"--directory={self._root}", f"--machine={self.name}", f"--hostname={self.hostname}"]
        nspawn += ["--resolv-conf=off", "--timezone=off", "--link-journal=no"]
        nspawn += [f"--bind-ro={path}" for path in self._bind]
        enter = ["nsenter", f"--target={self._keeper}", "--mount", "--pid", "--"]
        with self.console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                [*DIE_WITH_US, *self._enter_cgroup, *enter, *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": PATH, "LANG": "C.UTF-8"},
            )
        deadline = time.monotonic() + timeout_s
        while not (self._is_leader_found() and self._is_up()):
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                tail = self.console_text()[-3000:]
                self.crash()
                raise ContainerError(f"cannot boot the container: the console said\n{tail}")
            time.sleep(0.1)

    def wait_until_off(self, *, timeout_s: float = STOP_S) -> None:
        """Waits until the machine has gone down by itself."""
        assert self._nspawn is not None, "the container is not running"
        self._nspawn.wait(timeout_s)
        self._nspawn, self._leader = None, 0

    def power_off(self, *, timeout_s: float = STOP_S) -> None:
        """Shuts down in order: units are stopped."""
        os.kill(self.leader, signal.SIGRTMIN + 4)
        self.wait_until_off(timeout_s=timeout_s)

    def reboot(self, *, timeout_s: float = STOP_S) -> None:
        """Shuts down in order and boots again. Files stay; `/run` and `/tmp` are new."""
        self.power_off(timeout_s=timeout_s)
        self.boot()

    def crash(self) -> None:
        """Ends every process at once, as a reset does; what was written stays. `boot()` starts it again."""
        if self._nspawn is None:
            return
        for pid in [self._leader] if self._leader else [*_children(self._nspawn.pid), self._nspawn.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nspawn.wait(STOP_S)
        self._nspawn, self._leader = None, 0

    def close(self) -> None:
        """Ends the container and removes what it wrote. May be called twice."""
        atexit.unregister(self.close)
        self._exit.close()

    # ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def leader(self) -> int:
        """The host's process id of the container's PID 1."""
        assert self._leader, "the container is not running"
        return self._leader

    @property
    def keeper(self) -> int:
        """The host's id of the process whose namespace of mounts the container's tree is put together in."""
        return self._keeper

    def argv(
        self, cmd: str | Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """The command line, for the host, that runs `cmd` in there. A string is a line for the shell."""
        words = ["sh", "-c", cmd] if isinstance(cmd, str) else list(cmd)
        home = f"/home/{user}" if user else "/root"
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "TERM": "dumb", **(env or {})}
        enter = [f"--target={self.leader}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        assignments = [f"{key}={value}" for key, value in environment.items()]
        return ["nsenter", *enter, "--", *become, "env", "--ignore-environment", *assignments, *words]

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        user: str | None = None,
        check: bool = True,
        input: str | bytes | None = None,
        timeout_s: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command and gives its output; with `check`, a status that is not 0 is an error that shows it."""
        data = input.encode() if isinstance(input, str) else input
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
        done = subprocess.run(
            self.argv(cmd, user=user, env=env), capture_output=True, timeout=timeout_s, check=False, **stdin
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if check and done.returncode:
            line = cmd if isinstance(cmd, str) else shlex.join(cmd)
            raise ContainerError(f"`{line}` in the container ended with {done.returncode}:\n{out}{err}")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def popen(
        self, cmd: str | Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a command whose output (both kinds in `stdout`) is read while it runs. The caller ends it."""
        return subprocess.Popen(
            self.argv(cmd, user=user, env=env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def write_file(self, path: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root") -> None:
        """Writes a file, its directories too. `owner` is a user in the container."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1" && chown "$3:" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}", owner], input=content)

    def read_file(self, path: str) -> str:
        """A file's text; an error says if it is not there."""
        return self.run(["cat", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether there is something at this path (a dangling link counts)."""
        return self.run('test -e "$P" || test -L "$P"', env={"P": path}, check=False).returncode == 0

    def copy_in(self, source: Path, target: str, *, owner: str = "root") -> None:
        """Copies a file or a directory of the host to the path `target`."""
        pack = subprocess.run(
            ["tar", "-c", "-C", str(source.parent), source.name], stdout=subprocess.PIPE, check=True
        ).stdout
        folder = str(PurePosixPath(target).parent)
        rename = f"--transform=s,^{source.name},{PurePosixPath(target).name},"
        self.run(["mkdir", "-p", folder])
        self.run(["tar", "-x", "-C", folder, rename, f"--owner={owner}", "--no-same-owner"], input=pack)
        self.run(["chown", "-R", f"{owner}:", target])

    def path(self, path: str) -> Path:
        """The host's path of a file in the running container. Absolute links on the way lead astray: prefer `run`."""
        return Path(f"/proc/{self.leader}/root") / path.lstrip("/")

    def offline_path(self, path: str) -> Path:
        """The host's path of a file, whether it runs or not; only what lies on the disk (not `/run`, not `/tmp`)."""
        return Path(f"/proc/{self._keeper}/root{self._root}") / path.lstrip("/")

    def journal(self, unit: str = "", *, since_boot: bool = True) -> str:
        """What `journalctl` shows, of one unit or of all."""
        self.run(["journalctl", "--sync"], check=False)
        words = ["journalctl", "--no-pager", "--output=short-monotonic", "--quiet"]
        words += [f"--unit={unit}"] if unit else []
        return self.run([*words, *(["--boot"] if since_boot else [])]).stdout

    def journal_entries(self, *matches: str) -> list[dict[str, Any]]:
        """Entries as their fields, oldest first; `matches` are `FIELD=value`, as for `journalctl`."""
        self.run(["journalctl", "--sync"], check=False)
        out = self.run(["journalctl", "--no-pager", "--output=json", "--all", *matches]).stdout
        return [json.loads(line) for line in out.splitlines()]

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` prints them."""
        out = self.run(["systemctl", "show", unit, *(f"--property={name}" for name in properties)]).stdout
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def wait_for(self, cmd: str, *, timeout_s: float = 30.0) -> str:
        """Runs a shell line again and again until it succeeds; gives its output."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self.run(cmd, check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > deadline:
                raise ContainerError(f"`{cmd}` did not succeed within {timeout_s:g} s:\n{done.stdout}{done.stderr}")
            time.sleep(0.1)

    def console_text(self) -> str:
        """What the container printed on its console since it was made."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    def _keep(self, image: Image) -> int:
        """Starts the process that holds the namespaces in which the tree is put together; gives its id.

        It is the PID 1 of one: the kernel ends whatever runs in there when it goes.
        """
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir()
        lower = ":".join(str(layer) for layer in image.layers)
        options = f"lowerdir={lower},upperdir={self.directory}/upper,workdir={self.directory}/work"
        script = (
            'mount -t overlay overlay -o "$1" "$2" && mount -t proc proc /proc && echo ready && exec sleep infinity'
        )
        unshare = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        parent = subprocess.Popen(
            [*DIE_WITH_US, *unshare, "sh", "-c", script, "sh", options, str(self._root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._exit.callback(_end, parent)
        assert parent.stdout is not None
        if parent.stdout.readline() != b"ready\n":
            raise ContainerError(
                f"cannot mount an overlay in {self.directory}: its file system does not take one. "
                "Use a checkout on ext4 or xfs."
            )
        (child,) = _children(parent.pid)
        return child

    def _is_leader_found(self) -> bool:
        if not self._leader and self._nspawn is not None:
            self._leader = _init_below(self._nspawn.pid)
        return bool(self._leader)

    def _is_up(self) -> bool:
        try:
            state = self.run(["systemctl", "is-system-running"], check=False, timeout_s=20).stdout.strip()
        except subprocess.TimeoutExpired:
            return False
        return state in ("running", "degraded")

    def _remove_directory(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on; containers share the host's network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_leftovers() -> None:
    """Removes what earlier runs left that were killed: empty control groups and what their containers wrote."""
    MACHINES.mkdir(parents=True, exist_ok=True)
    for directory in MACHINES.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held while its owner lives
            for root in cgroup_roots():
                remove_cgroup(root / directory.name)
            shutil.rmtree(directory, ignore_errors=True)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def _init_below(pid: int) -> int:
    """The descendant of this process that is a container's systemd; 0 if there is none yet."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child}/status").read_text()
            ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            # One level is the host's, one the keeper's.
            if len(ids) > 2 and ids[-1] == "1" and status.startswith("Name:\tsystemd\n"):
                return child
        if found := _init_below(child):
            return found
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _on_terminate(_number: int, _frame: object) -> None:
    # As with Ctrl-C: fixtures and `atexit` get to clean up.
    sys.exit(128 + signal.SIGTERM)


def clean_up_on_sigterm() -> None:
    """For a test run: being told to stop is a reason to tidy up, not to vanish."""
    signal.signal(signal.SIGTERM, _on_terminate)
