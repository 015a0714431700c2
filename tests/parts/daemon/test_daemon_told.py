"""What a person is told when things go wrong: the cause, once, and nothing that is not so."""

from __future__ import annotations

from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World


def history(world: World) -> list[tuple[str, str]]:
    return [(event["kind"], event["message"]) for event in world.json("history", "notes")]


def test_an_installation_says_that_the_data_of_the_definition_are_nowhere(world: World, notes: Notes) -> None:
    notes.define(trial="500ms")
    missing = notes.data.with_name("elsewhere")
    text = notes.definition.read_text().replace(f'paths = ["{notes.data}"]', f'paths = ["{notes.data}", "{missing}"]')
    world.write(notes.definition, text)
    unit = world.units / "notes.service"
    world.write(unit, unit.read_text().replace("Type=notify\n", "").replace("Restart=on-failure\n", ""))
    world.write(unit, unit.read_text().replace("WatchdogSec=5s\n", ""))
    notes.publish("1.0")
    world.start()
    world.systemctl("daemon-reload")
    assert f"there is no {missing} yet" in world.slotctl("verify", "notes")
    steps = world.slotctl("update", "notes")
    assert "notes: installed 1.0" in steps
    assert ("warning", f"there is no {missing}: nothing of it is saved or goes back (data.paths)") in history(world)
    for step in ("delay", "migrate", "stop", "snapshot", "compare"):
        assert f"notes: {step} - " not in steps, "a step that had nothing to do"
    assert "notes: fetch - " in steps


def test_a_version_that_ends_at_once_is_told_with_its_status_and_on_trial_only_once(world: World, notes: Notes) -> None:
    files = {"notes.py": b"import sys\nsys.exit(7)\n", "VERSION": b"1.1", "SCHEMA": b"1", "behaviour": b"well"}
    notes.publish_files("1.1", files)
    before = len(history(world))
    said = world.slotctl("update", "notes", status=4)
    events = history(world)[before:]
    why = "notes.service exited with status 7"
    assert f"{why}, and its 3 attempts are spent" in " ".join(said.split())
    [back] = [message for kind, message in events if kind == "rolled-back"]
    assert f"rolled back to 1.0: 1.1 keeps crashing: {why}" in back
    assert why in world.json("status", "notes")["last_error"]
    assert [kind for kind, _ in events].count("trial-started") == 1
    again = [message for kind, message in events if "starting it again" in message]
    assert len(again) == 2, "after the third and last attempt it goes back"
    assert notes.version == "1.0"


def test_a_request_that_makes_no_sense_is_no_error_of_the_app(world: World, notes: Notes) -> None:
    notes.publish("0.9")
    world.slotctl("update", "notes", "--force", "--version", "1.0")
    before, error = len(history(world)), world.json("status", "notes")["last_error"]
    said = world.slotctl("update", "notes", "--version", "0.9", status=2)
    assert "it is not newer than the installed 1.0" in said
    assert "slotctl --user rollback notes --data=restore" in said
    assert world.json("status", "notes")["last_error"] == error == ""
    assert history(world)[before:] == []


def test_a_release_that_cannot_be_used_is_told_once_and_not_each_day(world: World, notes: Notes) -> None:
    notes.server.release(notes.project, "nonsense version", {"x": b"x"})
    for _ in range(3):
        world.slotctl("check", "notes")
    world.start()
    world.slotctl("check", "notes")
    assert len([message for kind, message in history(world) if kind == "release-skipped"]) == 1


def test_a_mistake_in_the_definition_does_not_hide_what_runs(world: World, notes: Notes) -> None:
    text = notes.definition.read_text()
    before = world.json("status", "notes")
    assert before["state"] != "misconfigured"
    assert before["version"] == notes.version
    world.write(notes.definition, f"nonsense = true\n{text}")
    world.systemctl("reload", "slotd.service", status=None)
    world.start()
    app = world.json("status", "notes")
    assert (app["state"], app["version"], app["slot"]) == ("misconfigured", before["version"], before["slot"])
    world.write(notes.definition, text)
