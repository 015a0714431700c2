"""Probes against real sockets and a real HTTP server that can misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from slotd.core.health import UnitStatus
from slotd.core.schema import Health
from slotd.errors import Failed
from slotd.probes import PROBES, Outcome, Target
from slotd.probes.exec import ExecProbe
from slotd.probes.http import HttpProbe
from slotd.probes.tcp import TcpProbe
from slotd.probes.unit import UnitProbe

if TYPE_CHECKING:
    from slotd.host.run import Workers
    from slotd.host.systemd import Systemd

VERSION = "4.9.2"


class Units:
    """A service manager of a few units, as far as probes ask it."""

    def __init__(self, *units: UnitStatus) -> None:
        self._units = {unit.name: unit for unit in units}

    async def show(self, unit: str) -> UnitStatus:
        if unit not in self._units:
            raise Failed(f"cannot look at {unit}: the bus is gone")
        return self._units[unit]


@dataclass
class Ran:
    status: int
    output: str
    timed_out: bool
    command_line: str


class Commands:
    """Runs commands as the workers do, less their sandbox; remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    async def command(self, argv: Sequence[str], *, timeout_s: float, **asked: object) -> Ran:
        self.asked = asked
        if not argv[0].startswith("/"):
            raise Failed(f"cannot run {argv[0]}: it is not a full path")
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            return Ran(-9, "", True, "")
        return Ran(process.returncode or 0, output.decode(), False, "")


def target(*units: UnitStatus, version: str = VERSION, commands: Commands | None = None) -> Target:
    return Target(
        app="astrbot",
        version=version,
        units=tuple(unit.name for unit in units),
        user="nobody",
        slot="/",
        systemd=cast("Systemd", Units(*units)),
        workers=cast("Workers", commands or Commands()),
    )


@dataclass
class Server:
    """Answers every request with the same bytes; remembers what was asked."""

    port: int = 0
    answer: bytes = b""
    hold: bool = False  # answer nothing
    pour: bool = False  # never stop answering
    asked: list[bytes] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, status: int, body: object = b"", *headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(data)}", "Connection: close", *headers]
        self.answer = "\r\n".join([*head, "", ""]).encode() + data

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            self.came.set()
            if self.hold:
                await reader.read()
            elif self.pour:
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"x" * 65536)
                    await writer.drain()
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the probe hung up
        finally:
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def app() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def get(server: Server, *, version: str = VERSION, path: str = "/", **keys: object) -> Outcome:
    health = Health(type="http", url=f"http://127.0.0.1:{server.port}{path}", **{"timeout_s": 2.0, **keys})  # type: ignore[arg-type]
    outcome = await HttpProbe().check(health, target(version=version))
    # said without the port, which is another one each time
    return Outcome(outcome.healthy, outcome.detail.replace(f":{server.port}", ""))


# --- http


async def test_an_app_that_answers_as_wanted_is_healthy(app: Server) -> None:
    app.say(200)
    assert await get(app) == Outcome(True, "GET http://127.0.0.1/ gave 200")
    assert app.asked[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_another_status_is_unhealthy_and_said(app: Server) -> None:
    app.say(503)
    assert await get(app) == Outcome(False, "GET http://127.0.0.1/ gave 503, wanted 200")
    assert (await get(app, status=503)).healthy


async def test_a_redirect_is_not_followed(app: Server) -> None:
    app.say(302, b"", f"Location: http://127.0.0.1:{app.port}/login")
    assert not (await get(app)).healthy
    assert (await get(app, status=302)).healthy
    assert len(app.asked) == 2


async def test_the_body_must_hold_the_words(app: Server) -> None:
    app.say(200, b"<title>AstrBot 4.9.2</title>")
    assert (await get(app, body="AstrBot {version}")).healthy
    outcome = await get(app, body="AstrBot {version}", version="4.9.3")
    assert outcome == Outcome(False, "GET http://127.0.0.1/ gave a body without 'AstrBot 4.9.3'")


VERSIONS = {"data": {"astrbot_version": "v4.9.2", "up": True, "n": 3, "none": None, "list": [{"a.b": "x"}], "f": 1.10}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.astrbot_version", "{version}"),
        ("data.astrbot_version", "v{version}"),
        ("data.astrbot_version", "v4.9.2"),
        ("data.up", "true"),
        ("data.n", "3"),
        ("data.f", "1.1"),
        ("data.none", "null"),
        ("data.list.0.a.b", "x"),
    ],
)
async def test_values_in_the_json_must_be_as_said(app: Server, path: str, value: str) -> None:
    app.say(200, VERSIONS)
    assert (await get(app, json={path: value})).healthy


async def test_the_old_version_still_answering_is_unhealthy(app: Server) -> None:
    app.say(200, VERSIONS)
    outcome = await get(app, json={"data.astrbot_version": "{version}"}, version="4.9.3")
    assert outcome == Outcome(False, "GET http://127.0.0.1/ gave data.astrbot_version = 'v4.9.2', wanted '4.9.3'")


@pytest.mark.parametrize("path", ["nothing", "data.nothing", "data.list.1", "data.list.x", "data.n.x", "data.list.0.a"])
async def test_json_without_the_value_is_unhealthy(app: Server, path: str) -> None:
    app.say(200, VERSIONS)
    assert await get(app, json={path: "x"}) == Outcome(False, f"GET http://127.0.0.1/ gave JSON without {path}")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b'{"a": ' + b"9" * 100_000 + b"}"])
async def test_hostile_json_is_unhealthy_and_no_error(app: Server, body: bytes) -> None:
    app.say(200, body)
    outcome = await get(app, json={"data.version": "1"})
    assert not outcome.healthy
    assert len(outcome.detail) < 400


async def test_an_app_that_does_not_answer_is_unhealthy_in_time(app: Server) -> None:
    app.hold = True
    async with asyncio.timeout(3):
        outcome = await get(app, timeout_s=0.3)
    assert not outcome.healthy
    assert "no answer within 0.3 s" in outcome.detail
    # the one who asked goes on undisturbed
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_probe_that_is_cancelled_hangs_up(app: Server) -> None:
    app.hold = True
    asking = asyncio.create_task(get(app, timeout_s=60.0))
    async with asyncio.timeout(5):
        await app.came.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert [task for task in asyncio.all_tasks() if "HttpProbe" in repr(task)] == []


async def test_a_body_without_end_is_cut_off(app: Server) -> None:
    app.pour = True
    async with asyncio.timeout(10):
        outcome = await get(app, timeout_s=8.0)
    assert outcome == Outcome(False, "GET http://127.0.0.1/ gave more than 1048576 bytes")


async def test_no_one_listening_is_unhealthy_and_said() -> None:
    async with serving() as server:
        port = server.port
    outcome = await HttpProbe().check(Health(type="http", url=f"http://127.0.0.1:{port}/"), target())
    assert not outcome.healthy
    assert outcome.detail.startswith(f"GET http://127.0.0.1:{port}/ failed: ")


async def test_what_the_app_says_cannot_move_the_cursor(app: Server) -> None:
    app.say(200, {"version": "\x1b[2J\nsure"})
    outcome = await get(app, json={"version": "1"})
    assert not outcome.healthy
    assert outcome.detail.isprintable()


# --- tcp


async def test_an_open_port_is_healthy_and_a_closed_one_is_not(app: Server) -> None:
    probe = TcpProbe()
    assert await probe.check(Health(type="tcp", port=app.port), target()) == Outcome(
        True, f"127.0.0.1:{app.port} accepts connections"
    )
    async with serving() as server:
        closed = server.port
    outcome = await probe.check(Health(type="tcp", host="127.0.0.1", port=closed), target())
    assert outcome == Outcome(False, f"cannot connect to 127.0.0.1:{closed}: connection refused")


async def test_a_name_that_does_not_resolve_is_unhealthy() -> None:
    outcome = await TcpProbe().check(Health(type="tcp", host="nowhere.invalid", port=1, timeout_s=20), target())
    assert not outcome.healthy
    assert "nowhere.invalid:1" in outcome.detail


# --- unit


RUNNING = UnitStatus("astrbot.service", active_state="active", sub_state="running")
CRASHED = UnitStatus(
    "astrbot-web.service", active_state="failed", result="exit-code", exec_main_code=1, exec_main_status=3
)


async def test_an_active_unit_is_healthy() -> None:
    outcome = await UnitProbe().check(Health(type="unit"), target(RUNNING))
    assert outcome == Outcome(True, "astrbot.service is active (running)")


async def test_one_of_several_units_that_failed_is_unhealthy_and_said_why() -> None:
    outcome = await UnitProbe().check(Health(type="unit"), target(RUNNING, CRASHED))
    assert outcome == Outcome(False, "astrbot-web.service exited with status 3")


async def test_the_named_unit_alone_is_asked_for() -> None:
    assert (await UnitProbe().check(Health(type="unit", unit="astrbot.service"), target(RUNNING, CRASHED))).healthy


async def test_a_unit_between_two_crashes_is_unhealthy() -> None:
    waiting = UnitStatus("a.service", active_state="activating", sub_state="auto-restart", exec_main_code=1)
    outcome = await UnitProbe().check(Health(type="unit"), target(waiting))
    assert outcome == Outcome(False, "a.service exited with status 0 and waits to be restarted")


async def test_systemd_that_does_not_answer_is_no_healthy_app() -> None:
    assert not (await UnitProbe().check(Health(type="unit", unit="gone.service"), target())).healthy
    assert not (await UnitProbe().check(Health(type="unit"), target())).healthy


# --- exec


async def run(*command: str, timeout_s: float = 5.0) -> Outcome:
    return await ExecProbe().check(Health(type="exec", command=command, timeout_s=timeout_s), target())


async def test_a_command_that_ends_well_is_healthy() -> None:
    assert await run("/bin/true") == Outcome(True, "/bin/true exited with status 0")


async def test_a_command_that_fails_is_unhealthy_and_its_last_words_are_kept() -> None:
    outcome = await run("/bin/sh", "-c", "echo looking; printf 'no \\033[2Janswer\\n'; exit 3")
    assert outcome == Outcome(False, "/bin/sh exited with status 3: no  [2Janswer")


async def test_a_command_that_hangs_is_unhealthy_in_time() -> None:
    async with asyncio.timeout(3):
        assert await run("/bin/sleep", "60", timeout_s=0.2) == Outcome(False, "/bin/sleep did not end within 0.2 s")


async def test_a_command_gets_the_version_and_the_slot() -> None:
    assert (await run("/usr/bin/test", "{version} in {slot}", "=", "4.9.2 in /")).healthy


async def test_a_command_that_cannot_be_run_is_unhealthy_and_said() -> None:
    assert await run("nothing-like-this") == Outcome(False, "cannot run nothing-like-this: it is not a full path")


async def test_a_command_runs_as_the_apps_user_and_writes_nowhere() -> None:
    commands = Commands()
    await ExecProbe().check(Health(type="exec", command=("/bin/true",)), target(commands=commands))
    assert commands.asked["user"] == "nobody"
    assert commands.asked["writable"] == ()
    assert str(commands.asked["unit"]).startswith("slotd-worker-astrbot-probe-")


def test_every_probe_of_the_registry_is_there() -> None:
    from importlib import import_module

    for entry in PROBES.values():
        module, _, name = entry.partition(":")
        assert hasattr(getattr(import_module(module), name), "check")
