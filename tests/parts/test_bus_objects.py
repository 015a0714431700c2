"""The interface of section 7, as `busctl` and other clients see it, on a bus with the policy of the package."""

from __future__ import annotations

import dataclasses
import os
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from tests.parts.bus_peer import ROOT
from tests.parts.bus_world import APP, BACKUP, JOB, MANAGER, PROPERTIES, REPOSITORY, TRIAL, world

from slotd.host.bus import Variant
from slotd.model import AppState, Event, Job, JobKind, JobState, Result, Trial

ERROR = "org.slotd1.Error."
STANDARD = "org.freedesktop.DBus.Error."


async def test_apps_are_listed_with_version_state_and_path() -> None:
    async with world("notes", "2-wiki") as it:
        [apps] = await it.call("ListApps")
        assert apps[1] == ["2-wiki", "1.0", "idle", "1.1", "approve", "/org/slotd1/app/_32_2dwiki"]
        assert await it.call("GetApp", "s", "2-wiki") == ["/org/slotd1/app/_32_2dwiki"]
        name, text = await it.error("GetApp", "s", "nowhere")
        assert (name, text) == (ERROR + "NoSuchApp", "cannot find the app nowhere.\n`slotctl list` shows all.")


async def test_an_update_gives_its_job_at_once_and_the_second_one_is_busy() -> None:
    async with world() as it:
        options = {"version": Variant("s", "1.1"), "force": Variant("b", True)}
        assert await it.call("Update", "sa{sv}", "notes", options) == ["/org/slotd1/job/1"]
        assert it.core.done == [("update", "notes", "1.1", True, False)]
        assert (await it.error("Update", "sa{sv}", "notes", {}))[0] == ERROR + "Busy"
        job = await it.get("/org/slotd1/job/1", JOB)
        assert job == {
            "Id": 1, "App": "notes", "Kind": "update", "State": "running", "Step": "resolve", "Progress": 0,
            "Result": "", "Error": ["", ""], "Version": "1.1", "PreviousVersion": "", "Started": 1000, "Finished": 0,
        }  # fmt: skip
        assert await it.call("ListJobs", "a{sv}", {}) == [[[1, "notes", "update", "running", "/org/slotd1/job/1"]]]


@pytest.mark.parametrize(
    ("member", "args", "done"),
    [
        ("Check", ("a{sv}", {}), ("check", "notes")),
        ("Update", ("a{sv}", {"now": Variant("b", True)}), ("update", "notes", "", False, True)),
        (
            "Rollback",
            ("a{sv}", {"data": Variant("s", "keep"), "to": Variant("s", "0.9")}),
            ("rollback", "notes", "keep", "0.9"),
        ),
        ("Approve", ("sa{sv}", "1.1", {}), ("approve", "notes", "1.1")),
        ("Hold", ("sa{sv}", "until May", {}), ("hold", "notes", "until May")),
        ("Unhold", ("a{sv}", {}), ("unhold", "notes")),
        ("SetMode", ("sa{sv}", "auto", {}), ("mode", "notes", "auto")),
        ("SetMode", ("sa{sv}", "", {}), ("mode", "notes", None)),
        ("Backup", ("a{sv}", {}), ("backup", "notes")),
        ("VerifyBackup", ("sa{sv}", "b1", {}), ("verify", "notes", "b1")),
        ("VerifyBackup", ("sa{sv}", "", {}), ("verify", "notes", "")),
        ("InspectBackup", ("sa{sv}", "b1", {"diff": Variant("b", True)}), ("inspect", "notes", "b1", True, 0)),
        ("InspectBackup", ("sa{sv}", "b1", {"offset": Variant("t", 9)}), ("inspect", "notes", "b1", False, 9)),
        ("Restore", ("sa{sv}", "b1", {}), ("restore", "notes", "b1")),
        ("Restore", ("sa{sv}", "b1", {"paths": Variant("as", ["a", "b/c"])}), ("restore", "notes", "b1", "a", "b/c")),
        (
            "Adopt",
            ("a{sv}", {"from": Variant("s", "/opt/notes"), "version": Variant("s", "1.0")}),
            ("adopt", "notes", "/opt/notes", "1.0"),
        ),
        ("Release", ("a{sv}", {"present": Variant("b", True)}), ("release", "notes", True)),
        ("MarkGood", ("a{sv}", {}), ("good", "notes")),
        ("MarkBad", ("a{sv}", {}), ("bad", "notes")),
    ],
)
async def test_every_verb_works_on_the_manager_and_on_the_app(member: str, args: tuple[Any, ...], done: Any) -> None:
    async with world("notes") as it:
        it.core.change_app("notes", backups=(BACKUP,))
        signature, *body = args
        await it.call(member, "s" + signature, "notes", *body)
        it.core.all_jobs.clear()
        await it.call(member, signature, *body, path="/org/slotd1/app/notes", interface=APP)
        assert it.core.done == [done, done]


async def test_what_concerns_all_apps_is_done_for_all() -> None:
    async with world() as it:
        assert await it.call("CheckAll", "a{sv}", {}) == [["/org/slotd1/job/1", "/org/slotd1/job/2"]]
        assert await it.call("ApplyAll", "a{sv}", {}) == [["/org/slotd1/job/3", "/org/slotd1/job/4"]]
        await it.call("ReportFailure", "sa{sv}", "notes.service", {})
        await it.call("Reload")
        assert it.core.done[-2:] == [("failure", "notes.service"), ("reload",)]


@pytest.mark.parametrize(
    ("member", "args", "says"),
    [
        ("Update", ("sa{sv}", "notes", {"forse": Variant("b", True)}), ['"forse"', "version s, force b, now b"]),
        ("Update", ("sa{sv}", "notes", {"force": Variant("s", "yes")}), ['"force"', "a boolean"]),
        ("Check", ("sa{sv}", "notes", {"now": Variant("b", True)}), ['"now"', "takes none"]),
        ("SetMode", ("ssa{sv}", "notes", "always", {}), ['"always"', "manual, approve, auto"]),
        ("Rollback", ("sa{sv}", "notes", {"data": Variant("s", "drop")}), ['"drop"', "keep, restore"]),
        ("Hold", ("ssa{sv}", "notes", "\x1b[2J", {}), ["reason", "cannot be printed"]),
        ("Hold", ("ssa{sv}", "notes", "x" * 2000, {}), ["reason", "2000 characters"]),
        ("Restore", ("ssa{sv}", "notes", "b1", {"paths": Variant("s", "x")}), ['"paths"', "an array of strings"]),
        ("Restore", ("ssa{sv}", "notes", "b1", {"paths": Variant("as", ["\n"])}), ["paths", "cannot be printed"]),
        ("Restore", ("ssa{sv}", "notes", "b1", {"paths": Variant("as", ["x"] * 1001)}), ["1001 entries"]),
        ("CheckAll", ("a{sv}", {"app": Variant("s", "notes")}), ['"app"', "takes none"]),
        ("ListJobs", ("a{sv}", {"all": Variant("s", "yes")}), ['"all"', "a boolean"]),
        ("History", ("sua{sv}", "notes", 1, {"since": Variant("t", 1)}), ['"since"', "takes none"]),
    ],
)
async def test_a_wrong_option_is_named_with_what_is_allowed(member: str, args: Any, says: list[str]) -> None:
    async with world() as it:
        name, text = await it.error(member, *args)
        assert name == ERROR + "BadOption"
        assert [word for word in says if word not in text] == []
        assert it.core.done == []


def plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(value, "value", value) for key, value in values.items()}


async def test_a_look_into_a_backup_gives_its_words_and_its_entries_with_names_that_are_no_text() -> None:
    async with world("notes") as it:
        it.core.change_app("notes", backups=(BACKUP,))
        about, entries = await it.call("InspectBackup", "ssa{sv}", "notes", "b1", {"diff": Variant("b", True)})
        told = plain(about)
        assert (told["id"], told["entries"], told["entry_bytes"], told["next"]) == ("b1", 1, 7, 0)
        assert [plain(each) for each in told["said"]] == [
            {"when": "before", "command": "pg_dump", "status": 0, "output": "done"}
        ]
        [entry] = [plain(each) for each in entries]
        assert entry["path"] == "/var/lib/notes/caf\\xe9"
        assert (entry["change"], entry["kind"], entry["mode"], entry["bytes"]) == ("changed", "file", 0o640, 7)


async def test_history_gives_sentences_with_their_time_and_job() -> None:
    async with world() as it:
        it.core.events = [
            Event(7, "notes", 99.9, "updated", "notes is at 1.1", 3, "1.1", "commit", {"SLOTD_SLOT": "b"})
        ]
        [rows] = await it.call("History", "sua{sv}", "notes", 10, {})
        assert rows == [
            {
                "id": 7, "app": "notes", "at": 99, "kind": "updated", "message": "notes is at 1.1", "job": 3,
                "version": "1.1", "step": "commit", "fields": {"SLOTD_SLOT": "b"},
            }
        ]  # fmt: skip
        assert await it.call("History", "ua{sv}", 0, {}, path="/org/slotd1/app/notes", interface=APP) == [rows]


async def test_an_app_shows_its_trial_and_its_backups() -> None:
    async with world("notes") as it:
        it.core.change_app("notes", trial=TRIAL, backups=(BACKUP,), last_check=55.5, units=("notes.service",))
        app = await it.get("/org/slotd1/app/notes", APP)
        assert app["Trial"]["version"] == "1.1"
        assert app["Trial"]["attempts_left"] == 2
        assert app["Trial"] == (await it.get("/org/slotd1/app/notes", APP))["Trial"]
        assert app["Backups"] == [
            {
                "id": "b1", "kind": "backup", "version": "1.0", "reason": "before 1.1", "created": 1234, "bytes": 42,
                "path": "/backups/b1", "sealed": True, "job": 1,
            }
        ]  # fmt: skip
        assert (app["LastCheck"], app["Units"]) == (55, ["notes.service"])


async def test_a_trial_without_an_end_and_text_that_no_bus_takes_do_no_harm() -> None:
    async with world("notes") as it:
        endless: Trial = dataclasses.replace(TRIAL, remaining_s=float("inf"))
        it.core.change_app(
            "notes",
            trial=endless,
            last_error="broken \udcff \0 name",
            description="Bücher 📚",
            state=AppState.MISCONFIGURED,
        )
        app = await it.get("/org/slotd1/app/notes", APP)
        assert app["Trial"]["deadline"] == 0
        assert app["LastError"] == "broken ? ? name"
        assert app["Description"] == "Bücher 📚"
        await it.call("Hold", "ssa{sv}", "notes", "größer als 1 €", {})
        assert (await it.get("/org/slotd1/app/notes", APP))["HoldReason"] == "größer als 1 €"


async def test_a_misconfigured_app_says_all_of_its_problems() -> None:
    async with world("notes") as it:
        it.core.change_app("notes", state=AppState.MISCONFIGURED, problems=("first.", "second."))
        assert (await it.get("/org/slotd1/app/notes", APP))["LastError"] == "first.\nsecond."


async def test_a_job_can_be_read_after_its_object_is_gone() -> None:
    async with world("notes") as it:
        failed = Job(9, "notes", JobKind.UPDATE, JobState.FAILED, result=Result.FAILED)
        it.core.all_jobs[9] = dataclasses.replace(failed, error_name="NoSpace", error_message="the disk is full")
        assert await it.call("GetJob", "t", 9) == ["/org/slotd1/job/9"]
        assert (await it.get("/org/slotd1/job/9", JOB))["Error"] == ["org.slotd1.Error.NoSpace", "the disk is full"]
        assert (await it.error("GetJob", "t", 10))[0] == ERROR + "NoSuchJob"
        for path in ("/org/slotd1/job/10", "/org/slotd1/job/09", "/org/slotd1/job/x", "/org/slotd1/job/9/9"):
            assert (await it.error("GetAll", "s", JOB, path=path, interface=PROPERTIES))[
                0
            ] == STANDARD + "UnknownObject"


async def test_a_job_is_cancelled_until_it_is_too_late() -> None:
    async with world("notes") as it:
        [job] = await it.call("Update", "sa{sv}", "notes", {})
        await it.call("Cancel", path=job, interface=JOB)
        assert it.core.done[-1] == ("cancel", 1)
        it.core.change_job(1, step="migrate")
        assert (await it.error("Cancel", path=job, interface=JOB))[0] == ERROR + "TooLate"


async def test_an_import_is_given_the_file_of_its_caller_and_who_that_is(tmp_path: Any) -> None:
    async with world() as it:
        (tmp_path / "bundle").write_bytes(b"a bundle")
        with (tmp_path / "bundle").open("rb") as bundle:
            [job] = await it.call("Import", "ha{sv}", 0, {"force": Variant("b", True)}, fds=[bundle.fileno()])
            name, text = await it.error("Import", "ha{sv}", 0, {}, fds=[bundle.fileno()] * 2)
        assert job == "/org/slotd1/job/1"
        assert it.core.done[-1] == ("import", "", b"a bundle", os.getuid(), True)
        assert name == ERROR + "BadOption"
        assert "it takes one descriptor" in text


async def test_a_fault_of_ours_gives_a_reference_and_nothing_of_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as it:
        it.core.fault = ZeroDivisionError("secret/path/of/a/module.py")
        name, text = await it.error("Check", "sa{sv}", "notes", {})
        assert name == ERROR + "Failed"
        assert "ZeroDivisionError" not in text
        assert "secret" not in text
        reference = text.split("-g ")[1].rstrip("`.")
        assert reference in caplog.text
        assert "secret" in caplog.text


async def test_the_manager_says_its_version_how_many_jobs_there_are_and_what_is_misconfigured() -> None:
    async with world() as it:
        await it.call("Update", "sa{sv}", "notes", {})
        values = {"Version": "1.2.3", "NJobs": 1, "Problems": ["slotd.toml: limits.x is not a known key."]}
        assert await it.get(ROOT, MANAGER) == values
        assert await it.get(ROOT, "") == values
        assert await it.get(ROOT, PROPERTIES) == {}


async def test_all_objects_are_managed_from_the_root() -> None:
    async with world() as it:
        await it.call("Update", "sa{sv}", "notes", {})
        [objects] = await it.call("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
        assert sorted(objects) == ["/org/slotd1/app/notes", "/org/slotd1/app/wiki", "/org/slotd1/job/1"]
        assert objects["/org/slotd1/app/wiki"][APP]["Version"] == "1.0"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"path": "/org/slotd1/app/none"}, "UnknownObject"),
        ({"interface": APP, "member": "Update", "args": ("a{sv}", {})}, "UnknownInterface"),
        ({"args": ("s", "notes")}, "InvalidArgs"),
        ({"interface": PROPERTIES, "member": "Get", "args": ("ss", MANAGER, "Nothing")}, "UnknownProperty"),
        ({"interface": PROPERTIES, "member": "Get", "args": ("ss", APP, "Version")}, "UnknownInterface"),
        ({"interface": PROPERTIES, "member": "GetAll", "args": ("s", "org.example.None")}, "UnknownInterface"),
    ],
)
async def test_what_is_not_there_gets_the_standard_error(more: dict[str, Any], error: str) -> None:
    async with world() as it:
        call: dict[str, Any] = {"member": "ListApps", "args": ()} | more
        member, args = call.pop("member"), call.pop("args")
        assert (await it.error(member, *args, **call))[0] == STANDARD + error


async def test_properties_cannot_be_set_and_members_that_are_not_there_are_unknown() -> None:
    async with world(is_open=True) as it:
        args = ("ssv", MANAGER, "Version", Variant("s", "9"))
        assert (await it.error("Set", *args, interface=PROPERTIES))[0] == STANDARD + "PropertyReadOnly"
        assert (await it.error("Explode"))[0] == STANDARD + "UnknownMethod"
        assert await it.call("Ping", interface="org.freedesktop.DBus.Peer") == []


async def test_the_shipped_descriptions_are_what_the_running_service_says() -> None:
    async with world() as it:
        [job] = await it.call("Check", "sa{sv}", "notes", {})
        for path, name in ((ROOT, MANAGER), ("/org/slotd1/app/notes", APP), (job, JOB)):
            [text] = await it.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")
            running = ElementTree.fromstring(text).find(f"interface[@name='{name}']")
            shipped = ElementTree.parse(REPOSITORY / "dbus" / f"{name}.xml").getroot().find("interface")
            assert _shape(running) == _shape(shipped)


def _shape(element: ElementTree.Element | None) -> Any:
    assert element is not None
    return element.tag, sorted(element.items()), [_shape(child) for child in element]


async def test_busctl_shows_the_tree_and_calls_methods() -> None:
    async with world() as it:
        status, tree = await it.run(*it.busctl("tree", "org.slotd1"))
        assert status == 0
        assert "/org/slotd1/app/notes" in tree
        status, printed = await it.run(*it.busctl("introspect", "org.slotd1", "/org/slotd1/app/notes"))
        assert status == 0
        assert ".AvailableVersion" in printed
        assert "emits-change" in printed
        status, printed = await it.run(
            *it.busctl("call", "org.slotd1", ROOT, MANAGER, "Update", "sa{sv}", "notes", "1", "force", "b", "true")
        )
        assert (status, printed.strip()) == (0, 'o "/org/slotd1/job/1"')
