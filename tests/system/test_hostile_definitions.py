"""Definitions with mistakes: said with file, key, what was found and what is allowed. They disable one app only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.system.container import Container
from tests.system.hostile import DROP_IN, HostilePublisher, assert_says, reload, untouched
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

SETTINGS = "/etc/slotd/slotd.toml"
PROBE = '[[health]]\ntype = "http"\nurl = "http://127.0.0.1:1/"\n'


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="300ms")
        app.install("1.0")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> HostilePublisher:
    assert isinstance(notes.publisher, HostilePublisher)
    return notes.publisher


@dataclass(frozen=True)
class Bad:
    """What is written over the definition of the running app, and what must be said of it."""

    text: str
    says: tuple[str, ...]


MISTAKES = {
    "an unknown key": Bad('[source]\nasett = "x"', ("source.asett is not a known key", 'did you mean "asset"?')),
    "an unknown table": Bad("[sauce]\nx = 1", ("sauce is not a known", "source")),
    "a text for a list": Bad(
        '[service]\nunits = "notes.service"', ('service.units is "notes.service"', "a list of texts is needed")
    ),
    "a list for a text": Bad("[service]\nuser = [1]", ("service.user is", "a text is needed")),
    "latest for a version": Bad('[source]\nversions = "latest"', ('source.versions is "latest"', 'like ">=4.20,<5"')),
    "an interval of 0": Bad(f"{PROBE}interval = 0", ("interval is 0", "at least 10ms and at most 1h")),
    "an interval of NaN": Bad(f"{PROBE}interval = nan", ("interval is nan", "it is not a finite number")),
    "an interval of NaN as a text": Bad(f'{PROBE}interval = "NaN"', ('interval is "NaN"', 'like "1h 30min"')),
    "an interval below 0": Bad(f"{PROBE}interval = -1", ("interval is -1",)),
    "a timeout without end": Bad(f"{PROBE}timeout = inf", ("timeout is inf", "it is not a finite number")),
    "a delay of NaN": Bad("[policy]\ndelay = nan", ("policy.delay is nan", "it is not a finite number")),
    "no attempts": Bad("[policy]\nattempts = 0", ("policy.attempts is 0", "from 1 to 100")),
    "a mode that is none": Bad('[policy]\nmode = "yolo"', ('policy.mode is "yolo"', "manual", "approve", "auto")),
    "a retention below 0": Bad('[backup]\nretention = "-1d"', ('backup.retention is "-1d"',)),
    "nothing to verify": Bad("[verify]\nrequire = []", ("nothing is installed unverified", 'like ["sha256"]')),
    "a key by its path": Bad('[verify]\nkeys = ["../../etc/shadow"]', ('"../../etc/shadow"', "without a path")),
    "a key that is not there": Bad('[verify]\nkeys = ["gone.gpg"]', ("gone.gpg", "there is no such key")),
    "an engine of later": Bad('[slots]\nengine = "oci"', ("this is not supported yet", "supported are directory")),
    "a source of later": Bad('[source]\ntype = "hawkbit"', ("this is not supported yet", "github, gitea, gitlab")),
    "plain http to elsewhere": Bad('[source]\nurl = "http://example.org/"', ("plain http", "write https")),
    "the whole system for data": Bad('[data]\npaths = ["/etc"]', ('data.paths holds "/etc"', "of the app's own")),
    "what is not TOML": Bad("not toml [", ("is not valid TOML", "line 1")),
    "a NUL": Bad("\0", ("is not valid TOML",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_definition_is_refused_that_has(notes: Notes, mistake: str) -> None:
    bad = MISTAKES[mistake]
    says = ("/etc/slotd/apps.d/notes.toml", *bad.says)
    with untouched(notes):
        notes.machine.write_file(DROP_IN, bad.text + "\n")
        notes.machine.run("systemctl reload slotd")
        assert_says(notes.slotctl("verify", "notes", status=1), *says)
        assert_says(notes.slotctl("update", "notes", status=1), "cannot work on notes", *says)
        status = notes.json("status", "notes")
        assert status["state"] == "misconfigured"
        assert_says(status["last_error"], *says)
        assert_says(notes.machine.journal("slotd.service"), *says)
        notes.machine.run(["rm", DROP_IN])
        notes.machine.run("systemctl reload slotd")
        assert notes.json("status", "notes")["state"] in ("idle", "update-available", "awaiting-approval")


def test_all_mistakes_are_told_at_once(notes: Notes) -> None:
    text = 'x = 1\n[service]\nunits = 5\n[policy]\nattempts = 0\ntrial = nan\n[backup]\nkeep = "many"\n'
    with untouched(notes):
        notes.machine.write_file(DROP_IN, text)
        printed = notes.slotctl("verify", "notes", status=1)
        notes.machine.run(["rm", DROP_IN])
    assert_says(printed, "5 problems", "x is not a known key", "service.units", "attempts", "trial", "backup.keep")


def test_a_definition_that_others_may_write_is_not_followed(notes: Notes) -> None:
    with untouched(notes):
        notes.machine.write_file(DROP_IN, "[policy]\nattempts = 1\n", mode=0o666)
        reload(notes)
        printed = notes.slotctl("update", "notes", status=1)
        notes.machine.run(["rm", DROP_IN])
        reload(notes)
    assert_says(printed, DROP_IN, "write")


def test_one_broken_file_disables_no_other_app(notes: Notes, publisher: HostilePublisher) -> None:
    publisher.publish_next()
    with untouched(notes):
        notes.machine.write_file("/etc/slotd/apps.d/other.toml", "units = 5\n")
        reload(notes)
        assert_says(notes.slotctl("list"), "other", "misconfigured", "notes")
        assert_says(notes.slotctl("check", "notes"), "is available")
        assert_says(notes.slotctl("check", "other", status=1), "/etc/slotd/apps.d/other.toml", "slotctl verify")
        assert_says(notes.slotctl("verify", "other", status=1), "units is not a known key")
        notes.slotctl("check", "--all")
        notes.machine.run("rm /etc/slotd/apps.d/other.toml")
        reload(notes)
        assert "other" not in notes.slotctl("list")


def test_an_app_that_takes_anothers_unit_is_named_with_it(notes: Notes) -> None:
    text = notes.machine.read_file("/etc/slotd/apps.d/notes.toml").replace("/var/lib/notes/data", "/var/lib/thief/data")
    with untouched(notes):
        notes.machine.write_file("/etc/slotd/apps.d/thief.toml", text)
        reload(notes)
        for name in ("notes", "thief"):
            assert_says(notes.slotctl("update", name, status=1), "notes.service", "notes", "thief")
        notes.machine.run("rm /etc/slotd/apps.d/thief.toml")
        reload(notes)


def test_mistakes_in_the_settings_are_named_and_stop_nothing(notes: Notes, publisher: HostilePublisher) -> None:
    publisher.publish_next()
    with untouched(notes):
        notes.machine.write_file(SETTINGS, 'max_parallel = 0\n[limits]\nindex = nan\nindax = "1s"\n')
        reload(notes)
        printed = notes.slotctl("verify", status=1)
        assert_says(notes.machine.journal("slotd.service"), SETTINGS, "limits.index is nan")
        assert_says(notes.slotctl("check", "notes"), "is available")
        notes.machine.run(["rm", SETTINGS])
        reload(notes)
    assert_says(printed, "slotd.toml: 3 problems", "max_parallel is 0", "limits.index is nan", "limits.indax")


def test_a_retention_of_0_is_legal_and_the_newest_backup_stays(notes: Notes, publisher: HostilePublisher) -> None:
    notes.machine.write_file(DROP_IN, "[backup]\nretention = 0\nkeep = 0\n")
    reload(notes)
    notes.slotctl("verify", "notes")
    before = notes.state()
    for _ in range(2):
        version = publisher.publish_next()
        notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert (after["version"], after["digest"]) == (version, before["digest"])
    kept = notes.json("backups", "notes")
    assert len(kept) == 1, kept
    notes.slotctl("rollback", "notes", "--data=restore")
    assert notes.wait_state()["digest"] == before["digest"]
