"""TUF and sigstore in the sandboxed workers of the installed package: their libraries lie where pip puts them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.sigstore_lab import GITHUB, WORKFLOW
from tests.sigstore_lab import Lab as Sigstore
from tests.system.container import Container
from tests.system.hostile import HostilePublisher, assert_says, reload, see
from tests.system.notes import DEFINITION, Notes
from tests.tuf_far import EXTRAS
from tests.tuf_far import Lab as Tuf

DEFINED = "/etc/slotd/apps.d/notes.toml"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """What `pip install --target … --requirement extras.txt` made on this host is laid where it is told to put it."""
    container.copy_in(EXTRAS, "/usr/local/lib/slotd/extras")
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms")
        yield app


def define(notes: Notes, source: str, verify: str) -> None:
    """The app's definition, with another source and other proofs."""
    publisher = notes.publisher
    text = DEFINITION.format(url=publisher.url, port=notes.port, mode="approve", trial="500ms")
    head, _, rest = text.partition("[source]")
    notes.write_file(DEFINED, f"{head}{source}\n{verify}\n[data]{rest.partition('[data]')[2]}")
    reload(notes)


@pytest.mark.attack
def test_a_tuf_repository_is_followed_and_who_takes_it_back_or_changes_a_file_is_refused(notes: Notes) -> None:
    publisher, tuf = notes.publisher, Tuf()
    repository = publisher.directory / "tuf"
    try:
        tuf("new", str(repository))
        notes.write_file("/etc/slotd/keys.d/root.json", (repository / "pinned.json").read_bytes())
        source = f'[source]\ntype = "tuf"\nurl = "{publisher.url}/tuf"\nasset = "notes-{{version}}.tar.gz"\n'
        define(notes, source, '[verify]\nrequire = ["tuf"]\nkeys = ["root.json"]\n')
        publish(notes, tuf, "1.0")
        assert "updated" in notes.slotctl("update", "notes") or notes.wait_state()["version"] == "1.0"
        assert_says(notes.slotctl("history", "notes"), "tuf signature over the file by root 1, timestamp 2")
        first = (repository / "metadata" / "timestamp.json").read_bytes()
        publish(notes, tuf, "1.1")
        notes.slotctl("check", "notes")
        before = see(notes)
        second = (repository / "metadata" / "timestamp.json").read_bytes()
        (repository / "metadata" / "timestamp.json").write_bytes(first)
        assert_says(notes.slotctl("check", "notes", status=1), "its timestamp is older than what was seen before")
        (repository / "metadata" / "timestamp.json").write_bytes(second)
        (target,) = (repository / "targets").glob("*.notes-1.1.tar.gz")
        target.write_bytes(target.read_bytes()[:-1] + b"!")
        assert_says(notes.slotctl("update", "notes", status=1), "its sha256 is")
        assert see(notes) == before
    finally:
        tuf.close()


def publish(notes: Notes, tuf: Tuf, version: str) -> None:
    notes.publisher.publish(version)
    name = f"notes-{version}.tar.gz"
    tuf("add_file", name, str(notes.publisher.directory / name))
    tuf("publish")


@pytest.mark.attack
def test_a_sigstore_bundle_is_verified_and_one_over_other_bytes_or_by_another_is_refused(notes: Notes) -> None:
    sigstore, publisher = Sigstore(), notes.publisher
    notes.write_file("/etc/slotd/keys.d/sigstore.json", sigstore.trust_root())
    identity = WORKFLOW.replace("v1.0", "{tag}")
    verify = (
        f'[verify]\nrequire = ["sigstore"]\nkeys = ["sigstore.json"]\nidentity = "{identity}"\nissuer = "{GITHUB}"\n'
    )
    source = f'[source]\ntype = "http"\nurl = "{publisher.url}/index.json"\nasset = "notes-{{version}}.tar.gz"\n'
    define(notes, source, verify)

    def offer(version: str, signed: bytes, by: str) -> None:
        name = f"notes-{version}.tar.gz"
        bundle = sigstore.sign(signed, identity=WORKFLOW.replace("v1.0", by))
        (publisher.directory / f"{name}.sigstore.json").write_text(json.dumps(bundle))
        assets = {file: file for file in (name, f"{name}.sigstore.json")}
        index = {"releases": [{"version": version, "tag": f"v{version}", "assets": assets}]}
        (publisher.directory / "index.json").write_text(json.dumps(index))

    offer("2.0", publisher.publish("2.0"), "v2.0")
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == "2.0"
    assert_says(notes.slotctl("history", "notes"), "sigstore signature over the file by https://github.com/acme/app")
    before = see(notes)
    offer("2.1", publisher.publish("2.1") + b"!", "v2.1")
    assert_says(notes.slotctl("update", "notes", status=1), "cannot trust", "notes-2.1.tar.gz")
    offer("2.2", publisher.publish("2.2"), "v9.9")
    assert_says(notes.slotctl("update", "notes", status=1), "cannot trust", "notes-2.2.tar.gz")
    assert see(notes) == before
