"""The board: the newest view of every app, and who is told when one changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from slotd.core.events import BY_NAME
from slotd.errors import NoSuchApp
from slotd.host import journal
from slotd.host.definitions import Definitions
from slotd.host.offloop import off_loop
from slotd.model import AppView
from slotd.service.api import Listener

_log = logging.getLogger(__name__)


class Board:
    """Views are built off the loop and swapped in whole: reading one never waits (promise 8)."""

    def __init__(self, build: Callable[[str], AppView]) -> None:
        """`build` blocks: it reads the store and the disk."""
        self._build = build
        self._views: dict[str, AppView] = {}
        self._dirty: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self.listeners: list[Listener] = []
        self.problems: tuple[str, ...] = ()

    async def tell_problems(self, found: Definitions) -> None:
        """What is wrong with the configuration goes to the journal; what belongs to no app is kept, and told."""
        for name, broken in found.broken.items():
            fields = {"SLOTD_APP": name}
            for problem in broken.problems:
                await off_loop(journal.send, BY_NAME["misconfigured"], f"{name}: {problem}", fields=fields, units=())
        problems = (*found.settings_problems, *found.warnings)
        for kind, sentences in (("misconfigured", found.settings_problems), ("warning", found.warnings)):
            for sentence in sentences:
                await off_loop(journal.send, BY_NAME[kind], sentence, fields={}, units=())
        if problems != self.problems:
            self.problems = problems
            for listener in self.listeners:
                listener.problems_changed()

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
                hint="`slotctl list` shows those there are; after writing a definition, `systemctl reload slotd`.",
            ) from None

    async def refresh(self, name: str) -> None:
        """Put a view together anew, and tell if it changed. One at a time: an old view never follows a newer one."""
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
