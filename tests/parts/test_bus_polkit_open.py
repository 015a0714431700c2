"""While polkit is asked: the world changes, the caller leaves, polkit is silent or dies; and what it keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.parts.bus_peer import NAME, ROOT
from tests.parts.bus_world import (
    BACKUP,
    JOB,
    MANAGER,
    TRIAL,
    FakePolkit,
    World,
    connect_as_nobody,
    eventually,
    policed,
)

from slotd.errors import NotAuthorized, SlotdError
from slotd.host.bus import Call, Variant
from slotd.model import Result
from slotd.service.callers import Callers
from slotd.service.polkit import MOST_ASKED, Authority, Question

NOT_AUTHORIZED = "org.slotd1.Error.NotAuthorized"
INTERACTIVE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


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


# ── while the question is open ──────────────────────────────────────────────────────────────────────────────────────


async def changed_meanwhile(
    member: str, signature: str, *args: Any, path: str = ROOT, interface: str = MANAGER, **changes: Any
) -> tuple[World, list[Any]]:
    """What was done, or the error's name and text, when the app changed while polkit was being asked."""
    async with policed("notes") as (it, polkit, nobody):
        it.core.change_app("notes", previous_version="0.9", backups=(BACKUP,), trial=TRIAL)
        polkit.is_silent = True
        asking = asyncio.ensure_future(it.call(member, signature, *args, path=path, interface=interface, by=nobody))
        await eventually(lambda: polkit.asked)
        it.core.change_app("notes", **changes)
        polkit.bus.reply(polkit.calls[-1], "(bba{ss})", [[True, False, {}]])
        try:
            await asyncio.wait_for(asking, 5)
        except SlotdError as error:
            return it, [str(getattr(error, "remote_name", "")), error.message]
        return it, it.core.done


async def test_the_version_that_was_authorised_is_the_one_that_is_installed() -> None:
    """CVE-2026-41651: arguments that change between the question and the act."""
    _, done = await changed_meanwhile("Update", "sa{sv}", "notes", {}, available="6.6.6")
    assert done == [("update", "notes", "", False, False, "1.1")]


async def test_a_forced_update_installs_what_was_authorised() -> None:
    options = {"force": Variant("b", True)}
    _, done = await changed_meanwhile("Update", "sa{sv}", "notes", options, available="6.6.6")
    assert done == [("update", "notes", "", True, False, "1.1")]


async def test_root_is_bound_to_nothing_and_the_newest_is_looked_for() -> None:
    async with policed("notes") as (it, _, _):
        await it.call("Update", "sa{sv}", "notes", {})
        assert it.core.done == [("update", "notes", "", False, False)]


@pytest.mark.parametrize(
    ("member", "signature", "args", "changes"),
    [
        ("Rollback", "sa{sv}", ("notes", {}), {"previous_version": "0.1"}),
        ("MarkGood", "sa{sv}", ("notes", {}), {"trial": None}),
        ("MarkGood", "sa{sv}", ("notes", {}), {"trial": dataclasses.replace(TRIAL, version="6.6.6")}),
        ("MarkBad", "sa{sv}", ("notes", {}), {"version": "1.1", "previous_version": "1.0"}),
        ("Restore", "ssa{sv}", ("notes", "b1", {}), {"version": "2.0"}),
        ("Hold", "ssa{sv}", ("notes", "why", {}), {"version": "2.0"}),
    ],
)
async def test_an_app_that_became_another_meanwhile_is_left_alone(
    member: str, signature: str, args: tuple[Any, ...], changes: dict[str, Any]
) -> None:
    it, said = await changed_meanwhile(member, signature, *args, **changes)
    assert said[0] == NOT_AUTHORIZED
    assert "while you were being authorised, notes has changed.\nSee `slotctl status notes`, and ask again." in said[1]
    assert it.core.done == []


async def test_a_rollback_goes_to_the_version_that_was_authorised() -> None:
    _, done = await changed_meanwhile("Rollback", "sa{sv}", "notes", {"data": Variant("s", "keep")}, available="7")
    assert done == [("rollback", "notes", "keep", "0.9")]


async def test_an_app_that_vanished_meanwhile_is_an_error() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.is_silent = True
        asking = asyncio.ensure_future(it.error("Unhold", "sa{sv}", "notes", {}, by=nobody))
        await eventually(lambda: polkit.asked)
        del it.core.views["notes"]
        polkit.bus.reply(polkit.calls[-1], "(bba{ss})", [[True, False, {}]])
        assert (await asyncio.wait_for(asking, 5))[0] == "org.slotd1.Error.NoSuchApp"
        assert it.core.done == []


async def test_only_the_job_that_was_named_is_cancelled() -> None:
    async with policed("notes") as (it, polkit, nobody):
        [first] = await it.call("Backup", "sa{sv}", "notes", {})
        polkit.is_silent = True
        asking = asyncio.ensure_future(it.call("Cancel", path=first, interface=JOB, by=nobody))
        await eventually(lambda: polkit.asked)
        it.core.end_job(1, Result.DONE)
        await it.call("Backup", "sa{sv}", "notes", {})
        polkit.bus.reply(polkit.calls[-1], "(bba{ss})", [[True, False, {}]])
        await asyncio.wait_for(asking, 5)
        assert it.core.done[-1] == ("cancel", 1)


# ── a password's worth ──────────────────────────────────────────────────────────────────────────────────────────────


KEPT_FOR_ANOTHER = (
    "cannot do that: polkit keeps a password that was given in this process for something else, and asks for"
    " none now.\nWait some minutes until polkit has forgotten it, or use slotctl."
)


async def test_a_password_that_polkit_keeps_counts_for_the_same_question_alone() -> None:
    async with policed("notes", "wiki") as (it, polkit, nobody):
        polkit.challenge, polkit.keeps = {"org.slotd1.update"}, True
        notes, wiki = ("Update", "sa{sv}", "notes", {}), ("Update", "sa{sv}", "wiki", {})
        await it.call(*notes, by=nobody, interactive=True)
        it.core.end_job(1, Result.UPDATED)
        await it.call(*notes, by=nobody)  # kept
        it.core.end_job(2, Result.UPDATED)
        for is_interactive in (False, True):
            refused = await it.error(*wiki, by=nobody, interactive=is_interactive)
            assert refused == (NOT_AUTHORIZED, KEPT_FOR_ANOTHER)
        it.core.change_app("notes", available="6.6.6")
        assert await it.error(*notes, by=nobody) == (NOT_AUTHORIZED, KEPT_FOR_ANOTHER)
        assert (polkit.prompts, [done[1] for done in it.core.done]) == (1, ["notes", "notes"])


async def test_what_polkit_kept_for_somebody_elses_question_is_worth_nothing() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.kept = "tmpauthz0"
        refused = await it.error("Unhold", "sa{sv}", "notes", {}, by=nobody, interactive=True)
        assert (refused, it.core.done) == ((NOT_AUTHORIZED, KEPT_FOR_ANOTHER), [])


async def test_a_password_given_to_one_who_has_left_is_not_taken_for_that_of_the_next_question() -> None:
    """Two connections of one process, each with a question open; the password is for the first, which leaves."""
    async with policed("notes") as (it, polkit, nobody):
        second = await connect_as_nobody(it)
        polkit.is_silent = polkit.is_late = True
        asking = [
            asyncio.ensure_future(by.call(NAME, ROOT, MANAGER, member, signature, args, interactive=True))
            for by, member, signature, args in (
                (nobody, "Hold", "ssa{sv}", ["notes", "why", {}]),
                (second, "Unhold", "sa{sv}", ["notes", {}]),
            )
        ]
        await eventually(lambda: len(polkit.calls) == 2)
        for call in polkit.calls[:2]:
            polkit.bus.reply(call, "(bba{ss})", [[False, True, {}]])
        await eventually(lambda: len(polkit.calls) == 4)
        [of_second] = [call for call in polkit.calls[2:] if call.body[0][1]["name"].value == second.unique_name]
        await nobody.close()
        await eventually(lambda: polkit.kept)
        polkit.bus.reply(of_second, "(bba{ss})", [[True, False, {"polkit.temporary_authorization_id": polkit.kept}]])
        with pytest.raises(NotAuthorized, match="given in this process for something else"):
            await asyncio.wait_for(asking[1], 5)
        assert it.core.done == []
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_polkit_that_started_anew_counts_anew() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.challenge, polkit.keeps = {"org.slotd1.hold"}, True
        await it.call("Unhold", "sa{sv}", "notes", {}, by=nobody, interactive=True)
        await polkit.bus.close()
        again = FakePolkit(await it.bus.connect())
        again.challenge, again.keeps = {"org.slotd1.hold"}, True
        await again.start()
        await it.call("Hold", "ssa{sv}", "notes", "why", {}, by=nobody, interactive=True)
        assert (polkit.kept, again.kept, len(it.core.done)) == ("tmpauthz1", "tmpauthz1", 2)


# ── a polkit that is slow, silent, or dies ──────────────────────────────────────────────────────────────────────────


async def test_a_polkit_that_dies_while_it_is_asked_is_a_denial() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.is_silent = True
        asking = asyncio.ensure_future(it.error("Unhold", "sa{sv}", "notes", {}, by=nobody, interactive=True))
        await eventually(lambda: polkit.asked)
        await polkit.bus.close()
        name, text = await asyncio.wait_for(asking, 5)
        assert (name, "polkit gave no answer.\nTry again" in text) == (NOT_AUTHORIZED, True)
        assert it.core.done == []


@asynccontextmanager
async def asked_directly() -> AsyncIterator[tuple[Authority, FakePolkit, Call, World]]:
    """An authority of its own, with little patience, and a silent polkit; the call is one of an unprivileged user."""
    async with policed("notes") as (it, polkit, nobody):
        polkit.is_silent = True
        bus = await it.bus.connect()
        authority = Authority(bus, Callers(bus), user_mode=False, ask_s=0.2, person_s=0.4)
        call = Call(nobody.unique_name, ROOT, MANAGER, "Unhold", "", 1, True, is_interactive=False)
        yield authority, polkit, call, it


QUESTION = Question("hold", {"app": "notes", "version": "1.0"}, "Authentication is required.")


async def test_a_polkit_that_never_answers_is_a_denial_in_bounded_time_and_the_question_is_taken_back() -> None:
    async with asked_directly() as (authority, polkit, call, _):
        polkit.is_dead = True
        with pytest.raises(NotAuthorized, match="polkit gave no answer"):
            await asyncio.wait_for(authority.require(call, QUESTION), 10)
        assert polkit.cancelled == [polkit.asked[0][4]]


async def test_a_question_that_is_given_up_is_taken_back() -> None:
    async with asked_directly() as (_, polkit, call, it):
        bus = await it.bus.connect()
        authority = Authority(bus, Callers(bus), user_mode=False)
        asking = asyncio.ensure_future(authority.require(call, QUESTION))
        await eventually(lambda: polkit.asked)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: polkit.cancelled == [polkit.asked[0][4]])


async def test_one_user_has_a_bounded_number_of_questions_open_and_others_are_not_kept_waiting() -> None:
    async with policed("notes") as (it, polkit, nobody):
        second = await connect_as_nobody(it)
        polkit.is_silent = True
        args = (NAME, ROOT, MANAGER, "Unhold", "sa{sv}", ["notes", {}])
        asking = [asyncio.ensure_future(by.call(*args)) for by in (nobody, second) for _ in range(MOST_ASKED // 2)]
        await eventually(lambda: len(polkit.asked) == MOST_ASKED)
        name, text = await it.error("Unhold", "sa{sv}", "notes", {}, by=second)
        assert (name, "16 of your requests wait for polkit already" in text) == (NOT_AUTHORIZED, True)
        await it.call("Unhold", "sa{sv}", "notes", {})  # root
        polkit.is_silent, polkit.allowed = False, {"org.slotd1.hold"}
        other = await connect_as_nobody(it, 1)
        await it.call("Unhold", "sa{sv}", "notes", {}, by=other)
        for call in polkit.calls[:MOST_ASKED]:
            polkit.bus.reply(call, "(bba{ss})", [[False, False, {}]])
        await asyncio.gather(*asking, return_exceptions=True)
        await it.call("Unhold", "sa{sv}", "notes", {}, by=second)
        assert len(it.core.done) == 3
