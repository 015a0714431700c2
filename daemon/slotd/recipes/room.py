"""A place among the updates that work at once (`max_parallel`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """One job's place: an update takes it before its first step and gives it up when its trial begins.

    Other jobs, and updates that are resumed, never enter; leaving is nothing to them.
    """

    def __init__(self) -> None:
        self._places: asyncio.Semaphore | None = None

    async def enter(self, places: asyncio.Semaphore) -> None:
        """Wait for a free one of `places`."""
        await places.acquire()
        self._places = places

    def leave(self) -> None:
        if self._places is not None:
            self._places.release()
            self._places = None

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Let another have it meanwhile: what is waited for may take hours."""
        places = self._places
        self.leave()
        yield
        if places is not None:
            await self.enter(places)
