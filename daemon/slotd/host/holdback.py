"""Units that must not start yet: a file in /run for each, which the drop-in of `slotctl enable` asserts is not there.

A mask at runtime would not do: a unit that lies in /etc comes before one in /run. And systemd need not be reloaded,
for which the start of an app would have to wait.

/run is empty after a boot. Which units are to stay down then is in the state; a file for each of them lies beside it,
too, for a boot at which the state cannot be read.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from slotd.host import files
from slotd.host.paths import Paths

_log = logging.getLogger(__name__)

DIRECTORY = "held-back"
# For the [Unit] section; %t is where the runtime directories are, of the system or of a user.
ASSERTION = f"AssertPathExists=!%t/slotd/{DIRECTORY}/%n"


def hold_back(paths: Paths, *units: str) -> None:
    """From here on systemd refuses to start the units, whoever asks."""
    _touch(paths.runtime / DIRECTORY, units)


def hold_back_over_boots(paths: Paths, *units: str) -> None:
    """The same, also at a boot at which nothing else can be read, if the disk takes it."""
    hold_back(paths, *units)
    try:
        _touch(paths.state / DIRECTORY, units)
        files.fsync_dir(paths.state / DIRECTORY)
        files.fsync_dir(paths.state)
    except OSError as error:
        _log.error("%s stay down now, but not at a boot at which the state cannot be read: %s", ", ".join(units), error)


def held_over_boots(paths: Paths) -> list[str]:
    """The units that were to stay down."""
    try:
        return sorted(path.name for path in (paths.state / DIRECTORY).iterdir())
    except FileNotFoundError:
        return []


def let_start(paths: Paths, *units: str) -> None:
    """The units may start again. One that was not held back is fine."""
    for unit in units:
        (paths.runtime / DIRECTORY / unit).unlink(missing_ok=True)
        with suppress(OSError):  # one too many is asked for only where nothing else can be read
            (paths.state / DIRECTORY / unit).unlink(missing_ok=True)


def _touch(directory: Path, units: tuple[str, ...]) -> None:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for unit in units:
        (directory / unit).touch(mode=0o644)
