"""Rules for polkit as docs/polkit.md has them, under a real polkitd: who may do what over the bus."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import DEFINITION, Notes, Publisher
from tests.system.people import (
    ACCESS_DENIED,
    APP,
    DENIALS,
    INTERACTIVE,
    JOB,
    MANAGER,
    NOT_AUTHORIZED,
    Call,
    add_person,
    ask,
    of_app,
    rules_of_the_manual,
    set_rules,
)

READS = {"ListApps", "GetApp", "ListJobs", "GetJob", "History"}
CHECK_ALL: Call = (MANAGER, "/org/slotd1", "CheckAll", "a{sv}", [], {})
APPLY_ALL: Call = (MANAGER, "/org/slotd1", "ApplyAll", "a{sv}", [], {})
RELOAD: Call = (MANAGER, "/org/slotd1", "Reload", "", [], {})
IMPORT: Call = (MANAGER, "/org/slotd1", "Import", "ha{sv}", [0], {})
CANCEL: Call = (JOB, "/org/slotd1/job/1", "Cancel", "", [], {})
REPORT = of_app("ReportFailure", "notes.service")
# All that changes something, and looking into a backup, which shows names of files: the one read that is not for all.
GUARDED = [
    *(
        of_app(member, "notes", *args, by_manager=by_manager)
        for by_manager in (True, False)
        for member, *args in (
            ("Hold", "why"), ("Unhold",), ("SetMode", "manual"), ("Approve", "1.0"), ("MarkGood",), ("MarkBad",),
            ("Rollback",), ("Check",), ("Backup",), ("Update",), ("Restore", "none"), ("VerifyBackup", "none"),
            ("VerifyBackup", ""), ("InspectBackup", "none"), ("Adopt",), ("Release",),
        )
    ),
    CANCEL, RELOAD, IMPORT, CHECK_ALL, APPLY_ALL,
]  # fmt: skip
# There is no such backup, which is said before anybody is asked.
IN_VAIN = [call for call in GUARDED if "none" in call[4]]
ASKED = [call for call in GUARDED if call not in IN_VAIN]


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    add_person(container, "olga", "operators")
    add_person(container, "carol")
    add_person(container, "robot")
    add_person(container, "dora", "notes-admins")
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s")
        app.install("1.0")
        wiki = DEFINITION.format(url=publisher.url, port=app.port, mode="approve", trial="1s")
        wiki = wiki.replace("notes.service", "wiki.service").replace("/var/lib/notes/data", "/var/lib/notes/wiki")
        container.write_file("/etc/slotd/apps.d/wiki.toml", wiki)
        container.run("systemctl reload slotd")
        yield app


@pytest.fixture(autouse=True)
def idle(notes: Notes) -> None:
    """Before a test no job runs."""
    notes.machine.wait_for('test "$(slotctl --json jobs)" = "[]"')


def status(notes: Notes) -> dict[str, object]:
    """What a change would show in."""
    shown = {app: notes.json("status", app) for app in ("notes", "wiki")}
    keys = ("state", "version", "available", "approved", "mode", "held", "backups")
    return {f"{app} {key}": shown[app].get(key) for app in shown for key in keys} | {
        "jobs": notes.json("jobs", "--all")
    }


def test_the_table_of_what_is_guarded_holds_every_method_that_is_not_open_to_all(notes: Notes) -> None:
    offered = set()
    for path in ("", "/app/notes", "/job/1"):
        xml = notes.machine.run(["busctl", "introspect", "--xml-interface", "org.slotd1", f"/org/slotd1{path}"]).stdout
        for interface in ElementTree.fromstring(xml).iter("interface"):
            if interface.attrib["name"].startswith("org.slotd1."):
                offered |= {(interface.attrib["name"], each.attrib["name"]) for each in interface.iter("method")}
    tested = {(call[0], call[2]) for call in [*GUARDED, REPORT]}
    assert {(interface, member) for interface, member in offered if member not in READS} == tested


def test_nobody_changes_anything_without_a_rule(notes: Notes) -> None:
    set_rules(notes.machine)
    before = status(notes)
    for error, is_interactive in ((INTERACTIVE, False), (NOT_AUTHORIZED, True)):
        for call, said in zip(ASKED, ask(notes.machine, "alice", *ASKED, interactive=is_interactive), strict=True):
            assert said["error"] == error, (call, said)
        in_vain = ask(notes.machine, "alice", *IN_VAIN, interactive=is_interactive)
        assert {said["error"] for said in in_vain} == {"org.slotd1.Error.NoSuchBackup"}
    assert ask(notes.machine, "alice", REPORT)[0]["error"] == ACCESS_DENIED
    assert status(notes) == before


def test_a_rule_lets_a_user_use_every_verb_but_those_that_it_keeps_from_him(notes: Notes) -> None:
    set_rules(notes.machine, "50-slotd-robot")
    for call, said in zip(GUARDED, ask(notes.machine, "robot", *GUARDED), strict=True):
        assert (said["error"] in DENIALS) == (call[2] in ("Adopt", "Release")), (call, said)
    assert ask(notes.machine, "robot", REPORT)[0]["error"] == ACCESS_DENIED
    shown = notes.json("status", "notes")
    assert (shown["mode"], shown["held"]) == ("manual", False)
    notes.machine.wait_for('test "$(slotctl --json jobs)" = "[]"', timeout_s=60)
    assert "back" in notes.slotctl("backups", "notes")
    forced = [of_app("Update", "notes", **{key: value}) for key, value in (("version", "1.0"), ("force", True))]
    backup = notes.json("status", "notes")["backups"][0]["id"]
    look, verify = of_app("InspectBackup", "notes", backup), of_app("VerifyBackup", "notes", backup)
    looked, verified = ask(notes.machine, "robot", look, verify)
    assert (looked["error"], verified["error"]) == ("", "")
    assert any("notes.db" in str(entry) for entry in looked["reply"][1])
    notes.machine.wait_for('test "$(slotctl --json jobs)" = "[]"', timeout_s=60)
    before = status(notes)
    for by_manager in (True, False):
        of_backup = [
            of_app(member, "notes", backup, by_manager=by_manager)
            for member in ("Restore", "VerifyBackup", "InspectBackup")
        ]
        assert [said["error"] for said in ask(notes.machine, "alice", *of_backup)] == [INTERACTIVE] * 3
    adopt = of_app("Adopt", "notes", **{"from": "/home/robot", "version": "9.9"})
    kept_from_him = [*forced, of_app("Restore", "notes", backup), adopt, of_app("Release", "notes")]
    for said in ask(notes.machine, "robot", *kept_from_him, interactive=True):
        assert (said["error"], "not authorised for org.slotd1." in said["text"]) == (NOT_AUTHORIZED, True)
    assert status(notes) == before


def test_one_user_may_check_everything_and_nothing_else(notes: Notes) -> None:
    set_rules(notes.machine, "50-slotd-watcher")
    for said in ask(notes.machine, "carol", of_app("Check", "notes"), of_app("Check", "wiki"), CHECK_ALL):
        assert said["error"] == ""
    others = [call for call in ASKED if call[2] not in ("Check", "CheckAll")]
    assert {said["error"] for said in ask(notes.machine, "carol", *others)} == {INTERACTIVE}
    assert {said["error"] for said in ask(notes.machine, "alice", of_app("Check", "notes"))} == {INTERACTIVE}


def test_operators_update_one_app_to_some_versions_and_do_not_roll_it_back(notes: Notes) -> None:
    machine, update = notes.machine, of_app("Update", "notes")
    machine.write_file(*rules_of_the_manual()["slotd-log"])
    machine.run("systemctl daemon-reload")
    set_rules(machine, "50-slotd-operators", "00-slotd-log")
    notes.publisher.publish("1.1")
    notes.slotctl("check", "notes")
    notes.slotctl("check", "wiki")
    assert ask(machine, "olga", update)[0]["error"] == INTERACTIVE  # 1.1 is not a 2.*
    notes.publisher.publish("2.1")
    notes.slotctl("check", "notes")
    notes.slotctl("check", "wiki")
    refused = [
        of_app("Update", "wiki"),
        of_app("Update", "notes", version="2.1"),
        APPLY_ALL,
        of_app("Hold", "notes", ""),
    ]
    assert {said["error"] for said in ask(machine, "olga", *refused)} == {INTERACTIVE}
    assert ask(machine, "alice", update)[0]["error"] == INTERACTIVE

    # Another version comes out, and nobody has looked: what is authorised is 2.1.
    notes.publisher.publish("3.0")
    assert ask(machine, "olga", update)[0]["error"] == ""
    machine.wait_for('test "$(slotctl --json jobs)" = "[]"', timeout_s=60)
    assert notes.state()["version"] == "2.1"
    for by_manager in (True, False):
        back = of_app("Rollback", "notes", by_manager=by_manager, data="keep")
        assert ask(machine, "olga", back, interactive=True)[0]["error"] == NOT_AUTHORIZED
    notes.slotctl("check", "notes")
    assert ask(machine, "olga", update)[0]["error"] == INTERACTIVE
    assert notes.state()["version"] == "2.1"
    log = machine.journal("polkit")
    assert "olga asks for org.slotd1.update: Update of notes 2.1" in log
    assert "olga asks for org.slotd1.update: ApplyAll of *\n" in log


def test_deputies_do_the_quiet_things_with_their_app_at_once(notes: Notes) -> None:
    set_rules(notes.machine, "50-slotd-deputies")
    calls = [of_app(member, app, *args) for app in ("notes", "wiki") for member, *args in (("Hold", "x"), ("Unhold",))]
    said = ask(notes.machine, "dora", *calls, of_app("Backup", "notes"))
    assert [each["error"] for each in said] == ["", "", INTERACTIVE, INTERACTIVE, INTERACTIVE]


def test_root_alone_when_that_is_the_rule(notes: Notes) -> None:
    set_rules(notes.machine, "10-slotd-root-only", "50-slotd-robot")
    backup = notes.json("status", "notes")["backups"][0]["id"]
    calls = [*ASKED, *(of_app(member, "notes", backup) for member in ("VerifyBackup", "InspectBackup"))]
    assert {said["error"] for said in ask(notes.machine, "robot", *calls, interactive=True)} == {NOT_AUTHORIZED}
    assert ask(notes.machine, None, of_app("Hold", "notes", "x"), of_app("Unhold", "notes"))[1]["error"] == ""


def test_the_buses_own_policy_keeps_a_verb_from_all_but_root(notes: Notes) -> None:
    set_rules(notes.machine, "50-slotd-deputies")
    path, text = rules_of_the_manual()["slotd-no-restore"]
    notes.machine.write_file(path, text)
    try:
        notes.machine.run("systemctl reload dbus")
        restores = [of_app("Restore", "notes", "none", by_manager=by_manager) for by_manager in (True, False)]
        assert {said["error"] for said in ask(notes.machine, "dora", *restores)} == {ACCESS_DENIED}
        assert {said["error"] for said in ask(notes.machine, None, *restores)} == {"org.slotd1.Error.NoSuchBackup"}
        assert ask(notes.machine, "dora", of_app("Unhold", "notes"))[0]["error"] == ""
    finally:
        notes.machine.run(f"rm {path}; systemctl reload dbus")


def test_the_bus_of_a_real_machine_lets_through_what_the_table_says(notes: Notes) -> None:
    properties = "org.freedesktop.DBus.Properties"
    refused: list[Call] = [
        (properties, "/org/slotd1/app/notes", "Set", "ssa{sv}", [APP, "Mode"], {}),
        (MANAGER, "/org/slotd1", "Nope", "", [], {}),
        (MANAGER, "/org/slotd1", "Cancel", "", [], {}),
        ("org.freedesktop.DBus.Debug.Stats", "/org/slotd1", "GetStats", "", [], {}),
    ]
    for user in ("robot", None):
        assert {said["error"] for said in ask(notes.machine, user, *refused)} == {ACCESS_DENIED}


def test_pkaction_shows_who_made_the_actions_and_what_they_ask(notes: Notes) -> None:
    shown = notes.machine.run("pkaction --verbose --action-id org.slotd1.rollback").stdout
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in shown.splitlines())
        if value.strip()
    }
    assert fields == {
        "description": "Roll an application back",
        "message": "Authentication is required to roll an application back.",
        "vendor": "slotd",
        "icon": "system-software-update",
        "implicit any": "auth_admin_keep",
        "implicit inactive": "auth_admin_keep",
        "implicit active": "auth_admin_keep",
    }
