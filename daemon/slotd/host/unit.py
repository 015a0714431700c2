"""A transient unit that runs a worker or a command, from the side of the daemon: what it says, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from slotd.host.process import run, status_of, to_its_end

log = logging.getLogger(__name__)

_NOT_LOADED: Final = 5  # what `systemctl stop` ends with
START_S: Final = 30.0  # for systemd to start a unit, and to end it
SAID_BYTES: Final = 16 * 1024  # what is kept of a worker's own words, and of the manager's
_RESULT = re.compile(r"Finished with result: (\S+)")
_STATUS = re.compile(r"terminated with: code=(\w+)[/,]\s*status=(\d+/)?(\w+)")
# systemd's exit statuses for what goes wrong before the program (systemd.exec(5))
_SETUP: Final = range(200, 246)
_SETUP_WORDS: Final = {
    200: "its working directory cannot be entered",
    203: "its program cannot be executed",
    216: "there is no such group",
    217: "there is no such user",
    226: "its sandbox cannot be made, maybe for a path that is missing",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Running:
    """A started unit (or, without systemd, a process): its output is drained as it comes, the tail is kept."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, manager: list[str] | None, keep: int) -> None:
        self.name, self._process, self._manager = name, process, manager
        assert process.stdout is not None
        assert process.stderr is not None
        self._out, self._err = bytearray(), bytearray()
        self._tails = asyncio.gather(
            _drain(process.stdout, self._out, keep), _drain(process.stderr, self._err, SAID_BYTES)
        )
        self.is_late = False

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[Running]:
        try:
            yield self
        except BaseException:
            await to_its_end(self.stop())
            raise

    async def ended(self, timeout_s: float) -> bool:
        """Waits for the end of the unit; False if it does not come in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._tails)
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Ends the unit with all its processes and waits until it is gone, unless systemd itself cannot end it."""
        if self._manager is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            is_gone = await self.ended(START_S)
        else:
            is_gone = await self._stop_unit(["systemctl", *self._manager, "stop", "--", self.name])
        if not is_gone:
            log.warning("%s could not be ended.", self.name)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # and no waiting: `Process.wait` waits for whoever holds its outputs, too

    async def _stop_unit(self, stop: list[str]) -> bool:
        """Asks systemd to stop the unit, again and again while its start may still be on its way there.

        The outputs tell: the unit holds them as long as it runs, and so does the question to start it.
        """
        loop, pause_s = asyncio.get_running_loop(), 0.1
        until = loop.time() + START_S
        while (left_s := until - loop.time()) > 0:
            stopped = await run(stop, timeout_s=left_s)
            if stopped.status == _NOT_LOADED:  # systemd-run must not get to ask for it any more
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
            if await self.ended(pause_s):
                return True
            pause_s = min(2 * pause_s, 2.0)
        return False

    @property
    def output(self) -> str:
        return self._out.decode("utf-8", "replace")

    @property
    def _manager_text(self) -> str:
        return self._err.decode("utf-8", "replace") if self._manager is not None else ""

    @property
    def result(self) -> str:
        """systemd's word for the unit's end: `success exit-code signal timeout oom-kill …`; empty: it never ran."""
        found = _RESULT.findall(self._manager_text)
        return found[-1] if found else ""

    @property
    def status(self) -> int:
        """The exit status, as a shell gives it."""
        found = _STATUS.findall(self._manager_text)
        if found and found[-1][0] in ("killed", "dumped"):
            return 128 + int(getattr(signal, f"SIG{found[-1][2]}", signal.SIGKILL))
        return status_of(self._process.returncode)

    @property
    def is_setup_failure(self) -> bool:
        if self._manager is None:
            return False
        return not self.result or (self.result == "exit-code" and self._process.returncode in _SETUP)

    @property
    def how(self) -> str:
        """How the unit ended, in a few words."""
        code = self._process.returncode or 0
        if self.is_setup_failure and self.result:
            return _SETUP_WORDS.get(code, f"systemd ended it with status {code}")
        lines = [line for line in self._manager_text.splitlines() if line.startswith(("Failed", "Unknown", "Unit "))]
        if lines:
            return clean("; ".join(lines))[-500:]
        return self.result if self.result not in ("", "success", "exit-code") else f"status {self.status}"


async def _drain(stream: asyncio.StreamReader, kept: bytearray, keep: int) -> None:
    while piece := await stream.read(64 * 1024):
        kept += piece
        del kept[: max(len(kept) - keep, 0)]


def clean(text: str) -> str:
    return _CONTROL.sub(" ", text)
