"""The app answers over HTTP as it should: status, words in the body, values in its JSON - its version among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slotd.core.answer import shown
from slotd.core.schema import Health
from slotd.errors import SlotdError
from slotd.host import fetch
from slotd.probes import Outcome, Target
from slotd.probes.ask import expand, is_same_version, within

_BODY_BYTES = 1024**2


class HttpProbe:
    """One GET; redirects are an answer like any other, not followed."""

    async def check(self, health: Health, target: Target) -> Outcome:
        url = expand(health.url, target)
        return await within(health.timeout_s, f"GET {shown(url)}", self._ask(url, health, target))

    async def _ask(self, url: str, health: Health, target: Target) -> Outcome:
        get = f"GET {shown(url)}"
        try:
            status, body = await fetch.probe_get(url, timeout_s=health.timeout_s, limit_bytes=_BODY_BYTES)
        except SlotdError as error:
            return Outcome(False, error.message)
        if status != health.status:
            return Outcome(False, f"{get} gave {status}, wanted {health.status}")
        wanted = expand(health.body, target)
        if wanted and wanted.encode() not in body:
            return Outcome(False, f"{get} gave a body without {wanted!r}")
        if health.json:
            wrong = _compare({path: expand(value, target) for path, value in health.json.items()}, body, target.version)
            if wrong:
                return Outcome(False, f"{get} {wrong}")
        return Outcome(True, f"{get} gave {status}")


def _compare(wanted: Mapping[str, str], body: bytes, version: str) -> str:
    """What differs, in words; empty if nothing does."""
    try:
        # Numbers stay as they are written: 1.10 is not 1.1, and a number of a million digits is not computed.
        document = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return "gave a body that is not JSON"
    for path, value in wanted.items():
        try:
            found = _text(_at(document, path))
        except LookupError:
            return f"gave JSON without {path}"
        if found != value and not (version and version in value and is_same_version(found, value)):
            return f"gave {path} = {found!r}, wanted {value!r}"
    return ""


def _at(value: Any, path: str) -> Any:
    """The value at a dotted path; list indices count from 0, and a key may itself hold dots."""
    if not path:
        return value
    if isinstance(value, dict):
        if path in value:
            return value[path]
        heads = [path[:i] for i, c in enumerate(path) if c == "."]
        for head in reversed(heads):
            if head in value:
                return _at(value[head], path[len(head) + 1 :])
    elif isinstance(value, list):
        head, _, rest = path.partition(".")
        if head.isdecimal() and len(head) < 7:
            return _at(value[int(head)], rest)
    raise LookupError(path)


def _text(value: Any) -> str:
    """As it would stand in the definition: text as it is, the rest as JSON has it."""
    if isinstance(value, str):
        return value
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else "a structure"
    )
