"""Who may do what: root, polkit's word, and nobody when in doubt."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.parts.bus_peer import NAME, ROOT
from tests.parts.bus_world import MANAGER, NOBODY, FakePolkit, World, eventually, world

from slotd.host.bus import Bus

NOT_AUTHORIZED = "org.slotd1.Error.NotAuthorized"
INTERACTIVE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


@asynccontextmanager
async def policed(*apps: str) -> AsyncIterator[tuple[World, FakePolkit, Bus]]:
    """The daemon, a polkit, and a connection of an unprivileged user."""
    async with world(*apps) as it:
        polkit = FakePolkit(await it.bus.connect())
        await polkit.start()
        yield it, polkit, await connect_as_nobody(it)


async def connect_as_nobody(it: World) -> Bus:
    """The bus takes whoever connects for the user that the process is at that moment."""
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        return await it.bus.connect()
    finally:
        os.setresuid(0, 0, 0)


CHANGES: list[tuple[str, tuple[Any, ...], str]] = [
    ("Check", ("sa{sv}", "notes", {}), "check"),
    ("CheckAll", ("a{sv}", {}), "check"),
    ("Update", ("sa{sv}", "notes", {}), "update"),
    ("ApplyAll", ("a{sv}", {}), "update"),
    ("Rollback", ("sa{sv}", "notes", {}), "rollback"),
    ("Approve", ("ssa{sv}", "notes", "1.1", {}), "approve"),
    ("Hold", ("ssa{sv}", "notes", "why", {}), "hold"),
    ("Unhold", ("sa{sv}", "notes", {}), "hold"),
    ("SetMode", ("ssa{sv}", "notes", "auto", {}), "set-mode"),
    ("Backup", ("sa{sv}", "notes", {}), "backup"),
    ("Restore", ("ssa{sv}", "notes", "b1", {}), "restore"),
    ("MarkGood", ("sa{sv}", "notes", {}), "approve"),
    ("MarkBad", ("sa{sv}", "notes", {}), "rollback"),
    ("ReportFailure", ("sa{sv}", "notes.service", {}), "rollback"),
    ("Reload", (), "set-mode"),
]


@pytest.mark.parametrize(("member", "args", "action"), CHANGES)
async def test_every_change_needs_its_action(member: str, args: tuple[Any, ...], action: str) -> None:
    async with policed("notes") as (it, polkit, nobody):
        assert (await it.error(member, *args, by=nobody))[0] == NOT_AUTHORIZED
        assert it.core.done == []
        polkit.allowed = {f"org.slotd1.{action}"}
        await it.call(member, *args, by=nobody)
        assert len(it.core.done) == 1
        assert {asked[1] for asked in polkit.asked} == {f"org.slotd1.{action}"}


async def test_polkit_is_told_who_asks_for_which_app_and_version() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.allowed = {"org.slotd1.update", "org.slotd1.update-to-version", "org.slotd1.cancel"}
        [job] = await it.call("Update", "sa{sv}", "notes", {}, by=nobody)
        await it.call("Cancel", path=job, interface="org.slotd1.Job", by=nobody)
        subjects = [(asked[0][0], asked[0][1]["name"].value) for asked in polkit.asked]
        assert subjects == [("system-bus-name", nobody.unique_name)] * 2
        assert polkit.asked[0][1:4] == ["org.slotd1.update", {"app": "notes", "version": "1.1"}, 0]
        assert polkit.asked[1][1:4] == ["org.slotd1.cancel", {"app": "notes", "version": "1.1"}, 0]


@pytest.mark.parametrize(("key", "value"), [("version", "0.9"), ("force", True)])
async def test_a_version_of_ones_own_choice_needs_a_stronger_action(key: str, value: Any) -> None:
    from slotd.host.bus import Variant

    async with policed("notes") as (it, polkit, nobody):
        polkit.allowed = {"org.slotd1.update"}
        options = {key: Variant("b" if value is True else "s", value)}
        assert (await it.error("Update", "sa{sv}", "notes", options, by=nobody))[0] == NOT_AUTHORIZED
        assert polkit.asked[-1][1] == "org.slotd1.update-to-version"


async def test_a_password_is_asked_for_only_if_the_call_allows_it() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.challenge = {"org.slotd1.hold"}
        args = ("ssa{sv}", "notes", "why", {})
        assert (await it.error("Hold", *args, by=nobody))[0] == INTERACTIVE
        assert it.core.done == []
        await it.call("Hold", *args, by=nobody, interactive=True)
        assert [asked[3] for asked in polkit.asked] == [0, 1]
        assert it.core.done == [("hold", "notes", "why")]


async def test_a_dismissed_dialogue_is_a_denial() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.answer = [[False, True, {}]]
        assert (await it.error("Unhold", "sa{sv}", "notes", {}, by=nobody, interactive=True))[0] == NOT_AUTHORIZED


async def test_root_needs_no_polkit_and_is_never_asked_about() -> None:
    async with policed("notes") as (it, polkit, _):
        await it.call("Unhold", "sa{sv}", "notes", {})
        assert polkit.asked == []


async def test_without_polkit_only_root_may_change_things_and_all_may_look() -> None:
    async with world("notes") as it:
        nobody = await connect_as_nobody(it)
        assert (await it.call("ListApps", by=nobody))[0][0][0] == "notes"
        name, text = await it.error("Unhold", "sa{sv}", "notes", {}, by=nobody)
        assert name == NOT_AUTHORIZED
        assert "polkit is not on this host, and without it only root may change things.\nRun it as root" in text
        await it.call("Unhold", "sa{sv}", "notes", {})
        assert it.core.done == [("unhold", "notes")]


async def test_busctl_of_an_unprivileged_user_is_told_so() -> None:
    async with world("notes") as it:
        status, said = await it.as_nobody("call", "org.slotd1", ROOT, MANAGER, "Update", "sa{sv}", "notes", "0")
        assert (status, "without it only root may change things" in said) == (1, True)
        status, said = await it.as_nobody("call", "org.slotd1", ROOT, MANAGER, "ListApps")
        assert (status, '"notes" "1.0" "idle"' in said) == (0, True)
        assert it.core.done == []


async def test_a_wrong_question_is_refused_before_a_password_is_asked_for() -> None:
    async with policed("notes") as (it, polkit, nobody):
        assert (await it.error("Check", "sa{sv}", "none", {}, by=nobody))[0] == "org.slotd1.Error.NoSuchApp"
        assert (await it.error("SetMode", "ssa{sv}", "notes", "x", {}, by=nobody))[0] == "org.slotd1.Error.BadOption"
        assert polkit.asked == []


async def test_a_caller_who_leaves_while_asked_is_denied_and_the_dialogue_goes_away() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.is_silent = True
        asking = asyncio.ensure_future(
            nobody.call(NAME, ROOT, MANAGER, "Unhold", "sa{sv}", ["notes", {}], interactive=True)
        )
        await eventually(lambda: polkit.asked)
        await nobody.close()
        await eventually(lambda: polkit.cancelled and not it.service.in_flight)
        assert polkit.cancelled == [polkit.asked[0][4]]
        assert it.core.done == []
        with pytest.raises(Exception, match="closed the connection"):
            await asking


async def test_a_caller_who_left_before_the_question_is_nobody(readable_source: Path) -> None:
    """CVE-2021-3560: the lookup of a caller who is gone fails, and must not be taken for root."""
    async with policed("notes") as (it, polkit, _):
        polkit.allowed = {"org.slotd1.hold"}
        before = it.service.last_call
        script = (
            "import sys; sys.path[:0] = sys.argv[3:]\n"
            "from tests.parts.bus_peer import RawPeer, wire_value\n"
            "from pathlib import Path\n"
            "for _ in range(20):\n"
            "    peer = RawPeer(Path(sys.argv[1]))\n"
            "    body = wire_value('s', 'notes') + bytes(6)\n"
            "    to = {'member': 'Unhold', 'interface': 'org.slotd1.Manager'}\n"
            "    peer.send(**to, signature='sa{sv}', body=body, flags=1)\n"
            "    peer.close()\n"
        )
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]
        paths = [str(it.bus.socket), "x", str(readable_source), str(readable_source / "daemon")]
        done = await asyncio.to_thread(subprocess.run, [*command, *paths], capture_output=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, b"")
        await eventually(lambda: not it.service.in_flight)
        assert it.service.last_call > before
        # Whoever was asked about was still there, as themselves: nothing was done in root's name.
        assert len(it.core.done) <= len(polkit.asked)
        assert await it.call("ListApps")


@pytest.mark.parametrize("answer", [[["yes"]], [[True, False]], [[1, 0, {}]]])
async def test_an_answer_that_polkit_would_not_give_is_a_denial(answer: Any) -> None:
    from slotd.errors import NotAuthorized
    from slotd.service.polkit import Authority

    with pytest.raises(NotAuthorized):
        Authority._judge(answer, "hold", has_asked=True)


async def test_what_was_authorised_is_what_is_done() -> None:
    """CVE-2026-41651: arguments that change between the question and the act."""
    async with policed("notes") as (it, polkit, nobody):
        polkit.is_silent = True
        asking = asyncio.ensure_future(it.call("Hold", "ssa{sv}", "notes", "why", {}, by=nobody))
        await eventually(lambda: polkit.asked)
        it.core.change_app("notes", available="6.6.6")
        polkit.bus.reply(polkit.calls[-1], "(bba{ss})", [[True, False, {}]])
        await asyncio.wait_for(asking, 5)
        assert it.core.done == [("hold", "notes", "why")]


async def test_on_a_users_own_bus_that_user_needs_no_polkit_and_others_are_refused() -> None:
    async with world("notes", user_mode=True) as it:
        nobody = await connect_as_nobody(it)
        name, text = await it.error("Unhold", "sa{sv}", "notes", {}, by=nobody)
        assert (name, text) == (NOT_AUTHORIZED, "cannot do that for you: these applications belong to another user.")
        await it.call("Unhold", "sa{sv}", "notes", {})
        os.seteuid(NOBODY)
        try:
            await it.call("Unhold", "sa{sv}", "notes", {}, by=nobody)
        finally:
            os.seteuid(0)
        assert len(it.core.done) == 2
