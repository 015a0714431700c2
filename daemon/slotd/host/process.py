"""Programs as plain processes: run a trusted tool, and wait for what must be waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import signal
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from slotd.errors import Failed

log = logging.getLogger(__name__)

LAST_WORDS_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended. `status` 128 + n for signal n; `output` is the tail; `command_line` can be pasted."""

    status: int
    output: str
    timed_out: bool
    command_line: str


async def run(
    argv: Sequence[str], *, input: bytes | None = None, timeout_s: float, env: Mapping[str, str] | None = None
) -> Completed:
    """Runs a trusted tool. `output` is its standard output, and what it said on stderr if it failed.

    Raises `Failed` if it is not there. A tool that takes longer than `timeout_s` is killed.
    """
    line = shlex.join(argv)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL if input is None else pipe, stdout=pipe, stderr=pipe, env=env
        )
    except OSError as error:
        raise Failed(f"cannot run `{line}`: {error.strerror}.", hint=f"Install {argv[0]}.") from error
    timed_out = False
    talk = asyncio.ensure_future(process.communicate(input))
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await asyncio.shield(talk)
    except TimeoutError:
        timed_out = True
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        out, err = await _last_words(process, talk)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await to_its_end(_last_words(process, talk))
        raise
    # Killed, and not dead: it waits for a disk that does not answer.
    status = 128 + signal.SIGKILL if process.returncode is None else status_of(process.returncode)
    text = (out + err if status else out).decode("utf-8", "replace")
    log.log(logging.INFO if status else logging.DEBUG, "command ended with %d: %s", status, line)
    return Completed(status, text, timed_out, line)


async def _last_words(
    process: asyncio.subprocess.Process, talk: asyncio.Future[tuple[bytes, bytes]]
) -> tuple[bytes, bytes]:
    """What a killed program said. Others may hold its outputs for as long as they like: they are not waited for."""
    try:
        await asyncio.wait({talk}, timeout=LAST_WORDS_S)
        return talk.result() if talk.done() else (b"", b"")
    finally:
        if not talk.done():
            talk.cancel()
            process._transport.close()  # type: ignore[attr-defined]  # there is no other way to close our ends


async def to_its_end(work: Awaitable[T]) -> T:
    """Waits for `work` whatever happens; a cancellation meanwhile is not forgotten, the caller is in one already."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    return task.result()


def status_of(returncode: int | None) -> int:
    code = returncode or 0
    return code if code >= 0 else 128 - code
