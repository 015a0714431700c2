"""A release of which 1 % changed, over two lines: slotd's fetch worker beside curl, zsync and casync."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.ledger import Samples, record
from tests.bench.machine import QUICK, timed
from tests.bench.narrow import Narrow
from tests.bench.payload import CACHE

from slotd.core.plain import to_plain
from slotd.core.schema import Limits
from slotd.host.run import Workers

MIB = 1024**2
MEMBERS = 200 if QUICK else 2000
MEMBER_BYTES = 105_000
RUNS = 3
LINES = {"loopback": (0, 0.0), "100 Mbit/s, 20 ms": (12_500_000, 0.02)}


def pack(path: Path, changed: int) -> None:
    """Members that no packer makes smaller; every hundredth is another one for another `changed`."""
    with zipfile.ZipFile(path, "w") as made:
        for number in range(MEMBERS):
            seed = number + (changed * MEMBERS if number % 100 == 7 else 0)
            made.writestr(zipfile.ZipInfo(f"app/lib/{number:05}.bin"), random.Random(seed).randbytes(MEMBER_BYTES))


def prepare(folder: Path) -> None:
    pack(folder / "old.zip", 0)
    pack(folder / "new.zip", 1)
    quiet: dict[str, Any] = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name in ("old", "new"):
        subprocess.run(["casync", "make", f"{name}.zip.caibx", "--store=store", f"{name}.zip"], **quiet)
    subprocess.run(["zsyncmake", "-u", "new.zip", "new.zip"], **quiet)


def slotd(folder: Path, url: str, kind: str) -> None:
    """One call of the fetch worker, a process of its own."""
    out = folder / "slotd.out"
    out.unlink(missing_ok=True)
    names = ["old.zip"] if kind else []
    if kind == "chunks":
        names += ["old.zip.caibx", "fetched.caibx"]
        subprocess.run(["curl", "-sSf", "-o", folder / "fetched.caibx", f"{url}/new.zip.caibx"], check=True)
    fds = [os.open(out, os.O_RDWR | os.O_CREAT), *(os.open(folder / name, os.O_RDONLY) for name in names)]
    limits = Limits()
    workers = Workers(limits=limits, sandbox=False)
    request = {"url": f"{url}/new.zip", "limits": to_plain(limits), "seed": kind}
    try:
        asyncio.run(workers.call("fetch", request, fds, unit="slotd-worker-bench-1-fetch", timeout_s=900))
    finally:
        for fd in fds:
            os.close(fd)
    require(folder, out)


def by(folder: Path, url: str, *argv: str) -> None:
    """A program that leaves `FILE.out`, its digest taken as slotd takes it."""
    out = folder / f"{argv[0]}.out"
    out.unlink(missing_ok=True)
    words = [word.replace("URL", url).replace("OUT", str(out)) for word in argv]
    subprocess.run(words, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    require(folder, out)


def require(folder: Path, out: Path) -> None:
    with out.open("rb") as one, (folder / "new.zip").open("rb") as other:
        same = hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
    if not same:
        raise RuntimeError(f"{out.name} is not the new file")


CURL = ("curl", "-sSf", "-o", "OUT", "URL/new.zip")
ZSYNC = ("zsync", "-q", "-i", "old.zip", "-o", "OUT", "URL/new.zip.zsync")
CASYNC = ("casync", "extract", "--store=URL/store", "--seed=old.zip", "URL/new.zip.caibx", "OUT")
WAYS: dict[str, Callable[[Path, str], None]] = {
    "slotd, by the archive's directory": lambda folder, url: slotd(folder, url, "zip"),
    "slotd, by chunk indexes": lambda folder, url: slotd(folder, url, "chunks"),
    "slotd, all of it": lambda folder, url: slotd(folder, url, ""),
    "`curl`, all of it": lambda folder, url: by(folder, url, *CURL),
    "`zsync`": lambda folder, url: by(folder, url, *ZSYNC),
    "`casync extract --seed`": lambda folder, url: by(folder, url, *CASYNC),
}


def main() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="delta-", dir=CACHE))
    rows: list[list[object]] = []
    notes: list[str] = []
    try:
        prepare(folder)
        size = (folder / "new.zip").stat().st_size
        for line, (rate, delay_s) in LINES.items():
            taken: dict[str, list[float]] = {name: [] for name in WAYS}
            cost: dict[str, tuple[int, int]] = {}
            for _ in range(RUNS):
                for name, way in WAYS.items():
                    measure(name, way, folder, rate, delay_s, taken, cost, notes)
            curl = Samples(taken["`curl`, all of it"], "s")
            for name, values in taken.items():
                if values:
                    sent, asked = cost[name]
                    ours = Samples(values, "s")
                    rows.append([f"{name}, {line}", ours, ours.against(curl), f"{sent / MIB:.2f} MiB", asked])
    finally:
        shutil.rmtree(folder)
    record(
        "delta",
        "Of a release, what changed alone",
        f"A ZIP archive of {size // MIB} MiB, {MEMBERS} members of which 1 % are others than in the version before, "
        "from one server over two lines: as fast as it goes, and narrowed to 100 Mbit/s with 20 ms before each answer. "
        "slotd: one call of its fetch worker, its start and its digest included. The indexes of zsync and casync were "
        "made before and are fetched in each run. All results were compared with the published file.",
        ["", "time", "against curl", "over the line", "requests"],
        rows,
        notes=list(dict.fromkeys(notes)),
    )


def measure(
    name: str,
    way: Callable[[Path, str], None],
    folder: Path,
    rate: int,
    delay_s: float,
    taken: dict[str, list[float]],
    cost: dict[str, tuple[int, int]],
    notes: list[str],
) -> None:
    with Narrow(folder, rate=rate, delay_s=delay_s) as line:
        try:
            taken[name].append(timed(lambda: way(folder, line.url)))
        except (subprocess.CalledProcessError, RuntimeError) as error:
            notes.append(f"{name} did not come to its end: {error}.")
            return
        cost[name] = line.sent, line.asked
        print(f"  {name}: {taken[name][-1]:.2f} s, {line.sent / MIB:.2f} MiB, {line.asked} requests", flush=True)
