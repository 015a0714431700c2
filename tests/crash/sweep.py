"""Every call that changes a file, from `stop` to the end of an update and in a rollback: killed at, failing, and full.

A first run counts the calls (`shim.c`). Then, for each number and each fault, the same run is broken at that call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash import oracle
from tests.crash.faults import mend_if_held
from tests.crash.matrix import Outcome, told
from tests.crash.shims import built
from tests.crash.world import BAD, NEW, OLD, World
from tests.system import remembered

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError

SHIM = Path(__file__).parent / "shim.c"
INSIDE = "/usr/lib/slotd-sweep.so"
ROOM = "/run/sweep"
ARM, LOG = f"{ROOM}/arm", f"{ROOM}/log"
FAULTS = ("kill", "eio", "enospc")


@dataclass(frozen=True, slots=True)
class Track:
    """A stretch of steps that is swept: from the failpoint `point` on, beginning from the kept disk `start`."""

    name: str
    title: str
    start: str
    point: str
    end: str


TRACKS = {
    "update": Track("update", "`stop` to the end of the update", "well", "stop:begin", NEW),
    "rollback": Track("rollback", "the rollback", BAD, "rb-stop:begin", OLD),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a track to be broken."""

    kind: str
    track: str
    fault: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}/sweep-{self.track}-{self.fault}/{self.number}"


def install(world: World) -> None:
    """The shim, compiled, in the machine."""
    world.machine.copy_in(built(SHIM), INSIDE)


def go(world: World, track: Track, *, number: int = 0, fault: str = "") -> list[str]:
    """The track once, broken at call `number`; gives the names of the calls that the first daemon made."""
    world.machine.run(f"rm -rf {ROOM}; mkdir {ROOM}; test -e {INSIDE}")
    more = f"LD_PRELOAD={INSIDE}\nSWEEP_LOG={LOG}\nSWEEP_ARM={ARM}\nSWEEP_AT={number}\nSWEEP_FAULT={fault}\n"
    world.begin(track.start, points=f"{track.point}=hang", more=more)
    world.wait_fired(track.point)
    world.machine.path(ARM).touch()
    world.let_go(track.point)
    if number:
        path = world.machine.path(LOG)
        world.wait(lambda: path.exists() and path.read_bytes().count(b"\n") >= number, f"call {number} was not made")
    world.settle()
    return [line.split()[1] for line in world.machine.read_file(LOG).splitlines()]


def count(world: World, track: Track) -> list[str]:
    """The dry run. Raises AssertionError if the track itself does not end well."""
    install(world)
    made = go(world, track)
    oracle.check(world, expected=(track.end,))
    return made


def calls(kind: str, track: str, made: list[str]) -> Iterator[Call]:
    """Each call and each fault. Of a row of equal writes, as SQLite makes into its log, only the first and the last:
    those between leave the same, a log without its end."""
    for at, name in enumerate(made):
        if 0 < at < len(made) - 1 and name == "pwrite64" == made[at - 1] == made[at + 1]:
            continue
        for fault in FAULTS:
            yield Call(kind, track, fault, at + 1)


def after(world: World, track: Track, call: Call) -> tuple[str, ...]:
    """The versions that may run after that: by the daemon's own table, for the step that was on disk at the call."""
    if track.end == OLD:
        return (OLD,)
    line = world.machine.read_file(LOG).splitlines()[call.number - 1]
    at = float(line.split()[2])
    steps = remembered.read(world.machine)["steps"][str(world.job)]
    step = [name for name, began in steps if began <= at][-1]
    if call.fault != "kill":
        return (NEW,) if machine.after_error(step, passed=False) is OnError.WARN else (OLD, NEW)
    if machine.rule(step).crash is OnCrash.ASK_LINK:  # which call is its rename is not known
        return (OLD, NEW)
    return (NEW,) if machine.rule(step).crash is OnCrash.REDO else (OLD,)


def run(world: World, call: Call) -> Outcome:
    """One call broken; then what must hold."""
    began = time.monotonic()
    why = ""
    track = TRACKS[call.track]
    try:
        if not world.machine.exists(INSIDE):
            install(world)
        go(world, track, number=call.number, fault=call.fault)
        if call.fault != "kill":
            mend_if_held(world)
        oracle.check(world, expected=after(world, track, call))
    except Exception as error:
        why = told(error)
    return Outcome(call.name, f"sweep-{call.track}-{call.fault}", call.kind, time.monotonic() - began, why)
