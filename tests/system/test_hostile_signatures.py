"""Releases that are not what their publisher signed: refused by name of the reason, and never unpacked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import keys
from tests.system.container import Container
from tests.system.hostile import CACHE, HostilePublisher, assert_says, refused, refused_and_remembered, untouched
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

KEY_FILE = "/etc/slotd/keys.d/publisher.gpg"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms")
        app.install("1.0")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> HostilePublisher:
    assert isinstance(notes.publisher, HostilePublisher)
    return notes.publisher


@pytest.fixture
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("k")
    yield path
    keys.stop_agents([home for home in path.iterdir() if home.is_dir()])


def refused_file_gone(notes: Notes, *says: str) -> None:
    """The update is refused with these words, and what was not trusted is not kept."""
    notes.machine.run(f"rm -f {CACHE}/*")
    refused_and_remembered(notes, "update", "notes", says=says)
    assert notes.machine.run(["ls", CACHE]).stdout == ""


# ── digests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SUMS: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "give another digest": (
        lambda name: f"{'0' * 64}  {name}\n", ("its sha256 is", f"the checksums say {'0' * 64}", "Do not install it"),
    ),
    "name another file": (lambda name: f"{'0' * 64}  x{name}\n", ("the checksums do not list it", "Check `checksums`")),
    "give two digests": (
        lambda name: f"{'0' * 64}  {name}\n{'1' * 64}  {name}\n", ("2 different sha256 digests", "Tell the publisher"),
    ),
    "are a web page": (lambda name: "<html>", ("the checksums do not list it", "Check `checksums`")),
}  # fmt: skip


@pytest.mark.parametrize("fault", SUMS)
def test_a_release_is_refused_when_its_checksums(notes: Notes, publisher: HostilePublisher, fault: str) -> None:
    make, says = SUMS[fault]
    version = publisher.next_version()
    publisher.offer(version, publisher.publish(version), sums=make(f"notes-{version}.tar.gz"))
    refused_file_gone(notes, *says)


INDEX_SAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "another digest": ({"digest": f"sha256:{'0' * 64}"}, ("its sha256 is", f"the source says {'0' * 64}")),
    "another size": ({"size": 99}, ("the server has", "the release says 99", "Try again later")),
}


@pytest.mark.parametrize("fault", INDEX_SAYS)
def test_a_release_is_refused_when_the_index_says(notes: Notes, publisher: HostilePublisher, fault: str) -> None:
    said, says = INDEX_SAYS[fault]
    version = publisher.next_version()
    publisher.offer(version, publisher.publish(version), said=said)
    refused_file_gone(notes, *says)


# ── signatures ──────────────────────────────────────────────────────────────────────────────────────────────────────

SIGNATURES: dict[str, tuple[Callable[[HostilePublisher, bytes], bytes], tuple[str, ...]]] = {
    "fits another file": (
        lambda publisher, artifact: publisher.key.sign(artifact + b"x"),
        ("it does not fit the file", "Do not install it by other means"),
    ),
    "is made with SHA-1": (
        lambda publisher, artifact: publisher.key.sign(artifact, digest="SHA1"),
        ("SHA-1, which proves nothing",),
    ),
    "is a signed message": (
        lambda publisher, artifact: publisher.key.sign_whole(artifact),
        ("cannot use the signature", "Check `signature`"),
    ),
    "is a web page": (lambda _publisher, _artifact: b"<html>", ("cannot use the signature", "Check `signature`")),
    "is empty": (lambda _publisher, _artifact: b"", ("cannot use the signature", "it is empty", "Check `signature`")),
}


@pytest.mark.parametrize("fault", SIGNATURES)
def test_a_release_is_refused_when_its_signature(notes: Notes, publisher: HostilePublisher, fault: str) -> None:
    make, says = SIGNATURES[fault]
    version = publisher.next_version()
    artifact = publisher.publish(version)
    publisher.offer(version, artifact, signature=make(publisher, artifact))
    refused_file_gone(notes, *says)


def test_a_release_that_another_key_signed_is_refused(notes: Notes, publisher: HostilePublisher, homes: Path) -> None:
    other = keys.openpgp_key(homes / "o", "Somebody else <else@example.org>")
    version = publisher.next_version()
    artifact = publisher.publish(version)
    publisher.offer(version, artifact, signature=other.sign(artifact))
    refused_file_gone(notes, "not among the app's keys", other.fingerprint, "put it into keys.d")


@pytest.fixture
def key_file(notes: Notes) -> Iterator[str]:
    yield KEY_FILE
    notes.machine.write_file(KEY_FILE, notes.publisher.key.public())


def test_a_release_that_an_expired_key_signed_is_refused(
    notes: Notes, publisher: HostilePublisher, homes: Path, key_file: str
) -> None:
    old = keys.openpgp_key(homes / "e", expired=True)
    notes.machine.write_file(key_file, old.public())
    version = publisher.next_version()
    artifact = publisher.publish(version)
    publisher.offer(version, artifact, signature=old.sign(artifact, at="20200301T000000"))
    refused_file_gone(notes, "the key has expired", old.fingerprint, "put it into keys.d")


def test_a_release_that_a_revoked_key_signed_is_refused(
    notes: Notes, publisher: HostilePublisher, homes: Path, key_file: str
) -> None:
    lost = keys.openpgp_key(homes / "r")
    version = publisher.next_version()
    artifact = publisher.publish(version)
    publisher.offer(version, artifact, signature=lost.sign(artifact))
    lost.revoke()
    notes.machine.write_file(key_file, lost.public())
    refused_file_gone(notes, "the key has been revoked", lost.fingerprint, "put it into keys.d")


def test_a_key_file_that_holds_no_key_is_named(notes: Notes, publisher: HostilePublisher, key_file: str) -> None:
    publisher.publish_next()
    notes.machine.write_file(key_file, "not a key")
    refused(notes, "update", "notes", says=("cannot use the key file publisher.gpg",))
    refused(notes, "verify", "notes", says=("notes: 1 problem", "cannot use the key file publisher.gpg"))


# ── and afterwards ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_forged_release_is_not_tried_again_by_itself(notes: Notes, publisher: HostilePublisher) -> None:
    version = publisher.publish_next()
    publisher.publish(version, forged=True)
    with untouched(notes):
        notes.slotctl("mode", "notes", "auto")
        first = notes.slotctl("update", "notes", status=1)
        asked = len(publisher.server.seen("/files/notes-*.tar.gz"))
        again = notes.slotctl("update", "--all", status=None)
        by_name = notes.slotctl("update", "notes", status=3)
        notes.slotctl("mode", "notes", "approve")
    assert_says(first, "it does not fit the file")
    assert_says(by_name, f"{version} was passed over")
    assert_says(again, f"{version} was passed over")
    assert len(publisher.server.seen("/files/notes-*.tar.gz")) == asked


def digest_of(artifact: bytes) -> dict[str, str]:
    return {"digest": f"sha256:{hashlib.sha256(artifact).hexdigest()}"}


def test_the_same_version_gets_through_once_the_publisher_has_put_it_right(
    notes: Notes, publisher: HostilePublisher
) -> None:
    before = notes.state()
    version = publisher.next_version()
    right = publisher.publish(version)
    wrong = publisher.publish(version, forged=True)
    publisher.offer(version, wrong, signature=publisher.key.sign(right), said=digest_of(wrong))
    notes.slotctl("update", "notes", status=1)
    publisher.offer(version, right, said=digest_of(right))
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert (after["version"], after["digest"]) == (version, before["digest"])
