"""Backups in a restic repository, on a booted machine: made by the sandboxed daemon, brought back by it and at boot."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.image import Image
from tests.system.notes import Notes, Publisher

CREDENTIAL = "LoadCredential=restic-password:/etc/slotd/restic-password"
UNITS = ("slotd", "slotd-boot", "slotd-recover", "slotd-prune")
BACKUP = """
[backup]
store = "restic"
repository = "/srv/backup/restic"
credential = "restic-password"
"""


@pytest.fixture(scope="module")
def notes(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher, Container(image) as machine:
        app = Notes(machine, publisher)
        machine.write_file("/etc/slotd/restic-password", "correct horse\n", mode=0o600)
        for unit in UNITS:
            machine.write_file(f"/etc/systemd/system/{unit}.service.d/restic.conf", f"[Service]\n{CREDENTIAL}\n")
        # A busy host starves what is nice; all else of the unit is as it is shipped.
        machine.write_file("/etc/systemd/system/slotd-prune.service.d/awake.conf", "[Service]\nNice=0\nCPUWeight=100\n")
        machine.run("systemctl daemon-reload && systemctl try-restart slotd")
        app.set_up(trial="2s", more=BACKUP)
        machine.run("systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0")
        yield app


def snapshots(notes: Notes) -> list[set[str]]:
    line = "restic --no-cache --repo /srv/backup/restic --password-file /etc/slotd/restic-password snapshots --json"
    return [set(each["tags"]) for each in json.loads(notes.machine.run(line).stdout) or []]


def test_a_release_that_loses_the_data_is_rolled_back_with_them(notes: Notes) -> None:
    before = notes.wait_state()
    notes.publisher.publish("1.1", "lose-data", schema=2)
    printed = notes.slotctl("update", "notes", status=4)
    assert notes.wait_state() == before
    assert "1.1" in printed
    assert {copy["kind"] for copy in notes.json("backups", "notes")} == {"backup", "quarantine"}


def test_the_snapshots_say_whose_they_are(notes: Notes) -> None:
    (backup,) = [copy for copy in notes.json("backups", "notes") if copy["kind"] == "backup"]
    tags = {"slotd", f"id={backup['id']}", "app=notes", "version=1.0", "reason=update"}
    assert snapshots(notes) == [tags | {"pass=hot"}, tags | {"pass=cold"}]


def test_the_password_is_in_no_log_and_not_in_what_systemd_tells(notes: Notes) -> None:
    told = notes.machine.run("journalctl -o export; systemctl show slotd.service").stdout
    assert "restic" in told
    assert "correct horse" not in told


def test_what_reads_the_data_sees_nothing_else(notes: Notes) -> None:
    """What a link that the app puts into its data in the wrong moment would lead to."""
    program = (
        "from pathlib import Path; from slotd.host.restic import Restic, Shown;"
        "r = Restic('/srv/other', b'x', Path('/srv/other.home')); r.run('init');"
        "data = Path('/var/lib/notes/data');"
        "seen = [Shown(data, data.stat().st_dev, data.stat().st_ino)];"
        "e = r.run('backup', '--json', str(data), '/etc/shadow', '/root', shown=seen, good=(0, 1, 3));"
        "print(e.status, e.said); print(r.run('ls', 'latest').out)"
    )
    said = notes.machine.run(["/usr/bin/python3", "-c", program]).stdout
    assert "/var/lib/notes/data/notes.db" in said
    assert "/etc/shadow" in said.partition("snapshot")[0]
    assert "/etc/shadow" not in said.partition("snapshot")[2]


SAVE = """
import sys
from pathlib import Path
from slotd.core.schema import BackupPolicy
from slotd.data import DataSpec, make_data_store
top, *paths = map(Path, sys.argv[1:])
store = make_data_store(BackupPolicy(store="restic"), top / "home")
try:
    store.hot(DataSpec(tuple(paths)), top / "backup", None, lambda: False)
except Exception as error:
    print(error)
"""


def saved(machine: Container, top: str) -> str:
    """What the snapshots hold that were made in `top`."""
    line = f"restic --no-cache --repo {top}/home/repository --password-file {top}/home/password"
    found = machine.run(f"{line} list snapshots").stdout.split()
    return "".join(machine.run(f"{line} ls {each}").stdout for each in found)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("name", "paths", "exchange"),
    [
        ("whole", ["/srv/whole/app/data"], "mv data away; ln -s /srv/private data"),
        ("inner", ["/srv/inner/app", "/srv/inner/app/data/lib"], "mv data away; ln -s /usr data"),
    ],
)
def test_data_exchanged_for_a_link_in_the_moment_they_are_opened_bring_nothing_of_the_host_into_a_backup(
    notes: Notes, name: str, paths: list[str], exchange: str
) -> None:
    """The app's user owns the directory that holds its data, and waits for root to have looked at them."""
    machine, top = notes.machine, f"/srv/{name}"
    machine.run("install -d -m 0700 /srv/private; echo for root alone >/srv/private/secret")
    machine.run(f"install -d {top} {top}/fired; install -d -o notes {top}/app {top}/app/data {top}/app/data/lib")
    environment = {"SLOTD_FAILPOINTS": "data.restic.looked=hang", "SLOTD_FAILPOINTS_DIR": f"{top}/fired"}
    with machine.popen(["/usr/bin/python3", "-c", SAVE, top, *paths], env=environment) as backup:
        machine.wait_for(f"test -e {top}/fired/data.restic.looked")
        machine.run(f"cd {top}/app; {exchange}", user="notes")
        machine.run(f"echo go >{top}/fired/data.restic.looked")
        assert backup.stdout is not None
        said = backup.stdout.read()
    assert f"cannot back up {paths[-1]}: it was exchanged" in said
    assert saved(machine, top) == ""


def test_data_that_lie_in_other_data_of_the_app_are_saved_with_both(notes: Notes) -> None:
    machine, top = notes.machine, "/srv/nested"
    machine.run(f"install -d -o notes {top}/app/data/lib; echo 1 >{top}/app/one; echo 2 >{top}/app/data/lib/two")
    paths = [f"{top}/app", f"{top}/app/data/lib"]
    assert machine.run(["/usr/bin/python3", "-c", SAVE, top, *paths]).stdout == ""
    held = saved(machine, top)
    assert f"{top}/app/one\n" in held
    assert f"{top}/app/data/lib/two\n" in held


def test_a_backup_by_hand_comes_back(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    before = notes.wait_state()
    (manual,) = [copy for copy in notes.json("backups", "notes") if copy["reason"] == "manual"]
    notes.write("written after it")
    notes.slotctl("restore", "notes", manual["id"])
    assert notes.wait_state() == before


def tidy_up(notes: Notes, until: str) -> None:
    """The timer's unit passes over an app whose job has not let go of it yet: that tidies up itself."""
    notes.machine.wait_for(f"systemctl start slotd-prune.service && {until}", timeout_s=90)


def test_what_a_backup_holds_what_has_changed_and_a_single_path_are_had_from_the_repository(notes: Notes) -> None:
    copies = {copy["reason"]: copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup"}
    data = "/var/lib/notes/data"
    tidy_up(notes, f"! test -e /var/lib/slotd/backups/notes/{copies['manual']}/tree")  # of the restore before
    name = notes.machine.run(f"ls {data}/files").stdout.split()[0]
    notes.write("one more")
    notes.machine.run(f"runuser -u notes -- truncate --size=0 {data}/files/{name}")
    assert f"files/{name}" in notes.slotctl("backups", "notes", copies["manual"])
    assert f"files/{name}" in notes.slotctl("backups", "notes", copies["manual"], "--diff")
    kept = notes.machine.run(f"ls /var/lib/slotd/backups/notes/{copies['manual']}").stdout
    assert "tree\n" not in kept, "nothing had to be brought back for that"
    count = notes.state()["notes"]
    notes.slotctl("restore", "notes", copies["manual"], f"files/{name}")
    notes.wait_state()
    assert notes.machine.run(f"test -s {data}/files/{name}", check=False).returncode == 0
    assert notes.state()["notes"] == count
    assert f"{copies['manual']} is whole" in notes.slotctl("backups", "notes", "--verify")


def test_what_expires_leaves_the_repository_and_what_was_made_by_hand_and_the_newest_stay(notes: Notes) -> None:
    for version in ("1.1.1", "1.1.2"):
        notes.publisher.publish(version)
        notes.slotctl("update", "notes")
    notes.machine.write_file("/etc/slotd/apps.d/notes.toml.d/short.toml", '[backup]\nretention = "0"\n')
    notes.machine.run("systemctl reload slotd")
    tidy_up(notes, 'test "$(ls /var/lib/slotd/backups/notes | wc -l)" = 2')
    left = [copy for copy in notes.json("backups", "notes") if copy["kind"] == "backup"]
    assert sorted((copy["reason"], copy["version"]) for copy in left) == [("manual", "1.0"), ("update", "1.1.1")]
    held = {tag for tags in snapshots(notes) for tag in tags if tag.startswith("id=")}
    assert held == {f"id={copy['id']}" for copy in left}
    notes.machine.run("rm /etc/slotd/apps.d/notes.toml.d/short.toml; systemctl reload slotd")


def test_a_wrong_password_fails_the_update_and_the_app_was_never_stopped(notes: Notes) -> None:
    began = notes.machine.show("notes.service", "ActiveEnterTimestampMonotonic")
    notes.machine.write_file("/etc/slotd/restic-password", "wrong\n", mode=0o600)
    notes.machine.run("systemctl restart slotd")
    notes.publisher.publish("1.2", schema=2)
    printed = notes.slotctl("update", "notes", status=1)
    assert "the password is not the one" in printed
    assert notes.machine.show("notes.service", "ActiveEnterTimestampMonotonic") == began
    notes.machine.write_file("/etc/slotd/restic-password", "correct horse\n", mode=0o600)
    notes.machine.run("systemctl restart slotd")


def test_at_boot_the_data_come_back_with_the_daemon_masked(notes: Notes) -> None:
    before = notes.wait_state()
    notes.set_trial("1h")
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.write("written on trial")
    notes.machine.run("systemctl mask --quiet slotd.service slotd-recover.service")
    for _ in range(3):
        notes.machine.run("sync")
        notes.machine.crash()
        notes.machine.boot()
        notes.machine.wait_for("systemctl is-active --quiet slotd-boot.service")
    assert notes.wait_state() == before
