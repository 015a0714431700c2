"""The board: the newest view of every app, and who is told when one changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from slotd.errors import NoSuchApp
from slotd.host.offloop import off_loop
from slotd.model import AppView
from slotd.service.api import Listener


class Board:
    """Views are built off the loop and swapped in whole: reading one never waits (promise 8)."""

    def __init__(self, build: Callable[[str], AppView]) -> None:
        """`build` blocks: it reads the store and the disk."""
        self._build = build
        self._views: dict[str, AppView] = {}
        self._dirty: set[str] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self.listeners: list[Listener] = []

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
        """Put a view together anew, and tell if it changed."""
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

    async def _refresh_dirty(self) -> None:
        while self._dirty:
            await self.refresh(self._dirty.pop())

    def remove(self, name: str) -> None:
        del self._views[name]
        for listener in self.listeners:
            listener.app_removed(name)
