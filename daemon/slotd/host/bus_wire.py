"""What lies between the D-Bus library and its socket: what a peer can send must not end the daemon's connection.

The library (read and run: 1.84 of Debian 12, 2.44 of Debian 13, 5.2) closes the connection, and so ends the service,
when the socket's buffer is full (EAGAIN), and when a message carries two flags at once, a type or a header field that
it does not know. It parses whatever length it is told, keeps every signature that it ever saw, and reads without
letting the loop breathe. 1.84 sends a backlog in reverse, and counts characters where bytes belong, so that the bus
hangs up on the first text that is not ASCII. Most of that any local user can bring about, so it is put right here,
below the library, with nothing in it changed; and what any user can send is kept from it (`bus_decode`).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slotd.host.bus_decode import INTERFACE, MEMBER, PATH, SENDER, SIGNATURE, Malformed, decode, header_fields

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4  # message types of the D-Bus specification
NO_REPLY, INTERACTIVE = 1, 4  # its flags; 2, NO_AUTO_START, is for the bus alone

_HEADER_BYTES = 16
_READ_BYTES = 256 * 1024
_FDS = 64  # more than any bus lets pass; what does not fit is closed by the kernel

Ancillary = list[tuple[int, int, bytes]]


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on what peers send: bytes of one message's body and of its header's fields; seconds that messages are
    handled before others have their turn.
    """

    call_bytes: int = 16 * 1024
    signal_bytes: int = 1024**2
    fields_bytes: int = 128 * 1024
    turn_s: float = 0.005


class _Utf8(str):
    """A text whose length is that of its bytes, which is what 1.84 writes down as such."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


def wire_text(text: str) -> str:
    """Text that the bus takes: one NUL or lone surrogate in a message would end the whole connection."""
    if text.isascii():
        return text.replace("\0", "?")
    return _Utf8(text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?"))


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors that nobody asked for."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:  # not a descriptor (any more): what was wanted
            continue


def _passed_fds(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    passed = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
    return passed.tolist()


def _as_ancillary(fds: Sequence[int]) -> Ancillary:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []


def _not_now() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "no more for now")


@dataclass(slots=True)
class Incoming:
    """A call or a signal as it came in. `body` is read when it is first asked for; Malformed if it cannot be.

    `flags` are those that count; `wire_bytes` is what it took on the wire; `refused_bytes` above 0: its body was larger
    than may be, and is gone.
    """

    kind: int
    flags: int
    serial: int
    path: str
    interface: str
    member: str
    sender: str
    signature: str
    order: str
    data: bytes
    fds: list[int]
    wire_bytes: int
    refused_bytes: int

    def body(self, *, plain: bool = False) -> list[Any]:
        """See `decode`. Nothing if the body was refused."""
        return [] if self.refused_bytes else decode(self.signature, self.data, self.order, plain=plain)


class GuardedSocket:
    """Stands in for the library's socket. It sees the answers to our own calls, one at a time, and nothing else.

    Calls and signals, which anyone may send, are taken out and given to `take`, which must not raise. Descriptors
    that it leaves in `Incoming.fds` are closed.
    """

    def __init__(self, sock: socket.socket, limits: WireLimits) -> None:
        self._sock = sock
        self._limits = limits
        self.take: Callable[[Incoming], None] = lambda _: None
        self._header = bytearray()
        self._rest = bytearray()  # of a call or a signal: its fields and its body
        self._fds: list[int] = []
        self._left = 0  # bytes of the present answer that the library still has to take
        self._discard = 0  # bytes to throw away before the next header
        self._turn_began = 0.0
        self._unsent: Any = None  # descriptors whose message could not be begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recvmsg(self, length: int, *_: int) -> tuple[bytes, Ancillary, int, None]:
        """As `socket.recvmsg`; never goes past the end of a message, so that descriptors stay with theirs."""
        if self._left:
            data, fds = self._read(min(length, self._left))
            self._left -= len(data)
            return data, _as_ancillary(fds), 0, None
        if not self._next_answer():
            return b"", [], 0, None
        header, fds = bytes(self._header), self._fds
        self._header, self._fds = bytearray(), []
        return header, _as_ancillary(fds), 0, None

    def _read(self, length: int) -> tuple[bytes, list[int]]:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(min(length, _READ_BYTES), socket.CMSG_SPACE(_FDS * 4))
        except BlockingIOError:
            self._turn_began = 0.0
            raise
        return data, _passed_fds(ancillary)

    def _fill(self, part: bytearray, length: int) -> bool:
        """Read until `part` is that long; False at the end of the stream."""
        while len(part) < length:
            data, fds = self._read(length - len(part))
            part += data
            self._fds += fds
            if not data:
                return False
        return True

    def _next_answer(self) -> bool:
        """Bring in the header of the next answer, dealing with what comes before it; False at the stream's end."""
        while True:
            now = time.monotonic()
            self._turn_began = self._turn_began or now
            if now - self._turn_began > self._limits.turn_s:
                # The loop is level-triggered and comes back at once, after everyone else had a turn.
                self._turn_began = 0.0
                raise _not_now()
            if self._discard:
                data, fds = self._read(self._discard)
                close_fds(fds)
                self._discard -= len(data)
                if not data:
                    return False
                continue
            if not self._fill(self._header, _HEADER_BYTES):
                return False
            order = ">" if self._header[0] == ord("B") else "<"
            body, serial, fields = struct.unpack_from(order + "III", self._header, 4)
            fields_end = fields + (-fields & 7)
            kind, flags = self._header[1], self._header[2]
            if kind in (RETURN, ERROR):
                self._header[2] = flags & NO_REPLY or flags & INTERACTIVE  # it knows no two at once
                self._left = fields_end + body
                return True
            limit = {CALL: self._limits.call_bytes, SIGNAL: self._limits.signal_bytes}.get(kind)
            if limit is None or fields > self._limits.fields_bytes:
                # "Unknown types must be ignored" (D-Bus specification, message format); so is a header without end.
                self._discard = fields_end + body
                self._forget()
                continue
            refused = body if body > limit else 0
            if not self._fill(self._rest, fields_end + body - refused):
                return False
            self._deliver(kind, flags & (NO_REPLY | INTERACTIVE), serial, order, fields, refused)
            self._discard = refused

    def _deliver(self, kind: int, flags: int, serial: int, order: str, fields: int, refused: int) -> None:
        try:
            said = header_fields(bytes(self._rest[:fields]), order)
            path, interface, member, sender, signature = (
                str(said.get(code, "")) for code in (PATH, INTERFACE, MEMBER, SENDER, SIGNATURE)
            )
            data, size = bytes(self._rest[fields + (-fields & 7) :]), _HEADER_BYTES + len(self._rest)
            one = Incoming(
                kind, flags, serial, path, interface, member, sender, signature, order, data, self._fds, size, refused
            )
        except Malformed:
            self._forget()
            return
        self._fds = []
        self._forget()
        self.take(one)
        close_fds(one.fds)

    def _forget(self) -> None:
        close_fds(self._fds)
        self._header, self._rest, self._fds = bytearray(), bytearray(), []

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """As `socket.send`, but a full buffer takes 0 bytes: the library then waits until it can go on."""
        if self._unsent is not None:
            return self.sendmsg([data], self._unsent, flags)
        try:
            return self._sock.send(data, flags)
        except BlockingIOError:
            return 0

    def sendmsg(self, buffers: Sequence[bytes | memoryview], ancillary: Any = (), flags: int = 0) -> int:
        """As `send`; keeps the descriptors for the next try, since the library takes them for sent."""
        try:
            sent = self._sock.sendmsg(buffers, ancillary, flags)
        except BlockingIOError:
            self._unsent = ancillary
            return 0
        self._unsent = None
        return sent


class Outbox(deque[tuple[bytearray, Any, Any]]):
    """The library's queue of marshalled messages: first in, first out, whichever end is taken from; knows its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting_bytes = 0
        self.last_bytes = 0
        self._drained: tuple[int, Callable[[], None]] | None = None

    def when_below(self, level_bytes: int, then: Callable[[], None]) -> None:
        """Call `then` once, as soon as no more than that waits."""
        self._drained = (level_bytes, then)
        self._look()

    def _look(self) -> None:
        if self._drained is not None and self.waiting_bytes <= self._drained[0]:
            then, self._drained = self._drained[1], None
            then()

    def append(self, item: tuple[bytearray, Any, Any]) -> None:
        self.last_bytes = len(item[0])
        self.waiting_bytes += self.last_bytes
        super().append(item)

    def popleft(self) -> tuple[bytearray, Any, Any]:
        item = super().popleft()
        self.waiting_bytes -= len(item[0])
        self._look()
        return item

    def pop(self) -> tuple[bytearray, Any, Any]:  # type: ignore[override]
        return self.popleft()
