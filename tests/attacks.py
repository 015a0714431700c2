"""The table of hostile cases, docs/attacks.md, from the tests that carry the marker: `python3 -m tests.attacks`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "attacks.md"
_AREAS = {
    "Archives": ("unpack_hostile", "tree_hostile", "sharing", "hostile_archives"),
    "Signatures and checksums": (
        "verify",
        "trust",
        "daemon_signatures",
        "hostile_signatures",
        "sigstore",
        "daemon_older",
        "daemon_sources",
        "rollback_to",
        "extras",
    ),
    "TUF repositories": ("tuf", "daemon_tuf"),
    "Offline bundles": ("bundle_hostile", "daemon_bundles", "bundles"),
    "Servers": (
        *("fetch_get", "fetch_download", "fetch_mirrors", "fetch_reuse", "seeding", "bandwidth", "daemon_fetching"),
        "foreign",
        "hostile_servers",
    ),
    "Workers in foreign hands": ("worker", "worker_units", "hostile_workers"),
    "The programs themselves": ("sandbox", "package"),
    "Callers on the bus": ("bus_attacks", "bus_decode", "hostile_callers", "flood", "polkit_prompts"),
    "Definitions": ("hostile_definitions",),
    "The app's own data": ("data_hostile", "data_soundness", "restic"),
    "What the fuzzer found": ("fuzz",),
}
_HEAD = """\
# What is offered to harm it

Each of these is a test that carries the marker `attack`; `make attack` runs them all. A case is offered to the real
thing - the program in its sandbox, the daemon on its bus, the package in a booted container - and asserts what it is
told, and that the app, its slots and its data are as they were. Written by `python3 -m tests.attacks`, which counts.

| area | cases | where, and what |
|---|---|---|
"""
_TAIL = """
Beside these, `make fuzz` offers the parsers of foreign bytes what nobody thought of, and `make tuf-conformance` runs
the conformance suite of the TUF project: 99 of its 113 cases pass, and in the other 14 slotd finds the same files but
asks for more roles on the way, since it lists all that a repository names.
"""
_MARK = re.compile(r"^(?:@|pytestmark = )pytest\.mark\.attack", re.MULTILINE)


def marked() -> set[str]:
    """The test files that have hostile cases, by their text alone."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {str(path.relative_to(ROOT)) for path in files if _MARK.search(path.read_text())}


def count() -> Counter[str]:
    """How many cases each test file has."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-m",
        "attack",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Counter(line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line)


def page(counted: Counter[str]) -> str:
    """The table, a file to a row."""
    areas = {name: area for area, names in _AREAS.items() for name in names}
    order = [*areas, *sorted({_name(file) for file in counted} - areas.keys())]
    rows = [
        f"| {areas.get(name, 'Elsewhere')} | {counted[file]} | `{file}`: {_says(file)} |\n"
        for name in order
        for file in sorted(counted)
        if _name(file) == name
    ]
    return f"{_HEAD}{''.join(rows)}| **all** | **{counted.total()}** | |\n{_TAIL}"


def _name(file: str) -> str:
    return Path(file).stem.removeprefix("test_")


def _says(file: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(count()))
