"""A private message bus, a daemon's core in memory, a polkit of our own, and whoever asks."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.parts.bus_peer import NAME, ROOT, RawPeer

from slotd.data import Entry
from slotd.errors import Busy, Failed, NoSuchApp, NoSuchJob, SlotdError, TooLate
from slotd.host.bus import Bus, Call
from slotd.model import AppState, AppView, Backup, Event, Job, JobKind, JobState, Mode, Result, Trial
from slotd.service.api import Inspection, Listener
from slotd.service.objects import PeerLimits
from slotd.service.publish import Service, serve

REPOSITORY = Path(__file__).parents[2]
MANAGER, APP, JOB = "org.slotd1.Manager", "org.slotd1.App", "org.slotd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
NOBODY = 65534

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow own="org.example.peer"/>
    <allow send_destination="org.example.peer"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Debug.Stats"/>
  </policy>
  {policy}
</busconfig>
"""
# As on a session bus, and for peers that go past what the policy of the system bus lets through.
_OPEN = """<policy context="default"><allow own="*"/><allow send_destination="*"/></policy>"""


@dataclasses.dataclass
class PrivateBus:
    """A `dbus-daemon` of our own; any user of this machine may connect."""

    directory: Path
    process: subprocess.Popen[bytes]
    connections: list[Bus] = dataclasses.field(default_factory=list)
    peers: list[RawPeer] = dataclasses.field(default_factory=list)

    async def connect(self) -> Bus:
        """A connection that is closed with the bus, at the latest."""
        self.connections.append(await Bus.connect(self.address))
        return self.connections[-1]

    @property
    def socket(self) -> Path:
        return self.directory / "bus"

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"


@asynccontextmanager
async def private_bus(*, is_open: bool = False) -> AsyncIterator[PrivateBus]:
    """With the policy of the package, or open: everybody may send everything."""
    directory = Path(tempfile.mkdtemp(prefix="slotd-bus-"))
    directory.chmod(0o755)
    shipped = f"<include>{REPOSITORY / 'packaging' / 'org.slotd1.conf'}</include>"
    config = directory / "bus.conf"
    config.write_text(_CONFIG.format(socket=directory / "bus", policy=_OPEN if is_open else shipped))
    process = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)  # printed once it listens
        bus = PrivateBus(directory, process)
        yield bus
    finally:
        process.send_signal(signal.SIGCONT)
        for connection in bus.connections:
            await connection.close()
        for peer in bus.peers:
            peer.close()
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory)


async def eventually(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Return once it holds; fail if it does not in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while True:
        if condition():
            return
        assert loop.time() < until, "it never came to that"
        await asyncio.sleep(0.005)


class MemoryCore:
    """A daemon's core that does at once what it is told, and keeps it in memory."""

    version = "1.2.3"

    def __init__(self, *names: str) -> None:
        self.views = {name: AppView(name, state=AppState.IDLE, version="1.0", available="1.1") for name in names}
        self.all_jobs: dict[int, Job] = {}
        self.events: list[Event] = []
        self.done: list[tuple[Any, ...]] = []
        self.listeners: list[Listener] = []
        self.fault: Exception | None = None
        self.gate: asyncio.Event | None = None  # holds back what changes things, until it is set

    def subscribe(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def apps(self) -> Sequence[AppView]:
        return list(self.views.values())

    def app(self, name: str) -> AppView:
        if name not in self.views:
            raise NoSuchApp(f"cannot find the app {name}.", hint="`slotctl list` shows all.")
        return self.views[name]

    def jobs(self, *, finished: bool = False) -> Sequence[Job]:
        return [job for job in self.all_jobs.values() if finished or not job.is_finished]

    def job(self, job_id: int) -> Job:
        if job_id not in self.all_jobs:
            raise NoSuchJob(f"cannot find job {job_id}.")
        return self.all_jobs[job_id]

    def running(self) -> int:
        return len(self.jobs())

    def problems(self) -> Sequence[str]:
        return ["slotd.toml: limits.x is not a known key."]

    def history(self, app: str, limit: int) -> Sequence[Event]:
        self.app(app)
        return self.events[:limit]

    async def _do(self, *what: Any) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.done.append(what)

    async def _start(self, kind: JobKind, app: str, *what: Any) -> int:
        await self._do(kind.value, app, *what)
        if any(job.app == app and job.kind is not JobKind.CHECK for job in self.jobs()):
            raise Busy(f"cannot {kind.value} {app}: job 1 runs.", hint="Wait for it, or `slotctl cancel 1`.")
        job = Job(len(self.all_jobs) + 1, app, kind, JobState.RUNNING, step="resolve", version="1.1", started_at=1000.5)
        self.all_jobs[job.id] = job
        for listener in self.listeners:
            listener.job_new(job)
        if app:
            self.change_app(app, state=AppState.UPDATING)
        return job.id

    def change_app(self, app: str, **changes: Any) -> None:
        self.views[app] = dataclasses.replace(self.views[app], **changes)
        for listener in self.listeners:
            listener.app_changed(self.views[app])

    def change_job(self, job_id: int, **changes: Any) -> None:
        self.all_jobs[job_id] = dataclasses.replace(self.all_jobs[job_id], **changes)
        for listener in self.listeners:
            listener.job_changed(self.all_jobs[job_id])

    def end_job(self, job_id: int, result: Result, **details: Any) -> None:
        job = dataclasses.replace(
            self.all_jobs[job_id], state=JobState.DONE, result=result, progress=100, finished_at=2000.0
        )
        self.all_jobs[job_id] = job
        for listener in self.listeners:
            listener.job_removed(job, details)

    async def start_check(self, app: str) -> int:
        return await self._start(JobKind.CHECK, app)

    async def start_update(
        self, app: str, *, version: str = "", force: bool = False, now: bool = False, only: str = ""
    ) -> int:
        return await self._start(JobKind.UPDATE, app, version, force, now, *([only] if only else []))

    async def start_rollback(self, app: str, *, data: str = "", to: str = "") -> int:
        return await self._start(JobKind.ROLLBACK, app, data, to)

    async def start_backup(self, app: str) -> int:
        return await self._start(JobKind.BACKUP, app)

    async def start_restore(self, app: str, backup: str, *, paths: Sequence[str] = ()) -> int:
        return await self._start(JobKind.RESTORE, app, backup, *paths)

    async def start_adopt(self, app: str, *, source: str, version: str) -> int:
        return await self._start(JobKind.ADOPT, app, source, version)

    async def start_release(self, app: str, *, present: bool = False) -> int:
        return await self._start(JobKind.RELEASE, app, present)

    async def start_import(self, descriptor: int, uid: int, *, force: bool = False) -> int:
        content = os.pread(descriptor, 100, 0)
        os.close(descriptor)
        return await self._start(JobKind.IMPORT, "", content, uid, force)

    async def start_verify(self, app: str, backup: str) -> int:
        return await self._start(JobKind.VERIFY, app, backup)

    async def inspect_backup(self, app: str, backup: str, *, diff: bool = False, offset: int = 0) -> Inspection:
        await self._do("inspect", app, backup, diff, offset)
        held = next(each for each in self.app(app).backups if each.id == backup)
        entry = Entry("/var/lib/notes/caf\udce9", "file", 0o640, 7, 1000.0, "sha256:00")
        said = ({"when": "before", "command": "pg_dump", "status": 0, "output": "done"},)
        return Inspection(held, said, (("changed" if diff else "", entry),), 1, 7, 0)

    async def check_all(self) -> Sequence[int]:
        return [await self.start_check(app) for app in self.views]

    async def apply_all(self) -> Sequence[int]:
        return [await self.start_update(app) for app in self.views]

    async def approve(self, app: str, version: str) -> None:
        await self._do("approve", app, version)

    async def hold(self, app: str, reason: str) -> None:
        await self._do("hold", app, reason)
        self.change_app(app, held=True, hold_reason=reason, state=AppState.HELD)

    async def unhold(self, app: str) -> None:
        await self._do("unhold", app)

    async def set_mode(self, app: str, mode: Mode | None) -> None:
        await self._do("mode", app, mode)

    async def mark_good(self, app: str) -> None:
        await self._do("good", app)

    async def mark_bad(self, app: str) -> None:
        await self._do("bad", app)

    async def report_failure(self, unit: str) -> None:
        await self._do("failure", unit)

    async def cancel(self, job_id: int) -> None:
        if self.job(job_id).step == "migrate":
            raise TooLate(f"cannot cancel job {job_id}: its app is stopped already.")
        await self._do("cancel", job_id)

    async def reload(self) -> None:
        await self._do("reload")


TRIAL = Trial("notes", 1, "1.1", "sha256:00", None, "1.0", None, "b1", 2, 1000.0, 300.0)  # type: ignore[arg-type]
BACKUP = Backup("b1", "notes", "backup", "1.0", "before 1.1", 1234.9, "/backups/b1", 42, True, 1)


class FakePolkit:
    """polkit on the private bus: `allowed` holds actions, `challenge` those that a password would allow.

    With `keeps` it does as for `auth_admin_keep`: once a password was given, everything is allowed, whatever is asked.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.allowed: set[str] = set()
        self.challenge: set[str] = set()
        self.asked: list[list[Any]] = []
        self.cancelled: list[str] = []
        self.calls: list[Call] = []
        self.answer: list[Any] | None = None
        self.signature = "(bba{ss})"
        self.is_silent = False
        self.is_dead = False  # so silent that even what is taken back gets no answer
        self.is_late = False  # the password is given just when a question is taken back
        self.keeps = False
        self.kept = ""
        self.prompts = 0

    async def start(self) -> None:
        self.bus.serve(self._on_call)
        await self.bus.request_name("org.freedesktop.PolicyKit1")

    def _on_call(self, call: Call) -> None:
        if call.member == "CancelCheckAuthorization":
            self.cancelled.append(call.body[0])
            for asked in self.calls:
                if asked.body[4] == call.body[0] and not self.is_dead:
                    self._end(asked)
            self.bus.reply(call)
            return
        self.asked.append(call.body)
        self.calls.append(call)
        if not self.is_silent:
            self.bus.reply(call, self.signature, self.answer or [self._judge(*call.body)])

    def _end(self, asked: Call) -> None:
        """A question that is taken back is an error, unless the password was there first."""
        if self.is_late:
            self.kept = "tmpauthz1"
            self.bus.reply(asked, self.signature, [[True, False, {"polkit.temporary_authorization_id": self.kept}]])
        else:
            self.bus.refuse(asked, "org.freedesktop.PolicyKit1.Error.Cancelled", "The question was taken back.")

    def _judge(self, _subject: Any, action: str, _details: Any, flags: int, _cancellation: str) -> list[Any]:
        if self.kept:
            return [True, False, {"polkit.temporary_authorization_id": self.kept}]
        if action not in self.challenge or flags == 0:
            return [action in self.allowed, action in self.challenge, {}]
        self.prompts += 1
        if self.keeps:
            self.kept = f"tmpauthz{self.prompts}"
        return [True, False, {"polkit.temporary_authorization_id": self.kept} if self.kept else {}]


@dataclasses.dataclass
class World:
    """A daemon on a bus: `client` is root, `service` is what `serve` gave."""

    bus: PrivateBus
    core: MemoryCore
    daemon: Bus
    service: Service
    client: Bus

    async def call(self, member: str, signature: str = "", *body: Any, **more: Any) -> list[Any]:
        path, interface = more.pop("path", ROOT), more.pop("interface", MANAGER)
        return await (more.pop("by", None) or self.client).call(NAME, path, interface, member, signature, body, **more)

    async def error(self, member: str, signature: str = "", *body: Any, **more: Any) -> tuple[str, str]:
        """The error's name and text that a call gets."""
        try:
            answer = await self.call(member, signature, *body, **more)
        except SlotdError as error:
            return str(getattr(error, "remote_name", "")), error.message
        raise Failed(f"{member} was answered: {answer}")

    async def get(self, path: str, interface: str) -> dict[str, Any]:
        [values] = await self.call("GetAll", "s", interface, path=path, interface=PROPERTIES)
        return dict(values)

    async def as_nobody(self, *command: str) -> tuple[int, str]:
        """Run busctl as an unprivileged user; its status and what it printed."""
        return await self.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *self.busctl(*command))

    def busctl(self, *command: str) -> list[str]:
        return ["busctl", f"--address={self.bus.address}", *command]

    async def run(self, *command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, output.decode()


async def peer_of(it: World) -> RawPeer:
    """Another peer on its bus."""
    peer = await asyncio.to_thread(RawPeer, it.bus.socket)
    it.bus.peers.append(peer)
    return peer


@asynccontextmanager
async def world(
    *apps: str, user_mode: bool = False, is_open: bool = False, limits: PeerLimits | None = None
) -> AsyncIterator[World]:
    """The daemon's bus side, whole, on a bus of its own."""
    async with private_bus(is_open=is_open) as bus:
        daemon, client = await bus.connect(), await bus.connect()
        core = MemoryCore(*(apps or ("notes", "wiki")))
        service = serve(daemon, core, user_mode=user_mode, limits=limits)
        await daemon.request_name(NAME)
        try:
            yield World(bus, core, daemon, service, client)
        finally:
            await service.finish(timeout_s=0)


@asynccontextmanager
async def policed(*apps: str) -> AsyncIterator[tuple[World, FakePolkit, Bus]]:
    """The daemon, a polkit, and a connection of an unprivileged user."""
    async with world(*apps) as it:
        polkit = FakePolkit(await it.bus.connect())
        await polkit.start()
        yield it, polkit, await connect_as_nobody(it)


async def connect_as_nobody(it: World, uid: int = NOBODY) -> Bus:
    """The bus takes whoever connects for the user that the process is at that moment."""
    os.setresuid(uid, uid, 0)
    try:
        return await it.bus.connect()
    finally:
        os.setresuid(0, 0, 0)
