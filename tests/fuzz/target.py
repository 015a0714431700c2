"""What is fuzzed: a function of bytes, the errors that it may end in, and the bounds on its time and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

FOUND = Path(__file__).with_name("found")
NAMES = ("definition", "sums", "bundle", "releases", "claims", "openpgp")
MOST_CPU_S = 2.0
MOST_MEMORY = 200 * 1024**2


@dataclass(frozen=True)
class Target:
    """`one` takes any bytes. `modules` are those whose coverage counts. `mutate` changes an input in a way of its own
    (the input, the most bytes, a seed), beside what the fuzzer does to bytes.
    """

    name: str
    one: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    modules: tuple[str, ...]
    words: tuple[str, ...] = ()
    mutate: Callable[[bytes, int, int], bytes] | None = field(default=None, repr=False)


class TooMuch(Exception):
    """An input that cost more time or memory than any may."""


def load(name: str) -> Target:
    target: Target = import_module(f"tests.fuzz.{name}").TARGET
    return target


def found(name: str) -> list[Path]:
    """Inputs that crashed this target once."""
    return sorted((FOUND / name).glob("*"))


def offer(target: Target, data: bytes) -> bool:
    """Whether the target took it, and did not refuse it. Raises whatever else came of it, and `TooMuch`.

    The time is the processor's, so that a busy machine is not taken for a slow parser.
    """
    began, peak = time.process_time(), _peak()
    taken = True
    try:
        target.one(data)
    except target.errors:
        taken = False
    spent, grown = time.process_time() - began, _peak() - peak
    if spent > MOST_CPU_S:
        raise TooMuch(f"{len(data)} bytes took {spent:.1f} s of the processor")
    if grown > MOST_MEMORY:
        raise TooMuch(f"{len(data)} bytes took {grown // 1024**2} MB of memory")
    return taken


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
