"""The host goes down during a trial: boots are counted, and the way back needs no daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import break_build
from tests.system.image import Image
from tests.system.notes import Notes, Publisher


@pytest.fixture
def notes(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher, Container(image) as machine:
        app = Notes(machine, publisher)
        app.set_up(trial="1h")
        machine.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0", trial="300ms")
        yield app


def begin_trial(notes: Notes, behaviour: str) -> None:
    notes.publisher.publish("2.0", behaviour, schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=30)


def power_cut(notes: Notes) -> None:
    notes.machine.run("sync")
    notes.machine.crash()
    notes.machine.boot()
    # Each boot must have been counted: a count that failed shows here, with its unit, and not two boots later.
    notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service")


def test_a_trial_goes_on_after_a_power_cut(notes: Notes) -> None:
    begin_trial(notes, "well")
    notes.write("written on trial")
    power_cut(notes)
    assert notes.wait_state()["version"] == "2.0"
    assert notes.wait_state()["notes"] == 11
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=30)
    assert "boot 1 during the trial" in notes.slotctl("history", "notes")


def test_after_as_many_boots_as_attempts_the_old_version_is_back_with_its_data(notes: Notes) -> None:
    before = notes.wait_state()
    begin_trial(notes, "well")
    notes.write("written on trial")
    for _ in range(3):
        power_cut(notes)
    assert notes.wait_state() == before
    notes.machine.wait_for("slotctl --json status notes | grep -q '\"trial\": null'", timeout_s=30)
    assert "times during its trial" in notes.slotctl("history", "notes")
    assert "quarantine" in notes.slotctl("backups", "notes")


def test_slotd_boot_alone_goes_back_with_the_daemon_masked(notes: Notes) -> None:
    before = notes.wait_state()
    begin_trial(notes, "well")
    notes.machine.run("systemctl mask --quiet slotd.service slotd-recover.service")
    for _ in range(3):
        power_cut(notes)
    assert notes.wait_state() == before
    assert notes.machine.run("systemctl is-active slotd", check=False).stdout.strip() != "active"


def test_a_slotd_that_its_own_upgrade_broke_still_counts_boots_and_goes_back(notes: Notes) -> None:
    before = notes.wait_state()
    begin_trial(notes, "well")
    break_build(notes)
    notes.machine.run("systemctl kill --signal=KILL slotd")
    notes.machine.wait_for("systemctl show -P Result slotd-recover.service | grep -q success", timeout_s=60)
    assert notes.wait_state()["version"] == "2.0", "what is healthy is not taken back for slotd's own trouble"
    for _ in range(3):
        power_cut(notes)
    assert notes.wait_state() == before
    assert notes.machine.run("systemctl is-active slotd", check=False).stdout.strip() != "active"


def cut_in_a_rollback(notes: Notes) -> None:
    """The daemon is in `rb-restore`, and the data are set aside."""
    notes.publisher.publish("2.0", "damage-data", schema=2)
    notes.machine.write_file(
        "/etc/systemd/system/slotd.service.d/failpoint.conf",
        "[Service]\nEnvironment=SLOTD_FAILPOINTS=rb-restore:begin=hang\n",
    )
    notes.machine.run("systemctl daemon-reload && systemctl restart slotd")
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for("journalctl -t slotd -o cat | grep -q 'rb-restore'", timeout_s=60)
    notes.machine.run("rm /etc/systemd/system/slotd.service.d/failpoint.conf")


def test_a_rollback_that_a_power_cut_interrupted_is_finished_before_the_app_starts(notes: Notes) -> None:
    before = notes.wait_state()
    cut_in_a_rollback(notes)
    power_cut(notes)
    assert notes.wait_state() == before
    notes.machine.wait_for("slotctl --json status notes | grep -q '\"trial\": null'", timeout_s=30)


def test_with_a_state_that_cannot_be_read_at_boot_no_version_starts_on_half_of_its_data(notes: Notes) -> None:
    before = notes.wait_state()
    cut_in_a_rollback(notes)
    notes.machine.run("cd /var/lib/slotd && mv state.db elsewhere && ln -s elsewhere state.db && sync")
    notes.machine.crash()
    notes.machine.boot()
    assert notes.machine.show("slotd-boot.service", "Result")["Result"] == "exit-code"
    assert notes.machine.show("notes.service", "ActiveState")["ActiveState"] == "inactive"
    assert notes.machine.run("systemctl start notes.service", check=False).returncode != 0
    (told,) = notes.machine.journal_entries("SLOTD_APP=notes", "_SYSTEMD_UNIT=slotd-boot.service")
    assert "notes is not started yet" in told["MESSAGE"]
    # With the state there again, the daemon goes on.
    notes.machine.run("cd /var/lib/slotd && mv elsewhere state.db && systemctl reset-failed slotd.service")
    notes.machine.run("systemctl start slotd.service")
    assert notes.wait_state() == before


def test_a_boot_is_counted_while_nothing_can_be_made_in_tmp(notes: Notes) -> None:
    begin_trial(notes, "well")
    unit = "[Unit]\nDefaultDependencies=no\n{order}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={line}\n"
    shut = 'sh -c "mount -o remount,ro /tmp && ! mkdir /tmp/made"'
    opened = "mount -o remount,rw /tmp"
    orders = {shut: "Before=slotd-boot.service", opened: "After=slotd-boot.service\nBefore=sysinit.target"}
    for name, line in (("tmp-shut", shut), ("tmp-open", opened)):
        notes.machine.write_file(f"/etc/systemd/system/{name}.service", unit.format(order=orders[line], line=line))
        notes.machine.run(f"systemctl add-wants --quiet sysinit.target {name}.service")
    power_cut(notes)
    notes.machine.run("systemctl is-active tmp-shut.service tmp-open.service")
    assert "boot 1 during the trial" in notes.slotctl("history", "notes")


def test_a_version_whose_boots_are_spent_is_stopped_where_its_definition_says_so(notes: Notes) -> None:
    drop_in = "/etc/slotd/apps.d/notes.toml.d/stop.toml"
    notes.machine.write_file(drop_in, '[policy]\non_failure = "stop"\nattempts = 1\n')
    notes.machine.run("systemctl reload slotd")
    before = notes.wait_state()
    begin_trial(notes, "well")
    for _ in range(2):  # and it does not come back with the boot after that one
        power_cut(notes)
        assert notes.machine.show("notes.service", "ActiveState")["ActiveState"] == "inactive"
        assert notes.machine.run("systemctl start notes.service", check=False).returncode != 0
        assert notes.json("status", "notes")["held"]
    notes.slotctl("unhold", "notes")
    notes.slotctl("rollback", "notes", "--data=restore")
    assert notes.wait_state() == before


def test_an_app_whose_data_cannot_be_brought_back_at_boot_is_not_started_on_them(notes: Notes) -> None:
    notes.machine.write_file("/etc/slotd/apps.d/notes.toml.d/one.toml", "[policy]\nattempts = 1\n")
    notes.machine.run("systemctl reload slotd")
    begin_trial(notes, "well")
    notes.machine.run("systemctl mask --quiet slotd.service slotd-recover.service")
    notes.machine.run("mv /var/lib/slotd/backups/notes /var/lib/slotd/backups/elsewhere; sync")
    notes.machine.crash()
    notes.machine.boot()
    assert notes.machine.show("slotd-boot.service", "Result")["Result"] == "exit-code"
    assert notes.machine.show("notes.service", "ActiveState")["ActiveState"] == "inactive"
    # With the backup there again, the next boot goes back and the app starts.
    notes.machine.run("mv /var/lib/slotd/backups/elsewhere /var/lib/slotd/backups/notes")
    power_cut(notes)
    assert notes.wait_state()["version"] == "1.0"
