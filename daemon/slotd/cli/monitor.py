"""`monitor`: prints what happens, as it happens, until it is interrupted. With `--json` one document per line."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

from slotd.cli.client import APP, JOB, Client, Signal, Unreachable
from slotd.cli.out import Out
from slotd.cli.tables import clock, escape, iso, warn


def app_of(path: str) -> str:
    """The app of an object path: systemd's escaping, `_2d` for `-`."""
    import re

    name = path.rsplit("/", 1)[-1]
    plain = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode())
    return "" if name == "_" else plain.decode("utf-8", "replace")


class Monitor:
    """Turns signals into sentences. Remembers which job belongs to which app."""

    def __init__(self, out: Out, only: str | None) -> None:
        self._out = out
        self._only = only
        self._jobs: dict[str, tuple[int, str, str]] = {}

    def know(self, path: str, number: int, app: str, kind: str) -> None:
        self._jobs[path] = (number, app, kind)

    def take(self, signal: Signal) -> None:
        body = signal.body
        if signal.member == "JobNew" and len(body) == 4:
            number, path, app, kind = body
            self.know(path, number, app, kind)
            self._tell(app, f"{kind} started as job {number}", "job-new", job=number, kind=kind)
        elif signal.member == "JobRemoved" and len(body) == 5:
            number, path, app, result, _details = body
            kind = self._jobs.pop(path, (0, "", "job"))[2]
            self._tell(
                app, f"{kind} ended, job {number}: {result}", "job-removed", job=number, kind=kind, result=result
            )
        elif signal.member == "PropertiesChanged":
            self._changed(signal.path, body[0], body[1])

    def _changed(self, path: str, interface: str, values: dict[str, Any]) -> None:
        if interface == JOB and path in self._jobs and values.get("Step"):
            number, app, _kind = self._jobs[path]
            self._tell(app, f"step {values['Step']}, job {number}", "step", job=number, step=values["Step"])
        elif interface == APP:
            app = app_of(path)
            if values.get("State"):
                self._tell(app, f"is now {values['State']}", "state", state=values["State"])
            if values.get("AvailableVersion"):
                version = values["AvailableVersion"]
                self._tell(app, f"{version} is available", "available", version=version)
            if values.get("LastError"):
                self._tell(app, str(values["LastError"]), "error", message=values["LastError"])

    def owner(self, present: bool) -> None:
        if self._only is None:
            self._tell("", "slotd is up" if present else "slotd has left the bus", "daemon", running=present)

    def _tell(self, app: str, sentence: str, event: str, **fields: Any) -> None:
        if self._only not in (None, app):
            return
        now = self._out.now()
        if self._out.json:
            self._out.json_line({"time": iso(now), "app": app, "event": event} | fields)
        else:
            self._out.line(f"{clock(now)} {escape(app) + ': ' if app else ''}{escape(sentence)}")


async def monitor(client: Client, args: Namespace, out: Out) -> int:
    watch = Monitor(out, args.app)
    if args.app:
        from slotd.cli.apps import load_app

        await load_app(client, args.app)
    # Printing may fail (a closed pipe), which is ours to handle and not the bus library's: hence the queue.
    news: asyncio.Queue[Signal | bool] = asyncio.Queue()
    await client.subscribe(news.put_nowait, news.put_nowait)
    if await client.is_running():  # asking a slotd that sleeps would wake it up
        for number, app, kind, _state, path in await client.call("ListJobs", "a{sv}", [{}]):
            watch.know(path, number, app, kind)
    if not out.json:
        warn("Watching; Ctrl-C ends it.")
    while True:
        getting: asyncio.Future[Any] = asyncio.ensure_future(news.get())
        try:
            await asyncio.wait({getting, client.lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            getting.cancel()
        if not getting.done():
            raise Unreachable("cannot watch any longer: the message bus closed the connection.")
        item = getting.result()
        if isinstance(item, Signal):
            watch.take(item)
        else:
            watch.owner(item)
