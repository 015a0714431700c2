"""Recovery is itself killed, again and again, in every place: it comes to its end, or it is held and told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import arm, check_promises, fired, wait_until_done
from tests.system.notes import Notes, Publisher

_versions = itertools.count(1)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="400ms", more='[backup]\nretention = "0"\n')
        app.install("1.0")
        yield app


# Where it dies first, then where each that takes it up dies, and how often.
UNDONE = [
    ("snapshot:sealed", "give-up:remembered+3,stage:forgotten+2,data.remove.begun+2,finish:end+1"),
]
BACK = [
    ("rb-quarantine:aside", "data.restore.built+2,data.restore.place+2,data.restore.placed+2,data.restore.finish+2"),
]


def points(first: str, then: str) -> str:
    again = [f"{name}=kill+{times}" for name, _, times in (each.partition("+") for each in then.split(","))]
    return ",".join([f"{first}=kill", *again])


def died(notes: Notes) -> int:
    return int(notes.machine.run("ls /run/slotd-fired | wc -l").stdout)


@pytest.mark.parametrize(("first", "then"), UNDONE)
def test_an_update_is_recovered_however_often_its_recovery_is_killed(notes: Notes, first: str, then: str) -> None:
    before = notes.wait_state()
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new)
    arm(notes, points(first, then))
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, first)
    assert died(notes) >= 3
    check_promises(notes, before, new)


@pytest.mark.parametrize(("first", "then"), BACK)
def test_a_rollback_is_recovered_however_often_its_recovery_is_killed(notes: Notes, first: str, then: str) -> None:
    before = notes.wait_state()
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new, "damage-data", schema=2)
    arm(notes, points(first, then))
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, first)
    assert died(notes) >= 3
    check_promises(notes, before, new)
    assert notes.wait_state()["version"] == before["version"]


def test_a_word_on_a_trial_is_not_forgotten_with_the_daemon_that_heard_it(notes: Notes) -> None:
    before = notes.wait_state()
    notes.set_trial("1h")
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new, schema=2)
    arm(notes, "trial:judged=kill")
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'')
    notes.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0", check=False)
    wait_until_done(notes)
    assert fired(notes, "trial:judged")
    assert notes.wait_state() == before
    assert "was marked bad" in notes.slotctl("status", "notes")
    notes.set_trial("")
