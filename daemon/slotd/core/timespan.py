"""Time spans and sizes as systemd writes them: `1h 30min`, `14d`, `4G`.

Rules: systemd.time(7), "PARSING TIME SPANS"; sizes are to the base of 1024, as everywhere in unit files.
All functions raise `ValueError` with words that fit behind "… is <value>: ".
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import isfinite

from slotd.core.schema import INFINITE_S

_SECOND_US = 1_000_000
_DAY_US = 86400 * _SECOND_US
_UNITS_US: dict[str, int] = {
    **dict.fromkeys(("us", "usec", "µs", "μs"), 1),
    **dict.fromkeys(("ms", "msec"), 1000),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), _SECOND_US),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60 * _SECOND_US),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600 * _SECOND_US),
    **dict.fromkeys(("d", "day", "days"), _DAY_US),
    **dict.fromkeys(("w", "week", "weeks"), 7 * _DAY_US),
    **dict.fromkeys(("M", "month", "months"), 2_629_800 * _SECOND_US),  # 30.4375 days
    **dict.fromkeys(("y", "year", "years"), 31_557_600 * _SECOND_US),  # 365.25 days
}
_WRITTEN: tuple[tuple[str, int], ...] = (
    ("d", _DAY_US),
    ("h", 3600 * _SECOND_US),
    ("min", 60 * _SECOND_US),
    ("s", _SECOND_US),
    ("ms", 1000),
    ("us", 1),
)
_LONGEST_S = 1000 * 31_557_600  # a thousand years: beyond it floats lose their microseconds
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµμ]*)")
_TEXT_LIMIT = 100

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:i?B)?")
_LARGEST = 2**62


def parse_span(value: str | int | float) -> float:
    """Seconds of `1h 30min`, `500ms`, `infinity`, or of a bare number, which is seconds already."""
    if isinstance(value, bool):
        raise ValueError('a time span is a text like "30s" or a number of seconds')
    if isinstance(value, int | float):
        return _number(value)
    text = value.strip()
    if not text:
        raise ValueError('it is empty; write a time span like "30s", "1h 30min", "14d" or "0"')
    if text == "infinity":
        return INFINITE_S
    if text.startswith("-"):
        raise ValueError("a time span cannot be negative")
    if len(text) > _TEXT_LIMIT:
        raise ValueError("it is too long for a time span")
    return _total_us(text) / _SECOND_US


def format_span(seconds: float) -> str:
    """`1h 30min` for 5400.0; what `parse_span` reads back, to the microsecond."""
    if seconds == INFINITE_S:
        return "infinity"
    left = round(seconds * _SECOND_US)
    if left <= 0:
        return "0"
    parts = []
    for unit, unit_us in _WRITTEN:
        count, left = divmod(left, unit_us)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def parse_size(value: str | int) -> int:
    """Bytes of `4G`, `200M`, `1.5GiB`, or of a bare whole number."""
    if isinstance(value, bool):
        raise ValueError('a size is a text like "4G" or a whole number of bytes')
    if isinstance(value, int):
        size = value
    else:
        text = value.strip()
        if not text:
            raise ValueError('it is empty; write a size like "4G", "200M" or a number of bytes')
        found = _SIZE.fullmatch(text) if len(text) <= _TEXT_LIMIT else None
        if found is None:
            raise ValueError('a size is a number with K, M, G or T (to the base of 1024), like "4G"')
        size = int(Fraction(found[1]) * _SIZES[found[2]])
    if size < 0:
        raise ValueError("a size cannot be negative")
    if size > _LARGEST:
        raise ValueError("it is too large")
    return size


def format_size(size: int) -> str:
    """`4G` where it divides without a rest, else the bytes: what `parse_size` reads back exactly."""
    for suffix in ("T", "G", "M", "K"):
        if size and size % _SIZES[suffix] == 0:
            return f"{size // _SIZES[suffix]}{suffix}"
    return str(size)


def _number(value: int | float) -> float:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError('it is not a finite number; write "infinity" as a text where no end is allowed')
    if value < 0:
        raise ValueError("a time span cannot be negative")
    if value > _LONGEST_S:
        raise ValueError('it is longer than a thousand years; write "infinity" where no end is allowed')
    return round(value * _SECOND_US) / _SECOND_US


def _total_us(text: str) -> int:
    """Whole microseconds. systemd takes `1h 30` as an hour and 30 seconds; here that is refused as ambiguous."""
    parts: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        found = _PART.match(text, position)
        if found is None or found[2] not in _UNITS_US:
            raise ValueError('a time span is made of numbers with us, ms, s, min, h, d, w, M or y, like "1h 30min"')
        parts.append((found[1], found[2]))
        position = found.end()
    if len(parts) > 1 and any(not unit for _, unit in parts):
        raise ValueError('each number in it needs a unit, like "1h 30min"')
    total = sum((Fraction(number) * _UNITS_US[unit] for number, unit in parts), Fraction(0))
    if total > _LONGEST_S * _SECOND_US:
        raise ValueError('it is longer than a thousand years; write "infinity" where no end is allowed')
    return round(total)
