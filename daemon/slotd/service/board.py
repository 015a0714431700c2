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
RETRY_S = 1.0  # before a view that could not be read whole is put together again; doubled each time
MOST_RETRY_S = 60.0

Build = Callable[[str], tuple[AppView, str]]  # the view, and why a part of it could not be read just now, or nothing


class Board:
    """Views are built off the loop and swapped in whole: reading one never waits (promise 8)."""

    def __init__(self, build: Build, told: Path, *, retry_s: float = RETRY_S) -> None:
        """`build` blocks: it reads the store and the disk. `told`: a file that remembers, until the next boot, what was
        said of the configuration: a daemon that leaves when idle must not say it anew whenever a timer starts it.
        """
        self._build = build
        self._told = told
        self._retry_s = retry_s
        self._waits: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
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

        A job of the whole host has no app, and no view. Raises only where there is no view yet: what cannot be read is
        read at once again, then by and by, and the view before stays meanwhile.
        """
        if not name:
            return
        async with self._lock(name):
            await self._renew(name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _renew(self, name: str) -> None:
        if await self._rebuild(name) or await self._rebuild(name, is_last=True):
            self._waits.pop(name, None)
            self._forget_timer(name)
        elif name not in self._timers:
            wait_s = self._waits.get(name, self._retry_s)
            self._waits[name] = min(MOST_RETRY_S, 2 * wait_s)
            self._timers[name] = asyncio.get_running_loop().call_later(wait_s, self._again, name)

    def _again(self, name: str) -> None:
        self._forget_timer(name)
        self.refresh_soon(name)

    def _forget_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    async def _rebuild(self, name: str, *, is_last: bool = False) -> bool:
        """Whether all of it could be read. The `is_last` try shows what it has."""
        before = self._views.get(name)
        try:
            view, trouble = await off_loop(self._build, name)
        except Exception as error:
            if is_last and before is None:
                raise
            if is_last:
                _log.warning("%s: its view could not be put together, and is tried again: %s", name, error)
            return False
        if view == before or (trouble and not is_last):
            return not trouble
        self._views[name] = view
        for listener in self.listeners:
            if before is None:
                listener.app_added(view)
            else:
                listener.app_changed(view)
        return not trouble

    def refresh_soon(self, name: str) -> None:
        """The same, soon, in a task of the board's own; many requests are one refresh."""
        self._dirty.add(name)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_dirty(), name="board")

    async def settled(self) -> None:
        """Return when all that was asked for is shown; what could not be read is not tried again."""
        if self._refreshing is not None:
            await self._refreshing
        for name in list(self._timers):
            self._forget_timer(name)

    async def _refresh_dirty(self) -> None:
        while self._dirty:
            name = self._dirty.pop()
            async with self._lock(name):
                if name not in self._views:
                    continue  # it has gone meanwhile, and does not come back
                await self._renew(name)

    async def keep(self, names: Collection[str]) -> None:
        """Remove all other apps."""
        for name in self.names():
            async with self._lock(name):
                if name not in names and self._views.pop(name, None) is not None:
                    for listener in self.listeners:
                        listener.app_removed(name)
