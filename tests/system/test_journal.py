"""The journal, read as a person reads it the morning after: `journalctl -u APP`, with `-x`, by app, by job."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

from slotd.core import events, machine

FIELDS = {"SLOTD_EVENT", "SLOTD_APP", "SLOTD_JOB", "SLOTD_CORRELATION", "SLOTD_STEP", "SLOTD_VERSION"}
FIELDS |= {"SLOTD_VERSION_OLD", "SLOTD_SLOT"}

# A second unit of the app: what is told of the app must show in its journal, too, and not be there twice.
SECOND = """\
[Service]
ExecStart=/bin/sleep infinity
"""


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        container.write_file("/etc/systemd/system/notes-mailer.service", SECOND)
        app.set_up(trial="3s", more='[service]\nunits = ["notes.service", "notes-mailer.service"]\n')
        app.install("1.0", trial="1s")
        yield app


class Since:
    """The journal from here on."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._since = f"--since=@{time.time():.6f}"  # a cursor would hide the first entry that matches

    def _journalctl(self, *words: str) -> str:
        self._notes.machine.run(["journalctl", "--sync"])
        return self._notes.machine.run(["journalctl", "--no-pager", "-q", *words]).stdout

    def read(self, *words: str) -> str:
        """What `journalctl` with these words prints."""
        return self._journalctl(self._since, *words)

    def told(self, *words: str) -> list[str]:
        """What slotd says there, without the times."""
        return re.findall(r"slotd\[\d+\]: (.*)", self.read(*words))

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        return self._notes.machine.journal_entries(self._since, *matches)


def in_order(told: Sequence[str], *sentences: str) -> None:
    """Each of `sentences` (patterns) is said, once, and in this order, and nothing else."""
    assert len(told) == len(sentences), "\n".join(told)
    for line, sentence in zip(told, sentences, strict=True):
        assert re.fullmatch(sentence, line), f"{line!r} is not like {sentence!r}"


def test_the_story_of_an_update_can_be_read_in_the_journal_of_the_app(notes: Notes) -> None:
    since = Since(notes)
    notes.publisher.publish("1.1")
    notes.slotctl("update", "notes")

    told = since.told("-u", "notes.service")
    in_order(
        told,
        "notes: the update from 1.0 to 1.1 begins",
        r"notes: verified notes-1\.1\.tar\.gz: sha256 as the checksums say; openpgp signature .* by Publisher <.*>",
        r"notes: stopped notes\.service, notes-mailer\.service for the update",
        r"notes: saved the data of 1\.0 as backup \S+",
        r"notes: switched 1\.0 → 1\.1 \(slot b\)",
        r"notes: 1\.1 was started and is on trial for 3 s; the app was down for \S+ s",
        r"notes: updated from 1\.0 to 1\.1; it passed its trial",
    )
    assert since.told("-u", "notes-mailer.service") == told
    whole = since.read("-u", "notes.service")
    assert whole.index("Stopped notes.service") < whole.index("switched 1.0") < whole.index("Started notes.service")


def test_every_entry_is_there_once_with_its_fields_and_one_id_from_resolve_to_cleanup(notes: Notes) -> None:
    since = Since(notes)
    notes.publisher.publish("1.2")
    notes.slotctl("update", "notes")

    entries = since.entries("SLOTD_APP=notes")
    messages = [entry["MESSAGE"] for entry in entries]
    assert len(messages) == len(set(messages)), messages
    (job,) = {entry["SLOTD_JOB"] for entry in entries}
    (correlation,) = {entry["SLOTD_CORRELATION"] for entry in entries}
    assert since.entries(f"SLOTD_JOB={job}") == entries
    assert since.entries(f"SLOTD_CORRELATION={correlation}") == entries
    steps = [entry["SLOTD_STEP"] for entry in entries if entry["SLOTD_EVENT"] == "step"]
    assert steps == [rule.name for rule in machine.UPDATE]
    assert (entries[0]["SLOTD_STEP"], entries[-1]["SLOTD_STEP"]) == ("resolve", "cleanup")
    chosen = [entry for entry in entries if entry["SLOTD_STEP"] != "resolve"]
    assert all(set(entry) >= FIELDS for entry in chosen)
    assert {entry["SLOTD_VERSION"] for entry in chosen} == {"1.2"}
    assert [entry["SLOTD_RESULT"] for entry in entries if "SLOTD_RESULT" in entry] == ["updated"]
    for entry in entries:
        kind = events.BY_NAME[entry["SLOTD_EVENT"]]
        assert (entry["MESSAGE_ID"], int(entry["PRIORITY"])) == (kind.id, kind.priority)


def test_the_story_of_a_failed_update_says_why_and_that_all_is_back(notes: Notes) -> None:
    since = Since(notes)
    notes.publisher.publish("1.3", "crash-at-start", schema=2)
    notes.slotctl("update", "notes", status=4)

    in_order(
        since.told("-u", "notes.service"),
        "notes: the update from 1.2 to 1.3 begins",
        r"notes: verified notes-1\.3\.tar\.gz: .*",
        r"notes: stopped notes\.service, notes-mailer\.service for the update",
        r"notes: saved the data of 1\.2 as backup \S+",
        r"notes: switched 1\.2 → 1\.3 \(slot b\)",
        *(rf"notes: 1\.3 did not start \(attempts left: {left}\): .*exited with status 3" for left in (2, 1, 0)),
        r"notes: going back to 1\.2: 1\.3 did not start: notes\.service exited with status 3",
        r"notes: the data are those of backup \S+ again; what 1\.3 wrote is kept as \S+",
        r"notes: rolled back to 1\.2: 1\.3 did not start: notes\.service exited with status 3",
    )
    bad = since.told("-u", "notes.service", "--priority=warning")
    assert [line.split(" ")[1] for line in bad] == ["1.3", "1.3", "1.3", "going", "rolled"]
    (result,) = [entry for entry in since.entries("SLOTD_APP=notes") if "SLOTD_RESULT" in entry]
    assert (result["SLOTD_EVENT"], result["SLOTD_RESULT"]) == ("rolled-back", "rolled-back")


def test_the_explanations_say_what_happened_and_what_to_type(notes: Notes) -> None:
    since = Since(notes)
    notes.publisher.publish("1.4", "crash-at-start")
    notes.slotctl("update", "notes", status=4)

    explained = since.read("-u", "notes.service", "-x", "SYSLOG_IDENTIFIER=slotd")
    for sentence in (
        "Subject: An update began",
        "Subject: A release file was verified",
        "Subject: The other slot is active now",
        "Subject: A start of the new version failed",
        "Subject: The old version is back",
        "is blocked on this host until its publisher replaces it or someone forces it",
        "`slotctl update notes --force`",
        "`slotctl backups notes`",
        "Documentation: man:slotctl(1)",
    ):
        assert sentence in explained
    assert "@SLOTD" not in explained


def test_a_story_that_a_crash_interrupted_goes_on_under_the_same_id(notes: Notes) -> None:
    since = Since(notes)
    notes.publisher.publish("1.5")
    following = notes.machine.popen(["slotctl", "update", "notes"])
    notes.machine.wait_for("journalctl -q SLOTD_STEP=trial SLOTD_VERSION=1.5 | grep -q trial")
    notes.machine.run("systemctl kill --signal=KILL slotd.service")
    following.wait(60)
    notes.machine.wait_for("journalctl -q SLOTD_STEP=cleanup SLOTD_VERSION=1.5 | grep -q cleanup")

    in_order(
        since.told("-u", "notes.service")[-3:],
        r"notes: 1\.5 was started and is on trial for 3 s; .*",
        "notes: the update was interrupted in step trial: it goes on",
        r"notes: updated from 1\.2 to 1\.5; it passed its trial",
    )
    entries = since.entries("SLOTD_APP=notes")
    assert len({entry["SLOTD_JOB"] for entry in entries}) == 1
    assert len({entry["SLOTD_CORRELATION"] for entry in entries}) == 1
    assert len({entry["_PID"] for entry in entries}) == 2
    assert "interrupted" in since.read("-u", "slotd.service")


def test_a_definition_that_cannot_be_used_is_told_with_its_place(notes: Notes) -> None:
    since = Since(notes)
    notes.machine.write_file("/etc/slotd/apps.d/broken.toml", "[service]\nunit = 1\n")
    notes.machine.write_file("/etc/slotd/slotd.toml", "max_parallel = 0\n")
    notes.machine.run("systemctl reload slotd")

    entries = since.entries(f"MESSAGE_ID={events.BY_NAME['misconfigured'].id}")
    told = [entry["MESSAGE"] for entry in entries]
    assert any(
        line.startswith("broken: /etc/slotd/apps.d/broken.toml: service.unit is not a known key") for line in told
    )
    assert any(line.startswith("/etc/slotd/slotd.toml: max_parallel is 0") for line in told)
    assert {entry["PRIORITY"] for entry in entries} == {"3"}
