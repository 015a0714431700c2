"""What `--json` prints, held against the schemas in docs/schemas: every command, its errors, and streams."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.parts.cli.run import DEADLINE_S, Run, finish, slotctl, start
from tests.parts.cli.service import Slotd, quick, through
from tests.schemas import SCHEMAS, check, read

from slotd.cli.parser import STATES, build
from slotd.errors import Busy
from slotd.model import AppState

DEFINITION = """
[service]
units = ["notes.service"]
[source]
type = "directory"
path = "/srv/releases"
asset = "notes-{version}.tar.gz"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS"
"""


def fits(command: str, run: Run) -> Any:
    """The one document that a command printed."""
    check(command, run.json)
    return run.json


def test_every_command_has_a_schema_and_every_schema_a_command() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {*_commands(build()), "common"}


def _commands(parser: argparse.ArgumentParser) -> set[str]:
    """The names of all that can be run: `update`, and with a hyphen what is a command of a command."""
    found = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found |= {f"{name}-{each}" for each in _commands(below)} or {name}
    return found


def test_the_schemas_know_the_states_that_there_are() -> None:
    assert tuple(read("common")["$defs"]["state"]["enum"]) == STATES == tuple(AppState)


def test_a_schema_does_not_take_everything() -> None:
    for wrong in ({}, [{"name": "notes"}], {"error": {"name": "Busy"}}):
        with pytest.raises(jsonschema.ValidationError):
            check("list", wrong)


async def test_what_there_is_and_what_happened_fits(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.MISCONFIGURED, last_error="no")
    slotd.wrong = ["slotd.toml: limits.x is not a known key."]
    slotd.open_trial("notes", left_s=300)
    slotd.tell("1.1 is available", time.time(), "update-available")
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    await slotctl(address, "update", "notes", "--no-wait")

    assert len(fits("list", await slotctl(address, "list", "--json"))) == 2
    everything = fits("status", await slotctl(address, "status", "--json"))
    assert (everything["problems"], everything["jobs"][0]["step"]) == (slotd.wrong, "fetch")
    one = fits("status", await slotctl(address, "status", "notes", "--json"))
    assert (one["trial"]["version"], one["job"]["id"], len(one["history"])) == ("1.1", 1, 1)
    assert fits("history", await slotctl(address, "history", "--json"))[0]["kind"] == "update-available"
    copies = fits("backups", await slotctl(address, "backups", "notes", "--json"))
    assert len(copies) == 3
    look = fits("backups", await slotctl(address, "backups", "notes", copies[0]["id"], "--json"))
    assert look["said"][0]["output"] == "done"
    assert [entry["path"] for entry in look["entries"]] == ["/var/lib/notes/notes.db"]
    since = fits("backups", await slotctl(address, "backups", "notes", copies[0]["id"], "--diff", "--json"))
    assert since["changes"][0]["change"] == "changed"
    assert fits("jobs", await slotctl(address, "jobs", "--json"))[0]["took_s"] is None


@pytest.mark.parametrize("command", ["check", "update", "rollback", "backup", "restore"])
async def test_a_job_that_ended_one_that_was_not_waited_for_and_one_refused_fit(
    slotd: Slotd, address: str, command: str
) -> None:
    words = [command, "notes", *(["new"] if command == "restore" else [])]
    slotd.script[command] = quick("failed", "failed", error_name="NoSpace", error_message="cannot: full.\nMake room.")
    [failed] = fits(command, await slotctl(address, *words, "--json"))["jobs"]
    assert failed["error"] == {"name": "NoSpace", "message": "cannot: full.", "hint": "Make room."}
    assert (failed["took_s"], failed["installed"]) == (2, "1.0")
    [started] = fits(command, await slotctl(address, *words, "--json", "--no-wait"))["jobs"]
    assert (started["id"], started["installed"]) == (2, None)
    slotd.refuse[command] = Busy("cannot do that: job 1 runs.")
    [refused] = fits(command, await slotctl(address, *words, "--json"))["jobs"]
    assert (refused["id"], refused["state"]) == (None, "refused")


async def test_decisions_fit(slotd: Slotd, address: str) -> None:
    for words in (
        ["approve", "1.1"],
        ["hold", "why"],
        ["unhold"],
        ["mark-good"],
        ["mark-bad"],
        ["mode", "auto"],
        ["mode", "default"],
    ):
        app = fits(words[0], await slotctl(address, words[0], "notes", *words[1:], "--json"))
        assert app["name"] == "notes"


async def test_what_a_reload_found_fits(slotd: Slotd, address: str) -> None:
    assert [row["name"] for row in fits("reload", await slotctl(address, "reload", "--json"))] == ["notes"]


async def test_a_job_that_is_left_with_ctrl_c_is_told_as_it_was(slotd: Slotd, address: str) -> None:
    begun: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def play(service: Slotd, number: int) -> None:
        begun.set_result(service.last_call)

    slotd.script["update"] = play
    process = await start(address, "update", "notes", "--json")
    before = await asyncio.wait_for(begun, DEADLINE_S)
    for _ in range(500):  # until it asks for the job that it was told of
        if slotd.last_call > before:
            break
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    run = await finish(process)
    [job] = fits("update", run)["jobs"]
    assert (run.code, job["id"], job["state"], job["finished"]) == (130, 1, "running", None)
    assert fits("cancel", await slotctl(address, "cancel", "1", "--json"))["app"] == "notes"


async def test_a_job_that_is_followed_fits(slotd: Slotd, address: str) -> None:
    assert fits("follow", await slotctl(address, "follow", "--json")) == {"jobs": []}
    await slotctl(address, "check", "notes")
    [job] = fits("follow", await slotctl(address, "follow", "1", "--json"))["jobs"]
    assert (job["kind"], job["result"]) == ("check", "done")


async def heard(process: asyncio.subprocess.Process, slotd: Slotd) -> None:
    """Waits until the monitor listens: something happens again and again until it says so."""
    assert process.stdout is not None
    line = asyncio.ensure_future(process.stdout.readline())
    for count in range(200):
        slotd.change("notes", available=f"1.1.{count}")
        if (await asyncio.wait({line}, timeout=0.1))[0]:
            return
    raise AssertionError("the monitor says nothing")


async def test_each_line_of_monitor_fits(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", "trial")
    process = await start(address, "monitor", "--json")
    assert process.stdout is not None
    await heard(process, slotd)
    await slotctl(address, "update", "notes")
    slotd.change("notes", last_error="it broke", available="1.2")
    await slotd.leave()
    seen: set[str] = set()
    while "daemon" not in seen:
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
        check("monitor", line)
        seen.add(line["event"])
    assert seen == {"job-new", "step", "job-removed", "state", "available", "error", "daemon"}
    process.send_signal(signal.SIGINT)
    await finish(process)
    await slotd.connect(address)


async def test_every_command_tells_its_failure_in_the_same_form(tmp_path: Path) -> None:
    nowhere = f"unix:path={tmp_path}/nothing"
    for command, *words in (
        ["list"], ["status"], ["history"], ["jobs"], ["follow"], ["monitor"], ["reload"],
        ["backups", "x"], ["check", "x"], ["update", "x"], ["rollback", "x"], ["backup", "x"], ["restore", "x", "y"],
        ["mark-good", "x"], ["mark-bad", "x"],
        ["approve", "x", "1"], ["hold", "x"], ["unhold", "x"], ["mode", "x", "auto"], ["cancel", "1"],
        ["enable", "x"], ["disable", "x"], ["verify", "x"],
    ):  # fmt: skip
        run = await slotctl(nowhere, command, *words, "--json", CONFIGURATION_DIRECTORY=str(tmp_path))
        assert (run.code, set(fits(command, run))) == (1, {"error"})
        assert run.json["error"]["message"] in run.err


async def test_a_mistyped_command_line_is_a_document_too(address: str) -> None:
    for words, hint in ((["updat", "notes"], "Did you mean update?"), (["list", "--no-wait"], "--help")):
        run = await slotctl(address, *words, "--json")
        assert (run.code, run.json["error"]["name"]) == (2, "BadOption")
        assert hint in run.json["error"]["hint"]


async def test_what_is_verified_fits(tmp_path: Path) -> None:
    (tmp_path / "apps.d").mkdir()
    (tmp_path / "apps.d/notes.toml").write_text(DEFINITION)
    (tmp_path / "apps.d/bad.toml").write_text(DEFINITION.replace("units", "unit"))
    (tmp_path / "slotd.toml").write_text("max_paralel = 1\n")
    run = await slotctl("", "verify", "--json", CONFIGURATION_DIRECTORY=str(tmp_path))
    found = fits("verify", run)
    assert run.code == 1
    assert [bool(app["problems"]) for app in found["apps"]] == [True, False]
    assert len(found["settings_problems"]) == 1
