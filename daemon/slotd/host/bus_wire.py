"""What lies between the D-Bus library and its socket: what a peer can send must not end the daemon's connection.

The library (read and run: 1.84 of Debian 12, 2.44 of Debian 13, 5.2) closes the connection, and so ends the service,
when the socket's buffer is full (EAGAIN), when a message carries two flags at once, and when its type is unknown. It
parses whatever length it is told and reads without letting the loop breathe. 1.84 sends a backlog in reverse, and
counts characters where bytes belong, so that the bus hangs up on the first text that is not ASCII. Most of that any
local user can bring about, so it is put right here, below the library, with nothing in it changed.
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

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4  # message types of the D-Bus specification
NO_REPLY, INTERACTIVE = 1, 4  # its flags; 2, NO_AUTO_START, is for the bus alone

_HEADER_BYTES = 16
_READ_BYTES = 256 * 1024
_FDS = 64  # more than any bus lets pass; what does not fit is closed by the kernel

Ancillary = list[tuple[int, int, bytes]]


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on what peers send. Bytes of one message's body; how long messages are handled before others' turn."""

    call_bytes: int = 64 * 1024
    signal_bytes: int = 1024**2
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


class GuardedSocket:
    """Stands in for the library's socket. Hands over one message at a time, each harmless in form.

    `flags`, `body_bytes` and `refused_bytes` belong to the message that was handed over last: what its flags byte
    really said, its body's length, and the length of one that was over the limit and is thrown away (0: it is whole).
    """

    def __init__(self, sock: socket.socket, limits: WireLimits) -> None:
        self._sock = sock
        self._limits = limits
        self.flags = 0
        self.body_bytes = 0
        self.refused_bytes = 0
        self._header = bytearray()
        self._fds: list[int] = []
        self._left = 0  # bytes of the present message that the reader still has to take
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
        if not self._next_header():
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

    def _next_header(self) -> bool:
        """Bring in the header of the next message that may be parsed; False at the end of the stream."""
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
            while len(self._header) < _HEADER_BYTES:
                data, fds = self._read(_HEADER_BYTES - len(self._header))
                self._header += data
                self._fds += fds
                if not data:
                    return False
            if self._admit():
                return True

    def _admit(self) -> bool:
        """Make the header fit for the library, or throw the message away (False)."""
        header = self._header
        order = ">" if header[0] == ord("B") else "<"
        kind, flags = header[1], header[2]
        body, _, fields = struct.unpack_from(order + "III", header, 4)
        rest = fields + (-fields & 7)
        if kind not in (CALL, RETURN, ERROR, SIGNAL):
            # "Unknown types must be ignored" (D-Bus specification, message format).
            self._discard = rest + body
            close_fds(self._fds)
            self._header, self._fds = bytearray(), []
            return False
        self.flags = flags & (NO_REPLY | INTERACTIVE)
        header[2] = flags & NO_REPLY or flags & INTERACTIVE
        limit = {CALL: self._limits.call_bytes, SIGNAL: self._limits.signal_bytes}.get(kind, body)
        self.refused_bytes = body if body > limit else 0
        self.body_bytes = body - self.refused_bytes
        if self.refused_bytes:
            struct.pack_into(order + "I", header, 4, 0)
        self._discard = self.refused_bytes
        self._left = rest + body - self.refused_bytes
        return True

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
