"""How the slots of an app are realised. One file per engine, one line in `ENGINES`.

All methods block and are called off the event loop; all are idempotent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from slotd.core.schema import App, Limits
from slotd.model import Slot, SlotName


class Engine(Protocol):
    """The two slots of one app and the switch between them."""

    app: App
    root: Path

    def path(self, slot: SlotName) -> Path:
        """Where a slot lies; its final place from the first byte on."""
        ...

    def active(self) -> SlotName | None:
        """What `current` points at, asked of the disk; None when nothing is installed."""
        ...

    def record(self, slot: SlotName) -> Slot | None:
        """What a slot says of itself, None if it is empty or was never finished."""
        ...

    def empty(self, slot: SlotName) -> None:
        """Remove all of an inactive slot. Raises `Failed` for the active one (promise 2)."""
        ...

    def open(self, slot: SlotName) -> int:
        """An empty directory for the unpack worker to write into, as a descriptor the caller closes."""
        ...

    def settle(self, slot: SlotName, readers: frozenset[int] | None = None) -> None:
        """Check what the unpack worker wrote, take it into root's hands and put the configured links in.

        `readers`: see `finish`.
        """
        ...

    def lend(self, slot: SlotName) -> None:
        """Give the slot to the app's user for its prepare commands."""
        ...

    def share(self, slot: SlotName) -> int:
        """Check and take back as `finish` does, then let files that are the same as in the active slot take no room of
        their own, where the host can do that. Gives their bytes. The active slot is only read.
        """
        ...

    def finish(
        self, slot: SlotName, record: Slot, readers: frozenset[int] | None = None, *, closed: bool = False
    ) -> Slot:
        """Check again and take back what was lent since `settle`, write the manifest and the record, put all on disk.

        Gives the whole slot. What is adopted is for those who could read it before: `readers` are the users who could
        as its owners, and with `closed` all others could not get there.
        """
        ...

    def switch(self, slot: SlotName | None) -> None:
        """The one atomic act: `current` points at `slot` on disk, or is gone."""
        ...

    def forget_switch(self) -> None:
        """Remove what a switch that was cut short before the act left."""
        ...

    def free_bytes(self) -> int: ...


def create(app: App, root: Path, limits: Limits, *, user_mode: bool) -> Engine:
    """The engine a definition names."""
    from importlib import import_module

    module, _, name = ENGINES[app.slots.engine].partition(":")
    engine: Engine = getattr(import_module(module), name)(app, root, limits, user_mode=user_mode)
    return engine


ENGINES: dict[str, str] = {"directory": "slotd.engines.directory:DirectoryEngine"}
