"""Going back by hand to a version that is in no slot any more, with or without its data, without source and network."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

MORE = """
[backup]
releases = 3

[slots]
migrate = [["/bin/sh", "-c", "echo migrating for {version}; ls {data} > /dev/null 2>&1; echo schema is well"]]
"""


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """1.0, then 1.1, then 2.0, whose schema has no way down. The source has none of them any more."""
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s", more=MORE)
        app.install("1.0")
        for version, schema in (("1.1", 1), ("2.0", 2)):
            publisher.publish(version, schema=schema)
            app.slotctl("update", "notes")
            app.write(f"written by {version}")
        publisher.withdraw_all()
        yield app


def test_what_a_migration_said_is_in_the_history_in_the_journal_and_with_the_backup_made_before_it(
    notes: Notes,
) -> None:
    assert "schema is well" in notes.slotctl("history", "notes")
    said = [entry.get("SLOTD_OUTPUT", "") for entry in notes.machine.journal_entries("SLOTD_APP=notes")]
    assert any("migrating for 2.0" in each for each in said)
    kept = notes.json("backups", "notes")[0]
    printed = notes.slotctl("backups", "notes", kept["id"])
    assert "migrate: " in printed
    assert "migrating for 2.0" in printed


def test_who_does_not_choose_is_told_how_old_the_backup_is_and_what_would_be_lost(notes: Notes) -> None:
    printed = notes.slotctl("rollback", "notes", status=2)
    assert " old; files since: " in printed
    assert re.search(r"[12] added", printed)
    assert "changed" in printed
    also = notes.slotctl("rollback", "notes", "--to", "1.0", status=2)
    assert "1.0" in also
    assert "--data=restore" in also


def test_a_version_that_is_not_kept_is_refused_with_those_that_are(notes: Notes) -> None:
    printed = notes.slotctl("rollback", "notes", "--to", "0.5", "--data=keep", status=1)
    assert "there are 1.1, 1.0" in printed
    assert notes.wait_state()["version"] == "2.0"


def damage_cache(notes: Notes) -> None:
    notes.machine.run("for f in /var/cache/slotd/notes/*; do printf x | dd of=$f bs=1 seek=20 conv=notrunc; done")


@pytest.mark.attack
@pytest.mark.parametrize(("is_there", "why"), [(False, "its bytes have changed"), (True, "another file than was")])
def test_a_kept_release_that_was_changed_on_the_disk_and_cannot_be_had_again_is_not_installed(
    notes: Notes, is_there: bool, why: str
) -> None:
    notes.machine.run("cp -a /var/cache/slotd/notes /root/cache")
    source = notes.publisher.directory / "notes-1.0.tar.gz"
    was = source.read_bytes()
    source.unlink()
    if is_there:
        source.write_bytes(was[::-1])
    damage_cache(notes)
    printed = notes.slotctl("rollback", "notes", "--to", "1.0", "--data=restore", status=1)
    source.write_bytes(was)
    notes.machine.run("rm -r /var/cache/slotd/notes && mv /root/cache /var/cache/slotd/notes")
    assert why in " ".join(printed.split())
    assert notes.wait_state()["version"] == "2.0"


def test_on_new_data_the_old_version_fails_its_trial_and_all_is_as_it_was(notes: Notes) -> None:
    """Version 1.0 refuses the schema of 2.0: a wrong choice costs nothing."""
    before = notes.wait_state()
    printed = notes.slotctl("rollback", "notes", "--to", "1.0", "--data=keep", status=4)
    assert "1.0" in printed
    assert notes.wait_state() == before


def test_with_its_data_the_kept_version_comes_back_and_what_was_written_since_is_kept(notes: Notes) -> None:
    notes.slotctl("rollback", "notes", "--to", "1.0", "--data=restore")
    state = notes.wait_state()
    assert (state["version"], state["notes"]) == ("1.0", 10)
    aside = [
        copy for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine" and copy["version"] == "2.0"
    ]
    files = f"/var/lib/slotd/quarantine/notes/{aside[0]['id']}/data/0/files"
    assert "written by 2.0" in notes.machine.run(f"cat {files}/*").stdout


def test_the_version_that_was_left_is_not_taken_again_by_itself(notes: Notes) -> None:
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("update", "notes", status=3)
    assert notes.wait_state()["version"] == "1.0"


@pytest.mark.attack
def test_a_kept_release_that_was_changed_on_the_disk_is_fetched_anew_while_its_source_has_it(notes: Notes) -> None:
    damage_cache(notes)
    notes.slotctl("rollback", "notes", "--to", "1.1", "--data=restore")
    assert notes.wait_state()["version"] == "1.1"
    assert "is damaged, is removed, and is fetched anew" in " ".join(notes.slotctl("history", "notes").split())
