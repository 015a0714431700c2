"""Releases as publishers make them, on GitHub, Gitea and GitLab: half uploaded, replaced, withdrawn, named oddly, for
another machine.
"""

from __future__ import annotations

import pytest
from tests.keys import MinisignKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer

from slotd.errors import SlotdError


@pytest.fixture(scope="module", params=["github", "gitea", "gitlab"])
def notes(request: pytest.FixtureRequest, world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    app = Notes(world, server, minisign, name=f"notes-{request.param}", source=request.param)
    app.set_up()
    app.publish("1.0")
    world.systemctl("daemon-reload")
    world.systemctl("reload-or-restart", "slotd")
    world.slotctl("update", app.name)
    assert app.version == "1.0"
    return app


# GitLab tells neither digests nor sizes: there the signature decides alone.
TELLING = pytest.mark.parametrize("notes", ["github", "gitea"], indirect=True)


def said(world: World, *words: str, status: int | None = 0) -> str:
    return " ".join(world.slotctl(*words, status=status).split())


def events(world: World, notes: Notes, kind: str) -> list[str]:
    return [each["message"] for each in world.json("history", notes.name) if each["kind"] == kind]


async def test_a_release_whose_signature_comes_late_waits_while_an_older_one_is_offered(
    world: World, notes: Notes, server: ReleaseServer, desk: Desk
) -> None:
    notes.publish("1.1")
    late = notes.publish("1.2")
    folder = server.root / notes.project / notes.tag("1.2")
    kept = (folder / f"{late}.minisig").read_bytes()
    (folder / f"{late}.minisig").unlink()
    assert (await desk.do("Check", notes.name))["version"] == "1.1"
    why = f"1.2 was passed over: it is not complete (yet): it has no file {late}.minisig"
    assert (await desk.do("Update", notes.name))["result"] == "updated"
    assert notes.version == "1.1"
    assert why in said(world, "check", notes.name, status=None)
    assert (await desk.app(notes.name))["LastError"] == ""
    server.release(notes.project, notes.tag("1.2"), {f"{late}.minisig": kept})
    assert (await desk.do("Update", notes.name))["result"] == "updated"
    assert notes.version == "1.2"


async def test_a_release_that_has_no_file_yet_waits(notes: Notes, server: ReleaseServer, desk: Desk) -> None:
    server.release(notes.project, notes.tag("1.3"), {"README": b"soon"})
    ended = await desk.do("Check", notes.name)
    assert ended["result"] == "up-to-date"
    notes.publish("1.3")
    assert (await desk.do("Check", notes.name))["version"] == "1.3"


@TELLING
async def test_a_file_that_is_replaced_is_told_and_not_installed_without_consent(
    world: World, notes: Notes, desk: Desk
) -> None:
    running = notes.run_id()
    world.slotctl("approve", notes.name, "1.3")
    name = notes.publish("1.3", "well, and a little longer than it was")
    assert (await desk.do("Check", notes.name))["result"] == "up-to-date"
    told = f"{name} of 1.3 is another file than was first seen at the source"
    assert (await desk.do("Check", notes.name))["result"] == "up-to-date"
    assert events(world, notes, "release-replaced") == [told]
    assert f"slotctl --user approve {notes.name} 1.3" in said(world, "status", notes.name)
    why = "1.3 was passed over: it was replaced at its source after it was first seen here"
    assert why in said(world, "status", notes.name)
    assert await desk.call("ApplyAll", "a{sv}") == []  # what was approved is not there any more
    assert (await desk.do("Update", notes.name))["result"] == "up-to-date"
    refused = said(world, "update", notes.name, "--version", "1.3", status=2)
    assert "it was replaced at its source" in refused
    assert "--force installs it anyway" in refused
    assert notes.run_id() == running


@TELLING
async def test_a_replaced_file_that_is_approved_anew_is_installed(world: World, notes: Notes, desk: Desk) -> None:
    world.slotctl("approve", notes.name, "1.3")
    assert (await desk.app(notes.name))["LastError"] == ""
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "updated"
    assert notes.version == "1.3"
    assert (await desk.do("Check", notes.name))["result"] == "up-to-date"


@pytest.mark.parametrize("notes", ["github"], indirect=True)
async def test_what_is_approved_and_replaced_once_more_waits_again_and_force_installs_it(
    world: World, notes: Notes, desk: Desk
) -> None:
    notes.publish("1.4")
    await desk.do("Check", notes.name)
    notes.publish("1.4", "well, but not as it was first")
    await desk.do("Check", notes.name)
    world.slotctl("approve", notes.name, "1.4")
    notes.publish("1.4", "well, but neither as it was first nor second")
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "up-to-date"
    assert len(events(world, notes, "release-replaced")) == 3
    world.slotctl("update", notes.name, "--force")
    assert notes.version == "1.4"
    assert (await desk.do("Check", notes.name))["result"] == "up-to-date"
    assert (await desk.app(notes.name))["LastError"] == ""


@pytest.mark.parametrize("notes", ["github"], indirect=True)
async def test_what_waits_for_consent_is_still_known_to_the_next_daemon(world: World, notes: Notes, desk: Desk) -> None:
    notes.publish("1.5")
    await desk.do("Check", notes.name)
    world.systemctl("restart", "slotd")
    notes.publish("1.5", "well, but not as it was first")
    assert (await desk.do("Check", notes.name))["result"] == "up-to-date"
    world.systemctl("restart", "slotd")
    with pytest.raises(SlotdError, match=r"1\.4 is available|nothing is available"):
        await desk.call("Approve", "ssa{sv}", notes.name, "1.4")
    world.slotctl("approve", notes.name, "1.5")
    assert (await desk.app(notes.name))["ApprovedVersion"] == "1.5"
    assert (await desk.do("Update", notes.name))["result"] == "updated"


@pytest.mark.parametrize("notes", ["github"], indirect=True)
async def test_what_was_approved_and_is_published_anew_under_another_tag_waits(
    world: World, notes: Notes, server: ReleaseServer, desk: Desk
) -> None:
    running = notes.run_id()
    name = notes.publish("1.6")
    await desk.do("Check", notes.name)
    world.slotctl("approve", notes.name, "1.6")
    notes.publish("1.6", "well, but not as it was approved")
    project = server.root / notes.project
    (project / notes.tag("1.6")).rename(project / "release-1.6")
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "up-to-date"
    assert f"{name} of 1.6 is another file than was first seen at the source" in events(
        world, notes, "release-replaced"
    )
    assert (await desk.app(notes.name))["ApprovedVersion"] == ""
    assert notes.run_id() == running
    world.slotctl("approve", notes.name, "1.6")
    [job] = await desk.call("ApplyAll", "a{sv}")
    assert (await desk.end_of(job))["result"] == "updated"
    assert notes.version == "1.6"


async def test_a_tag_that_is_no_version_and_a_file_for_another_machine_are_passed_over_in_words(
    world: World, notes: Notes, server: ReleaseServer, desk: Desk
) -> None:
    text = notes.definition.read_text().replace("-{version}.tar.gz", "-{version}-{arch}.tar.gz")
    world.write(notes.definition, text)
    await desk.call("Reload")
    server.release(notes.project, "nightly-build", {"a": b"1"})
    server.release(notes.project, notes.tag("3.0"), {f"{notes.name}-3.0-m68k.tar.gz": b"elsewhere"})
    checked = said(world, "check", notes.name, status=None)
    assert "3.0 was passed over: its asset" in checked
    assert "is not there (yet); it has" in checked
    assert "m68k" in checked
    assert "nightly-build was passed over: it is not a version of the scheme pep440" in checked
    notes.define()
    await desk.call("Reload")


def test_a_release_that_is_withdrawn_is_passed_over_in_words(
    world: World, server: ReleaseServer, minisign: MinisignKey
) -> None:
    """Of the sources that list files by themselves an index can withdraw one; PyPI does it the same way."""
    diary = Notes(world, server, minisign, name="diary")
    diary.set_up()
    diary.publish("1.0")
    world.systemctl("daemon-reload")
    world.systemctl("reload-or-restart", "slotd")
    world.slotctl("update", "diary")
    diary.publish("1.1", yanked=True)
    assert "1.1 was passed over: its publisher withdrew it" in said(world, "update", "diary", status=3)
    assert diary.version == "1.0"
