"""Which prepare command has pip fetch what a release depends on, so that a bundle has it along."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slotd.core.schema import App, Slots
from slotd.recipes.bundling import pip_install

VENV = ("python3", "-m", "venv", "{slot}/venv")


def of(*prepare: tuple[str, ...], network: bool = True) -> App:
    return replace(App("notes"), slots=Slots(prepare=prepare, network=network))


@pytest.mark.parametrize(
    "argv",
    [
        ("{slot}/venv/bin/pip", "install", "{artifact}"),
        ("{slot}/venv/bin/pip3.11", "install", "--quiet", "{artifact}"),
        ("{slot}/venv/bin/python3", "-m", "pip", "install", "{artifact}"),
    ],
)
def test_pip_is_found_however_it_is_called(argv: tuple[str, ...]) -> None:
    assert pip_install(of(VENV, argv)) == argv
    assert pip_install(of(VENV, argv, network=False)) == ()


@pytest.mark.parametrize(
    "argv",
    [
        ("npm", "install", "--prefix", "{slot}", "{artifact}"),
        ("{slot}/venv/bin/pip", "install", "needed"),
        ("{slot}/venv/bin/pip", "check", "{artifact}"),
        ("make", "install", "{artifact}"),
    ],
)
def test_what_else_installs_is_not_taken_for_pip(argv: tuple[str, ...]) -> None:
    assert pip_install(of(VENV, argv)) == ()
