"""Something accepts connections at a host and port."""

from __future__ import annotations

import asyncio

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
            return Outcome(False, f"cannot connect to {host}:{port}: {error.strerror or error}")
        writer.close()
        return Outcome(True, f"{host}:{port} accepts connections")
