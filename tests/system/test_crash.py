"""SIGKILL of the daemon in every step, then a restart: the promises hold each time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import check_promises, crash_at, fired, wait_until_done
from tests.system.notes import Notes, Publisher

from slotd.core import machine
from slotd.host import failpoint

POINTS = [f"{rule.name}:{end}" for rule in machine.UPDATE for end in ("begin", "end")]
# What no update that goes well comes by, and what the data store does, which has tests of its own.
ELSEWHERE = ("verify:rejected", "compare:", "preserve:dropped", "stage:forgotten", "migrate:", "trial:counted",
             "trial:judged", "trial:saved", "cleanup:removed", "resolve:kept", "data.")  # fmt: skip
STEPS = {rule.name for rule in machine.UPDATE} - {"delay"}
INNER = [p for p in failpoint.INNER if p.partition(":")[0] in STEPS and not p.startswith(ELSEWHERE)]
# Where a release in which nothing differs goes another way than the others.
UNCHANGED = ("compare:begin", "compare:blocked", "stage:forgotten", "compare:end", "finish:begin", "finish:end")
BACK = [f"{rule.name}:{end}" for rule in machine.ROLLBACK for end in ("begin", "end")] + [
    p for p in failpoint.INNER if p.startswith("rb-") and not p.startswith(("rb-start:", "rb-end:emptied"))
]

_versions = itertools.count(1)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms", more='[backup]\nretention = "0"\n')
        app.install("1.0")
        yield app


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


@pytest.mark.parametrize("point", UNCHANGED)
def test_a_daemon_killed_as_it_finds_nothing_changed_stops_no_app_and_leaves_nothing_over(
    notes: Notes, point: str
) -> None:
    before, new = notes.wait_state(), f"2.{next(_versions)}"
    notes.publisher.withdraw_all()  # what a crash undid is offered still
    notes.publisher.publish(new, files_of=before["version"])
    slot = notes.json("status", "notes")["slot"]
    copies = notes.json("backups", "notes")
    running = notes.machine.run("systemctl show -P MainPID -P InvocationID notes").stdout
    crash_at(notes, point)
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, point)
    check_promises(notes, before, new)
    assert notes.machine.run("systemctl show -P MainPID -P InvocationID notes").stdout == running
    assert notes.wait_state() == before
    assert (notes.json("status", "notes")["slot"], notes.json("backups", "notes")) == (slot, copies)
    other = "b" if slot == "a" else "a"
    assert not notes.machine.exists(f"/var/lib/slotd/apps/notes/{other}")
    assert f"{new} holds the same files as {before['version']}; nothing was touched" in " ".join(
        notes.slotctl("history", "notes").split()
    )
    notes.slotctl("update", "notes", status=3)  # it is not looked into again
