"""Runs slotctl as a program, in a pipe or on a terminal; and the scripts of jobs that it follows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SLOTCTL = [sys.executable, "-m", "slotd.cli.main"]
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def steps(self) -> list[str]:
        """The lines without their times."""
        return [line[9:] for line in self.out.splitlines()]


def environment(address: str, **extra: str) -> dict[str, str]:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "daemon"), "LANG": "C.UTF-8", "TZ": "UTC"}
    return base | {"DBUS_SYSTEM_BUS_ADDRESS": address} | extra


@contextlib.contextmanager
def private_bus(directory: Path, **extra: str) -> Iterator[str]:
    """A message bus of its own, with `extra` in its environment; gives its address."""
    argv = ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:path={directory}/bus"]
    bus = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **extra}
    )
    assert bus.stdout is not None
    yield bus.stdout.readline().strip()
    bus.kill()
    bus.wait()
    bus.stdout.close()


async def start(address: str, *args: str, **extra: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *SLOTCTL, *args, stdout=pipe, stderr=pipe, env=environment(address, **extra)
    )


async def finish(process: asyncio.subprocess.Process) -> Run:
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert b"Traceback" not in err
    return Run(process.returncode or 0, out.decode(), err.decode())


async def slotctl(address: str, *args: str, **extra: str) -> Run:
    return await finish(await start(address, *args, **extra))


async def on_terminal(
    address: str, *args: str, columns: int = 80, once: tuple[str, Callable[[int], object]] | None = None
) -> tuple[int, str]:
    """Runs slotctl on a pseudo terminal; once it shows the text `once[0]`, calls `once[1]` with our end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        "setsid",
        "-c",
        "-w",
        *SLOTCTL,
        *args,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(address, TERM="xterm-256color"),
    )
    os.close(theirs)
    loop = asyncio.get_running_loop()
    seen = b""
    while True:
        try:
            piece = await asyncio.wait_for(loop.run_in_executor(None, os.read, ours, 65536), DEADLINE_S)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other end is closed
                raise
            break
        if not piece:
            break
        seen += piece
        if once is not None and once[0] in seen.decode(errors="replace"):
            once[1](ours)
            once = None
    code = await asyncio.wait_for(process.wait(), DEADLINE_S)
    os.close(ours)
    return code, seen.decode(errors="replace")
