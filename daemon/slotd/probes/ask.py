"""What all probes share: asking within a time, and the words of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from slotd.probes import Outcome, Target

_DETAIL_CHARS = 300


async def within(timeout_s: float, what: str, asked: Awaitable[Outcome]) -> Outcome:
    """The outcome, or that it took too long. The detail becomes one printable line: some of it is foreign."""
    try:
        async with asyncio.timeout(timeout_s):
            outcome = await asked
    except TimeoutError:
        return Outcome(False, f"{what}: no answer within {timeout_s:g} s")
    return Outcome(outcome.healthy, one_line(outcome.detail))


def one_line(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line if len(line) <= _DETAIL_CHARS else line[: _DETAIL_CHARS - 1] + "…"


def expand(template: str, target: Target) -> str:
    return template.replace("{version}", target.version).replace("{slot}", target.slot)


def is_same_version(left: str, right: str) -> bool:
    """Tags begin with a `v` where versions do not, and apps report either."""
    return left.removeprefix("v") == right.removeprefix("v")
