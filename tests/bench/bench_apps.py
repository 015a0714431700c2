"""Five hundred apps: the list, the daemon's start, its memory."""

from __future__ import annotations

from tests.bench.apps import define
from tests.bench.ledger import Samples, record
from tests.bench.machine import QUICK, WHERE, booted, main_pid, rss, spawned, timed
from tests.system.container import Container

APPS = 50 if QUICK else 500
RUNS = 3 if QUICK else 7
MB = 1024**2


def restarted(machine: Container, unit: str, runs: int) -> Samples:
    """Milliseconds from the order until the service says that it is ready."""
    found = []
    for _ in range(runs):
        machine.run(["systemctl", "reset-failed", unit])  # its start limit is not what is measured
        found.append(timed(lambda: machine.run(["systemctl", "restart", unit])) * 1000)
    return Samples(found, "ms")


def memory(machine: Container, unit: str) -> float:
    return rss(main_pid(machine, unit)).get("now", 0) / MB


def main() -> None:
    with booted() as machine:
        define(machine, 1)
        few = restarted(machine, "slotd", RUNS), memory(machine, "slotd")
        define(machine, APPS)
        many = restarted(machine, "slotd", RUNS), memory(machine, "slotd")
        logind = restarted(machine, "systemd-logind", RUNS), memory(machine, "systemd-logind")
        listed = spawned(machine, ["slotctl", "list"], RUNS, whole=True)
        plain = spawned(machine, ["slotctl", "--json", "list"], RUNS, whole=True)
        called = ["busctl", "call", "org.slotd1", "/org/slotd1", "org.slotd1.Manager", "ListApps"]
        bus = spawned(machine, called, RUNS, whole=True)
        units = spawned(machine, ["systemctl", "list-units", "--all", "--no-pager"], RUNS, whole=True)
        timers = spawned(machine, ["systemctl", "list-timers", "--all", "--no-pager"], RUNS, whole=True)
        tree = spawned(machine, ["busctl", "tree", "--no-pager", "org.slotd1"], RUNS, whole=True)
        after = memory(machine, "slotd")
        lines = len(machine.run(["slotctl", "list"]).stdout.splitlines())
        assert lines >= APPS, f"slotctl list gave {lines} lines"
    record(
        "apps",
        f"{APPS} apps on one host",
        f"{APPS} definitions, each with a unit that systemd has loaded, {WHERE}. Times are of whole commands; starting "
        "is until READY=1.",
        ["", "time", "resident memory"],
        [
            ["`slotctl list`", listed, ""],
            ["`slotctl --json list`", plain, ""],
            ["`busctl call … ListApps`", bus, ""],
            ["`busctl tree org.slotd1`", tree, ""],
            ["`systemctl list-units --all`", units, ""],
            ["`systemctl list-timers --all`", timers, ""],
            [f"slotd started, {APPS} apps", many[0], f"{many[1]:.0f} MB, {after:.0f} MB after the lists"],
            ["slotd started, one app", few[0], f"{few[1]:.0f} MB"],
            ["systemd-logind started", logind[0], f"{logind[1]:.0f} MB"],
        ],
    )
