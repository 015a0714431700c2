"""Sources as they are on a bad day: asked too often, slow, down, half uploaded, changed behind one's back."""

from __future__ import annotations

import time

import pytest
from tests.keys import MinisignKey, OpenPGPKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer

LIST = "/github/repos/acme/notes/releases"


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, openpgp: OpenPGPKey) -> Notes:
    app = Notes(world, server, openpgp, source="github")
    app.set_up()
    app.publish("1.0")
    world.slotctl("update", "notes")
    app.write("one", "two")
    return app


@pytest.fixture(autouse=True)
def _well_again(server: ReleaseServer, notes: Notes) -> None:
    server.behave()
    server.requests.clear()


async def test_a_second_check_costs_the_server_no_page(notes: Notes, server: ReleaseServer, desk: Desk) -> None:
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"
    asked = server.seen(LIST)
    assert len(asked) == 2
    assert all(request.headers.get("if-none-match", "").startswith('W/"') for request in asked)
    notes.publish("1.1")
    assert (await desk.do("Check", "notes"))["version"] == "1.1"


async def test_a_release_whose_file_is_still_uploading_waits_until_it_is_there(
    world: World, notes: Notes, desk: Desk
) -> None:
    name = notes.publish("1.2", assets={"notes-1.2.tar.gz": {"state": "starter"}})
    assert (await desk.do("Check", "notes"))["version"] == "1.1"
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert notes.version == "1.1"
    notes.publish("1.2", assets={name: {"state": "uploaded"}})
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert notes.version == "1.2"


@pytest.mark.parametrize(
    ("fault", "options", "why"),
    [
        ("status", {"status": 500}, "the server has a fault (500)"),
        ("status", {"status": 404}, "there is nothing of that name (404)"),
        ("body", {"body": '[{"tag_name": 7}]'}, "tag_name"),
        ("reset", {}, "cannot read"),
    ],
)
async def test_a_source_that_is_down_harms_nothing_and_is_told(
    notes: Notes, server: ReleaseServer, desk: Desk, fault: str, options: dict[str, object], why: str
) -> None:
    running = notes.run_id()
    server.misbehave(fault, **options)
    ended = await desk.do("Check", "notes")
    assert ended["result"] == "failed"
    assert why in ended["error"]
    app = await desk.app("notes")
    assert why in app["LastError"]
    assert app["State"] == "idle"
    assert notes.run_id() == running
    server.behave()
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"
    assert (await desk.app("notes"))["LastError"] == ""


@pytest.mark.attack
async def test_a_file_that_was_replaced_after_it_was_signed_is_refused(
    world: World, notes: Notes, server: ReleaseServer, desk: Desk
) -> None:
    running, name = notes.run_id(), notes.publish("1.3")
    server.release("github/acme/notes", "v1.3", {name: b"not what was signed"})
    ended = await desk.do("Update", "notes")
    assert ended["result"] == "failed"
    assert "BADSIG" in ended["error"] or "signature" in ended["error"]
    assert notes.run_id() == running
    assert (await desk.do("Update", "notes"))["result"] == "up-to-date"  # a forged release is not tried again
    assert not list((world.root / "cache/slotd/notes").glob("partial-*"))


async def test_a_forged_release_that_its_publisher_replaced_gets_its_chance(notes: Notes, desk: Desk) -> None:
    notes.publish("1.3")
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert notes.version == "1.3"


async def test_a_download_that_is_cut_goes_on_where_it_was(notes: Notes, server: ReleaseServer, desk: Desk) -> None:
    name = notes.publish("1.4")
    path = f"/github/download/acme/notes/v1.4/{name}"
    server.misbehave("cut", path, times=1, after=700)
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert [request.headers.get("range") for request in server.seen(path)] == [None, "bytes=700-"]


async def test_a_server_that_is_asked_too_often_is_left_alone_until_the_time_it_said(
    world: World, notes: Notes, server: ReleaseServer, desk: Desk
) -> None:
    running, reset = notes.run_id(), int(time.time()) + 12
    server.misbehave("rate-limit", LIST, times=1, reset=reset)
    ended = await desk.do("Check", "notes")
    assert ended["result"] == "failed"
    clock = time.strftime("%H:%M:%S UTC", time.gmtime(reset))
    assert f"limit of requests is used up until {clock}" in ended["error"]
    assert clock in (await desk.app("notes"))["LastError"]
    assert clock in world.slotctl("status", "notes")

    for verb in ("Check", "Update"):
        again = await desk.do(verb, "notes")
        assert again["result"] == "failed"
        assert f"does not want to be asked again before {clock}" in again["error"]
    assert len(server.seen()) == 1
    assert notes.run_id() == running

    time.sleep(max(0.0, reset + 0.1 - time.time()))
    assert (await desk.do("Check", "notes"))["result"] == "up-to-date"
    assert (await desk.app("notes"))["LastError"] == ""


async def test_what_a_server_says_of_its_limit_counts_for_every_app_that_it_serves_and_over_a_restart(
    world: World, notes: Notes, server: ReleaseServer, openpgp: OpenPGPKey, desk: Desk
) -> None:
    other = Notes(world, server, openpgp, name="memos", source="github")
    other.set_up()
    other.publish("1.0")
    await desk.call("Reload")
    reset = int(time.time()) + 3600
    server.misbehave("rate-limit", LIST, times=1, reset=reset)
    assert "limit of requests" in (await desk.do("Check", "notes"))["error"]
    before, clock = len(server.seen()), time.strftime("%H:%M:%S UTC", time.gmtime(reset))
    refused = f"cannot ask the source of memos: its server does not want to be asked again before {clock}"
    assert refused in (await desk.do("Check", "memos"))["error"]
    assert refused in (await desk.app("memos"))["LastError"]
    world.systemctl("restart", "slotd")
    assert refused in (await desk.do("Check", "memos"))["error"]
    assert "before" in (await desk.do("Check", "notes"))["error"]
    assert len(server.seen()) == before
    world.write(other.definition, other.definition.read_text().replace("127.0.0.1", "127.0.0.2", 1))
    await desk.call("Reload")
    assert "does not want to be asked" not in (await desk.do("Check", "memos"))["error"]  # that is another server
    other.definition.unlink()
    await desk.call("Reload")


async def test_a_folder_of_releases_serves_as_well(
    world: World, server: ReleaseServer, minisign: MinisignKey, desk: Desk
) -> None:
    diary = Notes(world, server, minisign, name="diary", source="directory")
    diary.set_up()
    diary.publish("2.0")
    world.systemctl("daemon-reload")
    await desk.call("Reload")
    assert (await desk.do("Update", "diary"))["result"] == "updated"
    diary.publish("2.1")
    assert (await desk.do("Update", "diary"))["result"] == "updated"
    assert diary.version == "2.1"
    diary.releases.rename(diary.releases.with_name("unmounted"))
    assert "cannot read the folder" in (await desk.do("Check", "diary"))["error"]
    assert diary.version == "2.1"
