"""What a quarantine on the disk says by itself, where nobody remembers the job that made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slotd.data.layout import Layout, read_json
from slotd.errors import SlotdError


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Data that were being set aside, or had been while those of the copy `source` came back; "" if none had begun."""

    source: str


def begun_at(aside: Path) -> float:
    """When setting data aside into it began, in seconds since the epoch; 0 if it did not."""
    try:
        return (aside / "tree.json").stat().st_mtime
    except OSError:
        return 0.0


def of_quarantine(aside: Path) -> Unfinished | None:
    """What was left half-way there; None if it is whole and no restore is known to have stopped in it."""
    layout = Layout(aside)
    try:
        state = read_json(aside / "restore.json")
    except (OSError, ValueError, SlotdError):
        state = None
    if state is not None and not state.get("finished"):
        return Unfinished(str(state.get("src", "")))
    return Unfinished("") if layout.sealed() is None else None
