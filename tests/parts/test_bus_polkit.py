"""Who may do what: root, polkit's word, and nobody when in doubt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.parts.bus_peer import ROOT
from tests.parts.bus_world import (
    APP,
    BACKUP,
    JOB,
    MANAGER,
    NOBODY,
    TRIAL,
    World,
    connect_as_nobody,
    policed,
    world,
)

from slotd.host.bus import Variant
from slotd.service import app, job, manager

NOT_AUTHORIZED = "org.slotd1.Error.NotAuthorized"
INTERACTIVE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


APP_PATH = f"{ROOT}/app/notes"
READS = {"ListApps", "GetApp", "ListJobs", "GetJob", "History"}
ROOT_ONLY = {"ReportFailure"}

# Each change of an app: its arguments, the action, and what polkit's rules see beside app and verb.
VERBS: list[tuple[str, str, tuple[Any, ...], str, dict[str, str]]] = [
    ("Check", "", (), "check", {"version": "1.0"}),
    ("Update", "", (), "update", {"version": "1.1", "installed": "1.0", "force": "false"}),
    ("Rollback", "", (), "rollback", {"version": "0.9", "installed": "1.0", "data": ""}),
    ("Approve", "s", ("1.1",), "approve", {"version": "1.1"}),
    ("Hold", "s", ("why",), "hold", {"version": "1.0"}),
    ("Unhold", "", (), "hold", {"version": "1.0"}),
    ("SetMode", "s", ("auto",), "set-mode", {"version": "1.0", "mode": "auto"}),
    ("Backup", "", (), "backup", {"version": "1.0"}),
    ("VerifyBackup", "s", ("b1",), "backup", {"version": "1.0", "backup": "b1"}),
    ("InspectBackup", "s", ("b1",), "inspect-backup", {"version": "1.0", "backup": "b1"}),
    ("Restore", "s", ("b1",), "restore", {"version": "1.0", "installed": "1.0", "backup": "b1", "paths": ""}),
    ("Adopt", "", (), "adopt", {"version": "", "from": ""}),
    ("Release", "", (), "adopt", {"version": "1.0", "present": "false"}),
    ("MarkGood", "", (), "mark-good", {"version": "1.1"}),
    ("MarkBad", "", (), "rollback", {"version": "0.9", "installed": "1.0", "data": "restore"}),
]
OF_ALL = [("CheckAll", "a{sv}", ({},), "check"), ("ApplyAll", "a{sv}", ({},), "update"), ("Reload", "", (), "reload")]

Change = tuple[str, str, str, tuple[Any, ...], str, dict[str, str]]  # interface, member, signature, arguments …
CHANGES: list[Change] = [
    *((MANAGER, m, f"s{s}a{{sv}}", ("notes", *args, {}), act, {"app": "notes", **d}) for m, s, args, act, d in VERBS),
    *((APP, m, f"{s}a{{sv}}", (*args, {}), act, {"app": "notes", **d}) for m, s, args, act, d in VERBS),
    *((MANAGER, m, s, args, act, {"app": "*", "version": ""}) for m, s, args, act in OF_ALL),
    (JOB, "Cancel", "", (), "cancel", {"app": "notes", "version": "1.1", "job": "1", "kind": "check"}),
]
PATHS = {MANAGER: ROOT, APP: APP_PATH, JOB: f"{ROOT}/job/1"}


def settled(it: World) -> None:
    """An app with everything that a verb can be about."""
    it.core.change_app("notes", previous_version="0.9", backups=(BACKUP,), trial=TRIAL)


def test_every_method_is_in_the_table_of_changes_or_only_reads() -> None:
    tested = {(interface, member) for interface, member, *_ in CHANGES}
    more = {(MANAGER, "Import")}  # `test_a_bundle_is_imported_by_who_may`
    for interface in (manager.INTERFACE, app.INTERFACE, job.INTERFACE):
        for method in interface.methods:
            at = (interface.name, method.name)
            assert (at in tested or at in more) is (method.name not in READS | ROOT_ONLY), at


@pytest.mark.parametrize(
    ("interface", "member", "signature", "args", "action", "details"), CHANGES, ids=lambda value: str(value)[-12:]
)
async def test_every_change_needs_its_action_and_says_what_it_is_about(
    interface: str, member: str, signature: str, args: tuple[Any, ...], action: str, details: dict[str, str]
) -> None:
    async with policed("notes") as (it, polkit, nobody):
        settled(it)
        if interface == JOB:
            await it.call("Check", "sa{sv}", "notes", {})
            it.core.done.clear()
        where = {"path": PATHS[interface], "interface": interface}
        assert (await it.error(member, signature, *args, **where, by=nobody))[0] == NOT_AUTHORIZED
        assert it.core.done == []
        polkit.allowed = {f"org.slotd1.{action}"}
        await it.call(member, signature, *args, **where, by=nobody)
        assert len(it.core.done) == 1
        for subject, asked, said, flags, _ in polkit.asked:
            assert (subject[0], subject[1]["name"].value) == ("system-bus-name", nobody.unique_name)
            message = said.pop("polkit.message")
            assert (asked, said, flags) == (
                f"org.slotd1.{action}",
                {**details, "verb": member, "polkit.gettext_domain": "slotd"},
                0,
            )
            assert message.startswith("Authentication is required to ")
            assert {word.split(")")[0] for word in message.split("$(")[1:]} <= details.keys()


async def test_a_bundle_is_imported_by_who_may() -> None:
    async with policed("notes") as (it, polkit, nobody):
        with Path("/dev/null").open() as bundle:
            given = {"fds": [bundle.fileno()], "by": nobody}
            assert (await it.error("Import", "ha{sv}", 0, {}, **given))[0] == NOT_AUTHORIZED
            polkit.allowed = {"org.slotd1.import"}
            await it.call("Import", "ha{sv}", 0, {}, **given)
            assert it.core.done[-1][0] == "import"
            assert [asked[1] for asked in polkit.asked] == ["org.slotd1.import"] * 2


async def test_a_units_failure_is_reported_by_root_alone() -> None:
    async with world("notes", is_open=True) as it:  # past the bus's own policy
        nobody = await connect_as_nobody(it)
        name, text = await it.error("ReportFailure", "sa{sv}", "notes.service", {}, by=nobody)
        assert (name, text) == (NOT_AUTHORIZED, "cannot do that: ReportFailure is for root alone.\nRun it as root.")
        await it.call("ReportFailure", "sa{sv}", "notes.service", {})
        assert it.core.done == [("failure", "notes.service")]


@pytest.mark.parametrize(("key", "value"), [("version", "0.9"), ("force", True)])
async def test_a_version_of_ones_own_choice_needs_a_stronger_action(key: str, value: Any) -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.allowed = {"org.slotd1.update"}
        options = {key: Variant("b" if value is True else "s", value)}
        assert (await it.error("Update", "sa{sv}", "notes", options, by=nobody))[0] == NOT_AUTHORIZED
        assert polkit.asked[-1][1] == "org.slotd1.update-to-version"
        assert polkit.asked[-1][2]["version"] == ("0.9" if key == "version" else "1.1")


async def test_a_password_is_asked_for_only_if_the_call_allows_it() -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.challenge = {"org.slotd1.hold"}
        args = ("ssa{sv}", "notes", "why", {})
        assert (await it.error("Hold", *args, by=nobody))[0] == INTERACTIVE
        assert [asked[3] for asked in polkit.asked] == [0]
        assert it.core.done == []
        await it.call("Hold", *args, by=nobody, interactive=True)
        assert [asked[3] for asked in polkit.asked] == [0, 0, 1]
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
        assert "polkit does not run on this host, and without it only root may change things.\nRun it as root" in text
        await it.call("Unhold", "sa{sv}", "notes", {})
        assert it.core.done == [("unhold", "notes")]


async def test_busctl_of_an_unprivileged_user_is_told_so() -> None:
    async with world("notes") as it:
        status, said = await it.as_nobody("call", "org.slotd1", ROOT, MANAGER, "Update", "sa{sv}", "notes", "0")
        assert (status, "without it only root may change things" in said) == (1, True)
        status, said = await it.as_nobody("call", "org.slotd1", ROOT, MANAGER, "ListApps")
        assert (status, '"notes" "1.0" "idle"' in said) == (0, True)
        assert it.core.done == []


@pytest.mark.parametrize(
    ("member", "signature", "args", "error"),
    [
        ("Check", "sa{sv}", ("none", {}), "NoSuchApp"),
        ("SetMode", "ssa{sv}", ("notes", "x", {}), "BadOption"),
        ("Restore", "ssa{sv}", ("notes", "../b1", {}), "NoSuchBackup"),
        ("Rollback", "sa{sv}", ("notes", {"data": Variant("s", "burn")}), "BadOption"),
        ("Update", "sa{sv}", ("notes", {"version": Variant("s", "latest")}), "BadOption"),
        ("Approve", "ssa{sv}", ("notes", "1.1 of notes. root has seen it", {}), "BadOption"),
        ("Update", "sa{sv}", ("notes", {"version": Variant("s", "$(subject)")}), "BadOption"),
        ("Rollback", "sa{sv}", ("notes", {"to": Variant("s", "1" * 200)}), "BadOption"),
    ],
)
async def test_a_wrong_question_is_refused_before_a_password_is_asked_for(
    member: str, signature: str, args: tuple[Any, ...], error: str
) -> None:
    async with policed("notes") as (it, polkit, nobody):
        name, _ = await it.error(member, signature, *args, by=nobody, interactive=True)
        assert (name, polkit.asked) == (f"org.slotd1.Error.{error}", [])


@pytest.mark.parametrize("answer", [("(s)", [["yes"]]), ("(bb)", [[True, False]]), ("(iba{ss})", [[1, False, {}]])])
async def test_an_answer_that_polkit_would_not_give_is_a_denial(answer: tuple[str, Any]) -> None:
    async with policed("notes") as (it, polkit, nobody):
        polkit.signature, polkit.answer = answer
        assert (await it.error("Unhold", "sa{sv}", "notes", {}, by=nobody))[0] == NOT_AUTHORIZED
        assert it.core.done == []


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
