"""Tab in bash, zsh and fish: commands, options, and what only the running daemon knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.parts.cli.run import private_bus, slotctl
from tests.parts.cli.service import Slotd, through
from tests.parts.cli.shells import Shells

from slotd.cli.parser import build

SHELLS = ("bash", "zsh", "fish")


@pytest_asyncio.fixture
async def shells(address: str, tmp_path: Path) -> AsyncIterator[Shells]:
    shells = Shells(tmp_path / "shells", address)
    for name in ("notes", "wiki"):
        (shells.config / "apps.d" / f"{name}.toml").write_text('description = "an app"\n')
    await shells.write()
    yield shells


def commands() -> set[str]:
    return {
        line.split()[0] for line in build().format_help().splitlines() if line.startswith("    ") and line[4] != " "
    }


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_the_commands_are_those_of_the_help(shells: Shells, shell: str) -> None:
    offered = await shells.offers(shell, "slotctl ")
    assert "update" in offered
    assert {each for each in offered if not each.startswith("-")} == commands()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_the_options_are_those_of_the_command(shells: Shells, shell: str) -> None:
    offered = {each.rstrip("=") for each in await shells.offers(shell, "slotctl update --")}
    assert {"--version", "--force", "--now", "--all", "--json", "--no-wait"} <= offered
    assert "--data" not in offered


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_apps_are_offered_without_a_daemon_and_without_starting_one(shells: Shells, shell: str) -> None:
    assert {"notes", "wiki"} <= await shells.offers(shell, "slotctl update ")
    assert {"notes", "wiki"} <= await shells.offers(shell, "slotctl update notes ")
    assert "notes" in await shells.offers(shell, "slotctl --json status n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_modes_and_choices_are_offered(shells: Shells, shell: str) -> None:
    assert {"manual", "approve", "auto"} <= await shells.offers(shell, "slotctl mode notes ")
    assert {"keep", "restore"} <= await shells.offers(shell, "slotctl rollback notes --data ")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_what_the_daemon_knows_of_an_app_is_offered(slotd: Slotd, shells: Shells, shell: str) -> None:
    assert "1.1" in await shells.offers(shell, "slotctl approve notes ")
    assert "1.1" in await shells.offers(shell, "slotctl update notes --version ")
    assert "1.1" in {
        each.removeprefix("--version=") for each in await shells.offers(shell, "slotctl update notes --version=1")
    }
    kept = await shells.offers(shell, "slotctl rollback notes --to ")
    assert {"0.9", "0.8"} <= kept
    assert "1.1" not in kept
    assert {"old", "new", "aside"} <= await shells.offers(shell, "slotctl restore notes ")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_jobs_that_run_are_offered(slotd: Slotd, shells: Shells, shell: str) -> None:
    slotd.script["update"] = through("stage", wait=asyncio.Event())
    job = await slotd.start_update("notes")
    assert str(job) in await shells.offers(shell, "slotctl cancel ")
    assert {str(job), "notes"} <= await shells.offers(shell, "slotctl follow ")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(shells: Shells, shell: str) -> None:
    assert await shells.offers(shell, "slotctl restore notes ") == set()
    assert await shells.offers(shell, "slotctl cancel ") == set()


@pytest.mark.parametrize("kind", ["versions", "kept", "backups", "jobs", "nonsense", ""])
@pytest.mark.asyncio
async def test_the_door_is_silent_where_there_is_no_bus(kind: str, tmp_path: Path) -> None:
    done = await slotctl(f"unix:path={tmp_path}/nothing", "_complete", kind, "restore", "notes")
    assert (done.out, done.err) == ("", "")


@pytest.mark.asyncio
async def test_a_daemon_that_is_not_running_is_not_started_by_tab(tmp_path: Path) -> None:
    services = tmp_path / "data" / "dbus-1" / "services"
    services.mkdir(parents=True)
    started = tmp_path / "started"
    program = f"/bin/sh -c 'touch {started}; exit 1'"
    services.joinpath("org.slotd1.service").write_text(f"[D-BUS Service]\nName=org.slotd1\nExec={program}\n")
    with private_bus(tmp_path, XDG_DATA_DIRS=str(tmp_path / "data")) as address:
        done = await slotctl(address, "_complete", "jobs", "cancel", "")
        assert (done.out, done.err) == ("", "")
        assert not started.exists()
        assert (await slotctl(address, "jobs")).code == 1
        assert started.exists(), "the bus could have started it"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.asyncio
async def test_a_file_name_is_never_run_by_the_shell_that_offers_it(shells: Shells, shell: str, tmp_path: Path) -> None:
    for name in ("$(>$HOME-trap)", "`>$HOME-trap`", "a${IFS}b", "n;>$HOME-trap", "-rf"):
        (shells.config / "apps.d" / f"{name}.toml").write_text("")
    offered = await shells.offers(shell, "slotctl status ")
    assert "notes" in offered
    assert not [each for each in offered if any(char in each for char in "$`;{")]
    assert not (tmp_path / "shells-trap").exists()
