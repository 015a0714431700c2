"""A peer that writes its D-Bus messages by hand, so that they may be anything."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NAME, ROOT = "org.slotd1", "/org/slotd1"


class RawPeer:
    """A peer that writes its messages by hand, so that they may be anything. Blocking: use it in a thread."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        self.socket.recv(200)
        self.socket.sendall(b"NEGOTIATE_UNIX_FD\r\n")
        self.socket.recv(200)
        self.socket.sendall(b"BEGIN\r\n")
        self.serial = 0
        self._buffer = b""
        self.send(
            member="Hello", interface="org.freedesktop.DBus", path="/org/freedesktop/DBus", to="org.freedesktop.DBus"
        )
        self.name = str(self.receive()["body"][4:-1].decode())

    def close(self) -> None:
        self.socket.close()

    def send(
        self,
        *,
        member: str,
        path: str = ROOT,
        interface: str = "",
        to: str = NAME,
        signature: str = "",
        body: bytes = b"",
        kind: int = 1,
        flags: int = 0,
        fds: Sequence[int] = (),
        more: Mapping[int, tuple[str, str]] = {},
    ) -> int:
        """Send one message; its serial."""
        message = self.encode(
            member=member, path=path, interface=interface, to=to, signature=signature, body=body,
            kind=kind, flags=flags, fds=len(fds), more=more,
        )  # fmt: skip
        if fds:
            sent = socket.send_fds(self.socket, [message], list(fds))
            self.socket.sendall(message[sent:])
        else:
            self.socket.sendall(message)
        return self.serial

    def encode(
        self,
        *,
        member: str,
        path: str = ROOT,
        interface: str = "",
        to: str = NAME,
        signature: str = "",
        body: bytes = b"",
        kind: int = 1,
        flags: int = 0,
        fds: int = 0,
        more: Mapping[int, tuple[str, str]] = {},
    ) -> bytes:
        """One message with the next serial, not sent yet; `fds` says how many descriptors go with it."""
        self.serial += 1
        fields: dict[int, tuple[str, Any]] = {1: ("o", path), 3: ("s", member), 6: ("s", to)} | dict(more)
        if interface:
            fields[2] = ("s", interface)
        if signature:
            fields[8] = ("g", signature)
        if fds:
            fields[9] = ("u", fds)
        header = b""
        for code, (token, value) in fields.items():
            header += b"\0" * (-len(header) % 8) + bytes([code, 1]) + token.encode() + b"\0"
            header += wire_value(token, value, len(header))
        fixed = b"l" + bytes([kind, flags, 1]) + struct.pack("<III", len(body), self.serial, len(header))
        return fixed + header + b"\0" * (-len(header) % 8) + body

    def receive(self) -> dict[str, Any]:
        """The next message: its `type`, `reply_to`, `error` and raw `body`."""
        while True:
            if len(self._buffer) >= 16:
                body, _, fields = struct.unpack_from("<III", self._buffer, 4)
                whole = 16 + fields + (-fields & 7) + body
                if len(self._buffer) >= whole:
                    message, self._buffer = self._buffer[:whole], self._buffer[whole:]
                    return {
                        "type": message[1],
                        **self._fields(message[16 : 16 + fields]),
                        "body": message[whole - body :],
                    }
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError("the bus closed the connection")
            self._buffer += data

    def replies(self, serials: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The replies to these messages, whatever else comes between."""
        wanted, found = set(serials), {}
        while wanted - found.keys():
            message = self.receive()
            if message["type"] in (2, 3):
                found[message["reply_to"]] = message
        return found

    @staticmethod
    def _fields(data: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {"reply_to": 0, "error": ""}
        at = 0
        while at < len(data):
            at += -at % 8
            code, token = data[at], chr(data[at + 2])
            at += 4
            if token == "g":
                at += data[at] + 2
                continue
            at += -at % 4
            [number] = struct.unpack_from("<I", data, at)
            at += 4
            if token == "u":
                found |= {"reply_to": number} if code == 5 else {}
                continue
            found |= {"error": data[at : at + number].decode()} if code == 4 else {}
            at += number + 1
        return found


def wire_value(token: str, value: Any, at: int = 0) -> bytes:
    """One value on the wire, at an offset that says how it is to be aligned."""
    if token == "g":
        return bytes([len(value)]) + value.encode() + b"\0"
    pad = b"\0" * (-at % 4)
    if token == "u":
        return pad + struct.pack("<I", value)
    data = value.encode()
    return pad + struct.pack("<I", len(data)) + data + b"\0"
