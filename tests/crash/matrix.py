"""The whole table: every step by every fault, each cell with a name by which it can be run alone."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.crash import oracle
from tests.crash.columns import FAULTS
from tests.crash.disk import KINDS
from tests.crash.faults import NAMES, Fault
from tests.crash.world import World


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault at one point on one file system."""

    kind: str
    fault: Fault
    step: str
    point: str

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.fault.name}/{self.point}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell went; `why` is empty when it held."""

    name: str
    fault: str
    step: str
    seconds: float
    why: str = ""


def cells(kinds: tuple[str, ...] = KINDS) -> Iterator[Cell]:
    for kind in kinds:
        for fault in FAULTS:
            for step in NAMES:
                points = fault.points(step)
                if isinstance(points, str):
                    continue
                for point in points:
                    yield Cell(kind, fault, step, point)


def senseless() -> Iterator[tuple[str, str, str]]:
    """The cells that make no sense: fault, step, why."""
    for fault in FAULTS:
        for step in NAMES:
            reason = fault.points(step)
            if isinstance(reason, str):
                yield fault.name, step, reason


def run(world: World, cell: Cell, *, whole_update: bool) -> Outcome:
    """One cell, and afterwards a job that must work: a backup, or a whole update."""

    def act() -> None:
        cell.fault.strike(world, cell.point)
        if whole_update:
            oracle.check_update_works(world)
        else:
            oracle.check_job_works(world)

    return tried(cell.name, cell.fault.name, cell.step, act)


def tried(name: str, fault: str, step: str, act: Callable[[], None]) -> Outcome:
    """How a cell goes, which holds if `act` raises nothing."""
    began = time.monotonic()
    why = ""
    try:
        act()
    except Exception as error:
        why = _told(error)
    return Outcome(name, fault, step, time.monotonic() - began, why)


def _told(error: Exception) -> str:
    """Why a cell did not hold; of what is no failed promise but a defect of the matrix itself, where it came from."""
    why = f"{type(error).__name__}: {error}"
    return why if isinstance(error, AssertionError) else f"{why}\n{traceback.format_exc(limit=-4)}"
