"""Containers as fixtures. A test module gets a fresh one: booting takes less than a second."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.container import Container
from tests.system.image import REPOSITORY, Image, base_image, slotd_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package, built from the tree as it is."""
    assert os.geteuid() == 0, "system tests boot containers: run them as root."
    built = subprocess.run(["make", "-s", "deb"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"cannot build the package:\n{built.stdout}{built.stderr}"
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    return package


@pytest.fixture(scope="session")
def image(deb: Path) -> Image:
    """A Debian with the package installed."""
    return slotd_image(deb)


@pytest.fixture(scope="session")
def bare_image() -> Image:
    """A Debian with all that the package depends on, without the package."""
    return base_image()


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Container]:
    """A booted machine with the package installed, of this test module alone."""
    with Container(image) as machine:
        yield machine
