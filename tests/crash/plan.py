"""Which cells are run, in which machines: a chunk is what one machine does, one cell after the other."""

from __future__ import annotations

import fnmatch
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.crash import boots, matrix, prefixes, sweep
from tests.crash.disk import KINDS
from tests.crash.matrix import Cell, Outcome
from tests.crash.world import World
from tests.system.image import Image

MOST_CELLS = 50  # in one machine
SWEEP_PARTS = 4  # machines for each track
WHOLE_UPDATE_EVERY = 8  # after each eighth cell a whole update, after the others a backup


@dataclass(frozen=True, slots=True)
class Choice:
    """`patterns` of names; `sample` cells of them, drawn with `seed`, or all if it is 0; without those that `held`."""

    patterns: tuple[str, ...] = ("*",)
    sample: int = 0
    seed: int = 0
    held: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        return name not in self.held and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)

    def may_have(self, prefix: str) -> bool:
        """Whether there can be such cells at all: their names are known only once they were counted."""
        heads = [pattern.rpartition("/")[0] or "*" for pattern in self.patterns]
        return any(fnmatch.fnmatchcase(prefix, head) for head in heads)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one machine does: cells of the matrix, a part of a sweep, of a way back at boot, or a stretch's prefixes."""

    kind: str
    cells: tuple[Cell, ...] = ()
    track: str = ""
    way: str = ""
    part: int = 0
    stretch: prefixes.Stretch | None = None


def chunks(chosen: Choice) -> list[Chunk]:
    cells = [cell for cell in matrix.cells() if chosen.has(cell.name)]
    if chosen.sample:
        cells = random.Random(chosen.seed).sample(cells, min(chosen.sample, len(cells)))
    else:
        random.Random(chosen.seed).shuffle(cells)  # whoever ends the run early has a fair part of them
    found = []
    for kind in KINDS:
        mine = [cell for cell in cells if cell.kind == kind]
        found += [Chunk(kind, tuple(mine[at : at + MOST_CELLS])) for at in range(0, len(mine), MOST_CELLS)]
    for kind in KINDS:
        for stretch in prefixes.STRETCHES:
            is_seen = prefixes.whole_name(kind, stretch) in chosen.held
            if not chosen.sample and not is_seen and chosen.may_have(f"{kind}/prefix-{stretch.name}"):
                found.append(Chunk(kind, stretch=stretch))
    parts = 1 if chosen.sample or chosen.patterns != ("*",) else SWEEP_PARTS
    swept = [(track.key, Chunk(KINDS[0], track=track.name)) for track in sweep.TRACKS.values()]
    swept += [(way.key, Chunk(KINDS[0], way=way.name)) for way in boots.WAYS.values()]
    for key, chunk in swept:
        if any(chosen.may_have(f"{KINDS[0]}/{key}-{fault}") for fault in sweep.FAULTS):
            found += [replace(chunk, part=part) for part in range(parts)]
    random.Random(chosen.seed).shuffle(found)
    return found


def run(image: Image, chunk: Chunk, chosen: Choice, told: Callable[[Outcome], None], over: threading.Event) -> None:
    """A chunk from its first cell to its last, in the thread that made its machine; less once it is `over`."""
    if over.is_set():
        return
    if chunk.stretch is not None:
        for outcome in prefixes.replay(image, chunk.kind, chunk.stretch):
            if over.is_set():
                return
            if chosen.has(outcome.name):
                told(outcome)
        return
    chance = random.Random(f"{chosen.seed}-{chunk.kind}-{chunk.track}{chunk.way}-{chunk.part}")
    machine = _Machine(image, chunk.kind)
    try:
        for act in _acts(machine, chunk, chosen, chance):
            outcome = act(machine.world)
            if over.is_set():
                return
            told(outcome)
            if outcome.why:
                machine.renew()  # what one cell broke must not count against the next
    finally:
        machine.close()


class _Machine:
    """The world at hand, made anew when it must not be trusted any more."""

    def __init__(self, image: Image, kind: str) -> None:
        self._image, self._kind = image, kind
        self.world = World(image, kind).__enter__()

    def close(self) -> None:
        self.world.__exit__(None, None, None)

    def renew(self) -> None:
        self.close()
        self.world = World(self._image, self._kind).__enter__()


Act = Callable[[World], Outcome]


def _celled(cells: Sequence[Cell], chance: random.Random) -> Iterator[Act]:
    for cell in cells:
        whole = chance.randrange(WHOLE_UPDATE_EVERY) == 0
        yield lambda world, cell=cell, whole=whole: matrix.run(world, cell, whole_update=whole)


def _acts(machine: _Machine, chunk: Chunk, chosen: Choice, chance: random.Random) -> Iterator[Act]:
    if chunk.track:
        track = sweep.TRACKS[chunk.track]
        made = sweep.count(machine.world, track)
        for call in _mine(track.key, made, chunk, chosen, chance):
            yield lambda world, call=call: sweep.run(world, track, call)
    elif chunk.way:
        way, prepared = boots.WAYS[chunk.way], machine.world
        counted = boots.count(prepared, way)
        for call in _mine(way.key, counted.made, chunk, chosen, chance):
            if machine.world is not prepared:
                prepared = machine.world
                boots.prepare(prepared, way)
            yield lambda world, call=call: boots.run(world, way, call, counted)
    else:
        yield from _celled(chunk.cells, chance)


def _mine(key: str, made: sweep.Made, chunk: Chunk, chosen: Choice, chance: random.Random) -> list[sweep.Call]:
    """The calls of a sweep that this machine breaks."""
    calls = [call for call in sweep.calls(chunk.kind, key, made) if chosen.has(call.name)]
    if chosen.sample:
        return chance.sample(calls, min(max(1, chosen.sample // 5), len(calls)))
    if chosen.patterns == ("*",):
        calls = [call for call in calls if call.number % SWEEP_PARTS == chunk.part]
        chance.shuffle(calls)
    return calls
