"""The columns of the matrix: what is done to a machine whose update, or rollback, is in a step.

A fault has a name, the points of a step at which it strikes (or the reason why it makes no sense there), and what it
does. Everything is done from outside, or by the daemon's own failpoints, which stand for a bad moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.crash import oracle
from tests.crash.world import BAD, NEW, OLD, STARTS, World

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError

STEPS = (*machine.UPDATE, *machine.ROLLBACK)
NAMES = tuple(rule.name for rule in STEPS)
# Inside of a step with more than one effect, where its failpoints are.
INNER = {
    "fetch": ("fetch:downloaded",),
    "stage": ("stage:unpacked", "stage:prepared", "stage:finished"),
    "stop": ("stop:remembered",),
    "snapshot": ("snapshot:copied", "snapshot:sealed"),
    "switch": ("switch:trial", "switch:link"),
    "start": ("start:counted",),
    "rb-quarantine": ("rb-quarantine:recorded",),
}


def points_of(step: str) -> tuple[str, ...]:
    return (f"{step}:begin", *INNER.get(step, ()), f"{step}:end")


def only_begin(step: str) -> tuple[str, ...]:
    return (f"{step}:begin",)


def start_of(step: str) -> str:
    """Which kept state of the disk a cell for this step begins from."""
    if machine.is_rollback_step(step):
        return BAD
    if step in STARTS:
        return step
    return "idle" if step in ("resolve", "delay") else "well"


def bring(world: World, step: str, failpoints: str) -> None:
    """The machine on its way to a step, its daemon with these failpoints."""
    start = start_of(step)
    world.begin(start, points=failpoints)
    if start == "idle":
        world.update()


def hang(world: World, point: str) -> None:
    """The machine in a step: the daemon lives and waits at this point."""
    bring(world, point.partition(":")[0], f"{point}=hang")
    world.wait_fired(point)


def after_crash(point: str) -> tuple[str, ...]:
    """The version that must run once the job was resumed, by the daemon's own table."""
    step = point.partition(":")[0]
    if machine.is_rollback_step(step):
        return (OLD,)
    action = machine.after_crash(step, link_is_new=point in ("switch:link", "switch:end"))
    return (NEW,) if action is OnCrash.REDO else (OLD,)


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
    bring(world, point.partition(":")[0], f"{point}=kill")
    world.wait_fired(point)
    world.settle()
    oracle.check(world, expected=after_crash(point))


WORKERS = {"resolve": "list", "fetch": "fetch", "verify": "verify", "stage": "unpack"}


def worker_points(step: str) -> Sequence[str] | str:
    if step in WORKERS:
        return only_begin(step)
    return "no worker runs in it"


def kill_worker(world: World, point: str) -> None:
    """The worker dies; the job fails, and nothing was touched."""
    step = point.partition(":")[0]
    world.checksum_only(step != "verify")
    hang(world, point)
    unit = f"slotd-worker-notes-{world.job}-{WORKERS[step]}*"
    world.machine.run("systemctl stop --no-block nothing.service 2>/dev/null; true")
    killer = world.machine.popen(
        f"for n in $(seq 2000); do systemctl kill -s KILL '{unit}' 2>/dev/null && "
        f"systemctl list-units --all --plain --no-legend '{unit}' | grep -q . && echo killed && break; done"
    )
    world.let_go(point)
    world.settle()
    killer.kill()
    said, _ = killer.communicate()
    assert "killed" in said, f"no {WORKERS[step]} worker was seen"
    oracle.check(world, expected=(OLD,))


# -- the disk ----------------------------------------------------------------------------------------------------------


def cut(world: World, point: str) -> None:
    """The power fails at this point; what was not synced is gone."""
    hang(world, point)
    world.disk.power_cycle()
    world.settle()
    oracle.check(world, expected=after_crash(point) if "trial" not in point else (OLD, NEW))


def disk_dies(world: World, point: str) -> None:
    """Every call on the disk fails from here on, under a daemon and an app that run; then the power is switched."""
    hang(world, point)
    world.disk.cut()
    world.let_go(point)
    world.machine.run("sleep 0.7")
    world.disk.power_cycle(cut=False)
    world.settle()
    oracle.check(world, expected=(OLD, NEW) if not machine.is_rollback_step(point.partition(":")[0]) else (OLD,))


def disk_full(world: World, point: str) -> None:
    """Not a byte is free from here on; later there is space again."""
    hang(world, point)
    world.disk.fill()
    world.let_go(point)
    world.settle()
    link = world.machine.run("cat /var/lib/slotd/apps/notes/current/VERSION").stdout
    assert link in (OLD, NEW)
    world.disk.free()
    world.sh("systemctl restart slotd.service")
    world.settle()
    mend_if_held(world)
    step = point.partition(":")[0]
    oracle.check(world, expected=(OLD,) if machine.is_rollback_step(step) else (OLD, NEW))


def failing(action: str) -> Callable[[World, str], None]:
    def strike(world: World, point: str) -> None:
        step = point.partition(":")[0]
        bring(world, step, f"{point}={action}")
        world.wait_fired(point)
        world.settle()
        expected = (NEW,) if machine.rule(step).error is OnError.WARN else (OLD,)
        if machine.rule(step).error is OnError.REPORT:
            assert mend_if_held(world), "a rollback that failed must hold the app and say so"
        oracle.check(world, expected=expected)

    return strike


def mend_if_held(world: World) -> bool:
    """What the message of a failed rollback asks a person to do, once its cause is mended."""
    status = world.notes.json("status", "notes")
    if not status["held"]:
        return False
    assert "/var/lib/slotd/backups/notes/" in status["hold_reason"], f"no way out is told: {status['hold_reason']}"
    world.notes.slotctl("unhold", "notes")
    world.notes.slotctl("rollback", "notes", "--data=restore")
    world.job = 0  # it ended as told; that of the person counts from here on
    return True


# -- people ------------------------------------------------------------------------------------------------------------


def second_caller(world: World, point: str) -> None:
    """Promise 9: who comes second is told at once, and the first goes on undisturbed."""
    hang(world, point)
    for words in (("update", "notes"), ("rollback", "notes", "--data=restore"), ("backup", "notes")):
        world.notes.slotctl(*words, status=6)
    world.let_go(point)
    world.settle()
    oracle.check(world, expected=undisturbed(point.partition(":")[0]))


DEFINITION = "/etc/slotd/apps.d/notes.toml"


def edited(world: World, point: str) -> None:
    """A job goes by the definition that it began with; the next one by the new."""
    hang(world, point)
    world.sh(
        f"cp {DEFINITION} /root/aside.toml; sed -i -e 's|/var/lib/notes/data|/var/lib/notes/other|' "
        f"-e 's|notes.service|other.service|' {DEFINITION}; timeout 20 systemctl reload slotd"
    )
    finish_and_put_back(world, point)


def deleted(world: World, point: str) -> None:
    hang(world, point)
    world.sh(f"mv {DEFINITION} /root/aside.toml; timeout 20 systemctl reload slotd")
    finish_and_put_back(world, point)


def finish_and_put_back(world: World, point: str) -> None:
    try:
        world.let_go(point)
        world.settle()
    finally:
        world.sh(f"mv /root/aside.toml {DEFINITION}; systemctl reload slotd")
    oracle.check(world, expected=undisturbed(point.partition(":")[0]))


def upgraded(world: World, point: str) -> None:
    """The package of a higher version is installed; its scripts restart the daemon in the middle of the job."""
    hang(world, point)
    package = world.next_package()
    installing = world.machine.popen(f"dpkg -i {package}")
    world.wait(
        lambda: world.machine.show("slotd.service", "ActiveState")["ActiveState"] != "active"
        or installing.poll() is not None,
        "dpkg did not stop the daemon",
    )
    world.let_go(point)
    said, _ = installing.communicate(timeout=60)
    assert installing.returncode == 0, said
    world.settle()
    step = point.partition(":")[0]
    oracle.check(world, expected=tuple({*after_crash(point), *undisturbed(step)}))


def rebooted(world: World, point: str) -> None:
    """`systemctl reboot`: everything is asked to stop, and comes up again."""
    hang(world, point)
    world.machine.run("systemctl poweroff --no-block")
    world.let_go(point)
    world.machine.wait_until_off()
    world.machine.boot()
    world.settle()
    step = point.partition(":")[0]
    oracle.check(world, expected=tuple({*after_crash(point), *undisturbed(step)}))


def app_points(step: str) -> Sequence[str] | str:
    return only_begin(step)


def app_restarted(world: World, point: str) -> None:
    """The administrator restarts the app, whatever slotd is doing with it."""
    hang(world, point)
    world.machine.run("systemctl restart notes.service", check=False)
    world.let_go(point)
    world.settle()
    step = point.partition(":")[0]
    oracle.check(world, expected=tuple({OLD, *undisturbed(step)}))


def app_stopped(world: World, point: str) -> None:
    """The administrator stops the app, and starts it again after a while."""
    hang(world, point)
    world.machine.run("systemctl stop notes.service")
    world.let_go(point)
    world.machine.run("sleep 1; systemctl start notes.service", check=False)
    world.settle()
    step = point.partition(":")[0]
    oracle.check(world, expected=tuple({OLD, *undisturbed(step)}))


BEGIN_END = lambda step: (f"{step}:begin", f"{step}:end")  # noqa: E731

FAULTS: tuple[Fault, ...] = (
    Fault("kill", "SIGKILL of the daemon", points_of, kill),
    Fault("worker", "SIGKILL of a worker", worker_points, kill_worker),
    Fault("cut", "power cut", points_of, cut),
    Fault("dies", "the disk dies, then a power cycle", only_begin, disk_dies),
    Fault("full", "full disk", only_begin, disk_full),
    Fault("eio", "an I/O error", points_of, failing("eio")),
    Fault("enospc", "no space, once", points_of, failing("enospc")),
    Fault("second", "a second caller", only_begin, second_caller),
    Fault("edited", "definition edited", only_begin, edited),
    Fault("deleted", "definition deleted", only_begin, deleted),
    Fault("upgraded", "the daemon upgraded by dpkg", only_begin, upgraded),
    Fault("reboot", "orderly reboot", only_begin, rebooted),
    Fault("restart", "the administrator restarts the app", app_points, app_restarted),
    Fault("stop", "the administrator stops the app", app_points, app_stopped),
)
