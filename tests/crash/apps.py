"""Apps that misbehave: at their start, in their trial, when they are stopped, when they are gone back to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.crash import oracle
from tests.crash.faults import hang, mend_if_held
from tests.crash.world import LATER, NEW, OLD, World

TRIAL = "4s"
# step -> what a release does -> the version that runs in the end
RELEASES = {
    "start": {"crash-at-start": OLD, "hang-at-start": OLD, "damage-data": OLD, "lose-data": OLD},
    "trial": {
        "crash-after 0.5": OLD,
        "flap 1": NEW,  # it crashes once, and then runs: it has attempts
        "flap 9": OLD,
        "starve-watchdog-after 0.3": OLD,
        "red-after 0.5": OLD,
    },
    "rb-stop": {"red-after 0.5 deaf": OLD},
}
OTHERS: dict[str, dict[str, Callable[[World], None]]] = {}


def points(step: str) -> Sequence[str] | str:
    named = [*RELEASES.get(step, ()), *OTHERS.get(step, ())]
    if named:
        return [f"{step}:{name.replace(' ', '-')}" for name in named]
    return "what the app does shows in `start`, `trial` and where it is stopped and started again"


def strike(world: World, point: str) -> None:
    step, _, name = point.partition(":")
    for other, act in OTHERS.get(step, {}).items():
        if other == name:
            act(world)
            return
    behaviour = next(said for said in RELEASES[step] if said.replace(" ", "-") == name)
    trial = "/etc/slotd/apps.d/notes.toml.d/trial.toml"
    world.machine.write_file(trial, f'[policy]\ntrial = "{TRIAL}"\n')  # read by the next daemon
    world.publisher.publish(NEW, behaviour, schema=2)
    try:
        world.begin("idle")
        world.update()
        world.settle()
        oracle.check(world, expected=(RELEASES[step][behaviour],))
    finally:
        world.publisher.publish(NEW, schema=2)
        world.machine.run(f"rm {trial}")


def old_one_is_deaf(world: World) -> None:
    """The version that is to be replaced ignores SIGTERM: it is stopped all the same, and its data are whole."""
    world.publisher.publish(NEW, "deaf", schema=2)
    try:
        world.begin("idle")
        world.update()
        world.settle()
        before = oracle.check(world, expected=(NEW,)).state
        world.publisher.offer(LATER)
        world.notes.slotctl("update", "notes")
        after = world.notes.wait_state()
        assert (after["version"], after["digest"]) == (LATER, before["digest"])
    finally:
        world.publisher.publish(NEW, schema=2)


def old_one_is_broken(world: World) -> None:
    """Neither version starts: the app is held, with the way out in the message, and nothing is lost."""
    hang(world, "rb-start:begin")
    path = "/run/systemd/system/notes.service.d/broken.conf"
    world.machine.write_file(path, "[Service]\nExecStartPre=/bin/false\n")
    world.machine.run("systemctl daemon-reload")
    try:
        world.let_go("rb-start:begin")
        world.settle()
    finally:
        world.machine.run(f"rm {path}; systemctl daemon-reload")
    assert mend_if_held(world), "a rollback that failed must hold the app and say so"
    oracle.check(world, expected=(OLD,))


OTHERS["stop"] = {"deaf": old_one_is_deaf}
OTHERS["rb-start"] = {"broken": old_one_is_broken}
