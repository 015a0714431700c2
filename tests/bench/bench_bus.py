"""Answers over the bus while an update runs: properties read per second, and how long the daemon lets a ping wait."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench import payload
from tests.bench.bench_downtime import fill
from tests.bench.bench_install import DEFINITION as PLAIN
from tests.bench.bench_install import UNIT
from tests.bench.ledger import REPOSITORY, Aim, Samples, record
from tests.bench.machine import QUICK, WHERE, booted
from tests.bench.shelf import Shelf
from tests.system.container import Container

MB = 10**6
SIZE_MIB = 16 if QUICK else 100
DATA_BYTES, DATA_FILES = (20 * MB, 500) if QUICK else (200 * MB, 4000)
RUNS = 2 if QUICK else 3
DEFINITION = PLAIN + '[data]\npaths = ["/var/lib/payload-data"]\n'
CLIENT = "/usr/local/bin/bus_client"
SLOTD = "org.slotd1"
SERVICES = {
    SLOTD: ("slotd", "/org/slotd1/app/payload", "org.slotd1.App", "Version"),
    "org.freedesktop.systemd1": (
        "systemd", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "Version",
    ),
    "org.freedesktop.login1": (
        "systemd-logind", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "IdleHint",
    ),
}  # fmt: skip
STEPS = "SELECT step, began_at, ended_at FROM steps WHERE job = (SELECT max(job) FROM steps) ORDER BY began_at"


def set_up(machine: Container, shelf: Shelf) -> None:
    """An installed app with data, and the client."""
    program = REPOSITORY / "build" / "bench-payload" / "bus_client"
    program.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("bus_client.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", program, source, "-lsystemd"], check=True)
    machine.write_file(CLIENT, program.read_bytes(), mode=0o755)
    machine.run("useradd --system payload")
    fill(machine, "payload", DATA_BYTES, DATA_FILES)
    machine.write_file("/etc/systemd/system/payload.service", UNIT)
    machine.write_file("/etc/slotd/apps.d/payload.toml", DEFINITION.format(url=shelf.url("payload")))
    machine.run("systemctl daemon-reload; systemctl restart slotd")
    publish(shelf, 0)
    machine.run("slotctl update payload", timeout_s=300)


def publish(shelf: Shelf, number: int) -> None:
    """The next release: two archives take turns, so that each differs from what is installed."""
    shelf.put("payload", f"1.{number}", payload.release(SIZE_MIB, ("1.0", "1.1")[number % 2]))


def asked(machine: Container, what: str) -> dict[str, dict[str, Any]]:
    """Update the app with the client running: what it found, of each service. The daemon is fresh, the data are new."""
    machine.run("find /var/lib/payload-data -type f -exec touch {} + && sync")
    machine.run("systemctl reset-failed slotd; systemctl restart slotd")  # its start limit is not what is measured
    words = [word for name, (_, *rest) in SERVICES.items() for word in (name, *rest)]
    client = subprocess.Popen(
        machine.argv([CLIENT, what, *words], user="alice"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    client.stdout.readline()
    time.sleep(0.2)
    machine.run("slotctl update payload", timeout_s=300)
    printed, _ = client.communicate("\n", timeout=60)
    found = {one["name"]: one for one in map(json.loads, printed.splitlines())}
    assert not any(one["refused"] for one in found.values()), printed
    return found


def step_at(steps: list[tuple[str, float, float]], moment: float) -> str:
    """In which step of the update that was."""
    inside = [name for name, began, ended in steps if began <= moment <= (ended or moment)]
    return inside[-1] if inside else "before or after"


def main() -> None:
    reads: dict[str, list[float]] = {name: [] for name in SERVICES}
    longest: dict[str, list[float]] = {name: [] for name in SERVICES}
    medians: dict[str, list[float]] = {name: [] for name in SERVICES}
    high: dict[str, list[float]] = {name: [] for name in SERVICES}
    spent: dict[str, list[float]] = {}
    where: list[str] = []
    with booted() as machine, Shelf() as shelf:
        set_up(machine, shelf)
        for number in range(1, 2 * RUNS + 1, 2):
            publish(shelf, number)
            for name, one in asked(machine, "read").items():
                reads[name].append(one["answers"] / one["seconds"])
            publish(shelf, number + 1)
            found = asked(machine, "ping")
            lines = machine.run(["sqlite3", "/var/lib/slotd/state.db", STEPS]).stdout.splitlines()
            steps = [(name, float(began), float(ended)) for name, began, ended in (one.split("|") for one in lines)]
            where.append(step_at(steps, found[SLOTD]["longest_at"]))
            for name, began, ended in steps:
                spent.setdefault(name, []).append(ended - began)
            for name, one in found.items():
                longest[name].append(one["longest_s"] * 1000)
                medians[name].append(one["median_s"] * 1000)
                high[name].append(one["high_s"] * 1000)
            print(
                f"  {reads[SLOTD][-1]:,.0f} reads/s; a wait of {longest[SLOTD][-1]:.1f} ms in {where[-1]}", flush=True
            )
    tell(reads, (medians, high, longest), spent, where)


def tell(
    reads: dict[str, list[float]],
    waits: tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[float]]],
    spent: dict[str, list[float]],
    where: list[str],
) -> None:
    medians, high, longest = waits
    rows: list[list[object]] = []
    for name, (called, *_) in SERVICES.items():
        kinds = (Samples(medians[name], "ms"), Samples(high[name], "ms"), Samples(longest[name], "ms"))
        rows.append([called, Samples(reads[name], "reads/s"), *kinds])
    long = ", ".join(
        f"`{name}` {statistics.median(s):.1f} s" for name, s in spent.items() if statistics.median(s) >= 0.1
    )
    record(
        "bus",
        "Answering while an update runs" + (" (QUICK)" if QUICK else ""),
        f"One client in C on sd-bus, a user without rights, asks slotd and two services of systemd while slotd updates "
        f"an app: a release of {SIZE_MIB} MiB, {DATA_BYTES // MB} MB of data in {DATA_FILES:,} files, all of which is "
        f"to be copied, {WHERE}. The daemon was started just before, so that the first job's imports count. *Reads*: "
        "one property, 16 questions at a time, the services in turns of 200 ms through the whole update; all of it "
        "passes the bus, and shares two processors with the update's workers. *Wait*: `Peer.Ping` every 5 ms to each, "
        "at the same time, during another update.",
        ["", "reads", "median wait", "99.9% within", "longest wait"],
        rows,
        aims=[
            Aim("reads while an update runs", statistics.median(reads[SLOTD]), 2000, "reads/s", at_least=True),
            Aim("longest wait, median of updates", statistics.median(longest[SLOTD]), 50, "ms"),
        ],
        notes=[
            f"Where an update's time went: {long}. slotd's longest waits fell into: {', '.join(where)}.",
        ],
    )
