"""One slotd at a time: the daemon, `slotd boot` and `slotd recover` must never take up the same job side by side."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slotd.errors import Busy
from slotd.host import files

FILE = "lock"
LOOK_S = 0.2


@contextmanager
def only_one(state: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Within it no other process has the state. Raises `Busy` if one still has it after `wait_s`. Blocking.

    The kernel gives it back however its holder ends. Descriptors are not inherited: a worker does not hold it.
    """
    with files.explaining(f"cannot lock {state}"):
        state.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(state / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with _held(descriptor, state, wait_s):
        yield


@contextmanager
def only_one_on(state: Path, app: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """The same for one app's slots, copies and cache: a job on it, and the retention that runs beside the daemon."""
    place = state / "locks"
    with files.explaining(f"cannot lock {place / app}"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(place / app, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with _held(descriptor, place / app, wait_s):
        yield


@contextmanager
def _held(descriptor: int, what: Path, wait_s: float) -> Iterator[None]:
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"cannot work on {what}: another slotd does.", hint="See `systemctl status 'slotd*'`."
                    ) from None
            time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)
