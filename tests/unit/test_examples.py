"""Every definition that the manual shows can be used as it stands, but for its keys."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from slotd.core.config import parse_app

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.toml")), ids=lambda path: path.stem)
def test_an_example_parses(path: Path) -> None:
    app = parse_app(path.stem, [(str(path), tomllib.loads(path.read_text()))])
    assert app.health
    assert app.data.paths


def test_the_kinds_of_source_that_can_be_made_by_oneself_have_an_example() -> None:
    kinds = {tomllib.loads(path.read_text())["source"]["type"] for path in EXAMPLES.glob("*.toml")}
    assert kinds >= {"github", "gitea", "gitlab", "pypi", "npm", "http", "directory"}
