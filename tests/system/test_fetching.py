"""In a booted system, by the sandboxed worker of the package: only what changed of a release is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.alike import archive, index_of, noise
from tests.release_server import ReleaseServer
from tests.system.container import Container
from tests.system.notes import APP, Notes, Publisher

DROP_IN = """\
[source]
url = "{url}/http/notes/index.json"
asset = "notes-{{version}}.zip"

[verify]
require = ["sha256"]
checksums = ""
keys = []
"""
SIZE = 400_000


@pytest.fixture(scope="module")
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


@pytest.fixture(scope="module")
def notes(container: Container, server: ReleaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(more=DROP_IN.format(url=server.url), settings='bandwidth = "200M"\n')
        yield app


def packed(version: str, changed: int = 3) -> bytes:
    lib = {f"lib{number}.bin": noise(number, SIZE) for number in range(8)} | {"lib3.bin": noise(changed, SIZE)}
    app = {"notes.py": APP.read_bytes(), "VERSION": version.encode(), "SCHEMA": b"1", "behaviour": b"well"}
    return archive({f"notes/{name}": content for name, content in (lib | app).items()})


def test_a_new_archive_is_put_together_from_the_one_before(notes: Notes, server: ReleaseServer) -> None:
    server.release("http/notes", "1.0", {"notes-1.0.zip": packed("1.0")})
    notes.slotctl("update", "notes")
    server.sent = 0
    server.release("http/notes", "1.1", {"notes-1.1.zip": packed("1.1", 100)})
    notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == "1.1"
    assert server.sent < 3 * SIZE
    assert "MiB, the rest was here already with 1.0" in notes.slotctl("history", "notes")


def test_or_from_its_chunks(notes: Notes, server: ReleaseServer, tmp_path: Path) -> None:
    for version, changed in (("1.2", 101), ("1.3", 102)):
        whole = packed(version, changed)
        files = {f"notes-{version}.zip": whole, f"notes-{version}.zip.caibx": index_of(whole, tmp_path)}
        server.sent = 0
        server.release("http/notes", version, files)
        notes.slotctl("update", "notes")
    assert notes.wait_state()["version"] == "1.3"
    assert server.sent < 4 * SIZE
    assert "the rest was here already with 1.2" in notes.slotctl("history", "notes")
