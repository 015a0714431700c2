"""Changes that keep the form of an input, so that the fuzzer gets behind the first check of its syntax."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -0.0, 2**31, 2**63, 2**64, 10**300, "", " ", "\0", "\ud800", "\u202e",
    "..", ".", "/", "//", "../../etc/passwd", "a/b", "-", "--help", "{slot}", "{", "}", "%s", "1.0", "1.0.0+b",
    "1!2.0.dev3", "v1",
    "2024-02-30", "9" * 30, "1e400", "NaN", "sha256:" + "a" * 64, "sha512:" + "0" * 128, "A" * 64, "x" * 300,
    "https://h/x", "http://[", "http://[::1]:99999/", "file:///etc/passwd", "bundle:" + "a" * 64,
    "2026-01-31T12:00:00Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", [], {}, [[]], [None], {"": ""}, ["a", "a"],
)  # fmt: skip


def json_value(dump: Callable[[Any], bytes]) -> Callable[[bytes, int, int], bytes]:
    """One or a few values of a JSON document replaced, moved, doubled or dropped; `dump` writes it again."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        choose = random.Random(seed)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return data
        for _ in range(choose.choice((1, 1, 1, 2, 3))):
            document = _changed(document, choose)
        try:
            return dump(document)[:most]
        except (ValueError, TypeError, RecursionError, OverflowError):
            return data

    return mutate


def plain(document: Any) -> bytes:
    return json.dumps(document).encode()


def _changed(document: Any, choose: random.Random) -> Any:
    holders: list[tuple[Any, Any]] = []
    waiting: list[Any] = [document]
    values: list[Any] = list(ODD_VALUES)
    while waiting:
        each = waiting.pop()
        members = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, value in members:
            holders.append((each, key))
            waiting.append(value)
            values.append(value)
    if not holders:
        return choose.choice(ODD_VALUES)
    holder, key = choose.choice(holders)
    match choose.randrange(5):
        case 0 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 0:
            holder[str(choose.choice(values))[:40]] = holder[key]
        case 1:
            del holder[key]
        case 2 if isinstance(holder[key], str):
            text = holder[key]
            at = choose.randrange(len(text) + 1)
            holder[key] = text[:at] + str(choose.choice(values))[:40] + text[at + choose.randrange(3) :]
        case 3 if isinstance(holder[key], int):
            holder[key] += choose.choice((-1, 1, 512, 2**33))
        case _:
            # A copy: the same value in two places would make a document that grows without end.
            holder[key] = json.loads(json.dumps(choose.choice(values)))
    return document


def lines(data: bytes, most: int, seed: int, values: tuple[bytes, ...]) -> bytes:
    """Lines of `key = value`: a value replaced, a line dropped, doubled, moved or put in from elsewhere."""
    choose = random.Random(seed)
    rows = data.split(b"\n")
    for _ in range(choose.choice((1, 1, 2))):
        at = choose.randrange(len(rows))
        key, sign, _ = rows[at].partition(b"=")
        match choose.randrange(5):
            case 0:
                rows.insert(choose.randrange(len(rows) + 1), rows[at])
            case 1 if len(rows) > 1:
                del rows[at]
            case 2:
                rows.insert(at, choose.choice(values))
            case _ if sign:
                rows[at] = key + b"= " + choose.choice(values).partition(b"=")[2].strip()
            case _:
                rows[at] = choose.choice(values)
    return b"\n".join(rows)[:most]
