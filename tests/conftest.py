"""What all tests share: being told to stop is a reason to tidy up, and a copy of the source for other users."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tests.system.container import clean_up_on_sigterm

clean_up_on_sigterm()
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("slotd", deadline=None)
hypothesis.settings.load_profile("slotd")


@pytest.fixture(scope="session")
def readable_source() -> Iterator[Path]:
    """The source where any user can read it: a clone may lie in a directory that is root's alone."""
    repository = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="slotd-source-", dir="/tmp") as directory:
        copy = Path(directory)
        copy.chmod(0o755)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / "daemon", copy / "daemon", ignore=ignore)
        shutil.copytree(repository / "tests", copy / "tests", ignore=ignore)
        yield copy
