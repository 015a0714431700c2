"""Units that must not start yet: a file in /run for each, which the drop-in of `slotctl enable` asserts is not there.

A mask at runtime would not do: a unit that lies in /etc comes before one in /run. And systemd need not be reloaded,
for which the start of an app would have to wait.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = "held-back"
# For the [Unit] section; %t is where the runtime directories are, of the system or of a user.
ASSERTION = f"AssertPathExists=!%t/slotd/{DIRECTORY}/%n"


def hold_back(runtime: Path, *units: str) -> None:
    """From here on systemd refuses to start the units, whoever asks."""
    directory = runtime / DIRECTORY
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for unit in units:
        (directory / unit).touch(mode=0o644)


def let_start(runtime: Path, *units: str) -> None:
    """The units may start again. One that was not held back is fine."""
    for unit in units:
        (runtime / DIRECTORY / unit).unlink(missing_ok=True)
