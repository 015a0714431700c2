"""How long a person waits for the first answer of `slotctl`, beside the tools they know."""

from __future__ import annotations

from tests.bench.apps import define
from tests.bench.ledger import Aim, record
from tests.bench.machine import QUICK, WHERE, booted, spawned
from tests.system.container import Container

RUNS = 5 if QUICK else 15
APPS = 5


def main() -> None:
    with booted() as machine:
        define(machine, APPS)
        machine.run("systemctl restart slotd")
        ours = {
            "`slotctl status`": spawned(machine, ["slotctl", "status"], RUNS),
            "`slotctl status app001`": spawned(machine, ["slotctl", "status", "app001"], RUNS),
            "`slotctl list`": spawned(machine, ["slotctl", "list"], RUNS),
            "`slotctl --help`": spawned(machine, ["slotctl", "--help"], RUNS),
        }
        started = spawned(machine, ["slotctl", "status"], RUNS, before=lambda: stop(machine))
        machine.run("systemctl start rauc.service", check=False)
        theirs = {
            "`systemctl status slotd`": spawned(machine, ["systemctl", "status", "--no-pager", "slotd"], RUNS),
            "`systemctl status`": spawned(machine, ["systemctl", "status", "--no-pager"], RUNS),
            "`busctl tree org.slotd1`": spawned(machine, ["busctl", "tree", "--no-pager", "org.slotd1"], RUNS),
            "`apt list --upgradable`": spawned(machine, ["apt", "list", "--upgradable"], RUNS),
            "`python3 -c pass`": spawned(machine, ["/usr/bin/python3", "-I", "-c", "pass"], RUNS),
            "`true`": spawned(machine, ["true"], RUNS),
        }
    rows: list[list[object]] = [[name, value] for name, value in ours.items()]
    rows.append(["`slotctl status`, which has to start the daemon first", started])
    rows += [[name, value] for name, value in theirs.items()]
    record(
        "cli",
        "The first answer of `slotctl`",
        f"A new process each time until its first byte of output, {WHERE}; {APPS} apps are defined. Entering the "
        "container is in each figure: `true` shows how much that is.",
        ["", "first output"],
        rows,
        aims=[Aim("`slotctl status`, daemon running", ours["`slotctl status`"].median, 150, "ms")],
    )


def stop(machine: Container) -> None:
    machine.run("systemctl stop slotd; systemctl reset-failed slotd")
