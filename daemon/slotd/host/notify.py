"""The door to the service manager's own watch over slotd: readiness, status text, watchdog."""

from __future__ import annotations

import asyncio
import os


class Notifier:
    """sd_notify(3). Status texts are made ASCII: the library drops others silently."""

    def __init__(self) -> None:
        import sdnotify

        self._notifier = sdnotify.SystemdNotifier()

    def send(self, *lines: str) -> None:
        self._notifier.notify("\n".join(lines).encode("ascii", "replace").decode("ascii"))

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def status(self, text: str) -> None:
        self.send(f"STATUS={text}")

    async def feed_watchdog(self) -> None:
        """Feed it from the event loop for ever: a loop that stalls starves it, and systemd restarts the daemon."""
        usec = os.environ.get("WATCHDOG_USEC", "")
        pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        if not usec.isdigit() or pid != str(os.getpid()):
            return
        pause = int(usec) / 1e6 / 3
        while True:
            self.send("WATCHDOG=1")
            await asyncio.sleep(pause)
