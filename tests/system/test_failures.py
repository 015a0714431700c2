"""Releases that are not well: each is taken back, code and data, and everyone who asks is told why in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="6s")
        app.install("1.0")
        yield app


CASES = {
    "crash-at-start": ("1.1", "exited with status 3"),
    "crash-after 1": ("1.2", "exited with status 5"),
    "hang-at-start": ("1.3", "was not ready"),
    "red-after 20": ("1.4", "gave 503"),
    "starve-watchdog-after 1": ("1.5", "watchdog"),
    "damage-data": ("1.6", "signal 6"),
    "lose-data": ("1.7", "exited with status 4"),
}


@pytest.mark.parametrize("behaviour", CASES)
def test_a_release_that_fails_its_trial_is_rolled_back_with_its_data(notes: Notes, behaviour: str) -> None:
    version, why = CASES[behaviour]
    before = notes.wait_state()
    notes.publisher.publish(version, behaviour, schema=2)
    notes.set_trial("40s" if behaviour.startswith("red-after") else "6s")

    printed = notes.slotctl("update", "notes", status=4)

    assert notes.wait_state() == before
    assert why in printed
    status = notes.json("status", "notes")
    assert status["version"] == "1.0"
    assert status["state"] in ("idle", "update-available", "awaiting-approval")
    history = notes.slotctl("history", "notes")
    journal = notes.machine.journal("notes.service")
    for told in (history, journal, notes.slotctl("status", "notes")):
        assert f"{version} was rolled back" in told or f"rolled back to 1.0: {version}" in told
        assert why in told


def test_none_of_them_is_tried_again_by_itself(notes: Notes) -> None:
    before = notes.wait_state()
    printed = notes.slotctl("update", "notes", status=3)
    assert notes.wait_state() == before
    assert "nothing" in printed.lower()


def test_what_each_failed_version_wrote_is_kept_as_quarantine(notes: Notes) -> None:
    kept = [copy for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine"]
    assert kept
    for copy in kept:
        assert notes.machine.exists(f"/var/lib/slotd/quarantine/notes/{copy['id']}/header.json")


def test_a_good_release_still_gets_through_afterwards(notes: Notes) -> None:
    before = notes.wait_state()
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert after["version"] == "2.0"
    assert after["digest"] == before["digest"]


def test_going_back_by_hand_must_say_what_happens_to_the_data(notes: Notes) -> None:
    printed = notes.slotctl("rollback", "notes", status=2)
    assert "--data=keep" in printed
    assert "--data=restore" in printed
    assert notes.wait_state()["version"] == "2.0"


def test_going_back_by_hand_brings_the_old_data_and_keeps_the_new(notes: Notes) -> None:
    notes.write("written by 2.0")
    notes.slotctl("rollback", "notes", "--data=restore")
    state = notes.wait_state()
    assert (state["version"], state["notes"]) == ("1.0", 10)


def test_the_package_and_its_journal_fields_tell_the_story(notes: Notes) -> None:
    entries = notes.machine.journal_entries("SLOTD_APP=notes")
    assert any(entry.get("SLOTD_STEP") == "stage" for entry in entries)
    assert all("MESSAGE_ID" in entry for entry in entries)
