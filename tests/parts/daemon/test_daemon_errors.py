"""What every method of the manager, of an app and of a job refuses: the errors are those that are documented.

The tests walk through an app's life, in order; the last one looks whether every documented error was met.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from tests.parts.daemon.desk import APP, JOB, MANAGER, NAME, ROOT, Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import REPOSITORY, World

from slotd.errors import SlotdError
from slotd.host.bus import Variant

sys.path.insert(0, str(REPOSITORY / "packaging"))

from manual import bus

OURS, STANDARD = "org.slotd1.Error.", "org.freedesktop.DBus.Error."
DESCRIBED = bus.read(REPOSITORY / "dbus")
METHODS = {name: [m for m in one.members if m.kind == "method"] for name, one in DESCRIBED.items()}
VERBS = [method.name for method in METHODS[APP]]
# A guard against a trial that nobody watches; the daemon closes such ones when it starts.
UNREACHABLE = {("Update", "NothingToDo")}
# What a verb takes before its options, where it takes something.
WORDS = {"Approve": ["1.0"], "Hold": ["why"], "SetMode": ["auto"]}
WORDS |= {verb: ["b1"] for verb in ("VerifyBackup", "InspectBackup", "Restore")}
LIES = {"from": "/opt/notes", "version": "1.0"}
SLOW = '[slots]\nprepare = [["sleep", "60"]]\n'

met: set[tuple[str, str]] = set()


def arguments(method: bus.Member) -> list[tuple[str, str]]:
    """(type, name) of what goes in."""
    inside = method.signature.split("(", 1)[1].split(") →")[0].removesuffix(")")
    return [tuple(arg.split(" ")) for arg in inside.split(", ") if arg]  # type: ignore[misc]


async def error_of(desk: Desk, signature: str, body: list[Any], member: str, path: str, interface: str) -> str:
    """The name of the error that a call gets, and a text that a person can read with it."""
    with pytest.raises(SlotdError) as caught:
        await desk.ask(NAME, path, interface, member, signature, body)
    assert str(caught.value.message).endswith((".", "?")), caught.value
    return str(getattr(caught.value, "remote_name", ""))


async def refused(desk: Desk, error: str, verb: str, *words: str, app: str = "notes", **options: Any) -> None:
    """The manager and the app itself refuse it with the same error, which is documented."""
    given = {key: Variant({str: "s", bool: "b"}[type(value)], value) for key, value in options.items()}
    signature = "s" * len(words) + "a{sv}"
    said = await error_of(desk, "s" + signature, [app, *words, given], verb, ROOT, MANAGER)
    assert said == OURS + error
    told = await error_of(desk, signature, [*words, given], verb, f"{ROOT}/app/{app}", APP)
    assert told == (f"{STANDARD}UnknownObject" if error == "NoSuchApp" else said)
    met.add((verb, error))
    documented = DESCRIBED[MANAGER].member(verb).doc.errors
    assert error in (*documented, "BadOption")


@pytest.mark.parametrize("interface", [MANAGER, APP])
async def test_every_method_refuses_options_that_it_does_not_know(notes: Notes, desk: Desk, interface: str) -> None:
    path = ROOT if interface == MANAGER else f"{ROOT}/app/notes"
    for method in METHODS[interface]:
        takes = arguments(method)
        if not takes or takes[-1][0] != "a{sv}" or method.name == "Import":
            continue
        texts = {"app": "notes", "mode": "auto"}
        body = [texts.get(name, "1.0") if kind == "s" else 1 for kind, name in takes[:-1]]
        signature = "".join(kind for kind, _ in takes)
        wrong = [{"nonsense": Variant("b", True)}, {"": Variant("s", "")}]
        known = DESCRIBED[MANAGER].member(method.name).doc.keys if method.name != "History" else ()
        wrong += [{key.split()[0]: Variant("d", 1.5)} for key, _ in known]
        for options in wrong:
            said = await error_of(desk, signature, [*body, options], method.name, path, interface)
            assert said == f"{OURS}BadOption", (method.name, options)
        assert (
            await error_of(desk, signature + "i", [*body, {}, 1], method.name, path, interface)
            == f"{STANDARD}InvalidArgs"
        )


async def test_every_method_says_that_there_is_no_such_app(desk: Desk) -> None:
    for verb in VERBS:
        if verb == "History":
            continue
        await refused(desk, "NoSuchApp", verb, *WORDS.get(verb, []), app="nowhere")
    others = {"GetApp": ("s", ["nowhere"]), "History": ("sua{sv}", ["nowhere", 1, {}])}
    others["ReportFailure"] = ("sa{sv}", ["nowhere.service", {}])
    for member, (signature, body) in others.items():
        assert await error_of(desk, signature, body, member, ROOT, MANAGER) == f"{OURS}NoSuchApp"
        met.add((member, "NoSuchApp"))
    assert await error_of(desk, "t", [4711], "GetJob", ROOT, MANAGER) == f"{OURS}NoSuchJob"
    met.add(("GetJob", "NoSuchJob"))


async def test_values_that_make_no_sense_are_refused_by_every_verb_that_takes_them(notes: Notes, desk: Desk) -> None:
    await refused(desk, "BadOption", "Update", version="latest")
    await refused(desk, "BadOption", "Rollback", data="drop")
    await refused(desk, "BadOption", "SetMode", "always")
    for words in ("\x1b[2J", "x" * 2000):
        await refused(desk, "BadOption", "Hold", words)
    for key in LIES:
        await refused(desk, "BadOption", "Adopt", **(LIES | {key: ""}))
    await refused(desk, "BadOption", "Adopt", **(LIES | {"version": "latest"}))


async def test_what_is_not_installed_cannot_be_rolled_back_or_judged(notes: Notes, desk: Desk) -> None:
    await refused(desk, "NoRollback", "Rollback", data="keep")
    await refused(desk, "NothingToDo", "MarkGood")
    await refused(desk, "NothingToDo", "MarkBad")
    await refused(desk, "NothingToDo", "Release")
    await refused(desk, "NoSuchVersion", "Approve", "9.9")


async def test_a_rollback_must_say_what_becomes_of_the_data_and_needs_a_backup_to_restore(
    notes: Notes, desk: Desk
) -> None:
    notes.define(more="[backup]\nenabled = false\n")
    await desk.call("Reload")
    for version in ("1.0", "1.1"):
        notes.publish(version)
        assert (await desk.do("Update", "notes"))["result"] == "updated"
    await refused(desk, "DataChoiceRequired", "Rollback")
    await refused(desk, "NoSuchBackup", "Rollback", data="restore")
    await refused(desk, "NoSuchVersion", "Rollback", data="keep", to="0.1")
    await refused(desk, "NothingToDo", "Rollback", data="keep", to="1.1")
    for verb in ("VerifyBackup", "InspectBackup", "Restore"):
        await refused(desk, "NoSuchBackup", verb, "b0")


async def test_what_is_installed_cannot_be_adopted_and_what_was_not_adopted_cannot_be_given_back(
    notes: Notes, desk: Desk
) -> None:
    await refused(desk, "NothingToDo", "Adopt", **LIES)
    await refused(desk, "NothingToDo", "Release")
    await refused(desk, "NothingToDo", "Release", present=True)


async def test_an_app_that_is_held_is_not_updated(notes: Notes, desk: Desk) -> None:
    await desk.call("Hold", "ssa{sv}", "notes", "holidays")
    await refused(desk, "Held", "Update")
    await refused(desk, "Held", "Rollback", data="keep", to="0.1")
    await desk.call("Unhold", "sa{sv}", "notes")


async def test_a_second_job_is_refused_at_once_and_the_first_can_be_cancelled_once(notes: Notes, desk: Desk) -> None:
    notes.define()
    await desk.call("Reload")
    assert (await desk.do("Backup", "notes"))["result"] == "done"
    saved = (await desk.app("notes"))["Backups"][0]["id"]
    notes.define(more=SLOW)
    await desk.call("Reload")
    notes.publish("1.2")
    first = await desk.start("Update", "notes")
    await desk.step_of(first, "stage")
    await refused(desk, "Busy", "Update")
    await refused(desk, "Busy", "Rollback", data="keep")
    await refused(desk, "Busy", "Backup")
    await refused(desk, "Busy", "Restore", saved)
    await refused(desk, "Busy", "VerifyBackup", saved)
    await refused(desk, "Busy", "Adopt", **LIES)
    await refused(desk, "Busy", "Release")
    await desk.call("Cancel", path=first, interface=JOB)
    assert (await desk.end_of(first))["result"] == "cancelled"
    assert await error_of(desk, "", [], "Cancel", first, JOB) == f"{OURS}TooLate"
    met.add(("Cancel", "TooLate"))


async def test_nothing_is_done_with_a_definition_that_cannot_be_used(notes: Notes, desk: Desk) -> None:
    saved = (await desk.app("notes"))["Backups"][0]["id"]
    notes.define(more='[poliscy]\nmode = "auto"\n')
    await desk.call("Reload")
    for verb, words in (("Check", []), ("Update", []), ("Backup", []), ("Approve", ["1.2"]), ("SetMode", ["auto"])):
        await refused(desk, "Misconfigured", verb, *words)
    await refused(desk, "Misconfigured", "Rollback", data="keep")
    for verb in ("VerifyBackup", "InspectBackup", "Restore"):
        await refused(desk, "Misconfigured", verb, saved)
    await refused(desk, "Misconfigured", "Adopt", **LIES)
    await refused(desk, "Misconfigured", "Release")


async def test_a_bundle_is_refused_with_the_documented_error(world: World, desk: Desk) -> None:
    with (world.root / "bus.conf").open("rb") as file:
        both = [desk.ask(NAME, ROOT, MANAGER, "Import", "ha{sv}", [0, {}], fds=[file.fileno()]) for _ in range(2)]
        [job], busy = await asyncio.gather(*both, return_exceptions=True)
        await desk.end_of(job)
    with pytest.raises(SlotdError) as lacking:
        await desk.ask(NAME, ROOT, MANAGER, "Import", "ha{sv}", [0, {}])
    for error, name in ((busy, "Busy"), (lacking.value, "BadOption")):
        assert str(getattr(error, "remote_name", "")) == f"{OURS}{name}"
        met.add(("Import", name))


def test_every_documented_error_was_met() -> None:
    documented = {
        (method.name, error) for methods in METHODS.values() for method in methods for error in method.doc.errors
    }
    assert documented - met == UNREACHABLE
