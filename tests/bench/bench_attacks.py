"""What an unprivileged user's attacks over the bus cost: the daemon, and another user who asks it meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.ledger import Aim, record
from tests.system import flood
from tests.system.attack import attack, prepare
from tests.system.container import Container
from tests.system.hostile import HostilePublisher
from tests.system.image import REPOSITORY, slotd_image


@contextlib.contextmanager
def booted() -> Iterator[Container]:
    """A fresh machine with the package, built from the tree as it is."""
    subprocess.run(["make", "-s", "deb"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    with Container(slotd_image(package)) as machine:
        yield machine


def main() -> None:
    rows: list[list[object]] = []
    growth = worst = 0.0
    with (
        tempfile.TemporaryDirectory() as directory,
        HostilePublisher(Path(directory)) as publisher,
        booted() as machine,
    ):
        notes = prepare(machine, publisher)
        for name in flood.ATTACKS:
            seen = attack(notes, name)
            grown = (seen.after.peak_kib - seen.before.rss_kib) / 1024
            longest, bus = (seen.other[name]["longest_s"] * 1000 for name in ("slotd", "bus"))
            growth, worst = max(growth, grown), max(worst, longest - bus)
            sent = f"{seen.sent['calls']:,} ({seen.sent['note']})"
            memory = f"{seen.before.rss_kib / 1024:.0f} → {seen.after.rss_kib / 1024:.0f} MiB"
            rows.append([name, sent, f"{seen.sent['seconds']:.1f} s", f"{longest:.0f} ms", f"{bus:.0f} ms", memory,
                         seen.result.partition(": ")[2]])  # fmt: skip
    record(
        "attacks",
        "Under attack over the bus",
        "A local user who may do nothing attacks the installed daemon on the system bus of a booted machine, from the "
        "start of an update on. Another user asks for a property every 10 ms; *longest wait* is the worst of his "
        "answers. Beside it the worst answer of the bus itself (`GetId`), which all of this passes through: what the "
        "bus is busy with, no service can answer sooner.",
        ["attack", "calls", "took", "longest wait", "of the bus itself", "memory of slotd", "the update"],
        rows,
        aims=[
            Aim("growth of memory at its peak", growth, 32, "MiB"),
            Aim("longest wait beyond that of the bus", worst, 1000, "ms"),
        ],
    )  # fmt: skip
