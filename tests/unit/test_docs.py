"""What the manual says and the code knows better is printed from the code, and stays so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slotd.core import events, machine

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", ARCHITECTURE.read_text(), re.DOTALL)
    assert found, f"docs/architecture.md has no section {name}"
    return found[1]


def test_the_manuals_table_of_steps_is_the_codes() -> None:
    assert section("steps") == machine.table(), "print it anew: packaging/print-docs"


def test_the_manuals_diagram_is_the_codes() -> None:
    assert section("diagram") == f"```mermaid\n{machine.diagram()}```\n", "print it anew: packaging/print-docs"


def test_the_catalogue_is_the_codes() -> None:
    text = (REPOSITORY / "packaging" / "slotd.catalog").read_text()
    assert text == events.catalogue(), "print it anew: packaging/print-docs"


def test_every_event_that_the_code_tells_is_in_the_catalogue() -> None:
    told = set()
    for path in (REPOSITORY / "daemon").rglob("*.py"):
        told |= set(re.findall(r'(?:\.tell\(\s*|_tell\([^,]+,\s*|_change\([^,]+,\s*)"([a-z-]+)"', path.read_text()))
    assert told
    assert told <= set(events.BY_NAME)


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:core|host|recipes|service|engines|data|sources)/\w+\.py)", ARCHITECTURE.read_text())
)
def test_the_walk_names_files_that_are_there(path: str) -> None:
    assert (REPOSITORY / "daemon" / "slotd" / path).is_file()
