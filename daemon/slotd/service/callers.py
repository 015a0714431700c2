"""Whose the connections are that call: asked of the bus once for each, however often it calls."""

from __future__ import annotations

import asyncio

from slotd.errors import Failed, SlotdError
from slotd.host.bus import Bus

MOST_KNOWN = 2048  # connections whose user is remembered
_ASKING = 64  # questions to the bus at a time: a flood of callers must not be one of ours to the bus
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"


class Callers:
    """The users of connections. The bus never gives a unique name to another connection, so what is known stays true.

    `ask_s`: how long the bus has for an answer.
    """

    def __init__(self, bus: Bus, *, ask_s: float = 25.0) -> None:
        self._bus = bus
        self._ask_s = ask_s
        self._known: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[int]] = {}
        self._turn = asyncio.Semaphore(_ASKING)

    def known(self, name: str) -> int | None:
        """The user id of a connection, if it was asked for before."""
        return self._known.get(name)

    async def user(self, name: str) -> int:
        """The user id of the connection `:1.N`, from the bus itself. Raises SlotdError if it does not say."""
        known = self._known.get(name)
        if known is not None:
            return known
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.ensure_future(self._ask(name))
            asking.add_done_callback(lambda done: self._asked(name, done))
        return await asyncio.shield(asking)

    async def _ask(self, name: str) -> int:
        if not name.startswith(":"):
            raise Failed(f"cannot find out who {name} is: that is no connection.")
        async with self._turn:
            [said] = await self._bus.call(
                _DBUS, _DBUS_PATH, _DBUS, "GetConnectionCredentials", "s", [name], timeout_s=self._ask_s
            )
        uid = said.get("UnixUserID") if isinstance(said, dict) else None
        if type(uid) is not int:
            raise Failed(f"cannot find out who {name} is: the bus does not say.")
        return uid

    def _asked(self, name: str, asking: asyncio.Task[int]) -> None:
        del self._asking[name]
        if asking.cancelled() or asking.exception() is not None:
            return
        self._known[name] = asking.result()
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]


def has_left(error: SlotdError) -> bool:
    """Whether what failed did so because there is no such connection any more."""
    return str(getattr(error, "remote_name", "")).endswith(".NameHasNoOwner")
