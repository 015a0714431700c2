"""An app that is down: by a person's hand, or since slotd could not go on. Whose doing it was decides what is next."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import PYTHON, World

from slotd.host.holdback import ASSERTION


@pytest.fixture(scope="module", autouse=True)
def saved(world: World, notes: Notes) -> str:
    """The app is installed and has data; gives a backup of them."""
    world.write(world.units / "notes.service.d/50-slotd.conf", f"[Unit]\n{ASSERTION}\n")  # as `slotctl enable` does
    notes.publish("1.0")
    world.slotctl("update", "notes")
    notes.write("one")
    world.slotctl("backup", "notes")
    return str(next(copy["id"] for copy in world.json("backups", "notes") if copy["reason"] == "manual"))


def state(world: World) -> str:
    return world.unit("notes.service", "ActiveState")["ActiveState"]


def boot(world: World) -> bool:
    """The host goes down and comes up, as far as slotd is concerned. Gives whether the app is kept from starting."""
    world.systemctl("kill", "--signal=KILL", "slotd.service", status=None)
    world.systemctl("stop", "slotd.service", "notes.service")
    shutil.rmtree(world.runtime / "slotd", ignore_errors=True)
    world.run(PYTHON, "-m", "slotd", "--user", "boot")
    world.systemctl("start", "notes.service", status=None)
    return state(world) == "inactive"


def test_a_restore_leaves_down_what_a_person_stopped_whatever_failed_harmlessly_since(
    world: World, notes: Notes, saved: str
) -> None:
    world.systemctl("stop", "notes.service")
    world.slotctl("update", "notes", "--version", "9.9", status=1)
    world.slotctl("restore", "notes", saved)
    assert state(world) == "inactive"
    assert "notes.service stays stopped, as before" in world.slotctl("history", "notes")
    world.systemctl("start", "notes.service")


def test_a_restore_starts_what_a_failed_rollback_left_down_whatever_looked_at_it_since(
    world: World, notes: Notes, saved: str
) -> None:
    notes.publish("2.0", "crash-at-start")
    world.fail_at("rb-start:begin", "eio")
    world.slotctl("update", "notes", status=1)
    world.start()
    assert state(world) == "inactive"
    world.slotctl("backups", "notes", "--verify")
    world.slotctl("backup", "notes")
    world.slotctl("restore", "notes", saved)
    assert state(world) == "active"
    assert notes.says()["version"] == "1.0"
    world.slotctl("unhold", "notes")


def test_what_a_person_started_since_and_stopped_again_is_theirs(world: World, notes: Notes, saved: str) -> None:
    world.systemctl(
        "add-wants", "default.target", "notes.service"
    )  # as enabled units are: systemd remembers their runs
    notes.publish("2.1", "crash-at-start")
    world.fail_at("rb-start:begin", "eio")
    world.slotctl("update", "notes", status=1)
    world.start()
    world.systemctl("start", "notes.service")
    world.systemctl("stop", "notes.service")
    world.slotctl("restore", "notes", saved)
    assert state(world) == "inactive"
    world.systemctl("start", "notes.service")
    world.slotctl("unhold", "notes")


async def test_a_restore_that_a_power_cut_interrupts_leaves_what_a_person_stopped_to_them(
    world: World, notes: Notes, saved: str, desk: Desk
) -> None:
    commands = 'dump = [["true"]]\nrestore = [["true"]]'  # a database: the daemon loads it, before the app's start
    world.write(notes.definition, notes.definition.read_text().replace("[data]", f"[data]\n{commands}"))
    world.slotctl("reload")
    world.systemctl("stop", "notes.service")
    world.fail_at("rb-restore:begin", "hang")
    job = await desk.start("Restore", "notes", saved)
    await desk.step_of(job, "rb-restore")
    assert boot(world)
    world.start()
    assert (await desk.end_of(job))["result"] == "done"
    assert state(world) == "inactive"
    world.systemctl("start", "notes.service")
    assert state(world) == "active"


def test_what_failed_stays_down_at_every_boot_while_it_is_held_whatever_copied_its_data_since(
    world: World, notes: Notes
) -> None:
    notes.define(on_failure="stop", trial="1h")
    world.slotctl("reload")
    notes.publish("2.2", "red-after 1")
    world.slotctl("update", "notes", status=1)
    world.slotctl("backup", "notes")
    world.slotctl("backups", "notes", "--verify")
    with contextlib.closing(sqlite3.connect(world.state / "state.db", isolation_level=None)) as rows:
        rows.execute("CREATE TEMP TABLE one AS SELECT * FROM jobs WHERE kind = 'backup' ORDER BY id DESC LIMIT 1")
        rows.execute("BEGIN")
        for _ in range(250):  # a night each
            rows.execute("UPDATE one SET id = (SELECT MAX(id) FROM jobs) + 1")
            rows.execute("INSERT INTO jobs SELECT * FROM one")
        rows.execute("COMMIT")
    assert boot(world)
    assert world.json("status", "notes")["held"]
    world.slotctl("unhold", "notes")  # and then it is a person's own doing
    world.systemctl("start", "notes.service")
    assert notes.says()["version"] == "2.2"
    world.slotctl("rollback", "notes", "--data=restore")
    assert notes.says()["version"] == "1.0"


async def test_who_asks_for_the_old_version_gets_it_also_where_a_failure_would_only_stop_the_app(
    world: World, notes: Notes, desk: Desk
) -> None:
    before = notes.says()
    notes.define(on_failure="stop", trial="1h")
    world.slotctl("reload")
    notes.publish("3.0")
    job = await desk.start("Update", "notes")
    await desk.step_of(job, "trial")
    notes.write("for the new one")
    world.slotctl("rollback", "notes", status=None)
    assert (await desk.end_of(job))["result"] == "rolled-back"
    assert notes.says() == before
    assert not world.json("status", "notes")["held"]
