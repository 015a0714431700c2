"""Who may change things: root always, others when polkit says so; on a user's own bus, that user.

Whatever cannot be found out is a denial. The subject is the caller's unique bus name, which is never given to another
connection: a caller who leaves while we ask is nobody, not somebody else (CVE-2021-3560).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from typing import Any

from slotd.errors import NotAuthorized, SlotdError
from slotd.host.bus import Bus, Call, Variant

ACTION = "org.slotd1."
ASK_S = 25.0
PERSON_S = 240.0  # for a person who has to find a password

_POLKIT = "org.freedesktop.PolicyKit1"
_PATH = "/org/freedesktop/PolicyKit1/Authority"
_AUTHORITY = "org.freedesktop.PolicyKit1.Authority"
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"
_ALLOW_USER_INTERACTION = 1
_ABSENT = ("ServiceUnknown", "NameHasNoOwner", "UnknownObject")
_AS_ROOT = "Run it as root, or ask an administrator."


class InteractionRequired(NotAuthorized):
    """A person could be asked for a password, but the call did not allow that."""

    @property
    def bus_name(self) -> str:
        """The standard error that makes clients try again with interaction allowed."""
        return "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


class Authority:
    """Decides whether a caller may do something. `user_mode`: on a user's bus, where polkit has no say."""

    def __init__(self, bus: Bus, *, user_mode: bool) -> None:
        self._bus = bus
        self._user_mode = user_mode

    async def require(self, call: Call, action: str, details: Mapping[str, str]) -> None:
        """Return if the caller may do `action` (without `org.slotd1.`); else raise NotAuthorized."""
        uid = await self._uid(call.sender)
        if uid == 0:
            return
        if self._user_mode:
            if uid != os.geteuid():
                raise NotAuthorized("cannot do that for you: these applications belong to another user.")
            return
        await self._ask_polkit(call, action, dict(details))

    async def _uid(self, sender: str) -> int:
        """The caller's user id, from the bus itself."""
        if not sender.startswith(":"):
            raise NotAuthorized("cannot authorise you: the bus does not say who you are.")
        try:
            [said] = await self._bus.call(
                _DBUS, _DBUS_PATH, _DBUS, "GetConnectionCredentials", "s", [sender], timeout_s=ASK_S
            )
            uid = said["UnixUserID"]
        except (SlotdError, KeyError, TypeError, ValueError) as error:
            raise NotAuthorized("cannot authorise you: the bus does not say who you are.") from error
        if type(uid) is not int:
            raise NotAuthorized("cannot authorise you: the bus does not say who you are.")
        return uid

    async def _ask_polkit(self, call: Call, action: str, details: Mapping[str, str]) -> None:
        flags = _ALLOW_USER_INTERACTION if call.is_interactive else 0
        cancellation = f"slotd-{secrets.token_hex(8)}"
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        try:
            lost = await self._bus.name_owner_lost(call.sender)
            asking = asyncio.ensure_future(
                self._bus.call(
                    _POLKIT,
                    _PATH,
                    _AUTHORITY,
                    "CheckAuthorization",
                    "(sa{sv})sa{ss}us",
                    [subject, ACTION + action, details, flags, cancellation],
                    timeout_s=PERSON_S if flags else ASK_S,
                )
            )
            try:
                either: set[asyncio.Future[Any]] = {lost, asking}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    await self._stop_asking(cancellation, asking)
                    raise NotAuthorized("cannot authorise you: you have left the bus.")
                said = asking.result()
            finally:
                lost.cancel()
                asking.cancel()
        except NotAuthorized:
            raise
        except SlotdError as error:
            if str(getattr(error, "remote_name", "")).endswith((*_ABSENT, "Spawn.ServiceNotFound")):
                raise NotAuthorized(
                    "cannot authorise you: polkit is not on this host, and without it only root may change things.",
                    hint=_AS_ROOT,
                ) from error
            raise NotAuthorized(f"cannot authorise you: polkit says: {error.message}", hint=_AS_ROOT) from error
        self._judge(said, action, has_asked=bool(flags))

    async def _stop_asking(self, cancellation: str, asking: asyncio.Future[list[Any]]) -> None:
        """Take the password dialogue of somebody who left off the screen."""
        if asking.done():
            asking.exception()  # taken note of: whatever polkit said, nobody is there to profit from it
            return
        try:
            await self._bus.call(_POLKIT, _PATH, _AUTHORITY, "CancelCheckAuthorization", "s", [cancellation])
        except SlotdError:
            return  # it is gone by itself, or polkit is

    @staticmethod
    def _judge(said: list[Any], action: str, *, has_asked: bool) -> None:
        match said:
            case [[True, bool(), dict()]]:
                return
            case [[False, True, dict()]] if not has_asked:
                raise InteractionRequired(
                    f"cannot do that without a password: the action {ACTION}{action} needs authentication.",
                    hint=_AS_ROOT,
                )
            case _:
                raise NotAuthorized(f"cannot do that: you are not authorised for {ACTION}{action}.", hint=_AS_ROOT)
