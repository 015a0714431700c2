"""A disk that is full, fails or is read-only: no new job begins, and a rollback is done all the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import arm, wait_until_done
from tests.system.notes import Notes, Publisher
from tests.system.small_disk import SmallDisk

_versions = itertools.count(1)


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1h", more='[backup]\nretention = "0"\n')
        app.install("1.0", trial="300ms")
        yield app


@pytest.fixture(scope="module")
def disk(notes: Notes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with SmallDisk(notes.machine, tmp_path_factory.mktemp("disk") / "image", mib=96) as disk:
        yield disk


def move(notes: Notes, disk: SmallDisk, path: str) -> None:
    """Lay a directory onto the disk; its name leads there."""
    notes.machine.run(f"cp -a {path} {disk.at}/ && rm -rf {path} && ln -s {disk.at}/$(basename {path}) {path}")


@pytest.fixture(scope="module")
def all_on_disk(notes: Notes, disk: SmallDisk) -> Iterator[SmallDisk]:
    """State, slots, backups and the data on one small file system."""
    notes.machine.run("systemctl stop slotd notes")
    move(notes, disk, "/var/lib/slotd")
    move(notes, disk, "/var/lib/notes")
    notes.machine.run("systemctl start notes slotd")
    notes.wait_state()
    return disk


def on_trial(notes: Notes) -> str:
    """A new version on a trial that does not end by itself."""
    version = f"2.{next(_versions)}"
    notes.publisher.publish(version, schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    on_trial = 'slotctl --json status notes | grep \'"state": "trial"\''
    notes.machine.wait_for(f"slotctl status notes; {on_trial}")
    assert notes.wait_state()["version"] == version
    return version


def mark_bad(notes: Notes) -> None:
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0")


def wait_version(notes: Notes, version: str) -> None:
    notes.machine.wait_for(f'curl -s http://127.0.0.1:{notes.port}/ | grep -q \'"version": "{version}"\'')


def test_a_rollback_with_its_data_is_done_on_a_disk_full_to_the_last_byte(notes: Notes, all_on_disk: SmallDisk) -> None:
    before = notes.wait_state()
    version = on_trial(notes)
    notes.write("a note for the new version alone")
    all_on_disk.fill()
    left = notes.machine.run(f"cp /etc/passwd {all_on_disk.at}/one-more", check=False)
    assert "No space left" in left.stderr

    mark_bad(notes)

    wait_version(notes, "1.0")
    wait_until_done(notes)
    assert notes.wait_state() == before
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["held"]) == ("1.0", False)
    assert f"{version} was rolled back" in notes.slotctl("status", "notes")
    all_on_disk.empty()
    quarantine = [copy for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine"]
    assert version in [copy["version"] for copy in quarantine]
    assert (
        notes.machine.run(
            f"find {all_on_disk.at} -name '*reserve*' -type f; ls {all_on_disk.at}/slotd/reserve"
        ).stdout.strip()
        == ""
    )


def test_an_update_that_could_not_go_back_for_want_of_room_is_refused_with_numbers(
    notes: Notes, all_on_disk: SmallDisk
) -> None:
    before = notes.wait_state()
    at, version = all_on_disk.at, f"2.{next(_versions)}"
    all_on_disk.fill(leave_mib=33)
    notes.publisher.publish(version, schema=2)
    printed = notes.slotctl("update", "notes", status=1)
    notes.publisher.withdraw(version)  # it was never tried: later it would be the next best
    assert f"file system of {at}" in printed or "file system of /var/lib/slotd" in printed
    assert "MiB for the way back" in printed
    assert "32 MiB must stay free" in printed
    assert notes.wait_state() == before
    job = notes.json("jobs", "--all")[-1]
    assert (job["state"], job["step"]) == ("failed", "stage")
    all_on_disk.empty()


def test_a_restore_that_has_no_room_is_refused_before_the_app_is_stopped(notes: Notes, all_on_disk: SmallDisk) -> None:
    started = notes.machine.show("notes.service", "InvocationID")
    notes.slotctl("backup", "notes")
    backup = next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup")
    invocation = notes.machine.show("notes.service", "InvocationID")
    assert invocation != started
    before = notes.wait_state()

    all_on_disk.fill(leave_mib=8)
    printed = notes.slotctl("restore", "notes", backup, status=1)
    all_on_disk.empty()
    assert f"cannot restore notes from {backup}: that may take 1 MiB of /var/lib/notes/data" in printed
    assert re.search(r"32 MiB must stay free, and [78] MiB are\.", printed)  # the job's own row may take of the 8

    all_on_disk.fill()  # not even the job can be written down
    printed = notes.slotctl("restore", "notes", backup, status=1)
    all_on_disk.empty()
    assert "cannot use the state in /var/lib/slotd/state.db: database or disk is full" in printed
    assert "Free some space" in printed

    assert notes.machine.show("notes.service", "InvocationID") == invocation
    assert notes.wait_state() == before


BIG = "/var/lib/notes/data/files/big.txt"


def change_big_file(notes: Notes, letter: str) -> None:
    notes.machine.run(f"head -c 8M /dev/zero | tr '\\0' {letter} > {BIG}")


def meet_a_full_disk(notes: Notes, disk: SmallDisk, *command: str) -> None:
    """In the middle of a way back that needs room; it is undone, and told."""
    before = notes.wait_state()
    copies = [copy["id"] for copy in notes.json("backups", "notes")]
    arm(notes, "rb-restore:begin=hang")
    notes.slotctl("--no-wait", *command)
    notes.machine.wait_for("test -e /run/slotd-fired/rb-restore:begin")
    disk.fill(leave_mib=4)
    notes.machine.run("echo on > /run/slotd-fired/rb-restore:begin")
    assert notes.wait_state() == before  # it runs again, while the disk is still full
    disk.empty()
    wait_until_done(notes)
    assert notes.wait_state() == before
    job = notes.json("jobs", "--all")[-1]
    assert (job["kind"], job["state"]) == (command[0], "failed")
    said = " ".join(notes.slotctl("history", "notes").split())
    assert "No space left on device" in said
    assert f"The data are those that were there before the {command[0]}." in said
    shown = notes.json("status", "notes")
    assert (shown["held"], shown["version"]) == (False, before["version"])
    assert [copy["id"] for copy in notes.json("backups", "notes")] == copies
    assert notes.machine.run(f"find {disk.at} -name '.slotd-*'").stdout == ""
    arm(notes, "")


def test_a_restore_that_finds_the_disk_full_puts_back_what_was_there_and_says_so(
    notes: Notes, all_on_disk: SmallDisk
) -> None:
    change_big_file(notes, "a")
    notes.slotctl("backup", "notes")
    backup = next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "backup")
    saved = notes.wait_state()
    change_big_file(notes, "b")
    meet_a_full_disk(notes, all_on_disk, "restore", "notes", backup)
    notes.slotctl("restore", "notes", backup)
    assert notes.wait_state() == saved


def test_a_rollback_by_hand_that_finds_the_disk_full_leaves_the_version_with_its_data(
    notes: Notes, all_on_disk: SmallDisk
) -> None:
    change_big_file(notes, "c")
    saved, version = notes.wait_state(), f"2.{next(_versions)}"
    notes.publisher.publish(version)
    notes.set_trial("300ms")
    notes.slotctl("update", "notes", "--version", version)
    notes.set_trial("")
    change_big_file(notes, "d")
    meet_a_full_disk(notes, all_on_disk, "rollback", "notes", "--data=restore")
    assert notes.wait_state()["version"] == version
    notes.slotctl("rollback", "notes", "--data=restore")
    assert notes.wait_state() == saved
    notes.machine.run(f"rm {BIG}")


@pytest.fixture
def state_on_disk(notes: Notes, all_on_disk: SmallDisk) -> Iterator[SmallDisk]:
    """The state alone on the small file system; slots, copies and data elsewhere."""
    at = all_on_disk.at
    notes.machine.run("systemctl stop slotd notes; mkdir -p /srv/rest")
    for name in ("apps", "backups", "quarantine"):
        here = f"{at}/slotd/{name}"
        notes.machine.run(
            f"test -L {here} || {{ cp -a {here} /srv/rest/ && rm -rf {here} && ln -s /srv/rest/{name} {here}; }}"
        )
    notes.machine.run(
        f"test -d /srv/rest/notes || {{ cp -a {at}/notes /srv/rest/; ln -sfn /srv/rest/notes /var/lib/notes; }}"
    )
    notes.machine.run("systemctl start notes slotd")
    notes.wait_state()
    return all_on_disk


@pytest.mark.parametrize("trouble", ["full", "read-only", "failing"])
def test_a_state_that_cannot_be_written_stops_new_jobs_and_no_rollback(
    notes: Notes, state_on_disk: SmallDisk, trouble: str
) -> None:
    before = notes.wait_state()
    version = on_trial(notes)
    {"full": state_on_disk.fill, "read-only": state_on_disk.make_read_only, "failing": state_on_disk.fail}[trouble]()

    said = notes.slotctl("check", "notes", status=1)
    assert "cannot use the state in /var/lib/slotd/state.db" in said

    mark_bad(notes)

    wait_version(notes, "1.0")
    assert notes.wait_state() == before
    if trouble == "full":
        state_on_disk.empty()
    else:
        notes.machine.run("systemctl kill --signal=KILL slotd; systemctl stop slotd", check=False)
        notes.machine.run(f"umount {state_on_disk.at}")
        state_on_disk.mount()
        notes.machine.run("systemctl reset-failed slotd; systemctl start slotd")
    wait_until_done(notes)
    assert notes.wait_state() == before
    assert f"{version} was rolled back" in notes.slotctl("status", "notes")
    shown = notes.json("status", "notes")
    assert (shown["version"], shown["held"], shown["trial"]) == ("1.0", False, None)
    notes.slotctl("update", "notes", status=3)  # it is not tried again by itself
