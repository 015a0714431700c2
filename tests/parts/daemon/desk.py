"""Whoever asks the daemon over the bus: calls, and waiting for what its signals say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from slotd.host.bus import Bus, Variant

NAME, ROOT = "org.slotd1", "/org/slotd1"
MANAGER, APP, JOB = "org.slotd1.Manager", "org.slotd1.App", "org.slotd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
SYSTEMD, SYSTEMD_PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
DEADLINE_S = 120.0


class Desk:
    """A connection that remembers what it heard."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._heard = asyncio.Event()
        self.new: list[str] = []  # paths of jobs, as they began
        self.removed: dict[str, dict[str, Any]] = {}  # path -> app, result, details
        self.changes: list[tuple[str, dict[str, Any]]] = []  # (path, properties), in order

    @classmethod
    async def open(cls, address: str) -> Desk:
        desk = cls(await Bus.connect(address))
        await desk._bus.on_signal(desk._hear, sender=NAME, path_namespace=ROOT)
        await desk._bus.call(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "Subscribe")
        return desk

    async def close(self) -> None:
        await self._bus.close()

    def _hear(self, path: str, member: str, body: Sequence[Any]) -> None:
        match member:
            case "JobNew":
                self.new.append(body[1])
            case "JobRemoved":
                self.removed[body[1]] = {"app": body[2], "result": body[3], **body[4]}
            case "PropertiesChanged":
                self.changes.append((path, body[1]))
        self._heard.set()

    async def until(self, condition: Callable[[], object], what: str = "it", *, timeout_s: float = DEADLINE_S) -> None:
        """Wait for signals until the condition holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come about in {timeout_s:.0f} s: {self.changes[-10:]}") from None

    async def until_unit(self, unit: str, state: str, *, timeout_s: float = DEADLINE_S) -> None:
        """Wait until a unit of the user's is in a state (`active`, `inactive`, …), by what systemd tells."""
        path = (await self._bus.call(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "LoadUnit", "s", [unit]))[0]
        told = asyncio.Event()
        await self._bus.on_signal(lambda *_: told.set(), sender=SYSTEMD, path=path, member="PropertiesChanged")
        question = (SYSTEMD, path, PROPERTIES, "Get", "ss", [f"{SYSTEMD}.Unit", "ActiveState"])
        try:
            async with asyncio.timeout(timeout_s):
                while (await self._bus.call(*question))[0] != state:
                    await told.wait()
                    told.clear()
        except TimeoutError:
            raise AssertionError(f"{unit} did not become {state} in {timeout_s:.0f} s") from None

    async def call(
        self, member: str, signature: str = "", *body: Any, path: str = ROOT, interface: str = MANAGER, **options: Any
    ) -> Any:
        """A method; `options` go last where the signature ends in a{sv}."""
        values = list(body)
        if signature.endswith("a{sv}"):
            kinds = {str: "s", bool: "b"}
            values.append({key: Variant(kinds[type(value)], value) for key, value in options.items()})
        answer = await self._bus.call(NAME, path, interface, member, signature, values)
        return answer[0] if answer else None

    async def ask(self, *question: Any, **more: Any) -> list[Any]:
        """Any call, as `Bus.call` takes it."""
        return await self._bus.call(*question, **more)

    async def begin(self, *question: Any, **more: Any) -> None:
        """The same for who does not wait for the answer: it has been sent."""
        asking = asyncio.ensure_future(self.ask(*question, **more))
        asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        await asyncio.sleep(0)

    async def start(self, verb: str, app: str, *words: str, **options: Any) -> str:
        """Begin a job; gives its path."""
        job: str = await self.call(verb, f"s{'s' * len(words)}a{{sv}}", app, *words, **options)
        return job

    async def end_of(self, job: str, *, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """What JobRemoved said of a job."""
        await self.until(lambda: job in self.removed, f"the end of {job}", timeout_s=timeout_s)
        return self.removed[job]

    async def do(self, verb: str, app: str, *words: str, **options: Any) -> dict[str, Any]:
        """A whole job."""
        return await self.end_of(await self.start(verb, app, *words, **options))

    async def step_of(self, job: str, step: str) -> None:
        """Until a job was in a step."""
        await self.until(lambda: step in self.values(job, "Step"), f"step {step} of {job}")

    def values(self, path: str, name: str) -> list[Any]:
        """The values that a property was said to have, in order."""
        return [changed[name] for where, changed in self.changes if where == path and name in changed]

    async def app(self, name: str) -> dict[str, Any]:
        path = await self.call("GetApp", "s", name)
        found: dict[str, Any] = await self.call("GetAll", "s", APP, path=path, interface=PROPERTIES)
        return found

    async def job(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GetAll", "s", JOB, path=path, interface=PROPERTIES)
        return found
