"""The door to what no Debian package has: libraries from PyPI, in a directory of their own, for workers alone.

They come with newer versions of what Debian has too, so they go before it - in the one worker that needs them, which
is gone a moment later, and never in the daemon.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

from slotd.errors import Failed

# Root's; the second is beside the package `slotd`, wherever that lies.
DIRECTORIES: Final = (Path("/usr/local/lib/slotd/extras"), Path(__file__).resolve().parents[2] / "slotd-extras")
REQUIREMENTS: Final = "/usr/share/slotd/extras.txt"
INSTALL: Final = f"`python3 -m pip install --target {DIRECTORIES[0]} --requirement {REQUIREMENTS}`"


def has(package: str) -> bool:
    """Whether a package is installed there, or for the system's Python; it is not loaded."""
    return PathFinder.find_spec(package, [*map(str, DIRECTORIES), *sys.path]) is not None


def load(module: str) -> ModuleType:
    """A module of such a library. Raises `Failed` if it is not installed, or does not fit this Python."""
    for directory in map(str, DIRECTORIES):
        if directory not in sys.path and Path(directory).is_dir():
            sys.path.insert(0, directory)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        why = "is not installed" if not has(package) else f"cannot be loaded ({error})"
        raise Failed(f"cannot verify: the Python package {package} {why}", hint=f"Install it with {INSTALL}.") from None
