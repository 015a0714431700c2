"""A store that is lost in the middle of something: what was under way goes on, and half data are not run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slotd
from slotd.core.plain import to_plain
from slotd.core.schema import App, Data, Limits, Service, Slots
from slotd.data import DataSpec, make_data_store
from slotd.engines.directory import DirectoryEngine
from slotd.host.paths import Paths
from slotd.model import Job, JobKind, JobState, Result, Slot, SlotName, SlotState, Trial
from slotd.recipes import rebuild
from slotd.recipes.context import Host, Plan
from slotd.recipes.hosting import make_host
from slotd.store import Store

DEFINITION = """\
[service]
units = ["x.service"]
[source]
type = "directory"
path = "/srv/releases"
asset = "x-{{version}}.tar.gz"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS"
[data]
paths = ["{data}"]
"""


class World:
    """An app with version 1.0 in slot a, 2.0 in b, its data and a backup of them."""

    def __init__(self, at: Path) -> None:
        self.at, self.data = at, at / "data"
        self.paths = Paths(config=(at / "etc",), state=at / "state", cache=at / "cache", runtime=at / "run")
        (at / "etc" / "apps.d").mkdir(parents=True)
        (at / "etc" / "apps.d" / "x.toml").write_text(DEFINITION.format(data=self.data))
        self.data.mkdir()
        (self.data / "note").write_text("of 1.0")
        slots = at / "state" / "apps" / "x"
        slots.mkdir(parents=True)
        self.engine = DirectoryEngine(App(name="x"), slots, Limits(), user_mode=True)
        for number, name in enumerate((SlotName.A, SlotName.B), start=1):
            os.close(self.engine.open(name))
            self.engine.finish(name, Slot("x", name, SlotState.WHOLE, f"{number}.0", installed_at=float(number)))
        self.engine.switch(SlotName.B)
        self.copies = make_data_store()
        self.spec = DataSpec((self.data,))
        self.backup = at / "state" / "backups" / "x" / "saved"
        self.aside = at / "state" / "quarantine" / "x" / "aside"
        for copy in (self.backup, self.aside):
            copy.parent.mkdir(parents=True)
        self.copies.cold(self.spec, self.backup)
        self.copies.seal(self.backup, {"app": "x", "version": "1.0", "created_at": 5.0})
        (self.data / "note").write_text("of 2.0")

    def begin(self, step: str, *, trial: bool = True, migrates: bool = False, quarantine: str = "") -> Job:
        """The job of an update that has come so far, and its trial."""
        slots = Slots(migrate=(("/bin/true",),) if migrates else ())
        app = App(name="x", service=Service(units=("x.service",)), data=Data(paths=(str(self.data),)), slots=slots)
        plan = Plan(app, slot=SlotName.B, old_slot=SlotName.A, old_version="1.0", backup="saved", restore=True)
        plan = dataclasses.replace(plan, quarantine=quarantine)
        host = self.open()
        job = host.store.new_job("x", JobKind.UPDATE, now=1.0, correlation="c", plan=to_plain(plan))
        job = dataclasses.replace(job, state=JobState.RUNNING, step=step, version="2.0")
        host.store.begin_step(job, 2.0)
        if trial:
            host.store.save(Trial("x", job.id, "2.0", "", SlotName.B, "1.0", SlotName.A, "saved", 3, 1.0, 60.0))
        host.store.close()
        return job

    def open(self) -> Host:
        nothing: Any = None
        return make_host(self.paths, nothing, user_mode=True, alone=True)

    def lose(self) -> None:
        """The database is damaged."""
        database = self.paths.state / "state.db"
        database.write_bytes(b"no database" * 1000)
        for suffix in ("-wal", "-shm"):
            database.with_name(f"state.db{suffix}").unlink(missing_ok=True)

    @property
    def underway(self) -> Path:
        return self.paths.state / "underway" / "x.json"

    @property
    def is_held_back(self) -> bool:
        return (self.paths.runtime / "held-back" / "x.service").exists()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("step", ["snapshot", "switch", "trial", "rb-quarantine", "rb-restore"])
def test_what_was_under_way_is_known_again_with_its_trial_and_its_loss_is_told_once(world: World, step: str) -> None:
    job = world.begin(step)
    world.lose()
    host = world.open()
    assert host.store.unfinished_jobs() == [job]
    (trial,) = host.store.trials()
    assert (trial.version, trial.attempts_left, trial.backup) == ("2.0", 3, "saved")
    slots = host.store.slots("x")
    assert (slots[SlotName.A].version, slots[SlotName.B].version) == ("1.0", "2.0")
    assert slots[SlotName.B].state is SlotState.WHOLE  # it has passed no trial
    assert not host.store.app("x").held
    assert not world.is_held_back
    host.store.close()

    again = world.open()  # as the daemon after `slotd boot`
    rebuild.reconcile(again.store, world.engine, again)
    assert [event.message for event in again.store.events("x", 9)] == [rebuild.LOST]
    (told,) = [event.message for event in again.store.events("", 9) if not event.app]
    assert "was damaged, and lies at" in told


def test_a_loss_that_was_not_told_before_a_crash_is_told_by_who_comes_next(world: World) -> None:
    job = world.begin("rb-restore")
    world.lose()
    program = (
        "import sys; from pathlib import Path; from slotd.host.paths import Paths\n"
        "from slotd.recipes.hosting import make_host; at = Path(sys.argv[1])\n"
        "make_host(Paths((at / 'etc',), at / 'state', at / 'cache', at / 'run'), None, user_mode=True, alone=True)"
    )
    for point in ("rebuild:aside", "rebuild:slot", "rebuild:backup"):
        environment = {
            "PYTHONPATH": str(Path(slotd.__file__).parents[1]),
            "SLOTD_FAILPOINTS": f"{point}=kill",
        }
        done = subprocess.run(["/usr/bin/python3", "-c", program, world.at], env=environment)
        assert done.returncode == -9
    host = world.open()
    assert host.store.unfinished_jobs() == [job]
    assert [event.message for event in host.store.events("x", 9)] == [rebuild.LOST]
    assert len(list(world.paths.state.glob("state.db.broken.*[0-9]"))) == 1


def test_nothing_is_under_way_when_a_job_has_ended_and_a_check_is_not_worth_a_file(world: World) -> None:
    job = world.begin("commit", trial=False)
    assert world.underway.exists()
    host = world.open()
    host.store.save(dataclasses.replace(job, state=JobState.DONE, result=Result.UPDATED))
    assert not world.underway.exists()
    host.store.new_job("x", JobKind.CHECK, now=1.0, correlation="c", plan={})
    assert not world.underway.exists()


def test_a_first_job_that_is_interrupted_before_anything_was_told_is_no_loss(tmp_path: Path) -> None:
    world = World(tmp_path)
    for made in ("apps", "backups", "quarantine"):
        shutil.rmtree(world.paths.state / made)
    world.begin("fetch", trial=False)
    assert world.open().store.events("", 9) == []


def in_the_middle_of_setting_aside(world: World) -> None:
    shutil.copytree(world.backup, world.aside)
    (world.aside / "header.json").unlink()


def in_the_middle_of_a_restore(world: World) -> None:
    world.copies.restore(world.spec, world.backup, world.aside)
    state = json.loads((world.aside / "restore.json").read_text())
    (world.aside / "restore.json").write_text(json.dumps(state | {"finished": False}))


def with_a_record_that_is_damaged(world: World) -> None:
    world.copies.quarantine(world.spec, world.aside)
    world.begin("rb-restore")
    text = bytearray(world.underway.read_bytes())
    text[200] ^= 1
    world.underway.write_bytes(text)


@pytest.mark.parametrize(
    "half", [in_the_middle_of_setting_aside, in_the_middle_of_a_restore, with_a_record_that_is_damaged]
)
def test_an_app_of_whose_data_nobody_knows_whether_they_are_whole_is_held_and_not_started(
    world: World, half: Callable[[World], None]
) -> None:
    world.open().store.close()
    half(world)
    world.lose()
    world.underway.unlink() if half is not with_a_record_that_is_damaged and world.underway.exists() else None
    record = world.open().store.app("x")
    assert record.held
    assert world.is_held_back
    assert str(world.aside) in record.hold_reason
    assert "`slotctl restore x saved`" in record.hold_reason
    assert "`slotctl unhold x`" in record.hold_reason
    assert record.last_error == record.hold_reason


def test_a_trial_whose_record_is_damaged_is_told_with_the_way_back_and_its_version_stays(world: World) -> None:
    world.begin("trial")
    world.underway.write_bytes(b"\0" * 500)
    world.lose()
    host = world.open()
    record = host.store.app("x")
    assert record.held
    assert not world.is_held_back
    assert "`slotctl rollback x --data=restore`" in record.hold_reason
    assert host.store.slots("x")[SlotName.B].version == "2.0"


def test_a_rollback_that_was_done_before_the_loss_holds_nobody(world: World) -> None:
    world.copies.restore(world.spec, world.backup, world.aside)
    world.engine.switch(SlotName.A)
    world.open().store.close()
    world.lose()
    host = world.open()
    assert not host.store.app("x").held
    assert [copy.kind for copy in host.store.backups("x")] == ["quarantine", "backup"]


def test_what_was_left_half_way_before_a_later_version_was_installed_holds_nobody(world: World) -> None:
    in_the_middle_of_setting_aside(world)
    world.engine.empty(SlotName.A)
    os.close(world.engine.open(SlotName.A))
    world.engine.finish(SlotName.A, Slot("x", SlotName.A, SlotState.WHOLE, "3.0", installed_at=time.time() + 5))
    world.engine.switch(SlotName.A)
    world.lose()
    assert not world.open().store.app("x").held


def test_a_file_of_a_job_that_has_ended_is_swept_away(world: World) -> None:
    from slotd.service import requests

    world.begin("trial")
    kept = world.underway.read_bytes()
    store = Store(world.paths.state / "state.db")
    (job,) = store.unfinished_jobs()
    store.save(dataclasses.replace(job, state=JobState.DONE))
    world.underway.write_bytes(kept)
    (world.underway.parent / ".x.json.1.new").write_bytes(b"half")
    requests.close_stale_trials(store)
    assert list(world.underway.parent.iterdir()) == []
