"""Downloads of the real daemon: gone on with after a kill, from mirrors, and of what changed alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.alike import index_of, noise
from tests.keys import MinisignKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import APP, Notes
from tests.parts.daemon.world import World, wait_for
from tests.release_server import ReleaseServer

MEMBERS, SIZE = 12, 150_000
WHOLE = MEMBERS * SIZE


def files(version: str, **changed: bytes) -> dict[str, bytes]:
    """A release of about `WHOLE` bytes, which differs from any other in its version and `changed`."""
    lib = {f"lib{number}.bin": noise(number, SIZE) for number in range(MEMBERS)}
    base = {"notes.py": APP.read_bytes(), "SCHEMA": b"1", "behaviour": b"well"}
    return lib | changed | base | {"VERSION": version.encode()}


def other(number: int) -> dict[str, bytes]:
    """Members of which no other release has one."""
    return {f"lib{each}.bin": noise(100 * number + each, SIZE) for each in range(MEMBERS)}


def published(app: Notes, version: str, **changed: bytes) -> str:
    """Gives the path of its artifact at the server."""
    name = app.publish_files(version, files(version, **changed))
    return f"/http/{app.name}/{version}/{name}"


def update(world: World, app: str) -> None:
    world.slotctl("update", app, timeout_s=300)


def told(world: World, app: Notes, kind: str = "fetched") -> list[dict[str, Any]]:
    """Events of the app, the newest first."""
    found = [event for event in world.json("history", app.name) if event["kind"] == kind]
    return sorted(found, key=lambda event: -event["id"])


@pytest.fixture(scope="module")
def app(world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    """Installed over a connection that was cut once."""
    made = Notes(world, server, minisign, ending="zip")
    made.set_up()
    world.start()
    server.misbehave("cut", published(made, "1.0"), times=1)
    update(world, "notes")
    return made


def test_a_connection_that_is_cut_is_gone_on_with(app: Notes, server: ReleaseServer) -> None:
    path = "/http/notes/1.0/notes-1.0.zip"
    half = (server.root / path[1:]).stat().st_size // 2
    assert app.version == "1.0"
    assert [seen.headers.get("range") for seen in server.seen(path)] == [None, f"bytes={half}-"]


async def kill_in_the_middle(
    world: World, app: Notes, server: ReleaseServer, desk: Desk, path: str, fault: str = "", **options: str
) -> int:
    """An update whose download stands still at half when the daemon is killed, and what becomes of it then, with a
    server that misbehaves or does not. Gives how much of the file was there.
    """
    server.behave()
    server.misbehave("silence", path)
    job = await desk.start("Update", app.name)
    cache = world.root / "cache" / "slotd" / app.name
    half = (server.root / path[1:]).stat().st_size // 2

    def is_half() -> bool:
        notes = list(cache.glob("partial-*.json"))
        is_noted = len(notes) == 1 and '"validator": "\\"' in notes[0].read_text()
        return is_noted and notes[0].with_suffix("").stat().st_size == half

    wait_for(is_half, deadline_s=120)
    server.behave()
    if fault:
        server.misbehave(fault, path, **options)
    server.requests.clear()
    server.sent = 0
    world.systemctl("kill", "--kill-who=main", "--signal=KILL", "slotd.service")
    assert (await desk.end_of(job, timeout_s=300))["result"] == "updated"
    return half


async def test_a_download_is_gone_on_with_by_the_next_daemon(
    world: World, app: Notes, server: ReleaseServer, desk: Desk
) -> None:
    path = published(app, "1.2", **other(2))
    size = (server.root / path[1:]).stat().st_size
    half = await kill_in_the_middle(world, app, server, desk, path)
    assert app.version == "1.2"
    ranges = [seen.headers for seen in server.seen(path) if "range" in seen.headers]
    assert ranges[-1]["range"] == f"bytes={half}-"
    assert ranges[-1]["if-range"].startswith('"')
    assert half + server.sent < size * 1.2  # with what was looked at first, and its signature


@pytest.mark.parametrize(
    ("version", "fault", "options"), [("1.3", "no-range", {}), ("1.4", "etag", {"etag": '"of another version"'})]
)
async def test_where_it_cannot_be_gone_on_with_it_begins_anew(
    world: World, app: Notes, server: ReleaseServer, desk: Desk, version: str, fault: str, options: dict[str, str]
) -> None:
    path = published(app, version, **other(int(version[2])))
    await kill_in_the_middle(world, app, server, desk, path, fault, **options)
    assert app.version == version
    assert server.sent > (server.root / path[1:]).stat().st_size


def test_of_an_archive_only_what_changed_is_fetched_and_that_is_told(
    world: World, app: Notes, server: ReleaseServer
) -> None:
    server.behave()
    server.sent = 0
    changed = other(4) | {"lib3.bin": noise(1, SIZE)}
    published(app, "2.1", **changed)
    update(world, "notes")
    assert app.version == "2.1"
    assert server.sent < WHOLE // 3
    event = told(world, app)[0]
    assert "the rest was here already with 1.4" in event["message"]
    assert int(event["fields"]["fetched"]) < WHOLE // 3 < WHOLE < int(event["fields"]["size"])
    slot = world.state / "apps/notes/current"
    installed = {path.name: path.read_bytes() for path in slot.iterdir() if path.is_file()}
    assert installed == files("2.1", **changed)


def test_a_kept_file_that_is_damaged_costs_a_plain_download(world: World, app: Notes, server: ReleaseServer) -> None:
    for kept in (world.root / "cache" / "slotd" / "notes").iterdir():
        content = bytearray(kept.read_bytes())
        content[WHOLE // 2] ^= 1
        kept.write_bytes(content)
    published(app, "2.2", **other(4), lib5=noise(1, SIZE))
    server.sent = 0
    update(world, "notes")
    assert app.version == "2.2"
    assert server.sent > WHOLE
    assert "no part of the file of 2.1 was used: they have too little in common" in told(world, app)[0]["message"]


@pytest.fixture(scope="module")
def chunked(world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    made = Notes(world, server, minisign, name="chunked", ending="tar")
    made.set_up()
    world.start()
    return made


def test_of_a_file_with_a_chunk_index_beside_it_only_changed_chunks_are_fetched(
    world: World, chunked: Notes, server: ReleaseServer, tmp_path: Path
) -> None:
    beside = {".caibx": lambda content: index_of(content, tmp_path)}
    chunked.publish_files("1.0", files("1.0"), beside=beside)
    update(world, "chunked")
    server.sent = 0
    chunked.publish_files("1.1", files("1.1", **{"lib8.bin": noise(303, SIZE // 2)}), beside=beside)
    update(world, "chunked")
    assert chunked.version == "1.1"
    assert server.sent < WHOLE // 2
    assert "the rest was here already with 1.0" in told(world, chunked)[0]["message"]
    kept = {path.suffix for path in (world.root / "cache" / "slotd" / "chunked").iterdir()}
    assert kept == {"", ".caibx"}


@pytest.mark.attack
def test_a_chunk_index_that_is_none_changes_nothing_but_the_way(world: World, chunked: Notes, tmp_path: Path) -> None:
    chunked.publish_files("1.1.1", files("1.1.1"), beside={".caibx": lambda content: index_of(content, tmp_path)})
    world.slotctl("update", "chunked")
    chunked.publish_files("1.2", files("1.2"), beside={".caibx": lambda content: bytes(1000)})
    update(world, "chunked")
    assert chunked.version == "1.2"
    assert "what tells their parts cannot be used" in told(world, chunked)[0]["message"]


def test_a_mirror_gives_the_file_that_the_source_does_not_and_the_source_its_signature(
    world: World, app: Notes, server: ReleaseServer
) -> None:
    path = published(app, "3.0", **other(4))
    with ReleaseServer() as mirror:
        mirror.file("notes/3.0/notes-3.0.zip", (server.root / path[1:]).read_bytes())
        with_mirror(world, app, f"{mirror.url}/files/notes/{{version}}/{{asset}}")
        server.misbehave("status", path, status=404)
        update(world, "notes")
        assert {seen.path for seen in mirror.requests} == {"/files/notes/3.0/notes-3.0.zip"}
    assert app.version == "3.0"
    assert len(server.seen(f"{path}.minisig")) == 1
    assert "the mirror 127.0.0.1 gave it" in told(world, app)[0]["message"]


@pytest.mark.attack
def test_a_mirrors_forgery_does_not_block_the_version_of_an_honest_source(
    world: World, app: Notes, server: ReleaseServer
) -> None:
    path = published(app, "3.1", **other(4))
    server.behave()
    with ReleaseServer() as mirror:
        mirror.file("3.1", (server.root / path[1:]).read_bytes()[:-1] + b"!")
        with_mirror(world, app, f"{mirror.url}/files/{{version}}", require='["minisign"]')
        app.server.release("http/notes", "3.1", {}, assets={"notes-3.1.zip": {"digest": ""}})
        server.misbehave("status", path, status=404, times=2)
        update(world, "notes")
    assert app.version == "3.1"
    assert told(world, app, "verification-failed") == []


def test_a_download_that_starts_over_keeps_the_chunk_index_that_it_had(
    world: World, app: Notes, server: ReleaseServer, tmp_path: Path
) -> None:
    beside = {".caibx": lambda content: index_of(content, tmp_path)}
    name = app.publish_files("3.2", files("3.2", **other(5)), beside=beside)
    path = f"/http/{app.name}/3.2/{name}"
    artifact = (server.root / path[1:]).read_bytes()
    server.behave()
    with ReleaseServer() as mirror:
        mirror.file("3.2", artifact[:-1] + b"!")
        with_mirror(world, app, f"{mirror.url}/files/{{version}}", require='["minisign"]')
        app.server.release("http/notes", "3.2", {}, assets={name: {"digest": ""}})
        server.misbehave("status", path, status=404, times=2)
        update(world, "notes")
    assert app.version == "3.2"
    assert len(server.seen(f"{path}.caibx")) == 1
    index = world.root / "cache" / "slotd" / "notes" / f"{hashlib.sha256(artifact).hexdigest()}.caibx"
    assert index.read_bytes() == (server.root / f"{path[1:]}.caibx").read_bytes(), "the next update goes by it"


def with_mirror(world: World, app: Notes, address: str, *, require: str = '["sha256", "minisign"]') -> None:
    app.define()
    text = app.definition.read_text().replace("[verify]", f"mirrors = [{json.dumps(address)}]\n\n[verify]", 1)
    world.write(app.definition, text.replace('require = ["sha256", "minisign"]', f"require = {require}"))
    world.start()


async def test_what_came_over_the_network_is_in_the_history_of_the_bus_too(app: Notes, desk: Desk) -> None:
    events = await desk.call("History", "sua{sv}", "notes", 200)
    fetched = [event for event in events if event["kind"] == "fetched"]
    assert {"artifact", "fetched", "size"} <= set(fetched[0]["fields"])
