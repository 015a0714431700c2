"""What the manual says and the code knows better is printed from the code, and stays so."""

from __future__ import annotations

import re
import subprocess
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


def test_the_manual_page_of_definitions_has_every_key_of_the_reference() -> None:
    reference = REPOSITORY / "docs" / "slotd-app.toml.md"
    command = [REPOSITORY / "packaging" / "man-page", reference]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    keys = re.findall(r"^\| `(\w+)`", reference.read_text(), re.MULTILINE)
    assert "repository" in keys
    assert [key for key in keys if f".TP\n\\fB{key}\\fR" not in page] == []


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:core|host|recipes|service|engines|data|sources)/\w+\.py)", ARCHITECTURE.read_text())
)
def test_the_walk_names_files_that_are_there(path: str) -> None:
    assert (REPOSITORY / "daemon" / "slotd" / path).is_file()
