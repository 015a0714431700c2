"""What all probes share: asking within a time, and the words of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from slotd.core.words import one_line
from slotd.probes import Outcome, Target


async def within(timeout_s: float, what: str, asked: Coroutine[Any, Any, Outcome]) -> Outcome:
    """The outcome, or that it took too long. The detail becomes one printable line: some of it is foreign.

    The question is a task of its own: libraries that cancel at their own deadlines (httpx's do, through anyio) would
    leave a cancellation behind in the task that watches the trial.
    """
    task = asyncio.create_task(asked)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        return Outcome(False, f"{what}: no answer within {timeout_s:g} s")
    outcome = task.result()
    return Outcome(outcome.healthy, one_line(outcome.detail))


def expand(template: str, target: Target) -> str:
    return template.replace("{version}", target.version).replace("{slot}", target.slot)


def is_same_version(left: str, right: str) -> bool:
    """Tags begin with a `v` where versions do not, and apps report either."""
    return left.removeprefix("v") == right.removeprefix("v")
