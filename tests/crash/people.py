"""The columns that people make: who comes second, who edits, upgrades, reboots, restarts."""

from __future__ import annotations

from tests.crash import oracle
from tests.crash.faults import after_crash, hang, step_of, undisturbed
from tests.crash.world import OLD, World


def second_caller(world: World, point: str) -> None:
    """Promise 9: who comes second is told at once, and the first goes on undisturbed.

    A rollback in the trial is no second job but a person's word on it, and the version goes.
    """
    hang(world, point)
    step = step_of(point)
    rollback = ("rollback", "notes", "--data=restore")
    for words in (("update", "notes"), ("backup", "notes"), *(() if step == "trial" else (rollback,))):
        world.notes.slotctl(*words, status=6)
    if step == "trial":
        world.notes.slotctl("--no-wait", *rollback)
    world.let_go(point)
    world.settle()
    oracle.check(world, expected=(OLD,) if step == "trial" else undisturbed(step))


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
    oracle.check(world, expected=undisturbed(step_of(point)))


def upgraded(world: World, point: str) -> None:
    """The package of a higher version is installed; its scripts restart the daemon in the middle of the job."""
    hang(world, point)
    package = world.next_package()
    installing = world.machine.popen(f"dpkg -i {package}")
    world.wait(
        lambda: (
            world.machine.show("slotd.service", "ActiveState")["ActiveState"] != "active"
            or installing.poll() is not None
        ),
        "dpkg did not stop the daemon",
    )
    world.let_go(point)
    said, _ = installing.communicate(timeout=60)
    assert installing.returncode == 0, said
    world.settle()
    step = step_of(point)
    oracle.check(world, expected=tuple({*after_crash(point), *undisturbed(step)}))


def rebooted(world: World, point: str) -> None:
    """`systemctl reboot`: everything is asked to stop, and comes up again."""
    hang(world, point)
    world.machine.run("systemctl poweroff --no-block")
    world.let_go(point)
    world.machine.wait_until_off()
    world.machine.boot()
    world.settle()
    step = step_of(point)
    oracle.check(world, expected=tuple({*after_crash(point), *undisturbed(step)}))


def app_restarted(world: World, point: str) -> None:
    """The administrator restarts the app, whatever slotd is doing with it.

    What was copied while it ran is no backup: an update in `snapshot` ends there (promise 5), every other goes on.
    """
    hang(world, point)
    world.machine.run("systemctl restart notes.service", check=False)
    world.let_go(point)
    world.settle()
    step = step_of(point)
    oracle.check(world, expected=(OLD,) if step == "snapshot" else undisturbed(step))


WATCHED = ("trial", "rb-verify")  # the steps that wait for an app that is down


def app_stopped(world: World, point: str) -> None:
    """The administrator stops the app, and starts it again: while it is waited for, or once the job has ended."""
    hang(world, point)
    world.machine.run("systemctl stop notes.service")
    world.let_go(point)
    step = step_of(point)
    if step in WATCHED:
        world.machine.run("sleep 1; systemctl start notes.service")
    world.settle()
    world.machine.run("systemctl start notes.service")
    oracle.check(world, expected=undisturbed(step))
