"""The door to D-Bus: one connection, calls with deadlines, signals of whom they are from, and calls that come in.

Nothing of the library shows here: values are plain, errors are `SlotdError`s. A signal is believed only from the peer
whose name was asked for, since anybody may send one to us in any other's name.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant
from dbus_fast.aio.message_bus import MessageBus

from slotd.errors import BUS_PREFIX, SlotdError, from_name
from slotd.host.bus_call import BusFailed, Call, Seldom, address_of, current_sender, serving
from slotd.host.bus_decode import Malformed, Typed
from slotd.host.bus_signals import DBUS, DBUS_PATH, Heard, SignalCallback, Signals, Unsubscribe, Wanted
from slotd.host.bus_wire import (
    CALL,
    INTERACTIVE,
    NO_REPLY,
    GuardedSocket,
    Incoming,
    Outbox,
    WireLimits,
    close_fds,
    wire_text,
)

__all__ = [
    "Bus",
    "BusFailed",
    "Call",
    "Malformed",
    "Typed",
    "Variant",
    "close_fds",
    "current_sender",
    "outgoing",
    "serving",
    "unwrap",
]

LIMITS_EXCEEDED = DBUS + ".Error.LimitsExceeded"

CONNECT_S = 10.0
PATH_CHARS = 1024  # nothing of ours has a longer path
OUTBOX_BYTES = 64 * 1024**2  # a bus that takes nothing any more does not cost us the memory

_log = logging.getLogger("slotd.bus")


def unwrap(value: Any) -> Any:
    """`value` without variants, all the way down; byte arrays as `bytes`."""
    if isinstance(value, Variant | Typed):
        return unwrap(value.value)
    if isinstance(value, list | tuple):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, bytearray) else value


def outgoing(value: Any) -> Any:
    """`value` with every text in it made such that the library writes it as the bus wants it."""
    if isinstance(value, str):
        return wire_text(value)
    if isinstance(value, Typed):
        return Variant(value.signature, outgoing(value.value))
    if isinstance(value, Variant):
        inner = outgoing(value.value)
        return value if inner is value.value else Variant(value.signature, inner)
    if isinstance(value, list | tuple):
        return [outgoing(item) for item in value]
    if isinstance(value, dict):
        return {outgoing(key): outgoing(item) for key, item in value.items()}
    return value


class _Connection(MessageBus):
    """The library's connection, with our socket and our queue put under it."""

    guard: GuardedSocket
    outbox: Outbox

    def __init__(self, address: str, limits: WireLimits) -> None:
        super().__init__(bus_address=address, negotiate_unix_fd=True)
        self._limits = limits

    async def _authenticate(self) -> None:
        # All versions come by here when the socket is connected and nothing has been built upon it yet.
        connection: Any = self
        self.guard = connection._sock = connection._writer.sock = GuardedSocket(connection._sock, self._limits)
        self.outbox = connection._writer.messages = Outbox()
        await super()._authenticate()

    async def _auth_readline(self) -> str:
        # The library's own reads on for ever when the bus hangs up during the handshake.
        guard: Any = self.guard
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await asyncio.get_running_loop().sock_recv(guard, 1)
            if not byte:
                raise ConnectionResetError("the bus hung up during the handshake")
            line += byte
        return line[:-2].decode("ascii", "replace")


class Bus:
    """A connection to a message bus. Made by `connect`; not for more than one event loop."""

    def __init__(self, raw: Any, guard: GuardedSocket, outbox: Outbox) -> None:
        self._raw = raw
        self._outbox = outbox
        self._signals = Signals(self._ask_bus, self._tell_bus)
        self._serve: Callable[[Call], None] | None = None
        self._seldom = Seldom()
        self._gone = asyncio.ensure_future(raw.wait_for_disconnect())
        self._gone.add_done_callback(lambda gone: gone.cancelled() or gone.exception())
        raw.add_message_handler(self._on_message)
        guard.take = self._on_incoming

    @classmethod
    async def connect(cls, kind: str, *, limits: WireLimits | None = None) -> Bus:
        """Connect to the `"system"` or `"session"` bus, or to an address. Raises BusFailed."""
        address = address_of(kind)
        try:
            raw = _Connection(address, limits or WireLimits())
            async with asyncio.timeout(CONNECT_S):
                await raw.connect()
        except Exception as error:  # whatever the library raises, it means that there is no bus
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            which = f"the {kind} bus at {address}" if kind in ("system", "session") else f"the bus at {address}"
            raise BusFailed(f"cannot reach {which}: {why}.", hint="Is a message bus running there?") from error
        return cls(raw, raw.guard, raw.outbox)

    @property
    def unique_name(self) -> str:
        """Our own name, such as `:1.42`."""
        return str(self._raw.unique_name)

    @property
    def is_connected(self) -> bool:
        return bool(self._raw.connected)

    @property
    def backlog_bytes(self) -> int:
        """What waits to be taken by the bus."""
        return self._outbox.waiting_bytes

    def when_taken(self, level_bytes: int, then: Callable[[], None]) -> None:
        """Call `then` once, as soon as the backlog is no more than that. One caller at a time."""
        self._outbox.when_below(level_bytes, then)

    async def wait_disconnected(self) -> None:
        """Return when the connection is over, whoever ended it."""
        await asyncio.wait({self._gone})

    async def close(self) -> None:
        """Send what waits to be sent, then leave the bus."""
        if self.is_connected:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self.call(DBUS, DBUS_PATH, DBUS, "GetId")
            except (SlotdError, TimeoutError):
                _log.debug("the bus did not answer on leaving")
            self._raw.disconnect()
        await self.wait_disconnected()

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        timeout_s: float = 25.0,
        interactive: bool = False,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """Call a method; gives the values of the reply, variants unwrapped. A `v` argument is a `Variant`.

        Raises BusFailed, or slotd's own error when the peer is a slotd; both with `remote_name`.
        """
        what = f"{interface}.{member} of {destination}"
        try:
            message = Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=outgoing(body),
                unix_fds=list(fds),
                serial=self._raw.next_serial(),
                flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE,
            )
            reply = await self._reply(message, what, timeout_s)
        except SlotdError:
            raise
        except Exception as error:  # names and arguments that the library refuses to send
            raise BusFailed(f"cannot call {what}: {error}", remote_name=DBUS + ".Error.InvalidArgs") from error
        if reply.message_type is MessageType.ERROR:
            name = str(reply.error_name)
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else name
            if not name.startswith(BUS_PREFIX):
                raise BusFailed(text, remote_name=name)
            known = from_name(name, text)
            known.remote_name = name  # type: ignore[attr-defined]
            raise known
        return [unwrap(value) for value in reply.body]

    async def _reply(self, message: Message, what: str, timeout_s: float) -> Message:
        lost = BusFailed(
            f"cannot call {what}: the bus has closed the connection.", remote_name=DBUS + ".Error.Disconnected"
        )
        if not self.is_connected:
            raise lost
        if self._outbox.waiting_bytes > OUTBOX_BYTES:
            raise BusFailed(f"cannot call {what}: the bus takes no more messages.", remote_name=LIMITS_EXCEEDED)
        answer = asyncio.ensure_future(self._raw.call(message))
        try:
            await asyncio.wait({answer, self._gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                reply: Message | None = answer.result()
                if reply is not None:
                    return reply
            elif not self._gone.done():
                raise BusFailed(
                    f"cannot call {what}: no answer within {timeout_s:g} s.", remote_name=DBUS + ".Error.NoReply"
                )
        except (OSError, EOFError) as error:
            raise lost from error
        finally:
            if not answer.done():
                answer.cancel()
                self._raw._method_return_handlers.pop(message.serial, None)
        raise lost

    def _send(self, message: Message) -> int:
        """Queue a message; gives its length in bytes, 0 if it was dropped. Raises what the library does if invalid."""
        if not self.is_connected:
            return 0
        if self._outbox.waiting_bytes > OUTBOX_BYTES:
            if self._seldom.may_say(asyncio.get_running_loop().time()):
                _log.warning("a message was dropped: the bus takes none (%s)", message.member or "a reply")
            return 0
        # A connection that ends is seen by wait_disconnected(), not by every message that was on its way.
        self._raw.send(message).add_done_callback(lambda sent: sent.cancelled() or sent.exception())
        return self._outbox.last_bytes

    def emit(self, path: str, interface: str, member: str, signature: str = "", body: Sequence[Any] = ()) -> None:
        """Send a signal to whoever listens."""
        self._send(Message.new_signal(path, interface, member, signature, outgoing(body)))

    async def request_name(self, name: str) -> None:
        """Own a name; raises BusFailed if another process does, or the bus's policy forbids it."""
        [answer] = await self.call(DBUS, DBUS_PATH, DBUS, "RequestName", "su", [name, NameFlag.DO_NOT_QUEUE.value])
        if answer not in (RequestNameReply.PRIMARY_OWNER.value, RequestNameReply.ALREADY_OWNER.value):
            raise BusFailed(
                f"cannot take the name {name} on the bus: another process has it.",
                hint="Is slotd running already? `systemctl status slotd.service` tells.",
                remote_name=DBUS + ".Error.NameHasOwner",
            )

    async def release_name(self, name: str) -> None:
        """Give a name up: calls that come after start a new daemon, and the last ones are still answered here."""
        await self.call(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", [name])

    async def on_signal(
        self,
        callback: SignalCallback,
        *,
        sender: str | None = None,
        path: str | None = None,
        path_namespace: str | None = None,
        interface: str | None = None,
        member: str | None = None,
        arg0: str | None = None,
    ) -> Unsubscribe:
        """Have `callback(path, member, body)` called for each such signal, until the returned coroutine function is.

        With `sender`, only signals of the name's present owner count. Without, anyone on the bus may have sent them.
        """
        wanted = Wanted(sender, path, path_namespace, interface, member, arg0)
        return await self._signals.subscribe(wanted, callback)

    async def name_owner_lost(self, name: str) -> asyncio.Future[None]:
        """A future that is done once the present owner of `name` (or peer `:1.N`) is gone; at once if there is none.

        Cancel it when it is of no interest any more.
        """
        return await self._signals.owner_lost(name)

    async def _ask_bus(self, member: str, argument: str) -> list[Any]:
        return await self.call(DBUS, DBUS_PATH, DBUS, member, "s", [argument])

    def _tell_bus(self, member: str, argument: str) -> None:
        # Without a reply: whether a match is removed makes no difference to us any more.
        flags = MessageFlag.NO_REPLY_EXPECTED
        self._send(Message(DBUS, DBUS_PATH, DBUS, member, signature="s", body=[argument], flags=flags))

    def serve(self, handler: Callable[[Call], None]) -> None:
        """Have every call that comes in given to `handler`, which answers with `reply` or `refuse`, then or later."""
        self._serve = handler

    def reply(self, call: Call, signature: str = "", body: Sequence[Any] = ()) -> int:
        """Answer a call; gives the bytes sent (0: no answer was wanted)."""
        if not call.wants_reply:
            return 0
        return self._send(
            Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=call.serial,
                destination=call.sender,
                signature=signature,
                body=outgoing(body),
            )
        )

    def refuse(self, call: Call, name: str, text: str) -> int:
        """Answer a call with an error of that name; gives the bytes sent."""
        if not call.wants_reply:
            return 0
        return self._send(
            Message(
                message_type=MessageType.ERROR,
                reply_serial=call.serial,
                destination=call.sender,
                error_name=name,
                signature="s",
                body=outgoing([text]),
            )
        )

    def fault(self, call: Call, error: BaseException) -> int:
        """Answer a call that ran into a fault of our own: the caller gets a reference, the journal the rest."""
        reference = secrets.token_hex(4)
        if self._seldom.may_say(asyncio.get_running_loop().time()):
            _log.error("fault %s in %s.%s", reference, call.interface, call.member, exc_info=error)
        text = f"cannot answer this call: slotd ran into a fault of its own.\nSee `journalctl -u slotd -g {reference}`."
        return self.refuse(call, BUS_PREFIX + "Failed", text)

    def _on_message(self, message: Message) -> bool:
        """Every answer that comes in, before the library sees it: none brings descriptors that we asked for."""
        close_fds(message.unix_fds)
        return False

    def _on_incoming(self, message: Incoming) -> None:
        """Every call and signal that comes in. Must not raise: the connection would end."""
        try:
            if message.kind == CALL:
                self._on_call(message)
            elif not message.refused_bytes:
                read = partial(message.body, plain=True)
                self._signals.hear(Heard(message.sender, message.path, message.interface, message.member, read))
        except Malformed:
            _log.debug("a signal of %s could not be read", message.sender)
        except Exception:
            if self._seldom.may_say(asyncio.get_running_loop().time()):
                _log.exception("a message could not be dealt with")

    def _on_call(self, message: Incoming) -> None:
        call = Call(
            sender=message.sender,
            path=message.path[:PATH_CHARS],
            interface=message.interface,
            member=message.member,
            signature=message.signature,
            serial=message.serial,
            wants_reply=not message.flags & NO_REPLY,
            is_interactive=bool(message.flags & INTERACTIVE),
            held_bytes=min(message.wire_bytes, len(message.data) + PATH_CHARS),
            refused_bytes=message.refused_bytes,
            fds=message.fds,
            read=message.body,
        )
        message.fds = []
        try:
            with serving(call):
                if self._serve is None:
                    self.refuse(call, DBUS + ".Error.UnknownMethod", "nothing is offered on this connection.")
                else:
                    self._serve(call)
        except Exception as error:
            self.fault(call, error)
        finally:
            if not call.keeps_fds:
                close_fds(call.take_fds())
