"""The manual names every key that the reader knows, with the defaults that it has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from slotd.core import schema

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "slotd-app.toml.md").read_text()
SECTIONS = {
    "[service]": schema.Service,
    "[source]": schema.Source,
    "[verify]": schema.Verify,
    "[slots]": schema.Slots,
    "[data]": schema.Data,
    "[backup]": schema.BackupPolicy,
    "[policy]": schema.Policy,
    "[rollout]": schema.Rollout,
    "[[health]]": schema.Health,
    "slotd.toml": schema.Settings,
}
ELSEWHERE = {"image", "gate", "files"}  # not supported yet, or no key


def chapter(name: str) -> str:
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", MANUAL, re.M | re.S)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_in_its_chapter(name: str) -> None:
    text = chapter(name)
    keys = {field.name.removesuffix("_s") for field in dataclasses.fields(SECTIONS[name])} - ELSEWHERE
    assert {key for key in keys if f"`{key}`" not in text and f"`[{key}]`" not in text} == set()


def test_every_limit_is_named() -> None:
    text = chapter("slotd.toml")
    for field in dataclasses.fields(schema.Limits):
        key = field.name.removesuffix("_s") if isinstance(field.default, float) else field.name
        assert f"`{key}`" in text


def test_the_defaults_are_those_of_the_reader() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", chapter("[policy]"), re.M))
    policy = schema.Policy()
    assert rows["mode"] == policy.mode
    assert rows["apply"] == policy.apply
    assert int(rows["attempts"]) == policy.attempts
    assert rows["on_failure"] == policy.on_failure
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", chapter("[slots]"), re.M))
    assert int(rows["max_files"]) == schema.Slots().max_files
