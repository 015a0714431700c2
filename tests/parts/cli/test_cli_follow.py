"""Coming back to a job that runs: `slotctl follow`."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.parts.cli.run import DEADLINE_S, finish, on_terminal, slotctl, start
from tests.parts.cli.service import Slotd, quick, through

from slotd.model import AppState


async def test_a_job_that_was_left_is_followed_to_its_end_as_if_it_had_been_started_here(
    slotd: Slotd, address: str
) -> None:
    gate = asyncio.Event()
    slotd.script["update"] = through("fetch", wait=gate)
    await slotctl(address, "update", "notes", "--no-wait")
    for what in (("1",), ("notes",), ()):
        process = await start(address, "follow", *what)
        assert process.stdout is not None
        assert b"notes: fetch - downloading" in await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
        if what:
            process.send_signal(signal.SIGINT)
            run = await finish(process)
            assert run.code == 130
            assert "the update goes on as job 1" in run.err
    gate.set()
    run = await finish(process)
    assert run.code == 0
    assert run.steps[-1] == "notes: updated 1.0 → 1.1 in 2 s"


async def test_a_job_that_is_over_is_told_with_the_exit_code_of_its_end(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = quick("rolled-back", "failed", version="1.1", previous_version="1.0", error_message="red")
    assert (await slotctl(address, "update", "notes")).code == 4
    again = await slotctl(address, "follow", "1")
    assert again.code == 4
    assert "notes: 1.1 failed and was rolled back to 1.0" in again.err


async def test_nothing_to_follow_is_said(slotd: Slotd, address: str) -> None:
    assert (await slotctl(address, "follow")).out.startswith("No job runs now.")
    idle = await slotctl(address, "follow", "notes")
    assert (idle.code, idle.out) == (3, "notes: no job runs now; `slotctl history notes` shows what happened\n")
    assert "Did you mean notes?" in (await slotctl(address, "follow", "nots")).err


async def test_a_number_that_no_job_has_gets_those_that_run(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    await slotctl(address, "update", "notes", "--no-wait")
    for command in ("follow", "cancel"):
        run = await slotctl(address, command, "99")
        assert (run.code, run.out) == (1, "")
        assert "Running now: 1 (update of notes)." in run.err


async def test_a_second_ctrl_c_ends_it_without_a_traceback(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())

    def twice(fd: int) -> None:
        os.write(fd, b"\x03\x03")

    code, seen = await on_terminal(address, "update", "notes", once=("━", twice))
    assert code == 130
    assert "Traceback" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


async def test_being_told_to_end_gives_the_cursor_back_too(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    process.terminate()
    run = await finish(process)
    assert run.code == 143
    assert "the update goes on as job 1" in run.err


@pytest.mark.parametrize("command", [["list"], ["status"], ["cancel", "1"], ["hold", "notes"], ["verify"]])
async def test_not_waiting_is_refused_where_there_is_nothing_to_wait_for(address: str, command: list[str]) -> None:
    for words in (["--no-wait", *command], [*command, "--no-wait"]):
        run = await slotctl(address, *words)
        assert (run.code, run.out) == (2, "")
        assert "--no-wait" in run.err


async def test_not_waiting_is_shown_where_a_job_is_started_only(address: str) -> None:
    assert "--no-wait" in (await slotctl(address, "update", "--help")).out
    assert "--no-wait" not in (await slotctl(address, "status", "--help")).out


async def test_a_backup_that_is_not_there_gets_the_one_that_was_meant(slotd: Slotd, address: str) -> None:
    run = await slotctl(address, "restore", "notes", "asid")
    assert run.err.splitlines()[1:] == ["  Did you mean aside?", "  See `slotctl backups notes` for what there is."]


async def test_apps_of_one_state_are_listed_alone(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.TRIAL, version="3", available="3")
    assert [line.split()[0] for line in (await slotctl(address, "list", "--state", "trial")).out.splitlines()] == [
        "NAME",
        "wiki",
    ]
    assert (await slotctl(address, "list", "--state", "held")).out == "No app is in the state held.\n"
    wrong = await slotctl(address, "list", "--state", "trail")
    assert (wrong.code, "Did you mean trial?" in wrong.err) == (2, True)
