"""Systemd or the bus goes away for a moment during a trial: no version that is well is taken back for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import wait_until_done
from tests.system.notes import Notes, Publisher


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="8s")
        app.install("1.0")
        yield app


@pytest.mark.parametrize(
    ("version", "command", "times"),
    [("2.0", "systemctl daemon-reexec", 8), ("3.0", "systemctl restart dbus.service", 1)],
    ids=["systemd executes itself anew", "the bus is restarted"],
)
def test_a_trial_goes_on_when(notes: Notes, version: str, command: str, times: int) -> None:
    before = notes.wait_state()["version"]
    notes.publisher.publish(version)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'')
    for _ in range(times):
        notes.machine.run(command, check=False)  # its own way to the bus may be cut
        time.sleep(0.3)
    wait_until_done(notes)
    assert notes.wait_state()["version"] == version
    assert f"rolled back to {before}" not in notes.slotctl("history", "notes")
