"""slotctl's end of the bus: one connection, calls with deadlines, signals of slotd alone, errors with a way out.

No introspection round trip, and the D-Bus library is imported on connecting only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slotd.cli.lean import import_without
from slotd.errors import BUS_PREFIX, Failed, NotAuthorized, SlotdError, from_name
from slotd.host.paths import runtime_of_user

if TYPE_CHECKING:
    from slotd.host.bus import Bus

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
_SYSTEMD = "org.freedesktop.systemd1"
_DENIED = ("AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired")
_ABSENT = ("ServiceUnknown", "NameHasNoOwner")
_SILENT = ("NoReply", "Timeout", "TimedOut")
_FOREIGN = ("UnknownMethod", "UnknownInterface", "UnknownProperty", "InvalidArgs", "InvalidSignature")


class Unreachable(Failed):
    """No bus, or nobody on it who answers to slotd's name."""


class Silent(Unreachable):
    """It was asked, and gave no answer: what was asked for may be done."""


class Gone(Failed):
    """The object that was asked is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of slotd, variants unwrapped."""

    path: str
    member: str
    body: tuple[Any, ...]


def address(*, user: bool, environment: dict[str, str]) -> str:
    """The bus's address as libdbus finds it; raises Unreachable for a user without a session bus."""
    if not user:
        return environment.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    given = environment.get("DBUS_SESSION_BUS_ADDRESS")
    if given and "XDG_RUNTIME_DIR" not in environment:
        return given
    try:
        runtime = runtime_of_user(environment)
    except Failed as error:
        raise Unreachable(error.message, hint=error.hint) from None
    if given or os.path.exists(f"{runtime}/bus"):
        return given or f"unix:path={runtime}/bus"
    raise Unreachable(
        f"cannot reach your user bus: neither DBUS_SESSION_BUS_ADDRESS nor {runtime}/bus is there.",
        hint="Install the package dbus-user-session and log in again.",
    )


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
        return Silent("cannot finish: slotd did not answer.", hint=f"See `{journal}`.")
    if kind == "UnknownObject":
        return Gone(f"cannot find that object: {message}")
    if kind in _FOREIGN:
        return Failed(
            f"cannot do that: the running slotd does not know the call ({message or kind}).",
            hint=f"slotctl and slotd may differ in version: `{manager} try-restart slotd.service`.",
        )
    return Failed(f"cannot do that: {message or 'no reason given'} ({name})", hint=f"See `{journal}`.")


class Client:
    """A connection. Use `connect`, then `close`."""

    def __init__(self, bus: Bus, *, user: bool) -> None:
        self._bus = bus
        self._user = user
        self._lost = asyncio.ensure_future(bus.wait_disconnected())

    @classmethod
    async def connect(cls, *, user: bool = False) -> Client:
        """Connects to the system's or the user's bus; raises Unreachable."""
        import_without("dbus_fast", "gi")
        from slotd.host.bus import Bus, BusFailed

        where = address(user=user, environment=dict(os.environ))
        try:
            return cls(await Bus.connect(where), user=user)
        except BusFailed as error:
            # The library keeps a second copy of the failure, which asyncio would print as a traceback.
            asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
            why = error.message.replace("the bus at", "your user bus at" if user else "the system bus at", 1)
            raise Unreachable(why, hint="Is dbus running? `systemctl status dbus.socket`.") from error

    async def close(self) -> None:
        await self._bus.close()
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
        fds: Sequence[int] = (),
    ) -> Any:
        """One call; gives what the reply holds (one value, or a list of several, or None). Raises SlotdErrors.

        An `h` in the body is an index into `fds`, which stay the caller's.
        """
        try:
            values = await self._bus.call(
                destination, path, interface, member, signature, body, timeout_s=timeout_s, interactive=True, fds=fds
            )
        except SlotdError as error:
            raise to_error(getattr(error, "remote_name", ""), error.message, user=self._user) from None
        return values[0] if len(values) == 1 else values or None

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object."""
        value = await self.call("GetAll", "s", [interface], interface=PROPERTIES, path=path)
        return value if isinstance(value, dict) else {}

    async def subscribe(self, listener: Callable[[Signal], None], owner_listener: Callable[[bool], None]) -> None:
        """Every signal of slotd goes to `listener`; `owner_listener` learns when slotd comes (True) or goes (False).

        Neither may raise. Only slotd's own signals pass: on the system bus anybody may send one to us in its name.
        """

        def heard(path: str, member: str, body: list[Any]) -> None:
            if member != "PropertiesChanged" or [type(part) for part in body] == [str, dict, list]:
                listener(Signal(path, member, tuple(body)))

        def changed(_path: str, _member: str, body: list[Any]) -> None:
            owner_listener(bool(body[2]))

        await self._bus.on_signal(heard, sender=NAME, path_namespace=ROOT)
        await self._bus.on_signal(changed, sender=_DBUS, interface=_DBUS, member="NameOwnerChanged", arg0=NAME)

    async def is_running(self) -> bool:
        """Whether slotd is on the bus now, without starting it."""
        has = await self.call(
            "NameHasOwner", "s", [NAME], interface=_DBUS, path="/org/freedesktop/DBus", destination=_DBUS
        )
        return bool(has)

    async def is_given_up(self) -> bool:
        """Whether systemd has stopped trying to keep slotd running; False where it cannot be asked."""
        try:
            unit = await self.call(
                "GetUnit",
                "s",
                ["slotd.service"],
                interface=_SYSTEMD + ".Manager",
                path="/org/freedesktop/systemd1",
                destination=_SYSTEMD,
            )
            state = await self.call(
                "Get",
                "ss",
                [_SYSTEMD + ".Unit", "ActiveState"],
                interface=PROPERTIES,
                path=str(unit),
                destination=_SYSTEMD,
            )
        except SlotdError:
            return False
        return bool(state == "failed")

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection to the bus is over."""
        return self._lost
