"""An app whose data are in a PostgreSQL server: a release that migrates it and fails is taken back, content and all.

The commands are those of the manual's example, as slotd runs them: as the app's user, in their own units.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.container import Container
from tests.system.image import Image, image_with

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "databases" / "postgresql.toml"
UNIT = """
[Unit]
After=postgresql.service

[Service]
Type=notify
NotifyAccess=all
User=notes
ExecStart=/var/lib/slotd/apps/notes/current/run
TimeoutStopSec=5s

[Install]
WantedBy=multi-user.target
"""
DEFINITION = """
[service]
units = ["notes.service"]
user = "notes"
start_timeout = "10s"

[source]
type = "directory"
path = "/srv/releases"
asset = "notes-{version}.tar.gz"

[verify]
require = ["sha256"]
checksums = "SHA256SUMS"

[policy]
delay = "0"
trial = "2s"
"""
# It migrates with no way down, and writes.
MIGRATE = "psql -qX notes -c 'ALTER TABLE notes DROP COLUMN text; INSERT INTO notes VALUES (99)'"
READY = "systemd-notify --ready"
STAY = "exec sleep infinity"
# What 1.0 finds when it starts; it could not read the newer database.
LOOK = "psql -qXAt notes -c 'SELECT count(text) FROM notes' >>/var/lib/notes/found 2>&1"
RUN = {
    "1.0": f"{LOOK}; {READY}; {STAY}",
    "2.0": f"{MIGRATE}; {STAY}",
    "2.1": f"{MIGRATE}; {READY}; {STAY}",
    "2.2": f"{MIGRATE}; : again; {READY}; {STAY}",
}
CONTENT = "psql -qXAt notes -c 'SELECT id, text FROM notes ORDER BY id'"


@pytest.fixture(scope="module")
def machine(image: Image) -> Iterator[Container]:
    with Container(image_with(image, ["postgresql"])) as machine:
        machine.run("useradd --system --create-home --home-dir /var/lib/notes notes")
        machine.run("install -d -o notes /var/lib/notes/dump; systemctl start postgresql", timeout_s=120)
        machine.wait_for("pg_isready -q")
        machine.run("cd /; runuser -u postgres -- createuser notes; runuser -u postgres -- createdb -O notes notes")
        for words in ("CREATE TABLE notes (id INTEGER, text TEXT)", "INSERT INTO notes VALUES (1, 'one'), (2, 'äöü')"):
            machine.run(["runuser", "-u", "notes", "--", "psql", "-qX", "notes", "-c", words])
        machine.write_file("/etc/systemd/system/notes.service", UNIT)
        machine.write_file("/etc/slotd/apps.d/notes.toml", DEFINITION)
        machine.write_file("/etc/slotd/apps.d/notes.toml.d/data.toml", data_table())
        machine.run("systemctl daemon-reload; systemctl enable --quiet notes; systemctl restart slotd")
        publish(machine, "1.0")
        machine.run("slotctl update notes", timeout_s=120)
        yield machine


def data_table() -> str:
    """The table [data] of the example, as it stands in the manual."""
    text = EXAMPLE.read_text()
    assert tomllib.loads(text)["data"]["restore"]
    return text[text.index("[data]") : text.index("[[health]]")]


def publish(machine: Container, version: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("notes/run")
        body = f"#!/bin/sh\n{RUN[version]}\n".encode()
        info.size, info.mode = len(body), 0o755
        tar.addfile(info, io.BytesIO(body))
    machine.write_file(f"/srv/releases/notes-{version}.tar.gz", packed.getvalue())
    sums = machine.read_file("/srv/releases/SHA256SUMS") if machine.exists("/srv/releases/SHA256SUMS") else ""
    line = f"{hashlib.sha256(packed.getvalue()).hexdigest()}  notes-{version}.tar.gz\n"
    machine.write_file("/srv/releases/SHA256SUMS", sums + line)


def content(machine: Container) -> str:
    return machine.run(["runuser", "-u", "notes", "--", "sh", "-c", f"cd /; {CONTENT}"], check=False).stdout


def quarantined(machine: Container) -> list[str]:
    """The dumps of the failed versions."""
    copies = json.loads(machine.run("slotctl --json backups notes").stdout)
    ids = [copy["id"] for copy in copies if copy["kind"] == "quarantine"]
    return [machine.read_file(f"/var/lib/slotd/quarantine/notes/{each}/data/0/notes.sql") for each in ids]


def test_a_release_that_migrates_the_database_and_fails_is_taken_back_with_its_content(machine: Container) -> None:
    before = content(machine)
    assert before.splitlines() == ["1|one", "2|äöü"]
    publish(machine, "2.0")
    done = machine.run("slotctl update notes --force", check=False, timeout_s=180)
    assert done.returncode == 4, done.stdout + done.stderr
    assert content(machine) == before
    assert machine.run("systemctl is-active notes").stdout.strip() == "active"


def test_what_the_failed_release_wrote_into_the_database_is_in_the_quarantine(machine: Container) -> None:
    (dump,) = quarantined(machine)
    assert "\n99\n" in dump
    assert "äöü" not in dump


def test_going_back_by_hand_from_a_release_that_passed_brings_the_content_back(machine: Container) -> None:
    before = content(machine)
    publish(machine, "2.1")
    machine.run("slotctl update notes", timeout_s=180)
    assert content(machine) == ""  # the column is gone
    machine.run("slotctl rollback notes --data=restore", timeout_s=180)
    assert content(machine) == before


def test_a_host_that_goes_down_during_the_trial_starts_the_old_version_on_its_own_content_only(
    machine: Container,
) -> None:
    """`slotd boot` has no server to load the dump into: until the daemon has done it, the app does not start."""
    before = content(machine)
    policy = '[policy]\ndelay = "0"\ntrial = "1h"\nattempts = 1\n'
    machine.write_file("/etc/slotd/apps.d/notes.toml.d/policy.toml", policy)
    machine.run("slotctl enable notes; systemctl reload slotd")
    publish(machine, "2.2")
    machine.run("slotctl --no-wait update notes --force")
    machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=120)
    assert content(machine) == ""
    machine.run("rm -f /var/lib/notes/found; sync")
    machine.crash()
    machine.boot()
    machine.wait_for("systemctl is-active --quiet notes.service", timeout_s=120)
    machine.wait_for("slotctl --json status notes | grep -q '\"trial\": null'", timeout_s=60)
    assert content(machine) == before
    assert machine.read_file("/var/lib/notes/found") == "2\n"
    machine.run("rm /etc/slotd/apps.d/notes.toml.d/policy.toml; systemctl reload slotd")


def test_a_server_that_is_down_fails_the_update_before_the_app_is_stopped(machine: Container) -> None:
    began = machine.show("notes.service", "ActiveEnterTimestampMonotonic")
    machine.run("systemctl stop postgresql@15-main postgresql")
    done = machine.run("slotctl update notes --force", check=False, timeout_s=180)
    assert done.returncode == 1
    assert "pg_isready" in done.stdout + done.stderr
    assert machine.show("notes.service", "ActiveEnterTimestampMonotonic") == began
