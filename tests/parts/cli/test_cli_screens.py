"""Terminals of every width, streams that are closed or full, and what is told again and again."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time

import pytest
from tests.parts.cli.run import environment, on_terminal, slotctl
from tests.parts.cli.service import Slotd, quick

from slotd.model import AppState

REASON = "cannot fetch the index of releases: the server gave 503 again and again, and that for the whole of the night"


@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_everything_fits_the_terminal(slotd: Slotd, address: str, columns: int) -> None:
    slotd.add("größere-wiki-日本", state=AppState.FAILED, version="3.0.0-rc.1+" + "b" * 60, last_error=REASON)
    slotd.change("notes", last_error=REASON, held=True, hold_reason=REASON)
    slotd.tell(REASON, time.time())
    slotd.wrong = [f"slotd.toml: {REASON}"]
    for command in (["list"], ["status"], ["status", "notes"], ["history"], ["backups", "notes"], ["jobs", "--all"]):
        code, seen = await on_terminal(address, "--no-color", *command, columns=columns)
        assert code == 0
        assert [line for line in seen.splitlines() if width(line) > columns] == []
        if command[0] == "status":
            assert "whole of the night" in " ".join(seen.split()), "a reason is never cut"
        piped = await slotctl(address, *command)
        assert "…" not in piped.out


def width(line: str) -> int:
    from slotd.cli.tables import cells

    return cells(re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line))


async def test_a_command_to_copy_is_not_broken(slotd: Slotd, address: str) -> None:
    slotd.change("notes", last_error="1.2 failed for a reason of some length; `slotctl update notes --force` tries it")
    _code, seen = await on_terminal(address, "--no-color", "status", "notes", columns=60)
    assert "`slotctl update notes --force`" in seen


async def test_a_long_error_goes_on_below_itself(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = quick("failed", "failed", error_name="SourceFailed", error_message=REASON)
    code, seen = await on_terminal(address, "--no-color", "update", "notes", columns=60)
    assert code == 1
    assert [line for line in seen.splitlines() if width(line) > 60] == []
    assert "whole of the night" in " ".join(seen.split())


async def test_a_dumb_terminal_gets_lines_without_escapes(slotd: Slotd, address: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "script", "-qec", f"{sys.executable} -m slotd.cli.main update notes", "/dev/null",
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment(address, TERM="dumb"),
    )  # fmt: skip
    out, _ = await process.communicate()
    assert b"notes: " in out
    assert b"\x1b" not in out


@pytest.mark.parametrize(("redirect", "code"), [(">&-", 0), (">&- 2>&-", 0), ("<&- >/dev/full", 1)])
async def test_streams_that_are_closed_or_full_are_no_reason_for_a_traceback(
    slotd: Slotd, address: str, redirect: str, code: int
) -> None:
    for command in ("list", "update notes", "history"):
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m slotd.cli.main {command} {redirect}",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(address),
        )
        _out, err = await process.communicate()
        assert process.returncode == code, err
        assert err == (b"" if code == 0 else b"slotctl: cannot write what it has to say: No space left on device\n")


async def test_what_is_told_every_day_is_shown_once(slotd: Slotd, address: str) -> None:
    now = time.time()
    slotd.tell("updated from 0.9 to 1.0; it passed its trial", now - 90, "updated")
    for start, version in ((50, "1.2"), (40, "1.1")):
        for count in range(5):
            slotd.tell(f"{version} was passed over: it is too young", now - start + count, "release-skipped")
    lines = (await slotctl(address, "status", "notes")).out.splitlines()
    recent = [line.split("  ", 2)[2] for line in lines[lines.index("Recent history:") + 1 :]]
    assert recent == [
        "updated from 0.9 to 1.0; it passed its trial",
        "1.2 was passed over: it is too young (5 times)",
        "1.1 was passed over: it is too young (5 times)",
    ]


async def test_what_came_between_two_alike_is_not_hidden(slotd: Slotd, address: str) -> None:
    now = time.time()
    for count, said in enumerate(("it begins", "it failed", "it begins")):
        slotd.tell(said, now - 30 + count, "job-started")
    lines = (await slotctl(address, "status", "notes")).out.splitlines()
    assert [line.split("  ", 2)[2] for line in lines[-3:]] == ["it begins", "it failed", "it begins"]


async def test_mistakes_in_the_settings_are_told_with_what_to_do(slotd: Slotd, address: str) -> None:
    slotd.wrong = ["/etc/slotd/slotd.toml: max_paralel is not a known key."]
    lines = (await slotctl(address, "status")).out.splitlines()
    assert lines[-2:] == [
        "/etc/slotd/slotd.toml: max_paralel is not a known key.",
        "  `slotctl verify` checks it again; when it is mended, `slotctl reload`.",
    ]


async def test_a_reload_says_what_is_wrong_with_what_was_read(slotd: Slotd, address: str) -> None:
    assert (await slotctl(address, "reload")).out.splitlines() == ["The definitions were read: 1 app."]
    slotd.add("wiki", state=AppState.MISCONFIGURED, last_error="no")
    slotd.wrong = ["/etc/slotd/slotd.toml: max_paralel is not a known key."]
    run = await slotctl(address, "reload")
    assert (run.code, run.out.splitlines()) == (
        0,
        [
            "The definitions were read: 2 apps.",
            "wiki: misconfigured; `slotctl verify wiki` says why",
            "/etc/slotd/slotd.toml: max_paralel is not a known key.",
        ],
    )


async def test_a_broken_definition_is_not_called_an_app_that_is_not_installed(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.MISCONFIGURED, last_error="no")
    assert "Version: not known until the definition is mended" in (await slotctl(address, "status", "wiki")).out


async def test_a_mode_can_be_given_back_to_the_definition(slotd: Slotd, address: str) -> None:
    assert (await slotctl(address, "mode", "notes", "auto")).code == 0
    run = await slotctl(address, "mode", "notes", "default")
    assert run.out.startswith("notes: mode approve, as its definition says: ")
    wrong = await slotctl(address, "mode", "notes", "aut")
    assert wrong.code == 2
    assert wrong.err.splitlines()[0] == "slotctl: unknown mode 'aut': choose from manual, approve, auto, default"


async def test_five_hundred_apps_are_listed(slotd: Slotd, address: str) -> None:
    for number in range(499):
        slotd.add(f"app-{number:03}", state=AppState.IDLE, version="1.0", available="1.0")
    assert len((await slotctl(address, "list")).out.splitlines()) == 501
    assert len((await slotctl(address, "status", "--json")).json["apps"]) == 500
