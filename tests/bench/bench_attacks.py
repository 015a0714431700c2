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

NOTE = (
    "Unread answers are the worst case. A trace of slotd's system calls showed where the time goes: the question comes "
    "out of the bus a second after it was asked, behind the attacker's, and then the bus takes nothing from slotd for "
    "two or three seconds, in which slotd waits. Who is not attacked waits about half as long at the same time."
)


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
        for name in ("nothing", *flood.ATTACKS):
            seen = attack(notes, name)
            grown = (seen.after.peak_kib - seen.before.rss_kib) / 1024
            ours, systemd, bus = (seen.other[whom]["longest_s"] * 1000 for whom in ("slotd", "systemd", "bus"))
            growth, worst = max(growth, grown), max(worst, ours - systemd)
            sent = f"{seen.sent['calls']:,} ({seen.sent['note']})"
            memory = f"{seen.before.rss_kib / 1024:.0f} → {seen.after.rss_kib / 1024:.0f} MiB"
            took = seen.result.rpartition(" in ")[2] if ": updated " in seen.result else seen.result
            waits = [f"{wait:.0f} ms" for wait in (ours, systemd, bus)]
            rows.append([name, sent, f"{seen.sent['seconds']:.1f} s", *waits, memory, took])
            print(f"  {name}: {', '.join(waits)}", flush=True)
    record(
        "attacks",
        "Under attack over the bus",
        "A local user who may do nothing attacks the installed daemon on the system bus of a booted machine, from the "
        "start of an update on. Meanwhile another user asks every 10 ms, each on a connection of its own: slotd for a "
        "property, systemd (which nobody attacks) for a property, and the bus itself for its id. Shown is the longest "
        "that each let him wait. What systemd and the bus take longer than in the first line is the bus, which reads "
        "a little of every connection in turn, and keeps one queue for each service, first in, first out: with 100 "
        "connections of an attacker that makes seconds for everyone.",
        [
            "attack",
            "calls",
            "sent in",
            "wait for slotd",
            "for systemd",
            "for the bus",
            "memory of slotd",
            "update took",
        ],
        rows,
        aims=[
            Aim("growth of memory at its peak", growth, 32, "MiB"),
            Aim("longest wait beyond that for systemd", worst, 1000, "ms"),
        ],
        notes=[NOTE],
    )
