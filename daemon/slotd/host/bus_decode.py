"""What peers send, read by us and not by the D-Bus library: in time and memory that their bytes alone decide.

The library keeps every type signature that it ever met, as a tree, for ever: a megabyte of variants of different types
costs it a hundred, at half a millisecond each. Here nothing is kept, and nothing is read before somebody wants it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATH, INTERFACE, MEMBER, SENDER, SIGNATURE = 1, 2, 3, 7, 8  # header fields of the D-Bus specification
_DEPTH = 80  # the bus lets 64 containers pass
# Values read, containers included, are no more than the bytes and this: 32 structures around each byte, which the bus
# lets pass, are nothing that anybody means.
_SLACK_VALUES = 256
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGNED = {"v": 1, "g": 1, "s": 4, "o": 4, "a": 4, "(": 8, "{": 8}
_Readers = dict[str, tuple[Callable[..., tuple[Any, ...]], int]]


def _readers(order: str) -> _Readers:
    made = {kind: struct.Struct(order + code) for kind, code in _FIXED.items()}
    return {kind: (one.unpack_from, one.size) for kind, one in made.items()}


_READERS = {order: _readers(order) for order in "<>"}


class Malformed(ValueError):
    """Bytes that are not what their signature says."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A variant as it came in: what it is said to be, and what it is."""

    signature: str
    value: Any


def decode(signature: str, data: bytes, order: str, *, plain: bool = False) -> list[Any]:
    """The values of a message's body; `order` is `<` or `>`. Variants are `Typed`; with `plain`, what is in them.

    Structures are lists, arrays of bytes are `bytes`. Raises Malformed.
    """
    try:
        return _Reader(data, order, plain).values(signature)
    except (struct.error, LookupError, UnicodeDecodeError, TypeError) as error:
        raise Malformed(f'the arguments are not what their signature "{signature[:120]}" says') from error


def header_fields(data: bytes, order: str) -> dict[int, Any]:
    """The fields of a message's header by their codes, those unknown to us too. Raises Malformed."""
    try:
        reader, fields = _Reader(data, order, plain=True), {}
        while reader.at < len(data):
            reader.at += -reader.at & 7
            code = data[reader.at]
            reader.at += 1
            fields[code] = reader.variant(0)
        return fields
    except (struct.error, LookupError, UnicodeDecodeError, TypeError) as error:
        raise Malformed("the header of a message cannot be read") from error


class _Reader:
    """Goes along `data` once, from its beginning, which is aligned to 8."""

    def __init__(self, data: bytes, order: str, plain: bool) -> None:
        self.at = 0
        self._left = len(data) + _SLACK_VALUES
        self._ends: dict[tuple[str, int], int] = {}
        self._data = data
        self._plain = plain
        self._fixed = _READERS[order]
        self._length = self._fixed["u"][0]

    def values(self, signature: str) -> list[Any]:
        found, at = [], 0
        while at < len(signature):
            value, at = self._value(signature, at, 0)
            found.append(value)
        return found

    def variant(self, depth: int) -> Any:
        signature = self._signature()
        value, end = self._value(signature, 0, depth + 1)
        if end != len(signature):
            raise Malformed(f'a variant holds one value, not "{signature[:120]}"')
        return value if self._plain else Typed(signature, value)

    def _value(self, signature: str, at: int, depth: int) -> tuple[Any, int]:
        """One value, and where its type ends in the signature."""
        if depth > _DEPTH:
            raise Malformed("containers within containers, without end")
        self._left -= 1
        if self._left < 0:
            raise Malformed("more containers than there are bytes in them")
        kind = signature[at]
        if kind in self._fixed:
            return self._number(kind), at + 1
        match kind:
            case "s" | "o":
                return self._text(), at + 1
            case "g":
                return self._signature(), at + 1
            case "v":
                return self.variant(depth), at + 1
            case "a":
                return self._array(signature, at + 1, depth + 1)
            case "(":
                return self._structure(signature, at + 1, depth + 1)
        raise Malformed(f'"{kind}" is no type')

    def _number(self, kind: str) -> Any:
        unpack, size = self._fixed[kind]
        at = self.at + (-self.at & size - 1)
        self.at = at + size
        [value] = unpack(self._data, at)
        return bool(value) if kind == "b" else value

    def _text(self) -> str:
        length = self._number("u")
        self.at += length + 1
        return self._data[self.at - length - 1 : self._within() - 1].decode()

    def _signature(self) -> str:
        length = self._data[self.at]
        self.at += length + 2
        return self._data[self.at - length - 1 : self._within() - 1].decode("ascii")

    def _within(self) -> int:
        if self.at > len(self._data):
            raise Malformed("a value goes past the end of its message")
        return self.at

    def _structure(self, signature: str, at: int, depth: int) -> tuple[list[Any], int]:
        self.at += -self.at & 7
        if signature[at] == ")":
            raise Malformed("a structure of nothing is no type")
        members = []
        while signature[at] != ")":
            value, at = self._value(signature, at, depth)
            members.append(value)
        return members, at + 1

    def _array(self, signature: str, at: int, depth: int) -> tuple[Any, int]:
        end = self._type_end(signature, at, depth)
        length, kind = self._number("u"), signature[at]
        size = self._fixed[kind][1] if kind in self._fixed else _ALIGNED[kind]
        self.at += -self.at & size - 1
        until = self.at + length
        if until > len(self._data):
            raise Malformed("an array goes past the end of its message")
        if kind == "y":
            self.at = until
            return self._data[until - length : until], end
        if kind == "{":
            found: Any = self._dictionary(signature, at + 1, until, depth)
        else:
            found = []
            while self.at < until:
                found.append(self._value(signature, at, depth)[0])
        if self.at != until:
            raise Malformed("an array ends within a value")
        return found, end

    def _dictionary(self, signature: str, at: int, until: int, depth: int) -> dict[Any, Any]:
        entries = {}
        while self.at < until:
            self.at += -self.at & 7
            key, after = self._value(signature, at, depth)
            entries[key] = self._value(signature, after, depth)[0]
        return entries

    def _type_end(self, signature: str, at: int, depth: int) -> int:
        """Where the type that begins at `at` ends, although there may be no value of it.

        Found once for each place: else each of thousands of empty arrays would cost a walk along all of its type.
        """
        end = self._ends.get((signature, at))
        if end is None:
            end = self._ends[signature, at] = self._find_type_end(signature, at, depth)
        return end

    def _find_type_end(self, signature: str, at: int, depth: int) -> int:
        if depth > _DEPTH:
            raise Malformed("containers within containers, without end")
        kind = signature[at]
        if kind == "a":
            return self._type_end(signature, at + 1, depth + 1)
        if kind not in "({":
            return at + 1
        at += 1
        while signature[at] not in ")}":
            at = self._type_end(signature, at, depth + 1)
        return at + 1
