"""The daemon on the bus: objects come and go as the core tells, changes are sent once, in order, and not too often."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

from slotd.errors import SlotdError
from slotd.host.bus import Bus
from slotd.model import AppView, Job
from slotd.service.api import Core
from slotd.service.app import AppNode
from slotd.service.callers import Callers
from slotd.service.interface import ROOT, Node, Signal, app_path, job_path, typed, variant
from slotd.service.job import JobNode
from slotd.service.manager import JOB_NEW, JOB_REMOVED, ManagerNode
from slotd.service.objects import Objects, PeerLimits
from slotd.service.polkit import Authority

PROGRESS_S = 0.1  # a job's progress is told at most this often

_PROPERTIES = "org.freedesktop.DBus.Properties"
_OBJECTS = "org.freedesktop.DBus.ObjectManager"

_log = logging.getLogger("slotd.bus")
P = ParamSpec("P")


def _harmless(tell: Callable[P, None]) -> Callable[P, None]:
    """What cannot be told on the bus must not harm the job that it is about (promise 7)."""

    @functools.wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:
            _log.exception("a change could not be told on the bus")

    return told


class Publisher:
    """Listens to the core and tells the bus. Implements `Listener`; also what finds an object for a call."""

    def __init__(self, bus: Bus, core: Core, authority: Authority, now: Callable[[], float]) -> None:
        self._bus = bus
        self._core = core
        self._authority = authority
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._manager = ManagerNode(core, authority)
        self._nodes: dict[str, Node] = {}
        self._told: dict[str, Mapping[str, Any]] = {ROOT: self._manager.values()}
        self._progress_at: dict[str, float] = {}
        self._soon: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Take up what is there already, without telling: nobody knows our name yet."""
        self._core.subscribe(self)
        for app in self._core.apps():
            self._add(AppNode(self._core, self._authority, app.name, self._now), tell=False)
        for job in self._core.jobs(finished=False):
            self._add(JobNode(self._core, self._authority, job.id), tell=False)

    def stop(self) -> None:
        """No signal is sent after this."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._nodes.clear()

    def nodes(self) -> Iterable[Node]:
        """All objects below the root."""
        return self._nodes.values()

    def find(self, path: str) -> Node | None:
        """The object at a path. A job that is long over has one as long as the core knows it (`GetJob`)."""
        if path == ROOT:
            return self._manager
        node = self._nodes.get(path)
        if node is not None or not path.startswith(f"{ROOT}/job/"):
            return node
        number = path.removeprefix(f"{ROOT}/job/")
        if not (number.isascii() and number.isdigit() and len(number) < 19 and str(int(number)) == number):
            return None
        try:
            return JobNode(self._core, self._authority, self._core.job(int(number)).id)
        except SlotdError:
            return None

    @_harmless
    def app_added(self, app: AppView) -> None:
        """See `Listener`."""
        if app_path(app.name) in self._nodes:
            self.app_changed(app)
        else:
            self._add(AppNode(self._core, self._authority, app.name, self._now), tell=True)

    @_harmless
    def app_removed(self, name: str) -> None:
        """See `Listener`."""
        self._remove(app_path(name))

    @_harmless
    def app_changed(self, app: AppView) -> None:
        """See `Listener`."""
        self._changed(app_path(app.name))

    @_harmless
    def job_new(self, job: Job) -> None:
        """See `Listener`."""
        path = job_path(job.id)
        if path not in self._nodes:
            self._add(JobNode(self._core, self._authority, job.id), tell=True)
        self._signal(JOB_NEW, [job.id, path, job.app, job.kind.value])
        self._changed(ROOT)

    @_harmless
    def job_changed(self, job: Job) -> None:
        """See `Listener`."""
        self._changed(job_path(job.id))

    @_harmless
    def job_removed(self, job: Job, details: Mapping[str, Any]) -> None:
        """See `Listener`. The last values go out first: who reads the job on this signal finds nothing newer."""
        path = job_path(job.id)
        for changed in (path, app_path(job.app), ROOT):
            self._tell(changed, at_once=True)
        told = {str(key): variant(value) for key, value in details.items()}
        self._signal(JOB_REMOVED, [job.id, path, job.app, job.result.value, told])

    @_harmless
    def job_forgotten(self, job_id: int) -> None:
        """See `Listener`."""
        self._remove(job_path(job_id))

    @_harmless
    def problems_changed(self) -> None:
        """See `Listener`."""
        self._changed(ROOT)

    def _signal(self, signal: Signal, body: list[Any]) -> None:
        self._bus.emit(ROOT, self._manager.interface.name, signal.name, signal.signature, body)

    def _add(self, node: Node, *, tell: bool) -> None:
        values = node.values()
        self._nodes[node.path] = node
        self._told[node.path] = values
        if tell:
            interfaces = {node.interface.name: typed(values, node.interface.properties)}
            self._bus.emit(ROOT, _OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [node.path, interfaces])

    def _remove(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        self._told.pop(path, None)
        self._progress_at.pop(path, None)
        timer = self._timers.pop(path, None)
        if timer is not None:
            timer.cancel()
        if node is not None:
            self._bus.emit(ROOT, _OBJECTS, "InterfacesRemoved", "oas", [path, [node.interface.name]])

    def _changed(self, path: str) -> None:
        """Look at the object once more when this turn of the loop is over: many changes at a time are told as one."""
        if path not in self._soon:
            self._soon.add(path)
            self._loop.call_soon(self._look, path)

    def _look(self, path: str) -> None:
        self._soon.discard(path)
        self._tell(path)

    @_harmless
    def _tell(self, path: str, *, at_once: bool = False) -> None:
        """Send what differs from what was told last."""
        node = self._manager if path == ROOT else self._nodes.get(path)
        timer = self._timers.pop(path, None)
        if timer is not None:
            timer.cancel()
        if node is None:
            return
        try:
            values = node.values()
        except SlotdError:
            return  # gone meanwhile; its removal is told by itself
        told = self._told[path]
        changed = [prop for prop in node.interface.properties if values[prop.name] != told[prop.name]]
        if not changed:
            return
        if any(prop.name == "Progress" for prop in changed):
            wait_s = self._progress_at.get(path, 0.0) + PROGRESS_S - self._loop.time()
            if len(changed) == 1 and wait_s > 0 and not at_once:
                self._timers[path] = self._loop.call_later(wait_s, self._tell, path)
                return
            self._progress_at[path] = self._loop.time()
        self._told[path] = values
        body = [node.interface.name, typed(values, changed), []]
        self._bus.emit(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)


class Service:
    """What `serve` gives: how busy the bus keeps the daemon, and its end."""

    def __init__(self, bus: Bus, objects: Objects, publisher: Publisher) -> None:
        self._bus = bus
        self._objects = objects
        self._publisher = publisher

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return self._objects.in_flight

    @property
    def last_call(self) -> float:
        """When the last call came in, by the event loop's clock (`loop.time()`)."""
        return self._objects.last_call

    async def finish(self, *, timeout_s: float = 5.0) -> None:
        """Answer what is being worked on, then send nothing more. After `release_name`, before `Bus.close`."""
        await self._objects.drain(timeout_s)
        self._publisher.stop()


def serve(
    bus: Bus,
    core: Core,
    *,
    user_mode: bool,
    now: Callable[[], float] = time.time,
    limits: PeerLimits | None = None,
) -> Service:
    """Put the core on the bus. The name is to be requested after this, so that who finds it finds everything."""
    callers = Callers(bus)
    publisher = Publisher(bus, core, Authority(bus, callers, user_mode=user_mode), now)
    publisher.start()
    objects = Objects(bus, callers, publisher.find, publisher.nodes, limits or PeerLimits())
    bus.serve(objects.on_call)
    return Service(bus, objects, publisher)
