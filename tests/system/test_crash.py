"""SIGKILL of the daemon in every step, then a restart: the promises hold each time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

from slotd.core import machine

POINTS = [f"{rule.name}:{end}" for rule in machine.UPDATE for end in ("begin", "end")]
INNER = [
    "fetch:downloaded", "stage:unpacked", "stage:prepared", "stage:finished", "stop:remembered",
    "snapshot:copied", "snapshot:sealed", "switch:trial", "switch:link", "start:counted",
]  # fmt: skip
BACK = [f"{rule.name}:{end}" for rule in machine.ROLLBACK for end in ("begin", "end")] + ["rb-quarantine:recorded"]

_versions = itertools.count(1)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms", more='[backup]\nretention = "0"\n')
        app.install("1.0")
        yield app


def crash_at(notes: Notes, point: str, action: str = "kill") -> None:
    """Arm a failpoint for the next daemon; it fires once, also across restarts."""
    notes.machine.run("rm -rf /run/slotd-fired; mkdir -p /run/slotd-fired /run/systemd/system/slotd.service.d")
    notes.machine.write_file(
        "/run/systemd/system/slotd.service.d/failpoint.conf",
        f"[Service]\nEnvironment=SLOTD_FAILPOINTS={point}={action} SLOTD_FAILPOINTS_DIR=/run/slotd-fired\n"
        "RestartSec=50ms\nStartLimitIntervalSec=0\n",
    )
    notes.machine.run("systemctl daemon-reload && systemctl restart slotd")


def fired(notes: Notes, point: str) -> bool:
    return notes.machine.exists(f"/run/slotd-fired/{point}")


def wait_until_done(notes: Notes) -> None:
    """Until no job runs any more, whoever runs it."""
    notes.machine.wait_for(
        "systemctl is-active --quiet slotd || systemctl start slotd; "
        "test \"$(busctl get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs)\" = 'u 0'",
        timeout_s=60,
    )


def check_promises(notes: Notes, before: dict[str, object], new: str) -> None:
    """One whole version answers, on the data that it had or made; store, link and app agree."""
    state = notes.wait_state()
    assert state["version"] in (before["version"], new)
    assert state["digest"] == before["digest"]
    shown = notes.json("status", "notes")
    assert shown["version"] == state["version"]
    assert shown["trial"] is None
    assert shown["state"] not in ("updating", "trial", "rolling-back", "failed", "held")
    link = notes.machine.run("readlink /var/lib/slotd/apps/notes/current").stdout.strip()
    assert notes.machine.read_file(f"/var/lib/slotd/apps/notes/{link}/VERSION") == state["version"]
    assert notes.machine.run("systemctl is-active notes").stdout.strip() == "active"


@pytest.mark.parametrize("point", [*POINTS, *INNER])
def test_a_daemon_killed_in_an_update_leaves_one_whole_version_with_its_data(notes: Notes, point: str) -> None:
    before = notes.wait_state()
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new)
    crash_at(notes, point)
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, point)
    check_promises(notes, before, new)


@pytest.mark.parametrize("point", BACK)
def test_a_daemon_killed_in_a_rollback_finishes_it(notes: Notes, point: str) -> None:
    before = notes.wait_state()
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new, "damage-data")
    crash_at(notes, point)
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, point)
    check_promises(notes, before, new)
    assert notes.wait_state()["version"] == before["version"]
