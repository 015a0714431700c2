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
    ("stage:manifest", "resume:begin+3,resume:counted+3"),
    ("preserve:copied", "data.pass.entry+4"),
    ("stop:dated", "stop:undo+3,stop:undone+2,preserve:dropped+2,give-up:undone+2,finish:begin+2"),
    ("snapshot:sealed", "give-up:remembered+3,stage:forgotten+2,data.remove.begun+2,finish:end+1"),
    ("switch:made", "switch:undo+2,switch:undone+2,stop:undone+2"),
]
GONE_ON = [
    ("switch:renamed", "switch:stopped+3,start:counted+1,trial:begin+2"),
    ("trial:passed", "trial:begin+3,commit:closing+3,commit:closed+2,cleanup:copies+2,finish:begin+2"),
]
BACK = [
    ("rb-stop:end", "rb-stop:remembered+2,rb-quarantine:recorded+2,data.quarantine.rename+2,data.quarantine.renamed+2"),
    ("rb-quarantine:aside", "data.restore.built+2,data.restore.place+2,data.restore.placed+2,data.restore.finish+2"),
    ("rb-switch:link", "rb-start:begin+2,rb-start:end+2,rb-verify:begin+2,rb-end:closing+2,rb-end:closed+2"),
]


def points(first: str, then: str) -> str:
    again = [f"{name}=kill+{times}" for name, _, times in (each.partition("+") for each in then.split(","))]
    return ",".join([f"{first}=kill", *again])


def died(notes: Notes) -> int:
    return int(notes.machine.run("ls /run/slotd-fired | wc -l").stdout)


@pytest.mark.parametrize(("first", "then"), [*UNDONE, *GONE_ON])
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


@pytest.mark.parametrize("point", ["trial:end", "commit:begin", "commit:end"])
def test_trouble_with_the_disk_at_the_end_of_a_trial_takes_no_good_version_back(notes: Notes, point: str) -> None:
    new = f"3.{next(_versions)}"
    before = notes.wait_state()
    notes.publisher.publish(new)
    arm(notes, f"{point}=eio")
    notes.slotctl("update", "notes", status=None)
    wait_until_done(notes)
    assert fired(notes, point)
    check_promises(notes, before, new)
    assert notes.wait_state()["version"] == new


def test_who_follows_a_job_is_told_when_the_daemon_cannot_be_kept_running(notes: Notes) -> None:
    before = notes.wait_state()
    new = f"2.{next(_versions)}"
    notes.publisher.publish(new)
    arm(notes, "stop:stopped=kill,resume:begin=kill+100", start_limit="2min")
    said = notes.slotctl("update", "notes", status=1)
    assert "systemd has given it up" in said
    assert "slotd-recover.service" in said
    notes.machine.wait_for("systemctl show -P ActiveState slotd-recover | grep -qx inactive")
    assert notes.wait_state() == before  # nobody but slotd-recover can have started it
    arm(notes, "")
    assert notes.json("jobs") == []
    check_promises(notes, before, new)
    notes.slotctl("update", "notes")
    assert notes.wait_state() == before | {"version": new}


@pytest.mark.parametrize(
    ("points", "step", "behaviour"),
    [
        ("stop:stopped=kill,stop:undo=kill+100", "stop", "well"),
        ("rb-start:begin=kill+100", "rb-start", "damage-data"),
    ],
)
def test_a_job_that_kills_the_daemon_for_ever_is_held_and_told_with_the_old_version_up(
    notes: Notes, points: str, step: str, behaviour: str
) -> None:
    before = notes.wait_state()
    new = f"4.{next(_versions)}"
    notes.publisher.publish(new, behaviour)
    arm(notes, points)
    notes.slotctl("update", "notes", status=1)
    wait_until_done(notes)
    assert died(notes) == 21
    assert notes.wait_state() == before
    assert notes.machine.run("systemctl is-active notes").stdout.strip() == "active"
    shown = notes.json("status", "notes")
    assert (shown["held"], shown["version"], shown["trial"]) == (True, before["version"], None)
    told = f"was interrupted 21 times in step {step}"
    assert told in shown["hold_reason"]
    assert told in " ".join(notes.slotctl("history", "notes").split())
    assert told in notes.machine.run("journalctl -q -u notes -o cat").stdout
    assert "slotctl unhold notes" in shown["hold_reason"]
    arm(notes, "")
    notes.slotctl("unhold", "notes")
    after = f"4.{next(_versions)}"
    notes.publisher.publish(after)
    notes.slotctl("update", "notes", "--version", after)
    assert notes.wait_state() == before | {"version": after}
