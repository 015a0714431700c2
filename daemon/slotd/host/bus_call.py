"""A call that came in over the bus, and whose it is while it is being served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_sender: ContextVar[str] = ContextVar("slotd_bus_sender", default="")


@dataclass(slots=True)
class Call:
    """A call that came in. `body` still holds variants, whose types matter; `interface` is empty if none was given.

    `refused_bytes` above 0: the arguments were larger than a call may be, and are gone. `body_bytes`: on the wire.
    """

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    body: list[Any]
    serial: int
    wants_reply: bool
    is_interactive: bool
    body_bytes: int = 0
    refused_bytes: int = 0
    fds: list[int] = field(default_factory=list)

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
