"""The daemon's clock goes back by a day, and then forward by a year, while it is in a step.

A container shares its host's clock, which is nobody's to set. So a library loaded before the C library shifts the time
of day that the daemon sees (`shift.c`); systemd, the journal, the app and the workers keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.crash import oracle
from tests.crash.faults import bring, step_of, undisturbed
from tests.crash.shims import built
from tests.crash.world import World

from slotd.core import machine

SHIFT = Path(__file__).parent / "shift.c"
INSIDE = "/usr/lib/slotd-shift.so"
BY = "/run/slotd-shift"  # holds the seconds; no file, no shift
SEEN = "/run/slotd-shift.seen"  # the daemon has asked for the time since
BACK_S, FORWARD_S = -86_400, 366 * 86_400


def points(step: str) -> Sequence[str]:
    return (f"{step}:begin",)


def strike(world: World, point: str) -> None:
    """Back for this step, forward from the next on: nothing comes of it, and all is told."""
    step = step_of(point)
    after = next_point(step)
    if not world.machine.exists(INSIDE):
        world.machine.copy_in(built(SHIFT), INSIDE)
    world.machine.run(f"rm -f {BY} {SEEN}")
    bring(world, step, f"{point}=hang,{after}=hang", more=f"LD_PRELOAD={INSIDE}\nSHIFT_BY={BY}\nSHIFT_SEEN={SEEN}\n")
    world.wait_fired(point)
    shift(world, BACK_S)
    world.let_go(point)
    world.wait_fired(after)
    shift(world, FORWARD_S)
    world.let_go(after)
    world.settle()
    told = world.machine.read_file(SEEN).split()
    assert {str(BACK_S), str(FORWARD_S)} <= set(told), f"the daemon has seen its clock shifted by {set(told)} only"
    oracle.check(world, expected=undisturbed(step))


def next_point(step: str) -> str:
    """Where the daemon is once all of a step is done and written down."""
    steps = machine.ROLLBACK if machine.is_rollback_step(step) else machine.UPDATE
    names = [rule.name for rule in steps]
    return f"{names[names.index(step) + 1]}:begin" if step != names[-1] else "finish:begin"


def shift(world: World, seconds: int) -> None:
    """From the next time on that the daemon asks."""
    world.machine.write_file(f"{BY}.new", str(seconds))
    world.machine.run(f"mv {BY}.new {BY}")
