"""An attack on the bus while an app is updated, and what it did to the daemon and to somebody else meanwhile."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.container import Container
from tests.system.hostile import HostilePublisher
from tests.system.notes import Notes

ATTACK_S = 4
LAID = "/opt/flood"
PROGRAM = ["env", f"PYTHONPATH={LAID}", "/usr/bin/python3", "-m", "tests.system.flood"]
GROWTH_KIB = 32 * 1024  # more than that no attack may cost the daemon, at its peak
NOISE = 60  # lines in the journal: an update has about 20, an attack a handful at most


@dataclass(frozen=True, slots=True)
class Seen:
    """The daemon at one moment; its memory in KiB, and the lines it has written into the journal."""

    pid: int
    restarts: int
    rss_kib: int
    peak_kib: int
    descriptors: int
    lines: int

    @classmethod
    def of(cls, machine: Container) -> Seen:
        unit = machine.show("slotd.service", "MainPID", "NRestarts")
        pid = int(unit["MainPID"])
        status = dict(line.split(":", 1) for line in machine.read_file(f"/proc/{pid}/status").splitlines())
        rss, peak = (int(status[key].split()[0]) for key in ("VmRSS", "VmHWM"))
        descriptors = len(machine.run(["ls", f"/proc/{pid}/fd"]).stdout.split())
        lines = len(machine.journal("slotd.service").splitlines())
        return cls(pid, int(unit["NRestarts"]), rss, peak, descriptors, lines)


@dataclass(frozen=True, slots=True)
class Attacked:
    """`sent` is what the attacker says it did, `other` what somebody else saw (see `flood`); `printed` by slotctl."""

    sent: dict[str, Any]
    other: dict[str, Any]
    before: Seen
    after: Seen
    version_before: str
    version: str
    printed: str

    @property
    def result(self) -> str:
        """slotctl's last line, without the time before it."""
        return self.printed.strip().splitlines()[-1].partition(" ")[2]


def prepare(machine: Container, publisher: HostilePublisher) -> Notes:
    """An installed app, and what the users alice (who attacks) and bob need."""
    for file in ("system/flood.py", "parts/bus_peer.py"):
        machine.write_file(f"{LAID}/tests/{file}", (Path(__file__).parents[1] / file).read_text())
    machine.run("useradd --create-home bob")
    app = Notes(machine, publisher)
    app.set_up(trial="3s")
    app.install("1.0")
    return app


def attack(notes: Notes, name: str) -> Attacked:
    """Update the app, with the attack from the start on, and somebody who asks all the while."""
    machine, publisher = notes.machine, notes.publisher
    assert isinstance(publisher, HostilePublisher)
    version_before = notes.state()["version"]
    version = publisher.publish_next()
    before = Seen.of(machine)
    poller = subprocess.Popen(
        machine.argv([*PROGRAM, "poll"], user="bob"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert poller.stdout is not None
    poller.stdout.readline()
    update = machine.popen(["slotctl", "update", "notes"])
    attacker = machine.popen([*PROGRAM, name, str(ATTACK_S)], user="alice")
    sent, _ = attacker.communicate(timeout=60)
    printed, _ = update.communicate(timeout=60)
    other, _ = poller.communicate("\n", timeout=60)
    after = Seen.of(machine)
    return Attacked(json.loads(sent), json.loads(other), before, after, version_before, version, printed)
