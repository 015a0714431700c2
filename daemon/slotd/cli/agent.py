"""polkit's password agent for a terminal, as systemctl starts it: so that `slotctl update` can ask who you are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from slotd.cli.tables import is_terminal

READY_S = 5.0  # the agent registers in milliseconds; without it polkit just refuses


class PasswordAgent:
    """Started for people at a terminal who are not root; does nothing else for everyone else."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts the agent and waits until it is registered, or has given up."""
        if os.geteuid() == 0 or not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
            return
        ready, tell = os.pipe()
        argv = ["pkttyagent", "--process", str(os.getpid()), "--notify-fd", str(tell), "--fallback"]
        try:
            self._process = subprocess.Popen(argv, pass_fds=(tell,), stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - fork only
        except OSError:  # no polkit here: then root only, and the daemon says so
            os.close(ready)
            return
        finally:
            os.close(tell)
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        loop.add_reader(ready, closed.set)
        try:
            await asyncio.wait_for(closed.wait(), READY_S)
        except TimeoutError:
            return
        finally:
            loop.remove_reader(ready)
            os.close(ready)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
