"""A small slotd that speaks the real interface on a private bus, with jobs that a test scripts step by step."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from dbus_fast import DBusError, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.constants import PropertyAccess
from dbus_fast.service import ServiceInterface, dbus_property, method, signal

ERROR = "org.slotd1.Error."
APP_SIGNATURES = {
    "Name": "s",
    "Description": "s",
    "Engine": "s",
    "Units": "as",
    "State": "s",
    "Version": "s",
    "Slot": "s",
    "PreviousVersion": "s",
    "PreviousSlot": "s",
    "AvailableVersion": "s",
    "ApprovedVersion": "s",
    "Mode": "s",
    "Held": "b",
    "HoldReason": "s",
    "LastCheck": "t",
    "LastError": "s",
    "Trial": "a{sv}",
    "Backups": "aa{sv}",
}
JOB_SIGNATURES = {
    "Id": "t",
    "App": "s",
    "Kind": "s",
    "State": "s",
    "Step": "s",
    "Progress": "u",
    "Result": "s",
    "Error": "(ss)",
    "Version": "s",
    "PreviousVersion": "s",
    "Started": "t",
    "Finished": "t",
}
EMPTY = {"s": "", "as": [], "b": False, "t": 0, "u": 0, "a{sv}": {}, "aa{sv}": [], "(ss)": ["", ""]}


def variants(values: dict[str, Any]) -> dict[str, Variant]:
    signatures = {str: "s", bool: "b", int: "t"}
    return {key: Variant(signatures[type(value)], value) for key, value in values.items()}


def interface(name: str, signatures: dict[str, str]) -> type[ServiceInterface]:
    """An interface of read-only properties that live in a dictionary."""

    def init(self: Any, **values: Any) -> None:
        ServiceInterface.__init__(self, name)
        self.values = {key: EMPTY[signature] for key, signature in signatures.items()} | values

    def change(self: Any, **values: Any) -> None:
        self.values.update(values)
        self.emit_properties_changed(values)

    members: dict[str, Any] = {"__init__": init, "change": change}
    for key, signature in signatures.items():

        def get(self, _key=key):
            return self.values[_key]

        get.__name__ = key
        get.__annotations__ = {"return": signature}
        get.__defaults__ = (key,)
        members[key] = _property(key, signature)
    return type(name.rsplit(".", 1)[-1], (ServiceInterface,), members)


def _property(key: str, signature: str) -> Any:
    namespace: dict[str, Any] = {"dbus_property": dbus_property, "PropertyAccess": PropertyAccess}
    source = (
        f"@dbus_property(access=PropertyAccess.READ)\n"
        f"def {key}(self) -> {signature!r}:\n"
        f"    return self.values[{key!r}]\n"
    )
    exec(source, namespace)
    return namespace[key]


App = interface("org.slotd1.App", APP_SIGNATURES)


class Job(interface("org.slotd1.Job", JOB_SIGNATURES)):  # type: ignore[misc]
    cancelled = False
    too_late = False

    @method()
    def Cancel(self):
        if self.too_late:
            raise DBusError(ERROR + "TooLate", "cannot cancel job 1: the app is stopped already.\nWait for its end.")
        self.cancelled = True


class Manager(ServiceInterface):
    def __init__(self, slotd: Slotd) -> None:
        super().__init__("org.slotd1.Manager")
        self.slotd = slotd

    def _app(self, name: str) -> Any:
        if name not in self.slotd.apps:
            raise DBusError(ERROR + "NoSuchApp", f"cannot find the app {name}: no definition has that name.")
        return self.slotd.apps[name]

    def _refuse(self, member: str) -> None:
        self.slotd.calls.append(member)
        if member in self.slotd.refuse:
            name, message = self.slotd.refuse[member]
            raise DBusError(name, message)

    @method()
    def ListApps(self) -> "a(ssssso)":
        keys = ("Name", "Version", "State", "AvailableVersion", "Mode")
        return [[*(a.values[k] for k in keys), self.slotd.app_path(n)] for n, a in sorted(self.slotd.apps.items())]

    @method()
    def GetApp(self, name: "s") -> "o":
        self._app(name)
        return self.slotd.app_path(name)

    @method()
    def Check(self, name: "s", options: "a{sv}") -> "o":
        self._refuse("Check")
        self._app(name)
        return self.slotd.begin(name, "check")

    @method()
    def CheckAll(self, options: "a{sv}") -> "ao":
        return [self.slotd.begin(name, "check") for name in sorted(self.slotd.apps)]

    @method()
    def ApplyAll(self, options: "a{sv}") -> "ao":
        return []

    @method()
    def Update(self, name: "s", options: "a{sv}") -> "o":
        self._refuse("Update")
        self._app(name)
        self.slotd.options = {key: value.value for key, value in options.items()}
        return self.slotd.begin(name, "update")

    @method()
    def Rollback(self, name: "s", options: "a{sv}") -> "o":
        self._refuse("Rollback")
        self._app(name)
        self.slotd.options = {key: value.value for key, value in options.items()}
        return self.slotd.begin(name, "rollback")

    @method()
    def Backup(self, name: "s", options: "a{sv}") -> "o":
        self._app(name)
        return self.slotd.begin(name, "backup")

    @method()
    def Restore(self, name: "s", backup: "s", options: "a{sv}") -> "o":
        self._refuse("Restore")
        return self.slotd.begin(name, "restore")

    @method()
    def Approve(self, name: "s", version: "s", options: "a{sv}"):
        self._refuse("Approve")
        self._app(name).change(ApprovedVersion=version)

    @method()
    def Hold(self, name: "s", reason: "s", options: "a{sv}"):
        self._app(name).change(Held=True, HoldReason=reason, State="held")

    @method()
    def Unhold(self, name: "s", options: "a{sv}"):
        self._app(name).change(Held=False, HoldReason="", State="idle")

    @method()
    def SetMode(self, name: "s", mode: "s", options: "a{sv}"):
        self._app(name).change(Mode=mode)

    @method()
    def ListJobs(self, options: "a{sv}") -> "a(tssso)":
        rows = []
        for number, job in sorted(self.slotd.jobs.items()):
            v = job.values
            if v["State"] in ("waiting", "running") or "all" in options:
                rows.append([number, v["App"], v["Kind"], v["State"], f"/org/slotd1/job/{number}"])
        return rows

    @method()
    def GetJob(self, number: "t") -> "o":
        if number not in self.slotd.jobs:
            raise DBusError(ERROR + "NoSuchJob", f"cannot find job {number}: there was none.")
        return f"/org/slotd1/job/{number}"

    @method()
    def History(self, name: "s", limit: "u", options: "a{sv}") -> "aa{sv}":
        return [variants(event) for event in self.slotd.history if name in ("", event["app"])][-limit:]

    @signal()
    def JobNew(self, number: "t", path: "o", app: "s", kind: "s") -> "toss":
        return [number, path, app, kind]

    @signal()
    def JobRemoved(self, number: "t", path: "o", app: "s", result: "s", details: "a{sv}") -> "tossa{sv}":
        return [number, path, app, result, details]


class Slotd:
    """`script[kind]` is a coroutine function that plays a job: it gets the Slotd and the job."""

    def __init__(self) -> None:
        self.apps: dict[str, Any] = {}
        self.jobs: dict[int, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.script: dict[str, Any] = {}
        self.refuse: dict[str, tuple[str, str]] = {}
        self.options: dict[str, Any] = {}
        self.calls: list[str] = []
        self.manager = Manager(self)
        self.began = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bus: MessageBus | None = None

    async def connect(self, address: str) -> None:
        self._bus = await MessageBus(bus_address=address).connect()
        self._bus.export("/org/slotd1", self.manager)
        for name, app in self.apps.items():
            self._bus.export(self.app_path(name), app)
        for number, job in self.jobs.items():
            self._bus.export(f"/org/slotd1/job/{number}", job)
        await self._bus.request_name("org.slotd1")

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        assert self._bus is not None
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()

    def app_path(self, name: str) -> str:
        return "/org/slotd1/app/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)

    def add(self, name: str, **values: Any) -> Any:
        app = App(Name=name, Mode="approve", Engine="directory", **values)
        self.apps[name] = app
        if self._bus is not None:
            self._bus.export(self.app_path(name), app)
        return app

    def begin(self, app: str, kind: str) -> str:
        number = len(self.jobs) + 1
        job = Job(Id=number, App=app, Kind=kind, State="running", Started=int(time.time()))
        self.jobs[number] = job
        assert self._bus is not None
        path = f"/org/slotd1/job/{number}"
        self._bus.export(path, job)
        self.manager.JobNew(number, path, app, kind)
        self.play(job)
        return path

    def play(self, job: Any) -> None:
        task = asyncio.ensure_future(self.script[job.values["Kind"]](self, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.began.set()

    def end(self, job: Any, result: str, state: str = "done", **values: Any) -> None:
        job.change(State=state, Result=result, Finished=int(time.time()) + 2, Progress=100, **values)
        number = job.values["Id"]
        self.manager.JobRemoved(number, f"/org/slotd1/job/{number}", job.values["App"], result, {})
