"""The host goes down while the disk of the state is full: boots are counted all the same, and the way back is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import wait_until_done
from tests.system.image import Image
from tests.system.notes import Notes, Publisher
from tests.system.small_disk import LastingDisk


@pytest.fixture
def disk(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingDisk]:
    machine = Container(image)
    try:
        with LastingDisk(machine, tmp_path_factory.mktemp("disk") / "image", mib=96) as disk:
            machine.boot()
            yield disk
            machine.crash()
    finally:
        machine.close()


@pytest.fixture
def notes(disk: LastingDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """The state, slots and copies are on the small disk; the data of the app are elsewhere."""
    machine = disk.machine
    machine.run("systemctl stop slotd; rm -rf /var/lib/slotd")
    machine.run(f"mkdir -m 755 {disk.at}/slotd; ln -s {disk.at}/slotd /var/lib/slotd")
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(machine, publisher)
        app.set_up(trial="1h", more="[policy]\nattempts = 2\n")
        machine.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0", trial="300ms")
        yield app


def in_order(machine: Container) -> None:
    machine.reboot()


def by_power_cut(machine: Container) -> None:
    machine.run("sync")
    machine.crash()
    machine.boot()


def begin_trial(notes: Notes) -> None:
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.write("written on trial")


@pytest.mark.parametrize("goes_down", [in_order, by_power_cut])
def test_a_version_that_filled_the_disk_is_counted_at_each_boot_and_taken_back_with_its_data(
    notes: Notes, disk: LastingDisk, goes_down: Callable[[Container], None]
) -> None:
    before = notes.wait_state()
    begin_trial(notes)
    disk.fill()
    goes_down(notes.machine)
    notes.machine.run("systemctl is-active slotd-boot.service")
    assert notes.wait_state()["version"] == "2.0"
    assert "boot 1 during the trial" in notes.slotctl("history", "notes")

    disk.fill()  # whatever became free is taken by the version, too
    goes_down(notes.machine)
    notes.machine.run("systemctl is-active slotd-boot.service")
    assert notes.wait_state() == before
    wait_until_done(notes)
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["held"], shown["trial"]) == ("1.0", False, None)
    assert "times during its trial" in notes.slotctl("history", "notes")
    assert "2.0" in [copy["version"] for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine"]

    disk.empty()
    notes.machine.run("systemctl restart slotd")  # finds enough to keep some of it again
    disk.fill()
    goes_down(notes.machine)
    assert notes.wait_state() == before
    notes.slotctl("hold", "notes", "the disk is full")
    assert notes.json("status", "notes")["held"]


def test_a_state_that_takes_nothing_at_all_does_not_stop_the_way_back_at_boot(notes: Notes, disk: LastingDisk) -> None:
    notes.machine.write_file("/etc/slotd/apps.d/notes.toml.d/more.toml", "[policy]\nattempts = 1\n")
    notes.machine.run("systemctl stop slotd; mkdir /srv/rest")
    for name in ("apps", "backups", "quarantine"):
        here = f"{disk.at}/slotd/{name}"
        notes.machine.run(f"cp -a {here} /srv/rest/ && rm -rf {here} && ln -s /srv/rest/{name} {here}")
    notes.machine.run("systemctl restart notes slotd")
    before = notes.wait_state()
    begin_trial(notes)
    notes.machine.run("systemctl mask --quiet slotd.service slotd-recover.service")
    notes.machine.run("rm /var/lib/slotd/state.room /var/lib/slotd/reserve/notes")
    disk.fill()
    by_power_cut(notes.machine)
    assert "it goes back without" in notes.machine.journal("slotd-boot.service")
    assert notes.wait_state() == before

    disk.empty()
    notes.machine.run("systemctl unmask --quiet slotd.service slotd-recover.service; systemctl start slotd")
    wait_until_done(notes)
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["held"], shown["trial"]) == ("1.0", False, None)
    assert notes.wait_state() == before
