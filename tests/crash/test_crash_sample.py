"""A sample of what `make crash` does in whole. A cell that fails is run alone by its name: `make crash CELL=NAME`."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest
from tests.crash import boots, matrix, prefixes, sweep
from tests.crash.disk import KINDS
from tests.crash.matrix import Cell
from tests.crash.world import World
from tests.system.image import Image

SEED = int(os.environ.get("SLOTD_CRASH_SEED") or 1)  # the same cells each time, so that a red one is news
CELLS = 24
CALLS = 3  # of each track
CHANCE = random.Random(SEED)
# By file system: one machine for all cells of each.
# What was found broken once is looked at each time.
ONCE_BROKEN = ("ext4/kill/switch:made", "ext4/app/rb-start:broken")
ALL = {cell.name: cell for cell in matrix.cells()}
CHOSEN = {*ONCE_BROKEN, *CHANCE.sample(list(ALL), CELLS)}
SAMPLE = sorted((ALL[name] for name in CHOSEN), key=lambda cell: (KINDS.index(cell.kind), cell.name))

Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(image: Image) -> Iterator[Worlds]:
    """The machine with a disk of this kind; another kind's goes."""
    made: dict[str, World] = {}

    def world_of(kind: str) -> World:
        if kind not in made:
            while made:
                made.popitem()[1].__exit__(None, None, None)
            made[kind] = World(image, kind).__enter__()
        return made[kind]

    yield world_of
    while made:
        made.popitem()[1].__exit__(None, None, None)


@pytest.mark.parametrize("cell", SAMPLE, ids=lambda cell: cell.name)
def test_whatever_breaks_one_whole_version_answers_with_its_data(worlds: Worlds, cell: Cell) -> None:
    outcome = matrix.run(worlds(cell.kind), cell, whole_update=False)
    assert not outcome.why, f"{outcome.name}, seed {SEED}: {outcome.why}"


@pytest.mark.parametrize("name", sweep.TRACKS)
def test_any_call_may_be_the_last_or_fail(worlds: Worlds, name: str) -> None:
    world, track = worlds(KINDS[0]), sweep.TRACKS[name]
    made = sweep.count(world, track)
    assert min(len(made.changes), len(made.looks)) > 50
    for call in CHANCE.sample(list(sweep.calls(KINDS[0], track.key, made)), CALLS):
        outcome = sweep.run(world, track, call)
        assert not outcome.why, f"{outcome.name}, seed {SEED}: {outcome.why}"


@pytest.mark.parametrize("name", boots.WAYS)
def test_any_call_of_the_way_back_at_boot_may_be_the_last_or_fail(worlds: Worlds, name: str) -> None:
    world, way = worlds(KINDS[0]), boots.WAYS[name]
    counted = boots.count(world, way)
    assert min(len(counted.made.changes), len(counted.made.looks)) > 50
    for call in CHANCE.sample(list(sweep.calls(KINDS[0], way.key, counted.made)), CALLS):
        outcome = boots.run(world, way, call, counted)
        assert not outcome.why, f"{outcome.name}, seed {SEED}: {outcome.why}"


def test_every_prefix_of_a_switch_is_a_whole_one_or_none(image: Image) -> None:
    outcomes = list(prefixes.replay(image, KINDS[0], prefixes.STRETCHES[0]))
    assert len(outcomes) > 5
    assert [outcome for outcome in outcomes if outcome.why] == []


def test_the_machine_that_judges_sees_data_of_the_wrong_version(worlds: Worlds) -> None:
    """A judge that finds nothing wrong with anything would prove nothing."""
    world = worlds(KINDS[0])
    cell = next(cell for cell in matrix.cells() if cell.name == "ext4/kill/switch:link")
    assert matrix.run(world, cell, whole_update=False).why == ""
    world.before = {**world.before, "digest": "of other data"}
    try:
        outcome = matrix.run(world, cell, whole_update=False)
    finally:
        world.__exit__(None, None, None)
    assert "the data of 2.0 are" in outcome.why
