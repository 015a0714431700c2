"""The image that the crash tests boot is that of the system tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.system.conftest import deb, image

__all__ = ["deb", "image"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.crash)
