"""The machine that is measured: the package on a booted Debian, with its opponents beside it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.bench.ledger import Samples
from tests.system.container import Container
from tests.system.image import REPOSITORY, image_with, slotd_image

QUICK = os.environ.get("SLOTD_BENCH_QUICK", "") not in ("", "0")
OPPONENTS = ("cpio", "e2fsprogs", "openssl", "rauc", "rauc-service", "squashfs-tools", "swupdate", "zstd")
PROGRAMS = ("rauc", "swupdate")  # whose memory is watched beside slotd's
WHERE = "in a booted Debian 12 container (systemd as PID 1, overlay on the host's disk), the package installed by apt"


@contextmanager
def booted() -> Iterator[Container]:
    """A fresh machine with the package, built from the tree as it is, and the opponents."""
    subprocess.run(["make", "-s", "deb"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    with Container(image_with(slotd_image(package), OPPONENTS)) as machine:
        yield machine


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def make_cold(*paths: Path) -> None:
    """Everything that is to be written is on the disk, and nothing of these files is in memory."""
    subprocess.run(["sync"], check=True)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def rss(pid: int) -> dict[str, int]:
    """A process's memory in bytes: `now`, `peak` (its highest), `own` (not backed by files); empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(("Vm", "Rss"))
    }
    if "VmRSS" not in found:
        return {}
    return {"now": found["VmRSS"], "peak": found["VmHWM"], "own": found["RssAnon"]}


class Sampler:
    """Looks again and again, in a thread of its own, from `with` to its end."""

    PAUSE_S = 0.05

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self.PAUSE_S):
            self.look()

    def look(self) -> None:
        raise NotImplementedError


class Watch(Sampler):
    """Samples the memory of slotd's processes in one machine, and of the opponents'; a process's own high-water mark
    misses little.
    """

    def __init__(self, machine: Container) -> None:
        self.peaks: dict[str, int] = {}  # daemon, the worker's verb, or the opponent's name: bytes
        self.own: dict[str, int] = {}
        self._namespace = os.readlink(f"/proc/{machine.leader}/ns/pid")
        super().__init__()

    def look(self) -> None:
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                self._look(int(entry))

    def _look(self, pid: int) -> None:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            name = _role(words)
            if not name or os.readlink(f"/proc/{pid}/ns/pid") != self._namespace:
                return
        except OSError:
            return
        if seen := rss(pid):
            self.peaks[name] = max(self.peaks.get(name, 0), seen["peak"])
            self.own[name] = max(self.own.get(name, 0), seen["own"])


def _role(words: list[str]) -> str:
    """`daemon`, the worker's verb, an opponent's name, or nothing."""
    if (program := words[0].rpartition("/")[2]) in PROGRAMS:
        return program
    if "python" not in words[0]:
        return ""
    if "slotd.worker" in words:
        return words[words.index("slotd.worker") + 1]
    return "daemon" if any(word.endswith("/sbin/slotd") for word in words) else ""


def spawned(
    machine: Container, argv: list[str], runs: int, *, before: Callable[[], object] = lambda: None, whole: bool = False
) -> Samples:
    """Milliseconds from the start of a new process to its first byte of output (`whole`: to its end)."""
    found = []
    for _ in range(runs + 1):
        before()
        command = machine.argv(argv)
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        if not whole:
            process.stdout.read(1)
            found.append((time.perf_counter() - began) * 1000)
        process.stdout.read()
        process.wait()
        if whole:
            found.append((time.perf_counter() - began) * 1000)
    return Samples(found[1:], "ms")  # the first one read the programs from the disk


def main_pid(machine: Container, unit: str) -> int:
    """The host's process id of a unit's main process, 0 if there is none."""
    inside = machine.show(unit, "MainPID").get("MainPID", "0")
    if inside == "0":
        return 0
    namespace = os.readlink(f"/proc/{machine.leader}/ns/pid")
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                text = Path(f"/proc/{entry}/status").read_text()
                if os.readlink(f"/proc/{entry}/ns/pid") != namespace:
                    continue
            except OSError:
                continue
            line = next(line for line in text.splitlines() if line.startswith("NSpid"))
            if line.split()[-1] == inside:
                return int(entry)
    return 0
