"""What the daemon takes while it waits, after work, and when it has left."""

from __future__ import annotations

import time

from tests.bench.bench_downtime import DEFINITION, UNIT, release
from tests.bench.ledger import Aim, record
from tests.bench.machine import QUICK, WHERE, booted, main_pid, rss
from tests.bench.shelf import Shelf
from tests.system.container import Container, free_port

MB = 1024**2
UPDATES = 2 if QUICK else 5
IDLE_S = 120.0


def taken(machine: Container, unit: str) -> list[object]:
    found = rss(main_pid(machine, unit))
    if not found:
        return ["-", "-"]
    return [f"{found['now'] / MB:.0f} MB", f"{found['own'] / MB:.0f} MB"]


def main() -> None:
    rows: list[list[object]] = []
    with booted() as machine, Shelf() as shelf:
        machine.run("useradd --system demo; mkdir /var/lib/demo-data; chown demo: /var/lib/demo-data")
        machine.write_file("/etc/systemd/system/demo.service", UNIT.format(name="demo", port=free_port()))
        machine.write_file("/etc/slotd/apps.d/demo.toml", DEFINITION.format(name="demo", url=shelf.url("demo")))
        machine.run("systemctl daemon-reload; systemctl restart slotd")
        rows.append(["slotd, just started, one app", *taken(machine, "slotd")])
        for number in range(UPDATES):
            shelf.put("demo", f"1.{number}", release(f"1.{number}"))
            machine.run("slotctl update demo")
        after = rss(main_pid(machine, "slotd"))
        rows.append([f"slotd, after {UPDATES} updates", *taken(machine, "slotd")])
        left = wait_until_gone(machine)
        told = f"{left:.0f} s after the last call" if left else f"not within {IDLE_S:.0f} s"
        rows.append([f"slotd, idle: it leaves {told}", "0 MB" if left else "-", "0 MB" if left else "-"])
        machine.run("systemctl start polkit")
        for unit in ("polkit", "systemd-logind", "systemd-journald", "dbus"):
            rows.append([unit, *taken(machine, unit)])
    record(
        "memory",
        "Memory",
        f"Resident memory of main processes, {WHERE}: with the files that are mapped, and of that what is the "
        "process's own. A Python daemon is heavier than those in C; most of the day it costs the host nothing, for it "
        "leaves when it is idle, and the bus starts it again.",
        ["", "resident", "its own"],
        rows,
        aims=[Aim("the daemon after updates", after["now"] / MB, 64, "MB")],
    )


def wait_until_gone(machine: Container) -> float:
    """Seconds until the idle daemon has left; 0 if it did not."""
    began = time.monotonic()
    while time.monotonic() - began < IDLE_S:
        if not main_pid(machine, "slotd"):
            return time.monotonic() - began
        time.sleep(0.5)
    return 0.0
