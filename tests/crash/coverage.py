"""Which failpoints are cells of the matrix, and which tests break something at the others: read from the tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.crash import matrix
from tests.crash.faults import NOT_MET
from tests.system.image import REPOSITORY

from slotd.host import failpoint

TESTS = REPOSITORY / "tests"
NOT_THERE = ("crash", "unit", "system/test_crash.py")  # these name others only to say that they do without them


def in_cells() -> set[str]:
    """The failpoints at which a cell strikes. In a worker they are named behind the step that it works for."""
    points = {cell.point for cell in matrix.cells()}
    return {point.partition(":")[2] if ":worker-" in point else point for point in points} & set(failpoint.points())


def elsewhere() -> tuple[dict[str, list[str]], list[str]]:
    """The others, by the test that names them; and those that none does."""
    sources = {path.relative_to(TESTS): path.read_text() for path in sorted(TESTS.rglob("test_*.py"))}
    sources = {path: text for path, text in sources.items() if not str(path).startswith(NOT_THERE)}
    named: dict[str, list[str]] = defaultdict(list)
    nowhere = []
    for point in failpoint.points().keys() - in_cells() - NOT_MET.keys():
        where = next((path for path, text in sources.items() if point in text), None)
        if where is None:
            nowhere.append(point)
        else:
            named[str(where)].append(point)
    return {where: sorted(points) for where, points in sorted(named.items())}, sorted(nowhere)


def told() -> Iterator[str]:
    """Lines for the page."""
    cells, whole = in_cells(), failpoint.points()
    named, nowhere = elsewhere()
    yield f"Of the {len(whole)} failpoints {len(cells)} are cells of the matrix. Those of these steps that are not:"
    yield ""
    yield from (f"- `{name}`: {why}" for name, why in NOT_MET.items())
    yield ""
    yield "The others lie outside of these steps, or inside of the copying of data. Tests that break something there:"
    yield ""
    yield from (f"- {_listed(points)}: `{Path('tests') / where}`" for where, points in named.items())
    yield f"- none, they are only come by: {_listed(nowhere)}"


def _listed(points: list[str]) -> str:
    return ", ".join(f"`{point}`" for point in points)
