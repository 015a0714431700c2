"""Archives that are signed as they should be, and are traps: nothing of them gets out of the slot, or stays in it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests import hostile_archives as forge
from tests.system.container import Container
from tests.system.hostile import SLOTS, HostilePublisher, refused_and_remembered, reload
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

SMALL = '[slots]\nmax_size = "16M"\nmax_files = 1000\n'
HONEST = "An honest archive holds no such thing: ask its publisher."
# What the archives would leave behind, wherever they got out to.
TRACES = ["find", "/", "-xdev", "(", "-name", "*evil*", "-o", "-name", "victim", ")"]


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms", more=SMALL)
        app.install("1.0")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> HostilePublisher:
    assert isinstance(notes.publisher, HostilePublisher)
    return notes.publisher


def refused_without_a_trace(notes: Notes, archive: bytes, *says: str) -> None:
    """The release is refused, and nothing outside of its slot was made, changed or read into it."""
    machine, publisher = notes.machine, notes.publisher
    assert isinstance(publisher, HostilePublisher)
    outside = "sha256sum /etc/passwd /etc/shadow; ls -A / /etc /var/lib/slotd /var/lib/slotd/apps"
    version = publisher.next_version()
    publisher.offer(version, archive)
    before = machine.run(outside).stdout
    refused_and_remembered(notes, "update", "notes", says=(f"cannot unpack notes-{version}.tar.gz: ", *says))
    assert machine.run(outside).stdout == before
    assert machine.run(TRACES).stdout == ""


TARS: dict[str, tuple[str, ...]] = {
    "a name that climbs out": ("its entry '../evil' leads out of the slot",),
    "an absolute name": ("its entry '/tmp/evil' has an absolute name",),
    "a link that climbs out": ("its entry 'a' is a link to '../evil', outside the slot",),
    "a link to an absolute path": ("its entry 'a' is a link to '/etc/passwd', outside the slot",),
    "a file through a link out": ("its entry 'a' comes twice, as a symlink and as a directory",),
    "a hard link to an absolute file": ("its entry '/etc/passwd' has an absolute name",),
    "a character device": ("its entry 'null' is neither a file, a directory nor a link",),
    "a block device": ("its entry 'disk' is neither a file, a directory nor a link",),
    "a fifo": ("its entry 'pipe' is neither a file, a directory nor a link",),
    "a set-user-id program": ("its entry 'su' has a set-id bit",),
    "slotd's own record": ("its entry '.slotd' is in the place of slotd's own record",),
    "a name with an escape sequence": (r"its entry 'a\x1b[2Jb' has control characters",),
}


@pytest.mark.parametrize("trap", TARS)
def test_a_tar_is_refused_that_holds(notes: Notes, trap: str) -> None:
    archive = forge.COMPRESS["gz"](forge.tar(*forge.FORGED_TARS[trap]))
    refused_without_a_trace(notes, archive, *TARS[trap], HONEST)


ZIPS: dict[str, tuple[str, ...]] = {
    "a name that climbs out": ("its entry '../evil' leads out of the slot",),
    "a link to an absolute path": ("its entry 'a' is a link to '/etc/passwd', outside the slot",),
    "a set-user-id program": ("its entry 'su' has a set-id bit",),
}


@pytest.mark.parametrize("trap", ZIPS)
def test_a_zip_is_refused_that_holds(notes: Notes, trap: str) -> None:
    refused_without_a_trace(notes, forge.zip_file(*forge.FORGED_ZIPS[trap]), *ZIPS[trap], HONEST)


TOO_MUCH: dict[str, tuple[str, ...]] = {
    "a bomb of zeros": ("more than 16777216 bytes", "raise slots.max_size"),
    "a zip bomb that claims one byte": ("slots.max_size",),
    "a sparse file of a terabyte": ("more than 16777216 bytes", "raise slots.max_size"),
    "too many files": ("more than 1000 files", "raise slots.max_files"),
    "a gzip cut short": ("truncated gzip input", "The artifact is damaged"),
    "an encrypted zip": ("it is encrypted",),
    "nothing": ("it is not what its name says", "See what the source offers"),
}


@pytest.mark.parametrize("trap", TOO_MUCH)
def test_what_is_too_much_or_broken_is_refused(notes: Notes, trap: str) -> None:
    refused_without_a_trace(notes, forge.TOO_MUCH[trap], *TOO_MUCH[trap])


def test_ten_million_files_are_refused_at_the_first_too_many(notes: Notes) -> None:
    # Some hundred kilobytes to download, five gigabytes of headers: only whoever stops in time is done in time.
    block = forge.COMPRESS["gz"](b"".join(forge.member(f"{n}") for n in range(10_000)))
    began = time.monotonic()
    refused_without_a_trace(notes, block * 1000, "more than 1000 files", "raise slots.max_files")
    assert time.monotonic() - began < 30


def test_one_file_ten_million_times_is_refused_too(notes: Notes) -> None:
    block = forge.COMPRESS["gz"](forge.member("f") * 10_000)
    began = time.monotonic()
    refused_without_a_trace(notes, block * 1000, "more than 1000 files", "raise slots.max_files")
    assert time.monotonic() - began < 30


def test_an_honest_archive_still_gets_through_afterwards(notes: Notes, publisher: HostilePublisher) -> None:
    before = notes.state()
    notes.machine.run("rm /etc/slotd/apps.d/notes.toml.d/more.toml")
    reload(notes)
    version = publisher.publish_next()
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert (after["version"], after["digest"]) == (version, before["digest"])
    assert notes.machine.run(["readlink", f"{SLOTS}/current"]).stdout.strip() == "b"
