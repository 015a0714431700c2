"""The board: the newest view of every app, and who is told when one changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from slotd.core.events import BY_NAME
from slotd.errors import NoSuchApp, SlotdError
from slotd.host import files, journal
from slotd.host.definitions import Definitions
from slotd.host.offloop import off_loop
from slotd.model import AppView
from slotd.service.api import Listener

_log = logging.getLogger(__name__)

TOLD_BYTES = 1024**2


class Board:
    """Views are built off the loop and swapped in whole: reading one never waits (promise 8)."""

    def __init__(self, build: Callable[[str], AppView], told: Path) -> None:
        """`build` blocks: it reads the store and the disk. `told`: a file that remembers, until the next boot, what was
        said of the configuration: a daemon that leaves when idle must not say it anew whenever a timer starts it.
        """
        self._build = build
        self._told = told
        self._is_first_look = True
        self._views: dict[str, AppView] = {}
        self._dirty: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self.listeners: list[Listener] = []
        self.problems: tuple[str, ...] = ()

    async def tell_problems(self, found: Definitions) -> None:
        """What is wrong with the configuration goes to the journal; what belongs to no app is kept, and told.

        A daemon that starts says what none before it has said; a reload says all.
        """
        sentences = [
            (BY_NAME["misconfigured"], f"{name}: {problem}", {"SLOTD_APP": name})
            for name, broken in found.broken.items()
            for problem in broken.problems
        ]
        sentences += [(BY_NAME["misconfigured"], sentence, {}) for sentence in found.settings_problems]
        sentences += [(BY_NAME["warning"], sentence, {}) for sentence in found.warnings]
        said = await off_loop(self._said_before) if self._is_first_look else []
        for kind, sentence, fields in sentences:
            if sentence not in said:
                await off_loop(journal.send, kind, sentence, fields=fields, units=())
        self._is_first_look = False
        await off_loop(self._remember_said, [sentence for _, sentence, _ in sentences])
        problems = (*found.settings_problems, *found.warnings)
        if problems != self.problems:
            self.problems = problems
            for listener in self.listeners:
                listener.problems_changed()

    def _said_before(self) -> list[str]:
        try:
            said = json.loads(files.read_bounded(self._told, TOLD_BYTES))
        except (OSError, ValueError, SlotdError):
            return []
        return said if isinstance(said, list) else []

    def _remember_said(self, sentences: Sequence[str]) -> None:
        try:
            files.write_unsynced(self._told, json.dumps(sentences).encode())
        except (OSError, SlotdError):  # then it is said once more
            _log.debug("what was said of the configuration could not be written", exc_info=True)

    def names(self) -> list[str]:
        return sorted(self._views)

    def all(self) -> Sequence[AppView]:
        return [self._views[name] for name in self.names()]

    def find(self, name: str) -> AppView | None:
        return self._views.get(name)

    def app(self, name: str) -> AppView:
        try:
            return self._views[name]
        except KeyError:
            raise NoSuchApp(
                f"cannot find an app named {name!r}.",
                hint="`slotctl list` shows those there are; after writing a definition, `slotctl reload`.",
            ) from None

    async def refresh(self, name: str) -> None:
        """Put a view together anew, and tell if it changed. One at a time: an old view never follows a newer one.

        A job of the whole host has no app, and no view.
        """
        if not name:
            return
        async with self._lock(name):
            await self._rebuild(name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _rebuild(self, name: str) -> None:
        view = await off_loop(self._build, name)
        before = self._views.get(name)
        if view == before:
            return
        self._views[name] = view
        for listener in self.listeners:
            if before is None:
                listener.app_added(view)
            else:
                listener.app_changed(view)

    def refresh_soon(self, name: str) -> None:
        """The same, soon, in a task of the board's own; many requests are one refresh."""
        self._dirty.add(name)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_dirty(), name="board")

    async def settled(self) -> None:
        """Return when all that was asked for is shown."""
        if self._refreshing is not None:
            await self._refreshing

    async def _refresh_dirty(self) -> None:
        while self._dirty:
            name = self._dirty.pop()
            async with self._lock(name):
                if name not in self._views:
                    continue  # it has gone meanwhile, and does not come back
                try:
                    await self._rebuild(name)
                except Exception:  # the others' views are put together all the same
                    _log.exception("%s: its view could not be put together", name)

    async def keep(self, names: Collection[str]) -> None:
        """Remove all other apps."""
        for name in self.names():
            async with self._lock(name):
                if name not in names and self._views.pop(name, None) is not None:
                    for listener in self.listeners:
                        listener.app_removed(name)
