"""Every call that changes a file or looks at the disk, from `stop` to the end of an update and in a rollback, broken.

A change is killed at, fails, or finds the disk full; a look fails. First runs count the calls (`shim.c`). Then, for
each number and each fault, the same run is broken at that call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash import oracle
from tests.crash.faults import mend_if_held
from tests.crash.matrix import Outcome, tried
from tests.crash.shims import built
from tests.crash.world import BAD, NEW, OLD, World
from tests.system import remembered

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError

SHIM = Path(__file__).parent / "shim.c"
INSIDE = "/usr/lib/slotd-sweep.so"
ROOM = "/run/sweep"
ARM, LOG = f"{ROOM}/arm", f"{ROOM}/log"
CHANGES = ("kill", "eio", "enospc")
LOOKS = ("read",)  # a process that is killed at a look leaves what one leaves that is killed at the change before
FAULTS = CHANGES + LOOKS


@dataclass(frozen=True, slots=True)
class Track:
    """A stretch of steps that is swept: from the failpoint `point` on, beginning from the kept disk `start`."""

    name: str
    title: str
    start: str
    point: str
    end: str

    @property
    def key(self) -> str:
        return f"sweep-{self.name}"


TRACKS = {
    "update": Track("update", "`stop` to the end of the update", "well", "stop:begin", NEW),
    "rollback": Track("rollback", "the rollback", BAD, "rb-stop:begin", OLD),
}


@dataclass(frozen=True, slots=True)
class Made:
    """What the daemon does in a track, call by call: names, and of a look the file, too."""

    changes: list[str]
    looks: list[str]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a track to be broken. `track`: its kind and name, `sweep-update`."""

    kind: str
    track: str
    fault: str
    number: int

    @property
    def column(self) -> str:
        return f"{self.track}-{self.fault}"

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.column}/{self.number}"


def install(world: World) -> None:
    """The shim, compiled, in the machine."""
    world.machine.copy_in(built(SHIM), INSIDE)


def go(world: World, track: Track, *, number: int = 0, fault: str) -> list[str]:
    """The track once, broken at call `number`; gives the calls of that kind that the first daemon made."""
    world.machine.run(f"rm -rf {ROOM}; mkdir {ROOM}; test -e {INSIDE}")
    more = "".join(f"{name}={value}\n" for name, value in environment(number=number, fault=fault).items())
    world.begin(track.start, points=f"{track.point}=hang", more=more)
    world.wait_fired(track.point)
    world.machine.path(ARM).touch()
    world.let_go(track.point)
    if number:
        path = world.machine.path(LOG)
        world.wait(lambda: path.exists() and path.read_bytes().count(b"\n") >= number, f"call {number} was not made")
    world.settle()
    return read_log(world)


def environment(
    *, number: int, fault: str, shim: str = INSIDE, room: str = ROOM, disk: str = "/var/lib/slotd"
) -> dict[str, str]:
    """What the shim is told, in the environment of the process that it is to break. It arms and logs in `room`."""
    return {
        "LD_PRELOAD": shim,
        "SWEEP_LOG": f"{room}/log",
        "SWEEP_ARM": f"{room}/arm",
        "SWEEP_DISK": disk,
        "SWEEP_AT": str(number),
        "SWEEP_FAULT": fault,
    }


def read_log(world: World) -> list[str]:
    """The calls that were made, in order: names, and of a look the file, too."""
    lines = (line.split(" ", 3) for line in world.machine.read_file(LOG).splitlines())
    return [f"{name} {path}".rstrip() for _, name, _, path in lines]


def count(world: World, track: Track) -> Made:
    """The dry runs. Raises AssertionError if the track itself does not end well."""
    install(world)
    made = []
    for fault in (CHANGES[0], LOOKS[0], LOOKS[0]):
        made.append(go(world, track, fault=fault))
        oracle.check(world, expected=(track.end,))
    changes, *looks = made
    return Made(changes, min(looks, key=len))  # how often it is looked depends a little on who is quicker


def calls(kind: str, track: str, made: Made) -> Iterator[Call]:
    """Each call and each fault. Of a row of equal writes, as SQLite makes into its log, only the first and the last:
    those between leave the same, a log without its end. So with a row of equal looks into one file."""
    for number in _told_apart(made.changes, lambda name: name == "pwrite64"):
        yield from (Call(kind, track, fault, number) for fault in CHANGES)
    for number in _told_apart(made.looks, lambda _: True):
        yield from (Call(kind, track, fault, number) for fault in LOOKS)


def _told_apart(names: list[str], is_dull: Callable[[str], bool]) -> Iterator[int]:
    for at, name in enumerate(names):
        if not (0 < at < len(names) - 1 and is_dull(name) and name == names[at - 1] == names[at + 1]):
            yield at + 1


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


def run(world: World, track: Track, call: Call) -> Outcome:
    """One call broken; then what must hold."""

    def act() -> None:
        if not world.machine.exists(INSIDE):
            install(world)
        go(world, track, number=call.number, fault=call.fault)
        if call.fault != "kill":
            mend_if_held(world)
        oracle.check(world, expected=after(world, track, call))

    return tried(call.name, call.column, call.kind, act)
