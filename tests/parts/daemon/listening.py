"""A program that prints what it hears, beside the tests: `busctl monitor`, `gdbus monitor`."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.parts.daemon.world import World

DEADLINE_S = 30.0


class Listening:
    """The lines of a program, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.heard: list[str] = []
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, is_last: Callable[[str], object], *, timeout_s: float = DEADLINE_S) -> list[str]:
        """All lines since the last time, up to the first that `is_last` takes."""
        began, until = len(self.heard), time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"it was not heard: {self.heard[-20:]}"
            self.heard.append(line)
            if is_last(line):
                return self.heard[began:]


@contextmanager
def listening(world: World, *argv: str) -> Iterator[Listening]:
    """Run it as the user until the block is left."""
    process = subprocess.Popen(
        argv, env=world.environment, user=world.uid, group=world.gid, extra_groups=[], cwd="/", text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Listening(process)
    finally:
        process.terminate()
        process.wait(10)
