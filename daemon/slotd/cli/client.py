"""slotctl's end of the bus: one connection, calls with deadlines, signals of slotd alone, errors with a way out.

Messages are built by hand: no introspection round trip, and the D-Bus library is imported on connecting only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slotd.errors import BUS_PREFIX, Failed, NotAuthorized, SlotdError, from_name

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio.message_bus import MessageBus

NAME = "org.slotd1"
ROOT = "/org/slotd1"
MANAGER = "org.slotd1.Manager"
APP = "org.slotd1.App"
JOB = "org.slotd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"

READ_S = 30.0  # reads answer in milliseconds; the rest is for starting the daemon through the bus
CHANGE_S = 300.0  # changes may wait for a person who types a password

_DBUS = "org.freedesktop.DBus"
_DENIED = ("AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired")
_ABSENT = ("ServiceUnknown", "NameHasNoOwner")
_SILENT = ("NoReply", "Timeout", "TimedOut")
_FOREIGN = ("UnknownMethod", "UnknownInterface", "UnknownProperty", "InvalidArgs", "InvalidSignature")


class Unreachable(Failed):
    """No bus, or nobody on it who answers to slotd's name."""


class Gone(Failed):
    """The object that was asked is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of slotd, variants unwrapped."""

    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


def address(*, user: bool, environment: dict[str, str]) -> str:
    """The bus's address as libdbus finds it; raises Unreachable for a user without a session bus."""
    if not user:
        return environment.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    given = environment.get("DBUS_SESSION_BUS_ADDRESS")
    if given:
        return given
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    if os.path.exists(f"{runtime}/bus"):
        return f"unix:path={runtime}/bus"
    raise Unreachable(
        f"cannot reach your user bus: neither DBUS_SESSION_BUS_ADDRESS nor {runtime}/bus is there.",
        hint="Log in with a session of your own (`machinectl shell you@`, ssh), not through su or sudo.",
    )


def unwrap(value: Any) -> Any:
    """`value` without D-Bus variants, all the way down."""
    from dbus_fast import Variant

    if isinstance(value, Variant):
        return unwrap(value.value)
    if isinstance(value, list):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


def to_error(name: str, text: str, *, user: bool = False) -> SlotdError:
    """What an error reply means to a person. slotd's own errors carry the hint after the first line break, if any."""
    message, _, hint = text.partition("\n")
    if name.startswith(BUS_PREFIX):
        error = from_name(name, message.strip() or f"slotd gave no reason ({name})")
        error.hint = hint.strip()
        return error
    kind = name.removeprefix(_DBUS + ".Error.")
    manager = "systemctl --user" if user else "systemctl"
    journal = "journalctl --user -u slotd" if user else "journalctl -u slotd"
    if kind in _DENIED:
        why = message if message.startswith("cannot ") else f"cannot do that: {message or 'you are not authorised.'}"
        return NotAuthorized(why, hint=hint.strip() or "Run it as root, or ask an administrator.")
    if kind in _ABSENT:
        return Unreachable(
            "cannot reach slotd: it is not running and the bus does not know how to start it.",
            hint=f"Is it installed? Start it with `{manager} start slotd.service`.",
        )
    if kind.startswith("Spawn."):
        return Unreachable(
            f"cannot reach slotd: the bus could not start it ({message or kind}).",
            hint=f"See `{manager} status slotd.service` and `{journal}`.",
        )
    if kind in _SILENT or kind == "Disconnected":
        return Unreachable("cannot finish: slotd did not answer.", hint=f"See `{journal}`.")
    if kind == "UnknownObject":
        return Gone(f"cannot find that object: {message}")
    if kind in _FOREIGN:
        return Failed(
            f"cannot do that: the running slotd does not know the call ({message or kind}).",
            hint=f"slotctl and slotd may differ in version: `{manager} try-restart slotd.service`.",
        )
    return Failed(f"cannot do that: {message or 'no reason given'} ({name})", hint=f"See `{journal}`.")


async def _end_of(bus: MessageBus) -> None:
    """Returns when the connection is over, however it ended: callers only care that nobody answers any more."""
    try:
        untyped: Any = bus
        await untyped.wait_for_disconnect()
    except (OSError, EOFError):
        return


class Client:
    """A connection. Use `connect`, then `close`."""

    def __init__(self, bus: MessageBus, lost: asyncio.Future[Any], *, user: bool) -> None:
        self._bus = bus
        self._user = user
        self._owner = ""
        self._listeners: list[Callable[[Signal], None]] = []
        self._owner_listeners: list[Callable[[bool], None]] = []
        self._lost = lost

    @classmethod
    async def connect(cls, *, user: bool = False) -> Client:
        """Connects to the system's or the user's bus; raises Unreachable."""
        from dbus_fast.aio.message_bus import MessageBus
        from dbus_fast.errors import AuthError, InvalidAddressError

        where = address(user=user, environment=dict(os.environ))
        lost: asyncio.Future[Any] | None = None
        try:
            bus = MessageBus(bus_address=where)
            lost = asyncio.ensure_future(_end_of(bus))
            await asyncio.wait_for(bus.connect(), READ_S)
        except (OSError, EOFError, AuthError, InvalidAddressError, TimeoutError) as error:
            if lost is not None:  # the library tells the failure a second time, and complains if nobody listens
                await asyncio.wait({lost}, timeout=0.1)
                lost.cancel()
            which = "your user bus" if user else "the system bus"
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
            raise Unreachable(
                f"cannot reach {which} at {where}: {why}.",
                hint="Is dbus running? `systemctl status dbus.socket`.",
            ) from error
        return cls(bus, lost, user=user)

    async def close(self) -> None:
        self._bus.disconnect()
        await self._lost

    async def call(
        self,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        interface: str = MANAGER,
        path: str = ROOT,
        destination: str = NAME,
        timeout_s: float = READ_S,
    ) -> Any:
        """One call; gives what the reply holds (one value, or a list of several, or None). Raises SlotdErrors."""
        from dbus_fast import Message, MessageFlag, MessageType

        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
        )
        reply = await self._reply(message, timeout_s)
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise to_error(str(reply.error_name or ""), text, user=self._user)
        if destination == NAME and reply.sender:
            self._owner = reply.sender
        values = [unwrap(value) for value in reply.body]
        return values[0] if len(values) == 1 else values or None

    async def _reply(self, message: Message, timeout_s: float) -> Message:
        """The reply, or an error when the deadline passes or the bus goes away first."""
        call = asyncio.ensure_future(self._bus.call(message))
        try:
            await asyncio.wait({call, self._lost}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                reply = call.result()
                if reply is not None:
                    return reply
            elif not self._lost.done():
                raise to_error(_DBUS + ".Error.NoReply", "", user=self._user)
        except (OSError, EOFError) as error:
            raise Unreachable(f"cannot go on: the message bus closed the connection ({error}).") from error
        finally:
            call.cancel()
        raise Unreachable("cannot go on: the message bus closed the connection.")

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object."""
        value = await self.call("GetAll", "s", [interface], interface=PROPERTIES, path=path)
        return value if isinstance(value, dict) else {}

    async def subscribe(
        self, listener: Callable[[Signal], None], owner_listener: Callable[[bool], None] | None = None
    ) -> None:
        """Every signal of slotd goes to `listener`; `owner_listener` learns when slotd comes (True) or goes (False).

        Only slotd's own signals pass: on the system bus anybody may send one to us in its name.
        """
        self._listeners.append(listener)
        if owner_listener is not None:
            self._owner_listeners.append(owner_listener)
        if len(self._listeners) > 1:
            return
        self._bus.add_message_handler(self._take)
        for rule in (
            f"type='signal',sender='{NAME}',path_namespace='{ROOT}'",
            f"type='signal',sender='{_DBUS}',interface='{_DBUS}',member='NameOwnerChanged',arg0='{NAME}'",
        ):
            await self._bus_call("AddMatch", rule)
        await self.owner()

    async def owner(self) -> str:
        """The unique name of the running slotd, or nothing."""
        try:
            self._owner = str(await self._bus_call("GetNameOwner", NAME))
        except Unreachable:
            if self._lost.done():
                raise
            self._owner = ""
        return self._owner

    async def _bus_call(self, member: str, argument: str) -> Any:
        return await self.call(
            member, "s", [argument], interface=_DBUS, path="/org/freedesktop/DBus", destination=_DBUS
        )

    def _take(self, message: Message) -> None:
        """Message handler: hands on slotd's signals, notes when its name changes hands."""
        from dbus_fast import MessageType

        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _DBUS:
            if message.member == "NameOwnerChanged" and len(message.body) == 3 and message.body[0] == NAME:
                self._owner = message.body[2]
                for told in self._owner_listeners:
                    told(bool(self._owner))
        elif message.sender and message.sender == self._owner:
            if message.interface == PROPERTIES and message.signature != "sa{sv}as":
                return
            body = tuple(unwrap(value) for value in message.body)
            signal = Signal(message.path or "", message.interface or "", message.member or "", body)
            for listener in self._listeners:
                listener(signal)

    @property
    def lost(self) -> asyncio.Future[Any]:
        """Done when the bus has closed the connection."""
        return self._lost
