"""Recovery is itself killed in more places than `test_recovery` has, and for ever: then the job is held, and told."""

from __future__ import annotations

import pytest
from tests.system import test_recovery
from tests.system.crashing import arm, check_promises, fired, wait_until_done
from tests.system.notes import Notes

notes = test_recovery.notes
_versions = test_recovery._versions


# Where it dies first, then where each that takes it up dies, and how often.
UNDONE = [
    ("stage:manifest", "resume:begin+3,resume:counted+3"),
    ("preserve:copied", "data.pass.entry+4"),
    ("stop:dated", "stop:undo+3,stop:undone+2,preserve:dropped+2,give-up:undone+2,finish:begin+2"),
    ("switch:made", "switch:undo+2,switch:undone+2,stop:undone+2"),
]
GONE_ON = [
    ("switch:renamed", "switch:stopped+3,start:counted+1,trial:begin+2"),
    ("trial:passed", "trial:begin+3,commit:closing+3,commit:closed+2,cleanup:copies+2,finish:begin+2"),
]
BACK = [
    ("rb-stop:end", "rb-stop:remembered+2,rb-quarantine:recorded+2,data.quarantine.rename+2,data.quarantine.renamed+2"),
    ("rb-switch:link", "rb-start:begin+2,rb-start:end+2,rb-verify:begin+2,rb-end:closing+2,rb-end:closed+2"),
]


@pytest.mark.parametrize(("first", "then"), [*UNDONE, *GONE_ON])
def test_an_update_is_recovered_however_often_its_recovery_is_killed(notes: Notes, first: str, then: str) -> None:
    test_recovery.test_an_update_is_recovered_however_often_its_recovery_is_killed(notes, first, then)


@pytest.mark.parametrize(("first", "then"), BACK)
def test_a_rollback_is_recovered_however_often_its_recovery_is_killed(notes: Notes, first: str, then: str) -> None:
    test_recovery.test_a_rollback_is_recovered_however_often_its_recovery_is_killed(notes, first, then)


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


@pytest.mark.parametrize("wait", ["50ms", "1s"])  # while the next start is awaited, systemd has not given it up yet
def test_who_follows_a_job_is_told_when_the_daemon_cannot_be_kept_running(notes: Notes, wait: str) -> None:
    before = notes.wait_state()
    new = f"4.{next(_versions)}"
    notes.publisher.publish(new)
    arm(notes, "stop:stopped=kill,resume:begin=kill+100", start_limit="2min", wait=wait)
    said = notes.slotctl("update", "notes", status=1, timeout_s=400)
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
    assert test_recovery.died(notes) == 21
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


def test_a_state_that_lost_its_newest_writes_believes_the_slots_and_says_what_is_forgotten(notes: Notes) -> None:
    arm(notes, "")
    state = "/var/lib/slotd/state.db"
    notes.machine.run(f"systemctl stop slotd; cp {state} /root/older.db; systemctl start slotd")
    versions = [f"4.{next(_versions)}" for _ in range(2)]
    for version in versions:
        notes.publisher.publish(version)
        notes.slotctl("update", "notes", "--version", version)
    before = notes.wait_state()
    slot = notes.json("status", "notes")["slot"]
    # As it is when the log beside it is lost: what was committed since the last checkpoint is not in it.
    notes.machine.run(
        f"systemctl stop slotd; rm -f {state}-wal {state}-shm; cp /root/older.db {state}; systemctl start slotd"
    )
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["slot"], shown["held"]) == (versions[1], slot, False)
    told = f"slot {slot} holds {versions[1]}, not"
    assert told in " ".join(notes.slotctl("history", "notes").split())
    assert told in notes.machine.run("journalctl -q -u notes -o cat").stdout
    notes.slotctl("rollback", "notes", "--data=keep")
    assert notes.wait_state() == before | {"version": versions[0]}
