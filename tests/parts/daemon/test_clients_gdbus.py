"""slotd with gdbus alone, through the app's own object."""

from __future__ import annotations

import re

from tests.parts.daemon.listening import listening
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World

APP = "/org/slotd1/app/notes"


def gdbus(world: World, verb: str, path: str, *words: str, status: int | None = 0) -> str:
    return world.run("gdbus", verb, "--session", "--dest", "org.slotd1", "--object-path", path, *words, status=status)


def test_introspection_shows_methods_properties_and_what_is_below(world: World, notes: Notes) -> None:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    said = gdbus(world, "introspect", "/org/slotd1", "--recurse")
    assert f"node {APP} {{" in said
    assert re.search(r"Update\(in  s app,\s+in  a\{sv\} options,\s+out o job\);", said)
    assert "readonly s Version = '1.0';" in said
    assert re.search(r'@org\.freedesktop\.DBus\.Property\.EmitsChangedSignal\("const"\)\s+readonly s Name', said)


def test_an_error_keeps_its_name(world: World, notes: Notes) -> None:
    said = gdbus(world, "call", APP, "--method", "org.slotd1.App.Rollback", "{'data': <'drop'>}", status=1)
    assert "org.slotd1.Error.BadOption" in said
    assert "Allowed: keep, restore." in said


def test_all_objects_are_given_at_once(world: World, notes: Notes) -> None:
    said = gdbus(world, "call", "/org/slotd1", "--method", "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
    assert f"objectpath '{APP}': {{'org.slotd1.App': {{'Name': <'notes'>" in said


def test_an_update_is_followed_from_the_call_to_its_result(world: World, notes: Notes) -> None:
    notes.publish("1.1")
    with listening(world, "gdbus", "monitor", "--session", "--dest", "org.slotd1") as monitor:
        monitor.until(lambda line: "is owned by" in line)
        said = gdbus(world, "call", APP, "--method", "org.slotd1.App.Update", "{'now': <true>}")
        job = said.split("'")[1]
        lines = monitor.until(lambda line: "JobRemoved" in line)
    begun = next(line for line in lines if "JobNew" in line)
    assert f"objectpath '{job}', 'notes', 'update'" in begun
    changes = [line for line in lines if line.startswith(f"{job}: ") and "PropertiesChanged" in line]
    assert [step for line in changes for step in re.findall(r"'Step': <'([\w-]+)'>", line)][-3:] == [
        *("trial", "commit", "cleanup"),
    ]
    assert "'Result': <'updated'>" in changes[-1]
    assert f"objectpath '{job}', 'notes', 'updated'" in lines[-1]
    app = [line for line in lines if line.startswith(f"{APP}: ") and "'Version': <'1.1'>" in line]
    assert app, "the app's own object tells its new version"
