"""Power cuts at random moments of an update, and again while the machine comes up from one.

A power cut leaves what has reached the disk, and nothing else. So one update gives many of them: at each chosen moment
the whole emulator is frozen (SIGSTOP), its disk is copied as it lies there, and it goes on. The copy is what SIGKILL at
that moment would have left. Each copy is then booted for real; some of those machines are killed (SIGKILL) once more
on their way up. Nothing of the memory of the cut machine is used.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.guest import GuestError
from tests.vm.ledger import Ended
from tests.vm.oracle import SIGNED, judge
from tests.vm.world import GuestNotes, World, begin_update

# What 2.0 is like; it deserves to stay, or it does not.
KINDS = {"well": True, "damage-data": False, "crash-after 3": False}
GAP_S = (1.0, 9.0)  # between two cuts of one update, if it does not come to its next step meanwhile:
STEP_S = (0.0, 0.5)  # then there is one so soon after, for most steps are shorter than a gap
LOOK_S = 0.25
AGAIN = 0.4  # the share of machines that are cut once more while they come up
AGAIN_AT = (0.1, 1.5)  # of the time that such a machine needs to come up
UPDATE_S = 1500.0


@dataclass(frozen=True, slots=True)
class Cut:
    """One disk as a power cut left it. `after_s` is the time since the update was asked for."""

    number: int
    kind: str
    seed: int
    after_s: float
    image: Path


def cut_during_update(world: World, kind: str, seed: int) -> list[Cut]:
    """Runs one update and gives the disks of its power cuts, numbered from 0."""
    chance = random.Random(seed)
    found: list[Cut] = []
    with world.guest(f"update-{seed}", world.publisher(kind), base=world.installed) as notes:
        notes.machine.boot()
        notes.wait_state(timeout_s=300)
        begun = notes.machine.had_s()
        begin_update(notes)
        step = ""
        while notes.machine.had_s() - begun < UPDATE_S:
            step = _wait(notes, chance, step)
            image = world.directory / f"cut-{seed}-{len(found)}.qcow2"
            with notes.machine.frozen():
                shutil.copyfile(notes.machine.layer, image)
            found.append(Cut(len(found), kind, chance.randrange(1 << 30), notes.machine.had_s() - begun, image))
            if step.endswith(("|done", "|failed")):
                return found
    raise GuestError(f"the update to 2.0 ({kind}) did not end within {UPDATE_S:g} s")


def _wait(notes: GuestNotes, chance: random.Random, step: str) -> str:
    """Until the moment of the next cut; gives where the update has come to by then."""
    until = notes.machine.had_s() + chance.uniform(*GAP_S)
    soon = chance.uniform(*STEP_S)
    while (now := notes.now_at()) == step and notes.machine.had_s() < until:
        notes.machine.sleep(LOOK_S)
    if now != step:
        notes.machine.sleep(soon)
    return now


def store(world: World, cut: Cut) -> Cut:
    """Keeps the disk until it was booted, also by a later run of the same seed."""
    world.made.mkdir(exist_ok=True)
    stored = dataclasses.replace(cut, image=world.made / f"cut-{cut.number}.qcow2")
    cut.image.rename(stored.image)
    stored.image.with_suffix(".json").write_text(json.dumps([cut.kind, cut.seed, cut.after_s]))
    return stored


def left_over(world: World) -> list[Cut]:
    """The disks that were stored and not booted yet."""
    found = []
    for path in world.made.glob("cut-*.json"):
        kind, seed, after_s = json.loads(path.read_text())
        found.append(Cut(int(path.stem.removeprefix("cut-")), kind, seed, after_s, path.with_suffix(".qcow2")))
    return sorted(found, key=lambda cut: cut.number)


def boot_and_judge(world: World, cut: Cut, build: str) -> Ended:
    """Boots the disk that a cut left, maybe cuts again, lets it settle, and judges what it ended on."""
    chance = random.Random(cut.seed)
    begun, cuts = time.monotonic(), 1
    with world.guest(f"cut-{cut.number}", world.publisher(cut.kind), base=cut.image) as notes:
        if chance.random() < AGAIN:
            notes.machine.power_on()
            notes.machine.sleep(chance.uniform(*AGAIN_AT) * world.boot_s)
            notes.machine.cut()
            cuts += 1
        try:
            version, step, wrong = _settle(notes, world, KINDS[cut.kind])
        except (GuestError, AssertionError, OSError) as error:
            version, step, wrong = "", "", [f"{type(error).__name__}: {error}"]
        if wrong:
            world.keep(notes, f"cut-{cut.number}")
    took = time.monotonic() - begun
    return Ended(f"cut {cut.number}", build, took, tuple(wrong), cut.kind, cut.seed, cut.after_s, cuts, step, version)


def _settle(notes: GuestNotes, world: World, good: bool) -> tuple[str, str, list[str]]:
    notes.machine.power_on()
    notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service", timeout_s=600)
    step = notes.now_at().partition("|")[0]
    found = notes.look()
    was_signed = SIGNED in found["data"]["notes"]
    notes.machine.wait_until_up()
    notes.wait_settled()
    version, wrong = judge(notes, world.before, good=good, was_signed=was_signed)
    return version, step, wrong
