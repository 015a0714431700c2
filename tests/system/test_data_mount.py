"""Data on a file system of their own, which only a unit names and which comes late: they are never taken for gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

DATA = "/var/lib/notes/data"
MOUNT = "var-lib-notes-data.mount"
UNITS = {
    MOUNT: f"""
[Unit]
DefaultDependencies=no
Wants=far.service
After=far.service
[Mount]
What=/srv/disk
Where={DATA}
Type=none
Options=bind
[Install]
WantedBy=multi-user.target
""",
    "far.service": """
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 3
""",
}


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="300ms", more="[policy]\nattempts = 1\n")
        for name, text in UNITS.items():
            container.write_file(f"/etc/systemd/system/{name}", text)
        container.run(f"install -d -o notes /srv/disk {DATA} && systemctl daemon-reload")
        container.run(f"systemctl enable --now --quiet {MOUNT}")
        container.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0")
        yield app


@pytest.fixture
def unmounted(notes: Notes) -> Iterator[None]:
    notes.machine.run(f"systemctl stop notes.service && systemctl stop {MOUNT}")
    try:
        yield
    finally:
        notes.machine.run(f"systemctl start {MOUNT} && systemctl start notes.service")
        notes.wait_state()


def test_while_the_disk_is_away_nothing_is_saved_updated_or_restored(
    notes: Notes, request: pytest.FixtureRequest
) -> None:
    notes.slotctl("backup", "notes")
    before, kept = notes.wait_state(), notes.json("backups", "notes")
    request.getfixturevalue("unmounted")
    notes.publisher.publish("1.1")
    says = f"the file system of {DATA} is not mounted"
    assert says in notes.slotctl("backup", "notes", status=1)
    assert says in notes.slotctl("update", "notes", status=1)
    assert says in notes.slotctl("restore", "notes", kept[0]["id"], status=1)
    assert notes.machine.run(f"ls -A {DATA}").stdout == ""
    assert notes.json("backups", "notes") == kept
    assert notes.json("status", "notes")["version"] == "1.0"
    notes.machine.run(f"systemctl start {MOUNT} notes.service")
    assert notes.wait_state() == before


def test_a_version_cannot_keep_its_app_from_going_back_by_data_that_nobody_can_copy(notes: Notes) -> None:
    before = notes.wait_state()
    notes.set_trial("1h")
    notes.publisher.publish("1.5")
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.machine.run(f"cd {DATA}; mkdir deep; cd deep; for n in $(seq 160); do mkdir d; cd -P d; done; echo bad >bad")
    notes.machine.run("chown -R notes: /srv/disk/deep")
    notes.slotctl("mark-bad", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "idle"\'', timeout_s=60)
    assert notes.wait_state() == before
    assert "rolled back to 1.0" in notes.slotctl("history", "notes")
    assert not notes.machine.exists(f"{DATA}/deep")
    kept = next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine")
    assert notes.machine.run(f"find {DATA}/.slotd-aside-{kept}-* -name bad -exec cat {{}} +").stdout == "bad\n"
    assert f"{DATA}/deep" in notes.slotctl("backups", "notes", kept)


def test_a_way_back_at_boot_waits_for_the_disk(notes: Notes) -> None:
    before = notes.wait_state()
    notes.set_trial("1h")
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.write("written on trial")
    notes.machine.run("sync")
    notes.machine.crash()
    notes.machine.boot()
    notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service", timeout_s=60)
    assert notes.wait_state() == before
    assert "times during its trial" in notes.slotctl("history", "notes")


def test_with_the_app_goes_what_it_said_of_its_disk(notes: Notes) -> None:
    assert "Before=slotd-boot.service" in notes.machine.run(f"systemctl cat {MOUNT}").stdout
    notes.machine.run("slotctl disable notes")
    assert "slotd" not in notes.machine.run(f"systemctl cat {MOUNT}").stdout
