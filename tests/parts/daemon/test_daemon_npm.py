"""An app that is an npm package: installed from a registry's tarball, whose SHA-512 is all that vouches for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.keys import MinisignKey
from tests.npm_package import NpmPackage, integrity
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import APP, Notes, tar
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer


class NpmNotes(Notes):
    """The notes app as the package `notes`, whose tarball has all in `package/`, as npm packs it."""

    def __init__(self, world: World, server: ReleaseServer, key: MinisignKey) -> None:
        super().__init__(world, server, key)
        self.package = NpmPackage(server, "notes")

    def define(self, *, more: str = "", **policy: Any) -> None:
        super().define(more=more, **policy)
        text = self.definition.read_text()
        source, verify = text.index("[source]"), text.index("[data]")
        from_npm = f'[source]\ntype = "npm"\npackage = "notes"\nurl = "{self.package.url}"\n'
        vouched = '[verify]\nrequire = ["sha512"]\n\n'
        self.world.write(self.definition, f"{text[:source]}{from_npm}\n{vouched}{text[verify:]}")

    def publish(self, version: str, behaviour: str = "well", *, schema: int = 1, **said: Any) -> str:
        files = {"notes.py": APP.read_bytes(), "VERSION": version.encode(), "behaviour": behaviour.encode()}
        content = tar("package", files | {"SCHEMA": str(schema).encode()})
        make = said.pop("integrity", None)
        dist = {"dist": {"integrity": make(content)}} if make else {}
        self.package.publish(version, content, **said, **dist)
        return f"notes-{version}.tgz"


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    app = NpmNotes(world, server, minisign)
    app.set_up()
    app.publish("1.0.0")
    world.slotctl("update", "notes")
    app.write("one", "two")
    return app


async def test_a_package_is_updated_by_semantic_version_past_prereleases_and_deprecated_ones(
    notes: Notes, desk: Desk
) -> None:
    notes.publish("1.1.0")
    notes.publish("1.2.0", deprecated="it loses notes")
    notes.publish("2.0.0-rc.1")
    assert notes.version == "1.0.0"
    before = notes.says()
    assert (await desk.do("Check", "notes"))["version"] == "1.1.0"
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert notes.says() == before | {"version": "1.1.0"}


async def test_a_package_that_crashes_is_taken_back_with_its_data(notes: Notes, desk: Desk) -> None:
    before = notes.says()
    notes.publish("1.3.0", "crash-at-start", schema=2)
    assert (await desk.do("Update", "notes"))["result"] == "rolled-back"
    assert notes.says() == before


@pytest.mark.parametrize(
    ("version", "make", "why"),
    [
        ("1.4.0", lambda content: integrity(b"other bytes"), "sha512"),
        ("1.5.0", lambda content: integrity(content, "sha1"), "nobody gives its sha512"),
    ],
)
async def test_a_tarball_that_its_digest_does_not_prove_is_never_unpacked(
    notes: Notes, desk: Desk, version: str, make: Callable[[bytes], str], why: str
) -> None:
    before, run = notes.says(), notes.run_id()
    notes.publish(version, integrity=make)
    ended = await desk.do("Update", "notes", version=version)
    assert ended["result"] == "failed"
    assert why in ended["error"]
    assert (notes.says(), notes.run_id()) == (before, run)
