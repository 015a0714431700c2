"""Backups beside rsync, restic, borg and cp, and the time an app is down for one, by the size of its data.

    BYTES=2147483648 FILES=20000 SIZES=10,1024,10240 python3 -m tests.bench backup

The data: small files, some large ones, and two SQLite databases that are written to all the while. Each tool makes a
first backup and three after 1 % of the files and a page of a large one have changed again, on ext4, on xfs and, as a
subvolume, on btrfs. `slotd` is its tree store as the daemon calls it: hot, then cold and seal with the writer stopped,
and with the app up again what is left to do.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.figure import Line, draw
from tests.bench.ledger import PAGE, REPOSITORY, Aim, Samples, record
from tests.trees import make_place

QUICK = bool(os.environ.get("QUICK"))
BYTES = int(os.environ.get("BYTES", (256 << 20) if QUICK else (2 << 30)))
FILES = int(os.environ.get("FILES", 4000 if QUICK else 20_000))
LATER = 1 if QUICK else 3  # runs after the first
SIZES_MB = [int(size) for size in os.environ.get("SIZES", "10,100" if QUICK else "10,1024,10240").split(",")]
ROOM = Path(os.environ.get("BENCH_ROOM", "/var/tmp"))
FIGURE = PAGE.parent / "backup-downtime.svg"
SETTLE_S = 2.5  # a change is surely seen by its time only when it is older than this

WRITER = """
import signal, sqlite3, sys, time
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
bases = [sqlite3.connect(path, isolation_level=None) for path in sys.argv[1:]]
print("up", flush=True)
while going:
    for base in bases:
        base.execute("INSERT INTO rows(body) VALUES (randomblob(300))")
    time.sleep(0.02)
for base in bases:
    base.close()
"""

PASSES = """
import sys
from pathlib import Path
from slotd.data import DataSpec
from slotd.data.tree import TreeStore
live, dest, base = sys.argv[1:4]
store, spec = TreeStore(), DataSpec((Path(live),), sqlite=("*.db",))
store.hot(spec, Path(dest), Path(base) if base else None, lambda: False)
print("hot", flush=True)
sys.stdin.readline()
store.cold(spec, Path(dest))
store.seal(Path(dest), {})
print("sealed", flush=True)
store.complete(Path(dest))
"""

# Runs a tool and says what it took. A process of its own, and a small one: the kernel counts the memory of whoever
# forks as the child's own.
COUNT = """
import json, os, sys
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss]), file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@dataclass(frozen=True)
class Cost:
    """What a command took. `stopped_s`: how much of it the app must be stopped for."""

    seconds: float
    cpu_s: float
    peak_mb: float
    written_mb: float
    stopped_s: float


@dataclass(frozen=True)
class Later:
    """The runs after the first of one tool."""

    seconds: Samples
    stopped: Samples


@dataclass
class Data:
    """The app's data, and its process that writes two databases."""

    live: Path
    dice: random.Random
    writer: subprocess.Popen[bytes] | None = None

    def make(self, size: int, count: int) -> None:
        """`count` small files with a quarter of the bytes, the rest in large ones; two databases of 32 MiB."""
        make_place(self.live)
        small = max(1, size // 4 // count)
        for number in range(count):
            path = self.live / f"{number % 200:03}" / f"file-{number}"
            if number < 200:
                path.parent.mkdir()
            path.write_bytes(self.dice.randbytes(self.dice.randint(small // 2, small * 3 // 2)))
        left = size - size // 4
        for number in range(6):
            with open(self.live / f"large-{number}", "wb") as file:
                for _ in range(max(1, left // 6 >> 20)):
                    file.write(self.dice.randbytes(1 << 20))
        for name in ("one.db", "two.db"):
            base = sqlite3.connect(self.live / name, isolation_level=None)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("CREATE TABLE rows(id INTEGER PRIMARY KEY, body BLOB)")
            base.execute("BEGIN")
            base.executemany("INSERT INTO rows(body) VALUES (?)", ((self.dice.randbytes(1 << 16),) for _ in range(500)))
            base.execute("COMMIT")
            base.close()
        os.sync()

    def change(self, count: int) -> None:
        """One small file in a hundred is written anew, and a page in one of the large ones."""
        for number in range(0, count, 100):
            path = self.live / f"{number % 200:03}" / f"file-{number}"
            path.write_bytes(self.dice.randbytes(path.stat().st_size))
        self.touch_large(0)
        os.sync()
        time.sleep(SETTLE_S)

    def touch_large(self, number: int) -> None:
        with open(self.live / f"large-{number}", "r+b") as file:
            file.seek(self.dice.randrange(max(1, os.fstat(file.fileno()).st_size - 4096)))
            file.write(self.dice.randbytes(4096))

    def start(self) -> None:
        bases = [str(self.live / name) for name in ("one.db", "two.db")]
        self.writer = subprocess.Popen([sys.executable, "-c", WRITER, *bases], stdout=subprocess.PIPE)
        assert self.writer.stdout
        self.writer.stdout.readline()

    def stop(self) -> None:
        if self.writer:
            self.writer.terminate()
            self.writer.communicate(timeout=60)
            self.writer = None


@contextmanager
def file_system(kind: str, size: int) -> Iterator[Path]:
    """A fresh file system of that kind in a file, mounted."""
    with tempfile.TemporaryDirectory(prefix="slotd-bench-", dir=ROOM) as name:
        image, mount = Path(name, "image"), Path(name, "mount")
        with open(image, "wb") as file:
            file.truncate(size)
        mount.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def used(path: Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def cost(argv: list[str], room: Path, data: Data) -> Cost:
    """Run a tool. slotd says when it is ready for the app to be stopped; all others need it stopped from the first.

    Their bytes are on disk at the end: that is a part of the time, as it is a part of a backup.
    """
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY / "daemon"),
        "RESTIC_PASSWORD": "x",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "XDG_CACHE_HOME": str(room / "cache"),
    }
    os.sync()
    before, began = used(room), time.monotonic()
    is_ours = PASSES in argv
    if not is_ours:
        data.stop()
    stopped_at = time.monotonic()
    counted = [sys.executable, "-I", "-S", "-c", COUNT, *argv]
    with subprocess.Popen(
        counted, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        if is_ours:
            child.stdout.readline()
            data.stop()
            stopped_at = time.monotonic()
            child.stdin.write(b"go\n")
            child.stdin.flush()
        child.stdout.readline()
        sealed = time.monotonic()
        child.stdout.read()
        said = child.stderr.read().decode()
    if child.returncode:
        raise RuntimeError(f"{argv[0]} ended with status {child.returncode}: {said}")
    cpu_s, peak_kb = json.loads(said.splitlines()[-1])
    subprocess.run(["sync", "-f", str(room)], check=True)
    ended = time.monotonic()
    return Cost(
        seconds=ended - began,
        cpu_s=cpu_s,
        peak_mb=peak_kb / 1024,
        written_mb=max(0, used(room) - before) / 2**20,
        stopped_s=(sealed if is_ours else ended) - stopped_at,
    )


def tools(live: Path, room: Path) -> dict[str, Callable[[int], list[str]]]:
    """The command of each tool for the backup of that number."""

    def slotd(number: int) -> list[str]:
        base = str(room / f"slotd-{number - 1}") if number else ""
        return [sys.executable, "-c", PASSES, str(live), str(room / f"slotd-{number}"), base]

    def rsync(number: int) -> list[str]:
        base = [f"--link-dest={room}/rsync-{number - 1}"] if number else []
        return ["rsync", "-aHAX", *base, f"{live}/", f"{room}/rsync-{number}/"]

    def restic(_number: int) -> list[str]:
        return ["restic", "-q", "-r", f"{room}/restic", "backup", str(live)]

    def borg(number: int) -> list[str]:
        return ["borg", "create", f"{room}/borg::{number}", str(live)]

    def cp(number: int) -> list[str]:
        return ["cp", "-a", "--reflink=auto", str(live), f"{room}/cp-{number}"]

    return {"slotd": slotd, "rsync --link-dest": rsync, "restic": restic, "borg": borg, "cp -a --reflink=auto": cp}


def run(argv: list[str], room: Path) -> None:
    cost(argv, room, Data(room, random.Random()))


def compare(kind: str) -> tuple[list[list[object]], dict[str, Later]]:
    """The rows of the table for one file system, and each tool's later runs."""
    rows: list[list[object]] = []
    later: dict[str, Later] = {}
    with file_system(kind, BYTES * 7 + (2 << 30)) as mount:
        data = Data(mount / "live", random.Random(7))
        data.make(BYTES, FILES)
        time.sleep(SETTLE_S)
        room = mount / "room"
        room.mkdir()
        run(["restic", "-q", "-r", f"{room}/restic", "init"], room)
        run(["borg", "init", "-e", "none", f"{room}/borg"], room)
        by_name = tools(data.live, room)
        costs: dict[str, list[Cost]] = {name: [] for name in by_name}
        try:
            for number in range(1 + LATER):
                if number:
                    data.stop()
                    data.change(FILES)
                for name, commands in by_name.items():
                    if data.writer is None:
                        data.start()
                    costs[name].append(cost(commands(number), room, data))
                    if name.startswith("cp"):
                        shutil.rmtree(room / f"cp-{number}")
        finally:
            data.stop()
        for name, (first, *again) in costs.items():
            later[name] = Later(Samples([c.seconds for c in again], "s"), Samples([c.stopped_s for c in again], "s"))
            rows.append(
                [
                    f"{name}, {kind}",
                    f"{first.seconds:.3g} s",
                    later[name].seconds,
                    later[name].stopped,
                    f"{first.cpu_s:.3g} s",
                    f"{median(c.cpu_s for c in again):.3g} s",
                    f"{median(c.written_mb for c in again):,.1f} MiB",
                    f"{max(c.peak_mb for c in (first, *again)):.0f} MiB",
                ]
            )
    return rows, later


def downtime(size: int) -> tuple[float, float]:
    """How long an app with `size` bytes is down for a later backup of slotd's, and for stop, copy, start by hand."""
    count = min(FILES, max(100, size // 2**16))
    with file_system("ext4", size * 4 + (1 << 30)) as mount:
        data = Data(mount / "live", random.Random(size))
        data.make(size, count)
        time.sleep(SETTLE_S)
        room = mount / "room"
        room.mkdir()
        commands = tools(data.live, room)
        data.start()
        cost(commands["slotd"](0), room, data)
        data.change(count)
        data.start()
        ours = cost(commands["slotd"](1), room, data).stopped_s
        data.start()
        byhand = cost(commands["cp -a --reflink=auto"](0), room, data).stopped_s
        return ours, byhand


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows: list[list[object]] = []
    aims = []
    for kind in ("ext4", "xfs", "btrfs"):
        table, later = compare(kind)
        rows += table
        ours, restic = later["slotd"], later["restic"]
        whole, stopped = (each.median / restic.seconds.median for each in (ours.seconds, ours.stopped))
        aims.append(Aim(f"later runs against restic's, {kind}", whole, 1, "times"))
        aims.append(Aim(f"time stopped against restic's, {kind}", stopped, 0.1, "times"))
    points = [(size, *downtime(size << 20)) for size in SIZES_MB]
    lines = [Line("stop, cp -a, start", [(size, hand) for size, _, hand in points])]
    lines.append(Line("slotd", [(size, ours) for size, ours, _ in points]))
    FIGURE.write_text(draw("Time an app is stopped for a backup", "MiB of data", "seconds", lines))
    shown = "; ".join(f"{size} MiB: {ours:.2f} s against {hand:.2f} s" for size, ours, hand in points)
    record(
        "backup",
        "Backups",
        f"{BYTES / 2**30:.2g} GiB in {FILES} small files, six large ones and two SQLite databases that are being "
        "written to; the later runs after one file in a hundred, and a page in one of the large ones, has changed. "
        "*Stopped* is how long the app must be down for a backup that is one state of its data: slotd's cold pass and "
        "seal; with the others the whole run. Every run ends with its bytes on disk.",
        ["", "first", "later", "stopped", "CPU first", "CPU later", "new bytes", "memory"],
        rows,
        aims=aims,
        notes=[f"Stopped for a later backup, by the size of the data, on ext4 (`backup-downtime.svg`): {shown}."],
    )
    print(json.dumps(points))
