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


TELLS = r'(?:[.]tell[(]\s*|(?:_tell|tell_once|_change)[(][^,]+,\s*)"([a-z-]+)"'
PICKS = r'(?:BY_NAME\[|[(][(]|, [(])"([a-z-]+)"'


def test_every_event_that_the_code_tells_is_in_the_catalogue_and_every_entry_is_told() -> None:
    code = "\n".join(path.read_text() for path in (REPOSITORY / "daemon").rglob("*.py") if path.name != "events.py")
    told, picked = set(re.findall(TELLS, code)), set(re.findall(PICKS, code))
    assert told
    assert told <= set(events.BY_NAME)
    assert set(events.BY_NAME) <= told | picked


def entry(kind: events.EventKind) -> str:
    found = re.search(rf"^-- {kind.id}\n(.*?)(?=^-- |\Z)", events.catalogue(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("kind", events.KINDS, ids=lambda kind: str(kind.name))
def test_a_catalogue_entry_explains_its_event_and_names_fields_that_are_there(kind: events.EventKind) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", kind.id), "not a random id"
    head, _, text = entry(kind).partition("\n\n")
    assert head.splitlines()[0] == f"Subject: {kind.subject}"
    assert "Documentation: man:slotctl(1)" in head
    assert text.strip().endswith(".")
    assert len(text.split()) >= 6, "it repeats its subject"
    assert set(re.findall(r"@(\w+)@", text)) <= {"SLOTD_APP", "SLOTD_JOB", "SLOTD_SLOTCTL", "SLOTD_SYSTEMCTL"}
    assert not re.search(r"`(?:slotctl|systemctl|journalctl) ", text), "a user would be told the system's command"


def test_ids_are_unique_and_the_catalogue_has_as_many_entries_as_there_are_kinds() -> None:
    assert len({kind.id for kind in events.KINDS}) == len({kind.name for kind in events.KINDS}) == len(events.KINDS)
    assert len(re.findall(r"^-- ", events.catalogue(), re.MULTILINE)) == len(events.KINDS)


@pytest.mark.parametrize("kind", events.KINDS, ids=lambda kind: str(kind.name))
def test_what_failed_is_told_louder_than_what_went_well(kind: events.EventKind) -> None:
    is_bad = "fail" in kind.name or kind.name in ("misconfigured", "warning", "database-damaged") or "roll" in kind.name
    assert (kind.priority <= events.WARNING) == is_bad


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
