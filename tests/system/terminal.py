"""A person's terminal on a machine: a line is typed, and what the screen then shows is read as text."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from dataclasses import dataclass

import pyte
from tests.system.container import Container

ROWS = 200  # nothing scrolls away
CTRL_C = b"\x03"


@dataclass(frozen=True)
class Seen:
    """What a command left on the screen, what was there in the middle (if that was waited for), and how it ended."""

    text: str
    middle: str
    status: int


class Terminal:
    """`columns` wide, xterm-256color, root's."""

    def __init__(self, machine: Container, *, columns: int = 100) -> None:
        self._machine = machine
        self._columns = columns

    def run(self, line: str, *, until: str = "", press: bytes = b"", timeout_s: float = 120.0) -> Seen:
        """Runs a line of shell. Once it shows the pattern `until` that is kept as `middle`, and `press` is typed."""
        screen = pyte.Screen(self._columns, ROWS)
        stream = pyte.ByteStream(screen)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, self._columns, 0, 0))
        environment = {"TERM": "xterm-256color", "TZ": "UTC", "SYSTEMD_PAGER": "cat"}
        # The terminal is that of the command alone: a key that interrupts must not reach what brought us in there.
        argv = self._machine.argv(["setsid", "--ctty", "--wait", "sh", "-c", f"trap : INT; {line}"], env=environment)
        process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        middle, deadline = "", time.monotonic() + timeout_s
        try:
            while piece := _read(ours, deadline):
                stream.feed(piece)
                if until and not middle and re.search(until, _text(screen)):
                    middle = _text(screen)
                    os.write(ours, press)
            status = process.wait(max(deadline - time.monotonic(), 1))
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        assert not until or middle, f"`{line}` never showed {until!r}:\n{_text(screen)}"
        return Seen(_text(screen), middle, status)


def _read(fd: int, deadline: float) -> bytes:
    """What comes next; nothing at the end."""
    ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
    assert ready, "the command did not end in time"
    try:
        return os.read(fd, 65536)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that the other end is closed
            return b""
        raise


def _text(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip()
