"""What the manual says and the code knows better is printed from the code, and stays so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from slotd.core import events

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def test_what_is_printed_from_the_code_is_what_the_code_says() -> None:
    done = subprocess.run([REPOSITORY / "packaging" / "print-docs", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


def test_the_index_has_a_line_for_every_page() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", index))
    pages = {path.name for path in (REPOSITORY / "docs").iterdir()} - {"README.md"}
    assert pages <= linked, "give each page a line in docs/README.md"
    assert [link for link in linked if not (REPOSITORY / "docs" / link).exists()] == []
