"""A call that came in over the bus, and whose it is while it is being served; one that went out and failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from slotd.errors import Failed

_sender: ContextVar[str] = ContextVar("slotd_bus_sender", default="")


class BusFailed(Failed):
    """A call that failed. `remote_name` is the D-Bus error's name; that of a deadline ends in `.NoReply`."""

    def __init__(self, message: str, *, hint: str = "", remote_name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.remote_name = remote_name


def address_of(kind: str) -> str:
    """Where the `"system"` or the `"session"` bus is; an address stays as it is."""
    if kind == "system":
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    if kind == "session":
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus"
    return kind


@dataclass(slots=True)
class Call:
    """A call that came in. `interface` is empty if none was given.

    `refused_bytes` above 0: the arguments were larger than a call may be, and are gone. `held_bytes`: what it
    takes while it waits.
    """

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    serial: int
    wants_reply: bool
    is_interactive: bool
    held_bytes: int = 0
    refused_bytes: int = 0
    fds: list[int] = field(default_factory=list)
    keeps_fds: bool = False  # until it is answered: they are not closed when the call has been queued
    read: Callable[[], list[Any]] = list
    _body: list[Any] | None = None

    @property
    def body(self) -> list[Any]:
        """The arguments; a variant is `Typed`. Raises Malformed, unless `load` went well before."""
        return self.load()

    def load(self) -> list[Any]:
        """Read the arguments, which is put off until all else about the call is in order. Raises Malformed."""
        if self._body is None:
            self._body = self.read()
        return self._body

    def take_fds(self) -> list[int]:
        """The descriptors that came with the call; from now on the taker's to close."""
        taken, self.fds = self.fds, []
        return taken


@contextmanager
def serving(call: Call) -> Iterator[None]:
    """Make its sender the current one, for what is called and what tasks are made within."""
    token = _sender.set(call.sender)
    try:
        yield
    finally:
        _sender.reset(token)


def current_sender() -> str:
    """The unique bus name of whose call is being served, in this task; empty outside of one."""
    return _sender.get()


class Seldom:
    """What callers can bring about is not said more than so often in so many seconds: the journal is not theirs."""

    def __init__(self, times: int = 5, span_s: float = 60.0) -> None:
        self._times = times
        self._span_s = span_s
        self._began = -span_s
        self._said = 0

    def may_say(self, now: float) -> bool:
        """Whether to say it once more; `now` is any clock in seconds that only goes forward."""
        if now - self._began >= self._span_s:
            self._began, self._said = now, 0
        self._said += 1
        return self._said <= self._times
