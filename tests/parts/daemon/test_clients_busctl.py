"""slotd with busctl alone: look around, call, and watch an update go by."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from tests.parts.daemon.listening import listening
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import REPOSITORY, World

MANAGER = ("org.slotd1", "/org/slotd1", "org.slotd1.Manager")
APP = ("org.slotd1", "/org/slotd1/app/notes", "org.slotd1.App")


def busctl(world: World, *words: str, status: int | None = 0) -> str:
    return world.run("busctl", "--user", *words, status=status)


def shape(element: ElementTree.Element | None) -> Any:
    """Name, attributes and children in their order; whatever else a description has would show, too."""
    assert element is not None
    return element.tag, sorted(element.items()), [shape(child) for child in element]


def test_the_tree_shows_every_app(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    shown = {line[line.index("/") :] for line in busctl(world, "tree", "org.slotd1").splitlines() if "/" in line}
    apps = {path for path in shown if path.startswith("/org/slotd1/app")}
    assert apps == {"/org/slotd1/app", "/org/slotd1/app/notes"}
    assert "/org/slotd1/job/1" in shown


@pytest.mark.parametrize("path", ["/org/slotd1", "/org/slotd1/app/notes", "/org/slotd1/job/1"])
def test_the_descriptions_that_are_shipped_are_those_of_the_running_daemon(
    world: World, notes: Notes, path: str
) -> None:
    running = ElementTree.fromstring(busctl(world, "--xml-interface", "introspect", "org.slotd1", path))
    ours = [each for each in running.iter("interface") if str(each.get("name")).startswith("org.slotd1.")]
    [interface] = ours
    shipped = ElementTree.parse(REPOSITORY / "dbus" / f"{interface.get('name')}.xml").getroot()
    assert shape(interface) == shape(shipped.find("interface"))
    others = {str(each.get("name")) for each in running.iter("interface")} - {str(interface.get("name"))}
    standard = {f"org.freedesktop.DBus.{name}" for name in ("Peer", "Introspectable", "Properties")}
    assert others == standard | ({"org.freedesktop.DBus.ObjectManager"} if path == "/org/slotd1" else set())


def test_introspection_says_which_properties_change(world: World, notes: Notes) -> None:
    said = busctl(world, "introspect", APP[0], APP[1])
    rows = {words[0]: words[1:] for line in said.splitlines() if (words := line.split())}
    assert rows[".Version"] == ["property", "s", '"1.0"', "emits-change"]
    assert rows[".Name"] == ["property", "s", '"notes"', "const"]
    assert rows[".Update"] == ["method", "a{sv}", "o", "-"]
    assert rows[".Hold"] == ["method", "sa{sv}", "-", "-"]


def test_an_error_has_its_name_and_what_to_do(world: World, notes: Notes) -> None:
    said = busctl(world, "call", *MANAGER, "GetApp", "s", "nowhere", status=1)
    assert "cannot find an app named 'nowhere'." in said
    assert "slotctl list" in said
    said = busctl(world, "call", *MANAGER, "Update", "sa{sv}", "notes", "1", "forse", "b", "true", status=1)
    assert "version s, force b, now b" in said


def test_an_update_is_seen_going_by_and_its_signals_come_in_order(world: World, notes: Notes) -> None:
    notes.publish("1.1")
    with listening(world, "busctl", "--user", "--json=short", "monitor", "org.slotd1") as monitor:
        monitor.until(lambda line: "Monitoring" in line)
        said = busctl(world, "call", *MANAGER, "Update", "sa{sv}", "notes", "1", "now", "b", "true")
        job = said.split('"')[1]
        lines = monitor.until(lambda line: '"JobRemoved"' in line)
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    signals = [each for each in messages if each["type"] == "signal" and str(each["path"]).startswith("/org/slotd1")]
    told = [(each["member"], each["payload"]["data"]) for each in signals if each["member"] != "PropertiesChanged"]
    assert [member for member, _ in told] == ["InterfacesAdded", "JobNew", "JobRemoved"]
    assert told[0][1][0] == job
    assert told[1][1][1:] == [job, "notes", "update"]
    assert told[2][1][1:4] == [job, "notes", "updated"]
    details = {key: value["data"] for key, value in told[2][1][4].items()}
    assert (details["version"], details["previous"], details["error"]) == ("1.1", "1.0", "")

    changes = [
        each["payload"]["data"][1] for each in signals if (each["path"], each["member"]) == (job, "PropertiesChanged")
    ]
    steps = [change["Step"]["data"] for change in changes if "Step" in change]
    assert steps == [
        *("resolve", "delay", "fetch", "verify", "stage", "compare", "preserve", "stop", "snapshot", "switch"),
        *("migrate", "start", "trial", "commit", "cleanup"),
    ]
    progress = [change["Progress"]["data"] for change in changes if "Progress" in change]
    assert progress == sorted(set(progress)), "told once each, and never falling"
    assert changes[-1]["Result"]["data"] == "updated"
    states = [change["State"]["data"] for change in changes if "State" in change]
    assert states == ["running", "done"]


def test_the_properties_of_an_old_job_and_of_the_app_are_read(world: World, notes: Notes) -> None:
    said = busctl(world, "get-property", "org.slotd1", "/org/slotd1/job/1", "org.slotd1.Job", "Kind", "Result", "Error")
    assert said.splitlines() == ['s "update"', 's "updated"', '(ss) "" ""']
    said = busctl(world, "get-property", *APP, "Version", "PreviousVersion", "Slot", "Trial")
    assert said.splitlines() == ['s "1.1"', 's "1.0"', 's "b"', "a{sv} 0"]
