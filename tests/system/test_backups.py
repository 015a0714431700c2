"""What a person does with backups: read them again, look into one, bring back all or a file, on a booted machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

DATA = "/var/lib/notes/data"

HOOKS = """
[data]
sqlite = ["notes.db", "odd/*"]
before = [["/bin/sh", "-c", "echo dumping; echo {version} is dumped"]]
after = [["/bin/sh", "-c", "echo thank you"]]
"""


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s", more=HOOKS)
        app.install("1.0")
        yield app


def newest(notes: Notes, kind: str = "backup") -> str:
    return str(next(copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == kind))


def start_of(notes: Notes) -> str:
    return notes.machine.show("notes.service", "InvocationID")["InvocationID"]


def test_a_backup_tells_what_it_holds_and_what_its_commands_said(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    printed = notes.slotctl("backups", "notes", newest(notes))
    assert f"{DATA}/notes.db" in printed
    assert "1.0 is dumped" in printed
    assert "thank you" in printed
    document = notes.json("backups", "notes", newest(notes))
    assert [each["when"] for each in document["said"]] == ["before", "after"]
    files = {each["path"]: each for each in document["entries"] if each["kind"] == "file"}
    assert files[f"{DATA}/files/1.txt"]["bytes"] == len("note 0")
    assert files[f"{DATA}/files/1.txt"]["digest"].startswith("sha256:")


def test_the_words_of_a_command_are_in_the_journal_and_the_last_of_them_in_the_history(notes: Notes) -> None:
    said = [entry.get("SLOTD_OUTPUT", "") for entry in notes.machine.journal_entries("SLOTD_APP=notes")]
    assert any("dumping\n1.0 is dumped" in each for each in said)
    history = notes.slotctl("history", "notes")
    assert "1.0 is dumped" in history
    assert "dumping" not in history.replace("echo dumping", "")


def test_who_is_nobody_may_not_look_into_a_backup(notes: Notes) -> None:
    notes.machine.run("id visitor >/dev/null 2>&1 || useradd --create-home visitor")
    asked = notes.machine.run(["slotctl", "backups", "notes", newest(notes)], user="visitor", check=False)
    assert asked.returncode == 5
    assert "notes.db" not in asked.stdout


def test_what_has_changed_since_is_shown_before_anything_is_brought_back(notes: Notes) -> None:
    kept = newest(notes)
    assert "Nothing has changed" not in notes.slotctl("backups", "notes", kept)
    notes.write("one more")
    notes.machine.run(f"rm {DATA}/files/2.txt; echo other > {DATA}/files/3.txt")
    changes = {each["path"]: each["change"] for each in notes.json("backups", "notes", kept, "--diff")["changes"]}
    assert changes[f"{DATA}/files/11.txt"] == "added"
    assert changes[f"{DATA}/files/2.txt"] == "removed"
    assert changes[f"{DATA}/files/3.txt"] == "changed"
    assert f"{DATA}/files/4.txt" not in changes


def test_one_file_comes_back_and_all_else_stays_as_it_is(notes: Notes) -> None:
    kept = newest(notes)
    owner = notes.machine.run(f"stat -c '%U:%G %a' {DATA}/files/1.txt").stdout
    notes.slotctl("restore", "notes", kept, "files/3.txt", f"{DATA}/files/2.txt")
    assert notes.machine.read_file(f"{DATA}/files/3.txt") == "note 2"
    assert notes.machine.read_file(f"{DATA}/files/2.txt") == "note 1"
    assert notes.machine.run(f"stat -c '%U:%G %a' {DATA}/files/2.txt").stdout == owner
    assert notes.machine.read_file(f"{DATA}/files/11.txt") == "one more"
    assert notes.wait_state()["notes"] == 11


def test_what_the_file_was_before_is_kept_and_can_be_brought_back_alone(notes: Notes) -> None:
    aside = newest(notes, "quarantine")
    held = notes.json("backups", "notes", aside)["entries"]
    assert [each["path"] for each in held] == [f"{DATA}/files/3.txt"]
    notes.slotctl("restore", "notes", aside)
    assert notes.machine.read_file(f"{DATA}/files/3.txt") == "other\n"
    assert notes.machine.read_file(f"{DATA}/files/11.txt") == "one more"
    notes.machine.run(f"printf 'note 2' > {DATA}/files/3.txt")


def test_a_directory_that_is_gone_comes_back_with_its_owner(notes: Notes) -> None:
    kept = newest(notes)
    owner = notes.machine.run(f"stat -c '%U:%G %a' {DATA}/files").stdout
    notes.machine.run(f"mv {DATA}/files {DATA}/elsewhere")
    notes.slotctl("restore", "notes", kept, "files/5.txt")
    assert notes.machine.run(f"stat -c '%U:%G %a' {DATA}/files").stdout == owner
    assert notes.machine.run(f"ls {DATA}/files").stdout.split() == ["5.txt"]
    notes.machine.run(f"rm -r {DATA}/files && mv {DATA}/elsewhere {DATA}/files")


def test_a_database_comes_back_with_its_log(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    kept, before = newest(notes), notes.wait_state()["notes"]
    notes.write("too much")
    notes.slotctl("restore", "notes", kept, "notes.db")
    assert notes.wait_state()["notes"] == before
    assert notes.machine.exists(f"{DATA}/files/12.txt")


def test_a_path_that_the_backup_does_not_hold_is_refused_and_the_app_is_not_stopped(notes: Notes) -> None:
    before = start_of(notes)
    printed = notes.slotctl("restore", "notes", newest(notes), "../../../etc/shadow", status=1)
    assert "holds nothing of that name" in printed
    assert start_of(notes) == before


def test_all_comes_back_and_what_was_there_is_kept(notes: Notes) -> None:
    kept, before = newest(notes), notes.wait_state()
    notes.write("later")
    notes.slotctl("restore", "notes", kept)
    assert notes.wait_state()["notes"] == before["notes"]
    assert (
        "later"
        in notes.machine.run(f"cat /var/lib/slotd/quarantine/notes/{newest(notes, 'quarantine')}/data/*/files/*").stdout
    )


def test_backups_that_are_whole_are_said_to_be(notes: Notes) -> None:
    printed = notes.slotctl("backups", "notes", "--verify")
    assert newest(notes) in printed
    assert "every file holds what was saved" in printed


def test_a_damaged_backup_is_found_and_never_restored_but_what_is_whole_of_it_is(notes: Notes) -> None:
    notes.slotctl("backup", "notes")
    bad = newest(notes)
    inside = f"/var/lib/slotd/backups/notes/{bad}/data/0/files/1.txt"
    notes.machine.run(f"cp --preserve=all {inside} /root/one; printf XXXX | dd of=/root/one conv=notrunc status=none")
    notes.machine.run(f"touch -r {inside} /root/one; cp --remove-destination --preserve=all /root/one {inside}")

    printed = notes.slotctl("backups", "notes", bad, "--verify", status=1)
    assert "data/0/files/1.txt differs in contents" in printed

    before = start_of(notes)
    refused = notes.slotctl("restore", "notes", bad, status=1)
    assert "differs in contents" in refused
    assert start_of(notes) == before
    assert notes.json("status", "notes")["state"] == "idle"

    notes.machine.run(f"rm {DATA}/files/4.txt")
    notes.slotctl("restore", "notes", bad, "files/4.txt")
    assert notes.machine.read_file(f"{DATA}/files/4.txt") == "note 3"

    notes.slotctl("backup", "notes")
    notes.slotctl("backups", "notes", newest(notes), "--verify")  # the damage did not go into the next one


def test_an_app_that_was_stopped_stays_stopped_through_backup_and_restore(notes: Notes) -> None:
    notes.machine.run("systemctl stop notes.service")
    notes.slotctl("backup", "notes")
    assert notes.machine.show("notes.service", "ActiveState") == {"ActiveState": "inactive"}
    notes.slotctl("restore", "notes", newest(notes))
    assert notes.machine.show("notes.service", "ActiveState") == {"ActiveState": "inactive"}
    assert "stays stopped" in notes.slotctl("history", "notes")
    notes.machine.run("systemctl start notes.service")
    assert notes.wait_state()["notes"] >= 10


def test_a_restore_that_does_not_fit_leaves_the_app_running(notes: Notes) -> None:
    notes.machine.run(
        "systemctl stop notes.service && mv /var/lib/notes/data /var/lib/notes/data.real && mkdir /var/lib/notes/data"
    )
    notes.machine.run("mount -t tmpfs -o size=60M tmpfs /var/lib/notes/data")
    notes.machine.run("cp -a /var/lib/notes/data.real/. /var/lib/notes/data/ && chown notes: /var/lib/notes/data")
    try:
        notes.machine.run("systemctl start notes.service && head -c 20M /dev/zero > /var/lib/notes/data/large")
        notes.slotctl("backup", "notes")
        notes.machine.run("rm /var/lib/notes/data/large && mount -o remount,size=15M /var/lib/notes/data")
        before = start_of(notes)
        printed = notes.slotctl("restore", "notes", newest(notes), status=1)
        assert "must stay free" in printed
        assert start_of(notes) == before
        assert notes.state()["notes"] >= 10
    finally:
        notes.machine.run("systemctl stop notes.service; umount /var/lib/notes/data; rmdir /var/lib/notes/data")
        notes.machine.run("mv /var/lib/notes/data.real /var/lib/notes/data && systemctl start notes.service")


def test_of_several_units_only_those_that_ran_are_started_again(notes: Notes) -> None:
    for name, command in (("runs", "sleep infinity"), ("rests", "sleep infinity")):
        unit = f"[Service]\nExecStart=/usr/bin/{command}\n"
        notes.machine.write_file(f"/etc/systemd/system/notes-{name}.service", unit)
    more = '[service]\nunits = ["notes.service", "notes-runs.service", "notes-rests.service"]\n'
    notes.machine.write_file("/etc/slotd/apps.d/notes.toml.d/units.toml", more)
    notes.machine.run("systemctl daemon-reload && systemctl start notes-runs.service && systemctl reload slotd")
    before = notes.machine.show("notes-runs.service", "InvocationID")
    notes.slotctl("backup", "notes")
    assert notes.machine.show("notes-runs.service", "ActiveState") == {"ActiveState": "active"}
    assert notes.machine.show("notes-runs.service", "InvocationID") != before
    assert notes.machine.show("notes-rests.service", "ActiveState") == {"ActiveState": "inactive"}


SPOIL = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("CREATE TABLE unused(x)")
db.executemany("INSERT INTO unused VALUES(?)", [("x" * 3000,)] * 200)
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
with open(sys.argv[1], "r+b") as file:
    file.seek(-12288, os.SEEK_END)
    file.write(os.urandom(8192))
"""


def test_a_database_of_any_name_is_checked(notes: Notes) -> None:
    odd = f'{DATA}/odd/a "b": 50%d $HOME'
    notes.machine.run(f"install --directory --owner=notes {DATA}/odd")
    notes.machine.run(["/usr/bin/python3", "-c", SPOIL, odd])
    notes.machine.run(["chown", "notes:", odd])
    notes.slotctl("backup", "notes")
    assert f"the database {odd} is damaged: SQLite says" in notes.slotctl("history", "notes")
    notes.machine.run(f"rm -r {DATA}/odd")


def test_a_database_that_the_app_has_damaged_is_told_and_keeps_neither_backup_nor_update_back(notes: Notes) -> None:
    history = notes.slotctl("history", "notes")
    assert "could not be checked" not in history
    assert f"{DATA}/notes.db is damaged" not in history
    notes.machine.run(["/usr/bin/python3", "-c", SPOIL, f"{DATA}/notes.db"])
    notes.slotctl("backup", "notes")
    assert f"the database {DATA}/notes.db is damaged: SQLite says" in notes.slotctl("history", "notes")
    assert f"the database {DATA}/notes.db is damaged" in notes.slotctl("backups", "notes", newest(notes))
    assert "is damaged" in notes.slotctl("backups", "notes", newest(notes), "--verify")

    notes.publisher.publish("1.1")
    notes.slotctl("update", "notes")
    assert notes.json("status", "notes")["version"] == "1.1"
    assert f"the database {DATA}/notes.db is damaged" in notes.slotctl("backups", "notes", newest(notes))
