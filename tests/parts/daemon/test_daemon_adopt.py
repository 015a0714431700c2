"""`adopt` and `release` without root: a user's own installation is taken over, updated and given back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parts.daemon.notes import APP, UNIT, Notes
from tests.parts.daemon.world import PYTHON, World, wait_for

ADOPTED = "45-slotd-adopted.conf"


@pytest.fixture(scope="module")
def home(world: World, notes: Notes) -> Path:
    """Version 1.0 of the app in a directory of the user's, started from there by a unit of the user's own."""
    folder = world.root / "home" / "notes"
    files = {"notes.py": APP.read_bytes(), "VERSION": b"1.0", "SCHEMA": b"1", "behaviour": b"well"}
    for name, content in files.items():
        world.write(folder / name, content)
    patient = notes.definition.read_text().replace('timeout = "1s"', 'timeout = "10s"').replace('"3s"', '"30s"')
    world.write(notes.definition, patient)
    unit = UNIT.format(port=notes.port, data=notes.data, python=PYTHON, current=folder)
    world.write(world.units / "notes.service", unit)
    world.systemctl("daemon-reload")
    world.systemctl("start", "notes.service")
    notes.write("one", "two")
    return folder


def drop_in(world: World) -> Path:
    return world.units / "notes.service.d" / ADOPTED


def started_from(world: World) -> str:
    return world.unit("notes.service", "ExecStart")["ExecStart"].partition("argv[]=")[2].partition(" ;")[0].split()[-1]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(at.relative_to(folder)): at.read_bytes() for at in folder.rglob("*") if at.is_file()}


def test_what_a_user_installed_is_adopted_with_one_restart_and_stays_as_it_was(
    world: World, notes: Notes, home: Path
) -> None:
    before, were = notes.says(), everything(home)
    printed = world.slotctl("adopt", "notes", "--from", str(home), "--version", "1.0")
    assert "adopted" in printed
    assert notes.says() == before
    assert started_from(world) == f"{world.state}/apps/notes/current/notes.py"
    assert everything(home) == were
    assert os.stat(drop_in(world)).st_uid == world.uid
    shown = world.json("status", "notes")
    assert (shown["state"], shown["version"], shown["slot"]) == ("idle", "1.0", "a")


def test_it_is_updated_like_any_other(world: World, notes: Notes, home: Path) -> None:
    notes.publish("1.1")
    world.slotctl("update", "notes")
    assert notes.version == "1.1"
    assert (home / "VERSION").read_text() == "1.0"


def test_it_is_given_back_as_it_was(world: World, notes: Notes, home: Path) -> None:
    before = notes.says()
    world.slotctl("release", "notes")
    assert started_from(world) == str(home / "notes.py")
    assert notes.says() == before | {"version": "1.0"}
    assert not drop_in(world).exists()
    assert world.json("status", "notes")["state"] == "absent"


def test_it_is_given_back_with_the_version_that_runs(world: World, notes: Notes, home: Path) -> None:
    world.slotctl("adopt", "notes", "--from", str(home), "--version", "1.0")
    world.slotctl("update", "notes")
    world.slotctl("release", "notes", "--present")
    assert notes.version == "1.1"
    assert started_from(world) == str(home / "notes.py")
    assert (home / "VERSION").read_text() == "1.1"
    assert (home.with_name("notes.before-release") / "VERSION").read_text() == "1.0"


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (lambda world: "/usr/share", "none of its units starts anything from there"),
        (lambda world: str(world.state), "the slots lie there"),
        (lambda world: str(world.root / "data"), "every version would have its own"),
    ],
)
def test_a_directory_that_is_not_the_app_is_refused(
    world: World, notes: Notes, folder: Callable[[World], str], says: str
) -> None:
    running = notes.run_id()
    printed = world.slotctl("adopt", "notes", "--from", folder(world), "--version", "1.1", status=1)
    assert says in printed
    assert notes.run_id() == running
    assert not drop_in(world).exists()


@pytest.mark.parametrize("point", ["adopt:copied", "adopt:switched", "adopt:written", "adopt:healthy"])
def test_a_daemon_that_dies_while_it_adopts_leaves_the_app_in_its_own_directory(
    world: World, notes: Notes, home: Path, point: str
) -> None:
    before = notes.says()
    world.fail_at(point, "kill")
    world.slotctl("adopt", "notes", "--from", str(home), "--version", "1.1", status=1)
    assert world.has_fired(point)
    wait_for(lambda: world.json("status", "notes")["state"] == "absent" and not world.json("jobs"))
    world.start()
    assert notes.says() == before
    assert started_from(world) == str(home / "notes.py")
    assert not drop_in(world).exists()
    assert not (world.state / "apps/notes/current").exists()


def test_a_daemon_that_dies_while_it_gives_the_app_back_does_so_all_the_same(
    world: World, notes: Notes, home: Path
) -> None:
    world.slotctl("adopt", "notes", "--from", str(home), "--version", "1.1")
    told = world.slotctl("history", "notes").count("its units start 1.1 from")
    world.fail_at("release:unlinked", "kill")
    world.slotctl("release", "notes")
    assert world.has_fired("release:unlinked")
    world.start()
    assert started_from(world) == str(home / "notes.py")
    assert world.json("status", "notes")["state"] == "absent"
    assert world.slotctl("history", "notes").count("its units start 1.1 from") == told + 1


def test_a_person_who_stopped_the_app_finds_it_adopted_and_stopped(world: World, notes: Notes, home: Path) -> None:
    world.systemctl("stop", "notes.service")
    world.slotctl("adopt", "notes", "--from", str(home), "--version", "1.1")
    assert "once they are started: they were stopped, and were not asked" in world.slotctl("history", "notes")
    assert world.unit("notes.service", "ActiveState")["ActiveState"] == "inactive"
    world.systemctl("start", "notes.service")
    assert notes.version == "1.1"
    assert started_from(world) == f"{world.state}/apps/notes/current/notes.py"
