"""What `slotd boot` holds back where it cannot read all that slotd keeps: no version starts on half-changed data."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from tests.parts import test_lost_underway
from tests.parts.test_lost_underway import World

import slotd
from slotd.host import holdback
from slotd.model import JobState
from slotd.recipes import blind

world = test_lost_underway.world

HALF = [
    ("switch", True, ""),
    ("switch", False, "aside"),
    ("migrate", True, ""),
    ("start", False, "aside"),
    ("trial", False, "aside"),
    ("rb-stop", False, ""),
    ("rb-quarantine", False, "aside"),
    ("rb-restore", False, "aside"),
    ("rb-switch", False, "aside"),
]
WHOLE = [("fetch", True), ("snapshot", True), ("switch", False), ("start", True), ("trial", True), ("commit", True)]
WHOLE += [("rb-start", False), ("rb-verify", False)]


def boot(world: World) -> tuple[int, str]:
    """`slotd boot` as at an early boot: its exit status, and what it says."""
    environment = {
        "PYTHONPATH": str(Path(slotd.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CONFIGURATION_DIRECTORY": str(world.paths.config[0]),
        "STATE_DIRECTORY": str(world.paths.state),
        "CACHE_DIRECTORY": str(world.paths.cache),
        "RUNTIME_DIRECTORY": str(world.paths.runtime),
    }
    argv = ["/usr/bin/python3", "-m", "slotd", "boot"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("step", "migrates", "quarantine"), HALF)
def test_by_what_is_under_way_alone_what_is_half_changed_is_held_back(
    world: World, step: str, migrates: bool, quarantine: str
) -> None:
    world.begin(step, migrates=migrates, quarantine=quarantine)
    world.aside.mkdir(parents=True)
    assert blind.hold_back_unfinished(world.paths) == ["x"]
    assert world.is_held_back


@pytest.mark.parametrize(("step", "migrates"), WHOLE)
def test_by_what_is_under_way_alone_what_is_whole_may_start(world: World, step: str, migrates: bool) -> None:
    world.begin(step, migrates=migrates, quarantine="named-and-not-begun")
    assert blind.hold_back_unfinished(world.paths) == []
    assert not world.is_held_back


@pytest.mark.parametrize(("step", "is_held_back"), [("rb-restore", True), ("migrate", True), ("fetch", False)])
def test_where_the_plan_of_another_slotd_cannot_be_read_the_step_decides(
    world: World, step: str, is_held_back: bool
) -> None:
    job = world.begin(step)
    host = world.open()
    host.store.save(dataclasses.replace(job, plan={**job.plan, "backup": ["of", "another", "type"]}))
    host.store.close()
    assert blind.hold_back_unfinished(world.paths) == (["x"] if is_held_back else [])
    assert world.is_held_back == is_held_back


def test_an_app_of_which_nobody_can_read_what_is_under_way_is_held_back(world: World) -> None:
    world.begin("fetch")
    world.underway.write_bytes(b"\0" * 500)
    assert blind.hold_back_unfinished(world.paths) == ["x"]
    assert world.is_held_back


def test_a_link_that_cannot_be_read_lets_no_version_start_half_migrated(world: World) -> None:
    world.begin("migrate", migrates=True)
    current = world.paths.state / "apps" / "x" / "current"
    current.unlink()
    current.mkdir()
    status, said = boot(world)
    assert status == 1, said
    assert world.is_held_back
    # The daemon, or the next boot, goes on where it can be read.
    current.rmdir()
    current.symlink_to("b")
    assert boot(world)[0] == 0
    assert os.readlink(current) == "a"
    assert not world.is_held_back
    assert (world.data / "note").read_text() == "of 1.0"


def test_an_app_that_is_held_over_half_of_its_data_stays_down_and_it_is_told(world: World) -> None:
    world.open().store.close()
    job = world.begin("rb-restore", quarantine="aside")
    host = world.open()
    host.store.save(dataclasses.replace(job, state=JobState.FAILED))
    host.store.change_app("x", held=True, hold_reason="A disk failed.")
    host.store.close()
    status, said = boot(world)
    assert status == 0, said
    assert world.is_held_back
    told = [event.message for event in world.open().store.events("x", 99)]
    assert told.count("x stays stopped while it is held: A disk failed.") == 1
    # So it does at a boot that cannot read why, until something starts it, or a person lets it.
    (world.paths.runtime / "held-back" / "x.service").unlink()
    (world.paths.state / "state.db").rename(world.at / "elsewhere")
    (world.paths.state / "state.db").symlink_to(world.at / "elsewhere")
    assert boot(world)[0] == 1
    assert world.is_held_back
    holdback.let_start(world.paths, "x.service")
    assert boot(world)[0] == 1
    assert not world.is_held_back
