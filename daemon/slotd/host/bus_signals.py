"""Who hears which signal: subscriptions, and the owners of the names that they are for.

Anybody may send us a signal in any other's name. One is believed only from the connection that owns the name which was
asked for; ownership is followed from before the first question, so that no change is missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from slotd.errors import Failed, SlotdError

DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"

SignalCallback = Callable[[str, str, list[Any]], None]
Unsubscribe = Callable[[], Awaitable[None]]

_log = logging.getLogger("slotd.bus")


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal as it came in. `read` gives its values, variants unwrapped; nobody who was not asked for is read."""

    sender: str
    path: str
    interface: str
    member: str
    read: Callable[[], list[Any]]
    _body: list[list[Any]] = field(default_factory=list)

    @property
    def body(self) -> list[Any]:
        if not self._body:
            self._body.append(self.read())
        return self._body[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which signals to hear; None leaves a field open."""

    sender: str | None = None
    path: str | None = None
    path_namespace: str | None = None
    interface: str | None = None
    member: str | None = None
    arg0: str | None = None

    def rule(self) -> str:
        """The match rule for the bus."""
        keys = ("sender", "path", "path_namespace", "interface", "member", "arg0")
        given = [(key, getattr(self, key)) for key in keys]
        if any("'" in (value or "") for _, value in given):
            raise Failed("cannot subscribe to a signal: no name on the bus has a quote in it.")
        return ",".join(["type='signal'", *(f"{key}='{value}'" for key, value in given if value is not None)])

    def takes(self, signal: Heard, owner: str | None) -> bool:
        """Whether this is one; `owner` is the connection that has the name `sender` now."""
        namespace = self.path_namespace
        return (
            (self.sender is None or signal.sender == owner)
            and self.path in (None, signal.path)
            and self.interface in (None, signal.interface)
            and self.member in (None, signal.member)
            and (namespace is None or signal.path == namespace or signal.path.startswith(namespace.rstrip("/") + "/"))
            and (self.arg0 is None or (bool(signal.body) and signal.body[0] == self.arg0))
        )


@dataclass(slots=True, eq=False)
class _Subscription:
    wanted: Wanted
    callback: SignalCallback


class Signals:
    """The subscriptions of one connection. `ask` calls a method of the bus itself, `tell` does without an answer."""

    def __init__(self, ask: Callable[[str, str], Awaitable[list[Any]]], tell: Callable[[str, str], None]) -> None:
        self._ask = ask
        self._tell = tell
        self._subscriptions: list[_Subscription] = []
        self._watchers: dict[str, int] = {}
        self._owners: dict[str, str] = {}  # of the names that are watched; empty: nobody
        self._lost: dict[str, set[asyncio.Future[None]]] = {}

    async def subscribe(self, wanted: Wanted, callback: SignalCallback) -> Unsubscribe:
        """From the return on, every such signal reaches `callback`."""
        rule, sender = wanted.rule(), wanted.sender
        taken = _Subscription(wanted, callback)
        if sender is not None:
            await self._watch(sender)
        self._subscriptions.append(taken)
        try:
            await self._ask("AddMatch", rule)
        except BaseException as error:
            self._subscriptions.remove(taken)
            if not isinstance(error, SlotdError):  # whoever asked has gone; the bus may have added it
                self._tell("RemoveMatch", rule)
            if sender is not None:
                self._unwatch(sender)
            raise

        async def unsubscribe() -> None:
            if taken in self._subscriptions:
                self._subscriptions.remove(taken)
                self._tell("RemoveMatch", rule)
                if sender is not None:
                    self._unwatch(sender)

        return unsubscribe

    async def owner_lost(self, name: str) -> asyncio.Future[None]:
        """See `Bus.name_owner_lost`."""
        await self._watch(name)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._lost.setdefault(name, set())
        waiting.add(future)

        def done(_: object) -> None:
            waiting.discard(future)
            self._unwatch(name)

        future.add_done_callback(done)
        if not self._owners.get(name):
            future.set_result(None)
        return future

    def hear(self, signal: Heard) -> None:
        """Take a signal from the bus."""
        if signal.sender == DBUS and signal.member == "NameOwnerChanged" and len(signal.body) == 3:
            self._owner_changed(*signal.body)
        for one in list(self._subscriptions):
            sender = one.wanted.sender
            if not one.wanted.takes(signal, self._owners.get(sender) if sender else None):
                continue
            try:
                one.callback(signal.path, signal.member, signal.body)
            except Exception:
                _log.exception("a listener to %s failed", signal.member)

    def _owner_changed(self, name: str, old: str, new: str) -> None:
        if name not in self._watchers:
            return
        self._owners[name] = new
        for future in list(self._lost.get(name, ())) if old else ():
            if not future.done():
                future.set_result(None)

    async def _watch(self, name: str) -> None:
        """Know who owns `name`, from now on."""
        self._watchers[name] = self._watchers.get(name, 0) + 1
        if name == DBUS:
            self._owners[name] = DBUS
            return
        try:
            await self._ask("AddMatch", _owner_rule(name))
            if name not in self._owners:
                try:
                    [owner] = await self._ask("GetNameOwner", name)
                except SlotdError as error:
                    if not str(getattr(error, "remote_name", "")).endswith(".NameHasNoOwner"):
                        raise
                    owner = ""
                # A signal that came meanwhile says the same, or something newer.
                self._owners.setdefault(name, owner)
        except BaseException:
            self._unwatch(name)
            raise

    def _unwatch(self, name: str) -> None:
        self._watchers[name] -= 1
        if name != DBUS:
            self._tell("RemoveMatch", _owner_rule(name))
        if not self._watchers[name]:
            del self._watchers[name]
            self._owners.pop(name, None)
            self._lost.pop(name, None)


def _owner_rule(name: str) -> str:
    return Wanted(sender=DBUS, path=DBUS_PATH, interface=DBUS, member="NameOwnerChanged", arg0=name).rule()
