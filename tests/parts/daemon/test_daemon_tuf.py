"""An app from a TUF repository: installed, attacked, and killed while it is written down what was accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.keys import MinisignKey
from tests.parts.daemon.notes import Notes, tar
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer
from tests.tuf_far import EXTRAS, Lab


class TufNotes(Notes):
    """The notes app from a repository, which vouches for it with nothing else beside."""

    lab: Lab

    @property
    def repository(self) -> Path:
        return self.server.root / "files" / "tuf"

    def define(self, *, more: str = "", **policy: Any) -> None:
        super().define(more=more, **policy)
        text = self.definition.read_text()
        head, _, rest = text.partition("[verify]")
        source = f'[source]\ntype = "tuf"\nurl = "{self.server.url}/files/tuf"\nasset = "notes-{{version}}.tar.gz"\n\n'
        verify = '[verify]\nrequire = ["tuf"]\nkeys = ["root.json"]\n\n[data]'
        head = head.partition("[source]")[0]
        self.world.write(self.definition, head + source + verify + rest.partition("[data]")[2])

    def publish_files(self, version: str, files: Mapping[str, bytes], **said: Any) -> str:
        name = f"notes-{version}.tar.gz"
        made = self.server.root / name
        made.write_bytes(tar(f"notes-{version}", files))
        self.lab("add_file", name, str(made))
        self.lab("publish")
        return name

    def metadata(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.repository / "metadata").iterdir()}

    @property
    def kept(self) -> dict[str, int]:
        """Role -> the version that the daemon has written down."""
        folder = self.world.state / "tuf" / "notes"
        return {path.stem: json.loads(path.read_bytes())["signed"]["version"] for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def world(tree: Path) -> Iterator[World]:
    shutil.copytree(EXTRAS, tree / "slotd-extras", dirs_exist_ok=True)
    with World(tree) as session:
        yield session
    shutil.rmtree(tree / "slotd-extras")


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, minisign: MinisignKey) -> Iterator[TufNotes]:
    app = TufNotes(world, server, minisign)
    app.lab = Lab()
    app.lab("new", str(app.repository))
    app.set_up()
    world.write(world.config / "keys.d" / "root.json", (app.repository / "pinned.json").read_bytes())
    app.publish("1.0")
    world.slotctl("update", "notes")
    yield app
    app.lab.close()


def test_a_release_of_a_repository_is_installed_and_what_was_accepted_is_kept(world: World, notes: TufNotes) -> None:
    assert notes.version == "1.0"
    assert notes.kept == {"timestamp": 2, "snapshot": 2, "targets": 2}
    assert "tuf signature over the file by root 1, timestamp 2" in world.slotctl("history", "notes")


@pytest.mark.attack
def test_a_server_that_goes_back_is_told_and_changes_nothing(world: World, notes: TufNotes) -> None:
    old, run = notes.metadata(), notes.run_id()
    notes.publish("1.1")
    world.slotctl("check", "notes")
    (notes.repository / "metadata" / "timestamp.json").write_bytes(old["timestamp.json"])
    said = " ".join(world.slotctl("check", "notes", status=1).split())
    assert "its timestamp is older than what was seen before" in said
    assert "its timestamp is older" in " ".join(world.slotctl("status", "notes").split())
    assert notes.kept["timestamp"] == 3
    assert (notes.version, notes.run_id()) == ("1.0", run)


@pytest.mark.attack
def test_a_file_that_the_repository_did_not_sign_for_is_refused(world: World, notes: TufNotes) -> None:
    run = notes.run_id()
    notes.publish("1.2")
    (target,) = (notes.repository / "targets").glob("*.notes-1.2.tar.gz")
    right = target.read_bytes()
    target.write_bytes(right[:-1] + b"!")
    said = " ".join(world.slotctl("update", "notes", status=1).split())
    assert "its sha256 is" in said
    assert (notes.version, notes.run_id()) == ("1.0", run)
    target.write_bytes(right)


@pytest.mark.attack
def test_what_was_accepted_is_not_forgotten_when_the_daemon_is_killed_after_it(world: World, notes: TufNotes) -> None:
    old, before = notes.metadata(), notes.kept
    notes.publish("1.3")
    world.fail_at("resolve:kept", "kill")
    world.slotctl("check", "notes", status=None)
    assert world.has_fired("resolve:kept")
    assert notes.kept == {**before, "timestamp": before["timestamp"] + 1}
    new = notes.metadata()
    (notes.repository / "metadata" / "timestamp.json").write_bytes(old["timestamp.json"])
    world.start()
    said = " ".join(world.slotctl("check", "notes", status=1).split())
    assert "its timestamp is older than what was seen before" in said
    (notes.repository / "metadata" / "timestamp.json").write_bytes(new["timestamp.json"])
    world.slotctl("update", "notes")
    assert notes.version == "1.3"
