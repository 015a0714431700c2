"""The state is damaged in the middle of a rollback or a trial: it goes on, and nothing runs on half data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.system.container import Container
from tests.system.crashing import arm, fired, wait_until_done
from tests.system.notes import Notes, Publisher

STATE = "/var/lib/slotd/state.db"
LOST = "the state was lost and was rebuilt from what is installed"
_versions = itertools.count(1)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1h")
        container.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0", trial="300ms")
        yield app


def on_trial(notes: Notes) -> str:
    version = f"2.{next(_versions)}"
    notes.publisher.publish(version, schema=2)
    notes.slotctl("--no-wait", "update", "notes", "--version", version)
    notes.machine.wait_for('slotctl --json status notes | grep \'"state": "trial"\'', timeout_s=60)
    assert notes.wait_state()["version"] == version
    notes.write("written on trial")
    return version


def go_back_until(notes: Notes, point: str) -> None:
    """The version on trial is bad; the daemon dies at `point` of the way back, and is not started again."""
    arm(notes, f"{point}=kill")
    notes.machine.write_file("/run/systemd/system/slotd.service.d/once.conf", "[Service]\nRestart=no\n")
    notes.machine.run("systemctl mask --quiet --runtime slotd-recover.service; systemctl daemon-reload")
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0")
    notes.machine.wait_for(f"test -e /run/slotd-fired/{point} && ! systemctl is-active --quiet slotd")
    assert fired(notes, point)


def damage(notes: Notes) -> None:
    notes.machine.run(f"rm -f {STATE}-wal {STATE}-shm; dd if=/dev/urandom of={STATE} bs=4096 count=8 status=none; sync")


def start_again(notes: Notes) -> None:
    undo = "rm -rf /run/systemd/system/slotd.service.d; systemctl unmask --quiet --runtime slotd-recover.service"
    notes.machine.run(f"{undo}; systemctl daemon-reload; systemctl reset-failed slotd; systemctl start slotd")


def check_back(notes: Notes, before: dict[str, Any], failed: str) -> None:
    """The old version with its data; the failed one's are in quarantine; the loss is told, once."""
    wait_until_done(notes)
    assert notes.wait_state() == before
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["trial"], shown["held"]) == (before["version"], None, False)
    assert f"{failed} was rolled back" in shown["last_error"]
    history = " ".join(notes.slotctl("history", "notes").split())
    assert history.count(LOST) == 1
    assert f"rolled back to {before['version']}" in history
    told = notes.machine.run("journalctl -q -u notes -o cat").stdout
    assert LOST in told
    newest = next(copy for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine")
    kept = f"/var/lib/slotd/quarantine/notes/{newest['id']}/data"
    assert notes.machine.run(f"grep -rl 'written on trial' {kept} | wc -l").stdout.strip() != "0"
    assert notes.machine.run("ls -A /var/lib/slotd/underway").stdout == ""
    assert (
        notes.machine.exists(f"{STATE}.broken.*") or "was damaged" in notes.machine.run("journalctl -q -o cat").stdout
    )
    notes.machine.run(f"rm {STATE}.broken.*")


@pytest.mark.parametrize("point", ["rb-restore:restored", "data.quarantine.renamed"])
def test_a_rollback_goes_on_when_the_state_is_damaged_in_its_middle(notes: Notes, point: str) -> None:
    before = notes.wait_state()
    version = on_trial(notes)
    go_back_until(notes, point)
    damage(notes)
    start_again(notes)
    check_back(notes, before, version)


def test_a_boot_with_a_damaged_state_ends_the_rollback_before_the_app_starts_and_without_the_daemon(
    notes: Notes,
) -> None:
    before = notes.wait_state()
    version = on_trial(notes)
    go_back_until(notes, "data.restore.place")
    damage(notes)
    notes.machine.run("systemctl mask --quiet slotd.service; sync")
    notes.machine.crash()
    notes.machine.boot()
    notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service")
    assert notes.wait_state() == before
    assert notes.machine.run("systemctl is-active slotd", check=False).stdout.strip() != "active"
    notes.machine.run("systemctl unmask --quiet slotd.service; systemctl start slotd")
    check_back(notes, before, version)


def test_a_trial_whose_state_is_damaged_is_watched_on_and_ends_well(notes: Notes) -> None:
    version = on_trial(notes)
    after = notes.wait_state()
    notes.machine.run("systemctl stop slotd")
    damage(notes)
    notes.machine.run("systemctl start slotd")
    shown = notes.json("status", "notes")
    assert (shown["state"], shown["trial"]["version"]) == ("trial", version)
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkGood 'sa{sv}' notes 0")
    wait_until_done(notes)
    assert notes.wait_state() == after
    assert notes.json("status", "notes")["trial"] is None
    notes.machine.run(f"rm {STATE}.broken.*")


def test_an_app_on_half_data_of_which_nothing_is_known_stays_down_until_they_are_brought_back(notes: Notes) -> None:
    before = notes.wait_state()
    on_trial(notes)
    backup = next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup")
    go_back_until(notes, "data.restore.place")
    damage(notes)
    notes.machine.run("rm -r /var/lib/slotd/underway; sync")
    notes.machine.crash()
    notes.machine.boot()
    notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service")
    shown = notes.json("status", "notes")
    assert shown["held"]
    assert (
        "the state was lost in the middle of a change of its data: /var/lib/slotd/quarantine/" in shown["hold_reason"]
    )
    assert f"`slotctl restore notes {backup}`" in shown["hold_reason"]
    assert notes.machine.run("systemctl start notes", check=False).returncode != 0
    assert notes.machine.run("systemctl is-active notes", check=False).stdout.strip() != "active"

    notes.slotctl("restore", "notes", backup)
    notes.slotctl("unhold", "notes")
    assert notes.wait_state()["digest"] == before["digest"]
    notes.slotctl("rollback", "notes", "--data=restore")
    assert notes.wait_state() == before
