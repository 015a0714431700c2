"""How an interface on the bus is declared, described (introspection) and filled with values: no behaviour."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.sax.saxutils import quoteattr

from dbus_fast import Variant

from slotd.host.bus import Call

EMITS_CHANGED = "org.freedesktop.DBus.Property.EmitsChangedSignal"
ROOT = "/org/slotd1"
MOST_TIME = 2**63 - 1  # a row or a header of a backup may say anything

# What a method gives back: the values of its reply, now or after a while.
Answer = Sequence[Any] | Awaitable[Sequence[Any]]
Handler = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument: its name and its D-Bus type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method and its arguments. `is_read`: it changes nothing, so that without a reply it need not be called."""

    name: str
    takes: tuple[Arg, ...] = ()
    gives: tuple[Arg, ...] = ()
    is_read: bool = False

    @property
    def signature(self) -> str:
        """Types of the arguments that go in."""
        return "".join(arg.type for arg in self.takes)

    @property
    def reply_signature(self) -> str:
        """Types of the values that come back."""
        return "".join(arg.type for arg in self.gives)


@dataclass(frozen=True, slots=True)
class Property:
    """A property that can be read. `emits` is the value of its EmitsChangedSignal annotation: `true` or `const`."""

    name: str
    type: str
    emits: str = "true"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal and its arguments."""

    name: str
    args: tuple[Arg, ...] = ()

    @property
    def signature(self) -> str:
        """Types of the arguments."""
        return "".join(arg.type for arg in self.args)


@dataclass(frozen=True, slots=True)
class Interface:
    """Everything that callers can see of an interface."""

    name: str
    methods: tuple[Method, ...] = ()
    properties: tuple[Property, ...] = ()
    signals: tuple[Signal, ...] = ()

    def method(self, name: str) -> Method | None:
        """The method of that name, if there is one."""
        return next((method for method in self.methods if method.name == name), None)

    def property(self, name: str) -> Property | None:
        """The property of that name, if there is one."""
        return next((prop for prop in self.properties if prop.name == name), None)

    def xml(self) -> str:
        """The `<interface>` element, as `Introspect` gives it and as `dbus/` holds it."""
        lines = [f"  <interface name={quoteattr(self.name)}>"]
        for method in self.methods:
            args = [(arg, "in") for arg in method.takes] + [(arg, "out") for arg in method.gives]
            inner = [f"      <arg{_arg(arg)} direction={quoteattr(way)}/>" for arg, way in args]
            lines += _element("method", method.name, "", inner)
        for signal in self.signals:
            lines += _element("signal", signal.name, "", [f"      <arg{_arg(arg)}/>" for arg in signal.args])
        for prop in self.properties:
            note = f'      <annotation name="{EMITS_CHANGED}" value={quoteattr(prop.emits)}/>'
            lines += _element("property", prop.name, f' type={quoteattr(prop.type)} access="read"', [note])
        return "\n".join([*lines, "  </interface>"])


def _arg(arg: Arg) -> str:
    return f" name={quoteattr(arg.name)} type={quoteattr(arg.type)}"


def _element(kind: str, name: str, attributes: str, inner: Sequence[str]) -> list[str]:
    head = f"    <{kind} name={quoteattr(name)}{attributes}"
    return [head + ">", *inner, f"    </{kind}>"] if inner else [head + "/>"]


class Node(Protocol):
    """An object on the bus: one interface of ours (the standard ones are added), its values and its methods."""

    path: str
    interface: Interface

    def values(self) -> Mapping[str, Any]:
        """All properties, as plain values of their declared types. Raises SlotdError if the thing is gone."""
        ...

    def call(self, method: Method, call: Call) -> Answer:
        """Run a method whose arguments have the declared types. Raises SlotdError."""
        ...


def variant(value: Any) -> Variant:
    """A plain value with the D-Bus type that suits it: s b t x d as a{sv} av."""
    if isinstance(value, bool):
        return Variant("b", value)
    if isinstance(value, int):
        return Variant("t", min(value, 2**64 - 1)) if value >= 0 else Variant("x", max(value, -(2**63)))
    if isinstance(value, float):
        return Variant("d", value)
    if isinstance(value, Mapping):
        return Variant("a{sv}", {str(key): variant(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return Variant("as", list(value))
        return Variant("av", [variant(item) for item in value])
    return Variant("s", str(value))


def typed(values: Mapping[str, Any], properties: Sequence[Property]) -> dict[str, Variant]:
    """Values of properties, each in a variant of its declared type."""
    return {prop.name: Variant(prop.type, values[prop.name]) for prop in properties if prop.name in values}


def seconds(time: float) -> int:
    """A time for the bus: whole seconds (or microseconds) since the epoch, 0 for never, bounded by the bus's type."""
    return min(max(0, int(time)), MOST_TIME) if math.isfinite(time) else 0


def app_path(name: str) -> str:
    """The path of an app's object; its name escaped as sd_bus_path_encode(3) does."""
    escaped = "".join(
        chr(byte) if (chr(byte).isalpha() and byte < 128) or (48 <= byte < 58 and index) else f"_{byte:02x}"
        for index, byte in enumerate(name.encode("utf-8", "surrogateescape"))
    )
    return f"{ROOT}/app/{escaped or '_'}"


def job_path(job_id: int) -> str:
    """The path of a job's object."""
    return f"{ROOT}/job/{job_id}"
