"""slotctl and its surroundings: signals, buses, pipes, terminals."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from tests.parts.cli.run import DEADLINE_S, environment, finish, on_terminal, slotctl, start
from tests.parts.cli.service import Slotd, through

from slotd.model import AppState


async def test_monitor_prints_what_happens_until_it_is_interrupted(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", "switch")
    process = await start(address, "monitor", "notes")
    assert process.stderr is not None
    assert b"Ctrl-C" in await asyncio.wait_for(process.stderr.readline(), DEADLINE_S)
    await slotctl(address, "update", "notes")
    process.send_signal(signal.SIGINT)
    run = await finish(process)
    assert run.code == 130
    assert run.steps[0] == "notes: update started as job 1"
    assert {"notes: step fetch, job 1", "notes: is now idle", "notes: update ended, job 1: updated"} <= set(run.steps)


async def test_monitor_with_json_prints_a_document_per_line(slotd: Slotd, address: str) -> None:
    process = await start(address, "monitor", "--json")
    assert process.stdout is not None
    await asyncio.sleep(0.5)
    await slotctl(address, "check", "notes")
    first = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
    assert (first["app"], first["event"], first["job"], first["kind"]) == ("notes", "job-new", 1, "check")
    process.send_signal(signal.SIGINT)
    await finish(process)


async def test_without_slotd_the_error_says_what_to_do(address: str) -> None:
    run = await slotctl(address, "list")
    assert run.code == 1
    assert "slotd" in run.err
    assert "systemctl start slotd.service" in run.err


async def test_without_a_bus_the_error_says_what_to_do(tmp_path: Path) -> None:
    run = await slotctl(f"unix:path={tmp_path}/nothing", "list", "--json")
    assert run.code == 1
    assert "cannot reach the system bus" in run.json["error"]["message"]
    assert "systemctl status dbus.socket" in run.err


async def test_a_bus_that_hangs_up_is_told_without_a_traceback(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"OK 0123456789abcdef0123456789abcdef\r\n", b"AGREE_UNIX_FD\r\n", b""):
            await reader.readuntil(b"\r\n")
            writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "bus"):
        run = await slotctl(f"unix:path={tmp_path}/bus", "list")
    assert run.code == 1
    assert run.err.startswith("slotctl: cannot reach the system bus")
    assert len(run.err.splitlines()) == 2


async def test_the_user_option_goes_to_the_users_bus(slotd: Slotd, address: str, tmp_path: Path) -> None:
    wrong = f"unix:path={tmp_path}/nothing"
    assert (await slotctl(wrong, "list", "--user", DBUS_SESSION_BUS_ADDRESS=address)).code == 0


async def test_a_closed_pipe_is_no_error_worth_a_word(slotd: Slotd, address: str) -> None:
    for at in range(1, 500):
        slotd.tell("x" * 900, at)
    command = f"{sys.executable} -m slotd.cli.main history --limit 1000 | head -n 1"
    process = await asyncio.create_subprocess_shell(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(address)
    )
    run = await finish(process)
    assert len(run.out.splitlines()) == 1
    assert run.err == ""


async def test_an_ascii_terminal_gets_ascii(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch")
    run = await slotctl(
        address,
        "update",
        "notes",
        LANG="C",
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
        PYTHONIOENCODING="ascii",
    )
    assert run.code == 0
    assert "updated 1.0 -> 1.1" in run.out


async def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(slotd: Slotd, address: str) -> None:
    gate = asyncio.Event()
    slotd.script["update"] = through("fetch", "verify", "trial", wait=gate)
    code, seen = await on_terminal(address, "update", "notes", once=("left", lambda _: gate.set()))
    assert code == 0
    assert "trial" in seen
    assert "━" in seen
    assert "notes: updated 1.0 → 1.1 in 2 s" in seen
    assert "━" not in seen[seen.index("notes: updated") :]
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is back


async def test_ctrl_c_on_a_terminal_gives_the_cursor_back_and_exits_130(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    code, seen = await on_terminal(address, "update", "notes", once=("━", lambda fd: os.write(fd, b"\x03")))
    assert code == 130
    assert "the update goes on as job 1" in seen
    assert "Traceback" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


async def test_a_terminal_gets_colours_and_lines_that_fit(slotd: Slotd, address: str) -> None:
    slotd.change("notes", state=AppState.FAILED, available="1.1-" + "long" * 30)
    code, seen = await on_terminal(address, "list", columns=60)
    assert code == 0
    assert "\x1b[31mfailed\x1b[0m" in seen
    plain = (await on_terminal(address, "list", "--no-color", columns=60))[1]
    assert "\x1b" not in plain
    assert "…" in plain
    assert all(len(line) <= 60 for line in plain.splitlines())


async def test_the_first_output_comes_at_once(slotd: Slotd, address: str) -> None:
    """Measured as processor time up to the end, more than the first output takes: hosts under test are busy."""

    async def cost(*args: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (await slotctl(address, *args)).code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    for command in (("list",), ("status", "notes"), ("check", "notes"), ("--help",)):
        assert min([await cost(*command) for _ in range(3)]) < 0.150, command
