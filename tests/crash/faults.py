"""The columns of the matrix: what is done to a machine whose update, or rollback, is in a step.

A fault has a name, the points of a step at which it strikes (or the reason why it makes no sense there), and what it
does. Everything is done from outside, or by the daemon's own failpoints, which stand for a bad moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.crash import oracle
from tests.crash.world import BAD, IDLE, NEW, OLD, STARTS, World

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError
from slotd.host import failpoint

STEPS = (*machine.UPDATE, *machine.ROLLBACK)
NAMES = tuple(rule.name for rule in STEPS)
# Failpoints inside of steps that this app's updates do not come by, and why.
NOT_MET = {
    "resolve:kept": "is for TUF repositories",
    "delay:told": "only an automatic update waits",
    "verify:rejected": "the fault `forged` comes by it",
    "stage:forgotten": "comes in an undo, which the faults `eio` and `enospc` lead to",
    "preserve:dropped": "likewise",
    "compare:blocked": "needs a release in which nothing differs, as `tests/system/test_crash.py` has",
    "trial:counted": "the fault `app` comes by it",
    "trial:judged": "needs a person's word",
    "trial:saved": "is for trials of more than a quarter of a minute",
    "cleanup:removed": "needs a copy that has expired",
    "rb-start:dumped": "needs a database and a boot, as `tests/system/test_boot_dumps.py` has",
    "rb-start:brought": "likewise",
    "rb-start:loaded": "likewise",
}
# The seams between the lists of steps belong to the step beside them.
SEAMS = {
    "cleanup": ("finish:begin", "finish:end"),
    "rb-stop": ("rb-begin:remembered",),
    "rb-verify": ("rb-end:closing", "rb-end:closed"),
}


def points_of(step: str) -> tuple[str, ...]:
    inner = [name for name in failpoint.INNER if name.startswith(f"{step}:") and name not in NOT_MET]
    return (f"{step}:begin", *inner, f"{step}:end")


def with_seams(step: str) -> tuple[str, ...]:
    return (*points_of(step), *SEAMS.get(step, ()))


def step_of(point: str) -> str:
    """The row that a failpoint belongs to."""
    name = point.partition(":")[0]
    return next((step for step, points in SEAMS.items() if point in points), name)


def only_begin(step: str) -> tuple[str, ...]:
    return (f"{step}:begin",)


def start_of(step: str) -> str:
    """Which kept state of the disk a cell for this step begins from."""
    if machine.is_rollback_step(step):
        return BAD
    if step in STARTS:
        return step
    return "idle" if step in ("resolve", "delay") else "well"


def bring(world: World, step: str, failpoints: str, *, start: str = "", more: str = "") -> None:
    """The machine on its way to a step, its daemon with these failpoints, and `more` of an environment.

    `start`: another kept state than the nearest to the step.
    """
    start = start or start_of(step)
    world.begin(start, points=failpoints, more=more)
    if start == "idle":
        world.update()


def hang(world: World, point: str, *, start: str = "") -> None:
    """The machine in a step: the daemon lives and waits at this point."""
    bring(world, step_of(point), f"{point}=hang", start=start)
    world.wait_fired(point)


PASSED = ("trial:passed", "trial:end")  # an error from here on says nothing against the version
LINK_IS_NEW = ("switch:renamed", "switch:link", "switch:stopped", "switch:end")


def after_crash(point: str) -> tuple[str, ...]:
    """The version that must run once the job was resumed, by the daemon's own table."""
    step = step_of(point)
    if machine.is_rollback_step(step):
        return (OLD,)
    action = machine.after_crash(step, link_is_new=point in LINK_IS_NEW)
    return (NEW,) if action is OnCrash.REDO else (OLD,)


def after_power_cut(point: str) -> tuple[str, ...]:
    """The same where the host went down: `slotd boot` comes first, and no new version starts before its migrations."""
    step = step_of(point)
    if step == "trial":
        return (OLD, NEW)
    return (OLD,) if step == "switch" else after_crash(point)


def undisturbed(step: str) -> tuple[str, ...]:
    return (OLD,) if machine.is_rollback_step(step) else (NEW,)


@dataclass(frozen=True, slots=True)
class Fault:
    """`points(step)`: where it strikes, or a sentence why it does not. `strike(world, point)` raises AssertionError."""

    name: str
    title: str
    points: Callable[[str], Sequence[str] | str]
    strike: Callable[[World, str], None]


# -- processes ---------------------------------------------------------------------------------------------------------


def kill(world: World, point: str) -> None:
    bring(world, step_of(point), f"{point}=kill")
    world.wait_fired(point)
    world.settle()
    oracle.check(world, expected=after_crash(point))


WORKERS = {"resolve": ("list",), "fetch": ("fetch",), "verify": ("small",), "stage": ("unpack",)}


def worker_points(step: str) -> Sequence[str] | str:
    if step in WORKERS:
        return [f"{step}:worker-{verb}:{when}" for verb in WORKERS[step] for when in ("begin", "end")]
    return "no worker of its own runs in it; a command of the definition that is killed has failed like any other"


def kill_worker(world: World, point: str) -> None:
    """The worker dies; the job fails, and nothing was touched."""
    step, _, failpoint_ = point.partition(":")
    bring(world, step, f"{failpoint_}=kill")
    world.wait_fired(failpoint_)
    world.settle()
    oracle.check(world, expected=(OLD,))


# -- the disk ----------------------------------------------------------------------------------------------------------


def cut(world: World, point: str) -> None:
    """The power fails at this point; what was not synced is gone."""
    hang(world, point)
    world.disk.power_cycle()
    world.settle()
    oracle.check(world, expected=after_power_cut(point))


UNSYNCED = ("stage:finished", "switch:begin", "switch:link")


def unsynced_points(step: str) -> Sequence[str] | str:
    return [point for point in UNSYNCED if step_of(point) == step] or "what `stage` wrote is looked at after it"


def cut_unsynced(world: World, point: str) -> None:
    """The same in an update that staged its release here and now: only slotd itself has put the slot on disk."""
    hang(world, point, start="stage")
    apps = world.machine.offline_path("/var/lib/slotd/apps/notes")
    new = next(slot for slot in "ab" if (apps / slot / "VERSION").read_text() == NEW)

    def look() -> None:
        """Every file of the new slot is that of the release, to its last byte."""
        slot = apps / new
        files = [path for path in slot.rglob("*") if path.is_file() and ".slotd" not in path.parts]
        sums = {f"./{path.relative_to(slot)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        found = "\n".join(f"{sums[name]}  {name}" for name in sorted(sums))
        assert found == world.publisher.files[NEW], f"after the cut slot {new} holds\n{found}"

    world.disk.power_cycle(look=look)
    world.settle()
    oracle.check(world, expected=after_power_cut(point))


def disk_dies(world: World, point: str) -> None:
    """Every call on the disk fails from here on, under a daemon and an app that run; then the power is switched.

    Nothing that they did meanwhile is on the disk: it ends as a power cut at this point does.
    """
    hang(world, point)
    world.disk.cut()
    world.let_go(point)
    world.machine.run("sleep 0.7")
    world.disk.power_cycle(cut=False)
    world.settle()
    oracle.check(world, expected=after_power_cut(point))


ROOM_IS_KEPT = ("rb-stop", "rb-quarantine")  # until the data are aside; what is freed then is anybody's

ROOM_IS_NOT_NEEDED = ("rb-switch", "rb-start", "rb-verify")  # but for the link's own block, which the state gives


def disk_full(world: World, point: str) -> None:
    """Not a byte is free from here on; later there is space again. A way back needs none as long as its own is kept."""
    step = step_of(point)
    hang(world, point)
    world.disk.fill()
    world.let_go(point)
    if step in ROOM_IS_KEPT:
        world.settle()
        went_back(world)
        assert world.notes.wait_state()["version"] == OLD, "on the full disk the old version does not answer"
        status = world.notes.json("status", "notes")
        assert not status["held"], f"on the full disk the app is held: {status['hold_reason']}"
    elif machine.is_rollback_step(step):
        # Somebody took the room that was kept. Data that share no blocks need some, and the app itself may to start;
        # all else needs none.
        if step in ROOM_IS_NOT_NEEDED:
            world.wait(lambda: current(world) == OLD, "on the full disk the link was not set back")
            went_back(world)
    else:
        # Where the state takes no more rows, the job waits for space, and the app is left as it is.
        world.machine.run(f"for n in $(seq 30); do {IDLE.strip()} && break; sleep 0.1; done", check=False)
        assert current(world) in (OLD, NEW)
    world.disk.free()
    world.settle()
    mend_if_held(world)
    if machine.is_rollback_step(step):
        oracle.check(world, expected=(OLD,))
    else:
        is_good = machine.after_error(step, passed=False) is OnError.WARN
        oracle.check(world, expected=(NEW,) if is_good else (OLD, NEW))


def current(world: World) -> str:
    return world.machine.run("cat /var/lib/slotd/apps/notes/current/VERSION").stdout


def went_back(world: World) -> None:
    """On the disk, as it is now: the old version, on data that no newer one has written."""
    ran = world.machine.run("ls /var/lib/notes/data/ran").stdout.split()
    assert (current(world), NEW in ran) == (OLD, False), f"the link leads to {current(world)}, on data of {ran}"


DAMAGED = {
    "switch": ("switch:begin", "switch:link", "switch:end"),
    "trial": ("trial:begin", "trial:end"),
    "commit": ("commit:begin", "commit:end"),
    "rb-restore": ("rb-restore:begin", "rb-restore:end"),
}
LOST = "the state was lost and was rebuilt"


def damage_points(step: str) -> Sequence[str] | str:
    return DAMAGED.get(step, "what a lost state leaves unknown is tried around the data, the link and the trial")


def damaged(world: World, point: str) -> None:
    """The store's database is garbage when the next daemon comes: it is rebuilt, says so, and the job goes on."""
    hang(world, point)
    state = "/var/lib/slotd/state.db"
    world.sh(
        "pid=$(systemctl show --property=MainPID --value slotd.service); kill -STOP $pid; "
        f"rm -f {state}-wal {state}-shm; dd if=/dev/urandom of={state} bs=4096 count=8 status=none; kill -KILL $pid"
    )
    world.settle()
    oracle.check(world, expected=after_crash(point))
    history = " ".join(world.notes.slotctl("history", "notes").split())
    assert LOST in history, "the history does not say that the state was lost"
    told = world.machine.run("journalctl -q --since=$S -o cat SLOTD_APP=notes", env={"S": world.since}).stdout
    assert LOST in told, "the journal does not say that the state was lost"


def failing(action: str) -> Callable[[World, str], None]:
    def strike(world: World, point: str) -> None:
        step = step_of(point)
        bring(world, step, f"{point}={action}")
        world.wait_fired(point)
        world.settle()
        meant = machine.after_error(step, passed=point in PASSED)
        expected = (NEW,) if meant is OnError.WARN else (OLD,)
        if meant is OnError.REPORT:
            assert mend_if_held(world), "a rollback that failed must hold the app and say so"
        oracle.check(world, expected=expected)

    return strike


def mend_if_held(world: World) -> bool:
    """What the message of a failed rollback asks a person to do, once its cause is mended."""
    status = world.notes.json("status", "notes")
    if not status["held"]:
        return False
    assert "/var/lib/slotd/backups/notes/" in status["hold_reason"], f"no way out is told: {status['hold_reason']}"
    if "`systemctl restart notes.service`" in status["hold_reason"]:  # code and data are back already
        world.machine.run("systemctl restart notes.service")
        world.notes.slotctl("unhold", "notes")
    else:
        world.notes.slotctl("unhold", "notes")
        world.notes.slotctl("rollback", "notes", "--data=restore")
    world.job = 0  # it ended as told; that of the person counts from here on
    return True
