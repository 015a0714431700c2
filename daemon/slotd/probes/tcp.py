"""Something accepts connections at a host and port."""

from __future__ import annotations

import asyncio
import os

from slotd.core.schema import Health
from slotd.probes import Outcome, Target
from slotd.probes.ask import within

_LOCAL = "127.0.0.1"


class TcpProbe:
    """One connection, closed at once without a word."""

    async def check(self, health: Health, target: Target) -> Outcome:
        host = health.host or _LOCAL
        return await within(health.timeout_s, f"connecting to {host}:{health.port}", self._ask(host, health.port))

    async def _ask(self, host: str, port: int) -> Outcome:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            # asyncio puts words of its own into strerror; name resolution has errors below zero, and good words
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
            return Outcome(False, f"cannot connect to {host}:{port}: {why[:1].lower()}{why[1:]}")
        writer.close()
        return Outcome(True, f"{host}:{port} accepts connections")
