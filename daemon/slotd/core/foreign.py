"""JSON of strangers: read strictly, bounded in every direction, and refused by name of the place.

A server's answer, a worker's claim and a kept state are all foreign. Nothing is guessed or converted: a
value has the shape that is asked for, or `SourceFailed` says where it stands and what was found there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from slotd.core.answer import TooLarge
from slotd.errors import SourceFailed

# Every value of a document has one of these beside it, so their count bounds the objects that parsing
# makes: 32 MiB of "[],[],…" would otherwise become more than a gigabyte of lists.
MOST_VALUES = 3_000_000
MOST_DEPTH = 64
_HINT = "Is the address right? If it is, tell the publisher, or whoever runs the server, what is wrong."

_BRACKETS = re.compile(r'[\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+["\\]?', re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_END_OF_TIME = 253_402_300_799.0  # the year 9999
_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}


def parse(body: bytes, place: str) -> Foreign:
    """The document in `body` (UTF-8). `place` is what messages call it (an address). Raises `SourceFailed`, and as
    `TooLarge` if it holds too much.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{", b":")) > MOST_VALUES:
        raise TooLarge(f"cannot use {place}: it holds more than {MOST_VALUES} values", hint=_HINT)
    try:
        text = body.decode("utf-8-sig")
        _check_depth(text, place)
        return Foreign(json.loads(text, parse_constant=_refuse_constant), place)
    except UnicodeDecodeError:
        raise SourceFailed(f"cannot use {place}: it is not UTF-8 text", hint=_HINT) from None
    except ValueError as error:  # JSONDecodeError among them, and numbers of thousands of digits
        raise SourceFailed(f"cannot use {place}: it is not JSON ({str(error)[:120]})", hint=_HINT) from None


def _check_depth(text: str, place: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        sign = match.group()[0]
        if sign in "[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise SourceFailed(f"cannot use {place}: it is nested more than {MOST_DEPTH} levels deep", hint=_HINT)
        elif sign in "]}":
            depth -= 1


def is_deep(value: object) -> bool:
    """Whether a value is nested deeper than `parse` lets one be: what reads it later must not run out of stack."""
    layer = [value]
    for _ in range(MOST_DEPTH):
        layer = [
            inner
            for each in layer
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not layer:
            return False
    return True


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def is_encodable(text: str) -> bool:
    """JSON may hold half a character ("\\ud800"), which no file and no database takes."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


@dataclass(frozen=True, slots=True)
class Foreign:
    """One value of a foreign document and where it stands (`…/releases: [3].assets[0].name`)."""

    value: Any
    place: str

    def refuse(self, why: str) -> NoReturn:
        """Raises `SourceFailed` that names the place."""
        raise SourceFailed(f"cannot use {self.place}: {why}", hint=_HINT)

    @property
    def is_absent(self) -> bool:
        return self.value is None

    def __getitem__(self, key: str) -> Foreign:
        """The member `key` of an object; an absent one is a value that `is_absent`."""
        return Foreign(self._object().get(key), self._inner(f".{key}"))

    def only(self, known: Collection[str]) -> Foreign:
        """This object, if it has no other keys than `known`."""
        strange = sorted(self._object().keys() - set(known))
        if strange:
            self.refuse(f"it has an unknown key {strange[0][:60]!r}")
        return self

    def items(self, most: int) -> Iterator[Foreign]:
        """The values of a list of at most `most`."""
        if not isinstance(self.value, list):
            self._wrong("a list")
        if len(self.value) > most:
            self.refuse(f"it has {len(self.value)} entries, more than {most}")
        return (Foreign(item, self._inner(f"[{number}]")) for number, item in enumerate(self.value))

    def members(self, most: int) -> Iterator[tuple[str, Foreign]]:
        """Keys and values of an object of at most `most`. The keys are not yet checked."""
        members = self._object()
        if len(members) > most:
            self.refuse(f"it has {len(members)} entries, more than {most}")
        return ((key, Foreign(item, self._inner(f"[{key[:60]!r}]"))) for key, item in members.items())

    def line(self, most: int, default: str | None = None) -> str:
        """A text of one line, at most `most` characters, without control or direction signs."""
        text = self._text(default)
        if len(text) > most:
            self.refuse(f"it is {len(text)} characters long, more than {most}")
        if _UNPRINTABLE.search(text) or any(sign in text for sign in "\n\r\t") or not is_encodable(text):
            self.refuse("it holds characters that cannot be shown")
        return text

    def prose(self, most_bytes: int, default: str | None = None) -> str:
        """A text of many lines, for people: cut at `most_bytes` of UTF-8, what cannot be shown replaced."""
        text = self._text(default)[:most_bytes]
        text = _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
        return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")

    def integer(self, least: int, most: int, default: int | None = None) -> int:
        value = default if self.value is None and default is not None else self.value
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong("a whole number")
        if not least <= value <= most:
            self.refuse("the number is out of range")
        return value

    def number(self, least: float, most: float, default: float | None = None) -> float:
        value = default if self.value is None and default is not None else self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._wrong("a number")
        if not least <= value <= most or not math.isfinite(value):  # a comparison first: huge ints overflow float()
            self.refuse("the number is out of range")
        return float(value)

    def flag(self, default: bool | None = None) -> bool:
        value = default if self.value is None and default is not None else self.value
        if not isinstance(value, bool):
            self._wrong("true or false")
        return value

    def moment(self) -> float:
        """A time as ISO 8601 text (UTC if it names no zone) or as seconds since the epoch; 0 if absent."""
        if self.value is None or self.value == "":
            return 0.0
        if not isinstance(self.value, str):
            return self.number(0, _END_OF_TIME)
        try:
            when = datetime.fromisoformat(self.line(40))
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.refuse("it is not a time (2026-01-31T12:00:00Z)")
        return min(max(seconds, 0.0), _END_OF_TIME)

    def _object(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            self._wrong("an object")
        return self.value

    def _text(self, default: str | None) -> str:
        value = default if self.value is None and default is not None else self.value
        if not isinstance(value, str):
            self._wrong("a text")
        return value

    def _wrong(self, expected: str) -> NoReturn:
        self.refuse(f"expected {expected}, found {_KINDS.get(type(self.value), 'something else')}")

    def _inner(self, step: str) -> str:
        # The first step inside a document is set off from its address: `https://…/index.json: releases[3]`.
        if ": " in self.place:
            return self.place + step
        return f"{self.place}: {step.removeprefix('.')}"
