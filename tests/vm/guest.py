"""One machine in QEMU, without KVM: a power cut is SIGKILL to it, a hang is ended by its watchdog.

The disk is a layer over another one, opened without a cache on this side: what the guest had not flushed when the power
went is gone. Nobody ever writes to what lies below.

Its clock counts instructions, not the host's seconds: a busy host makes it slow, and no deadline inside it shorter. The
deadlines on this side count the seconds in which the machine could run.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.system.container import DIE_WITH_US, ContainerError, free_port
from tests.vm.disk import APP_PORT, Disk

MEMORY = "640M"
BOOT_S = 600.0
# One instruction is 4 ns to the machine, which is about what an emulator on an idle host reaches.
CLOCK = "shift=2,sleep=on,align=off"
WATCHDOG_S = 15
PAUSE_S = 3.0  # between two questions that need a process there: a third of a second of its processor
# What the kernel does at its start that an emulated processor needs a third of every boot for: its tests of its own
# ciphers, pages zeroed twice, instructions that repeat (bit 16 of word 3), interrupts set up by ACPI's programs.
QUICK = "cryptomgr.notests init_on_alloc=0 clearcpuid=112 rcupdate.rcu_expedited=1 acpi=noirq"


class GuestError(ContainerError):
    """A guest that does not boot, or a command in it that failed."""


class Guest:
    """One machine. `directory` is its own; `base` is a disk that it starts from instead of the plain one."""

    def __init__(self, disk: Disk, directory: Path, *, releases_port: int, base: Path | None = None) -> None:
        self.disk, self.directory, self.releases_port = disk, directory, releases_port
        self.app_port = free_port()
        self.console = directory / "console.log"
        self.rtc = "utc"
        self._ids = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._came = threading.Condition()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._waited_s = 0.0  # by processes of it that are gone
        directory.mkdir(parents=True, exist_ok=True)
        self.layer = directory / "disk.qcow2"
        below, form = (base, "qcow2") if base else (disk.raw, "raw")
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", form, str(self.layer)]
        subprocess.run(create, check=True, stdin=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def power_on(self) -> None:
        """Starts the machine and returns at once."""
        assert self._qemu is None, "the machine is on"
        address = self.directory / "agent"
        address.unlink(missing_ok=True)
        argv = [
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=single,tb-size=256",
            "-icount",
            CLOCK,
            "-name",
            "guest,debug-threads=on",
            "-machine",
            "pc",
            "-cpu",
            "qemu64,+rdrand",
            "-m",
            MEMORY,
            "-display",
            "none",
        ]
        argv += ["-nodefaults", "-serial", f"file:{self.directory}/serial.log", "-rtc", f"base={self.rtc}"]
        argv += ["-kernel", str(self.disk.kernel), "-initrd", str(self.disk.initrd)]
        line = "console=ttyS0 quiet net.ifnames=0 panic=0 loglevel=4 systemd.show_status=0"
        line += f" mitigations=off apparmor=0 audit=0 random.trust_cpu=on systemd.watchdog_sec={WATCHDOG_S} {QUICK}"
        line += f" releases={self.releases_port}"
        argv += ["-append", line, "-drive", f"file={self.layer},if=none,id=disk,format=qcow2,cache=none"]
        argv += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-net-pci,netdev=net,romfile="]
        argv += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.app_port}-10.0.2.15:{APP_PORT}"]
        argv += ["-device", "virtio-serial", "-chardev", f"socket,id=agent,path={address},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=agent,name=slotd.agent"]
        argv += ["-device", "i6300esb", "-action", "watchdog=reset"]
        with self.console.open("ab") as console:
            self._qemu = subprocess.Popen(
                [*DIE_WITH_US, *argv], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        deadline = time.monotonic() + 10
        self._port = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._port.connect(str(address))
                break
            except OSError:
                if self._qemu.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"cannot start QEMU:\n{self.console.read_text()[-2000:]}") from None
                time.sleep(0.02)
        threading.Thread(target=self._listen, args=(self._port,), daemon=True).start()

    def cut(self) -> None:
        """The power goes."""
        if self._qemu is None:
            return
        self._waited_s += self._starved_s()
        self._qemu.send_signal(signal.SIGKILL)
        self._qemu.wait()
        if self._port is not None:
            self._port.close()
        self._qemu = self._port = None
        # What was printed since the last start is kept with what came before it.
        serial = self.directory / "serial.log"
        if serial.exists():
            with self.console.open("ab") as console:
                console.write(serial.read_bytes())

    def had_s(self) -> float:
        """A clock that stands still while the host gives the machine's processor to others. Seconds, from anywhere."""
        return time.monotonic() - self._waited_s - self._starved_s()

    def _starved_s(self) -> float:
        """How long the thread of the emulated processor wanted to run and was not let; see proc(5), schedstat."""
        if self._qemu is None:
            return 0.0
        with contextlib.suppress(OSError, ValueError):
            for task in Path(f"/proc/{self._qemu.pid}/task").iterdir():
                if "TCG" in (task / "comm").read_text():
                    return int((task / "schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Until the machine has had so many seconds."""
        until = self.had_s() + seconds
        while (left := until - self.had_s()) > 0:
            time.sleep(left)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it nothing of the machine moves: its disk is what a power cut at this moment leaves."""
        assert self._qemu is not None, "the machine is off"
        self._qemu.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._qemu.send_signal(signal.SIGCONT)

    def boot(self, *, timeout_s: float = BOOT_S) -> None:
        """Starts it, and waits until its start-up jobs are done."""
        self.power_on()
        self.wait_until_up(timeout_s=timeout_s)

    def wait_until_up(self, *, timeout_s: float = BOOT_S) -> None:
        # One question that waits in there: asking again and again costs an emulated processor much of its time.
        self.wait_for(
            "systemctl is-system-running --wait | grep -qE 'running|degraded'", timeout_s=timeout_s, each_s=120
        )

    def power_off(self) -> None:
        """Shuts down in order."""
        assert self._qemu is not None
        with contextlib.suppress(GuestError):
            self.run("systemctl poweroff --no-block", timeout_s=20)
        self._qemu.wait(120)
        self.cut()

    # ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        check: bool = True,
        input: str | bytes | None = None,
        timeout_s: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command and gives its output. Raises `GuestError`, also when no answer comes."""
        argv = ["sh", "-c", cmd] if isinstance(cmd, str) else list(cmd)
        data = input.encode() if isinstance(input, str) else input or b""
        said = self._ask({"argv": argv, "input": base64.b64encode(data).decode()}, timeout_s)
        if check and said["status"]:
            raise GuestError(f"`{cmd}` in the guest ended with {said['status']}:\n{said['out']}{said['err']}")
        return subprocess.CompletedProcess(argv, said["status"], said["out"], said["err"])

    def ask_state(self, sql: str, *, timeout_s: float = 60.0) -> str:
        """What slotd's state says, as sqlite3(1) prints it. Raises `GuestError`, also when no answer comes."""
        said = self._ask({"sql": sql}, timeout_s)
        if said["status"]:
            raise GuestError(f"`{sql}` in the guest: {said['err']}")
        return str(said["out"])

    def write_file(self, path: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root") -> None:
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1" && chown "$3:" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}", owner], input=content)

    def wait_for(self, cmd: str, *, timeout_s: float = 60.0, each_s: float = 20.0) -> str:
        """Runs a shell line again and again until it succeeds; gives its output. An attempt gets `each_s`."""
        deadline = self.had_s() + timeout_s
        while True:
            try:
                done = self.run(cmd, check=False, timeout_s=min(each_s, timeout_s))
                if done.returncode == 0:
                    return done.stdout
                last = done.stdout + done.stderr
            except GuestError as error:
                last = str(error)
            if self.had_s() > deadline:
                raise GuestError(f"`{cmd}` did not succeed within {timeout_s:g} s:\n{last}")
            self.sleep(PAUSE_S)

    def is_on(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        number = next(self._ids)
        what = request.get("argv") or request["sql"]
        assert self._port is not None, "the machine is off"
        try:
            self._port.sendall(json.dumps({"id": number, **request}).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"cannot ask the guest for {what}: {error}") from error
        deadline = self.had_s() + timeout_s
        with self._came:
            while not self._came.wait_for(lambda: number in self._answers, 1.0):
                if self.had_s() > deadline or not self.is_on():
                    raise GuestError(f"{what} in the guest gave no answer within {timeout_s:g} s")
            return self._answers.pop(number)

    def _listen(self, port: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while part := port.recv(65536):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError), self._came:
                        said = json.loads(line)
                        self._answers[said["id"]] = said
                        self._came.notify_all()
