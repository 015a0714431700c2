"""Offline bundles with the real daemon: made by slotctl, imported by descriptor, installed without a source."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import bundles, schemas
from tests.keys import MinisignKey, minisign_key
from tests.parts.daemon.desk import MANAGER, NAME, ROOT, Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World, wait_for

from slotd.errors import SlotdError
from slotd.host.bus import Variant

DEAD = "http://127.0.0.1:9/"  # the port `discard`: nobody listens there


@pytest.fixture(scope="module")
def carrier(world: World) -> MinisignKey:
    """Who makes bundles: known to the host as that, and no publisher."""
    key = minisign_key(world.root / "carrier")
    for path in (key.home, *key.home.iterdir()):
        path.chmod(0o755)
    world.write(world.config / "keys.d" / "carrier.pub", key.public)
    return key


@pytest.fixture(scope="module")
def installed(notes: Notes, carrier: MinisignKey) -> Notes:
    """1.0 is installed, 2.0 released; then the network is gone."""
    define(notes)
    notes.publish("1.0")
    notes.publish("2.0")
    notes.world.start()
    notes.world.slotctl("update", "notes", "--version", "1.0")
    return notes


def define(notes: Notes, *, url: str = "", bundled_by: str = "carrier.pub") -> None:
    notes.define()
    text = notes.definition.read_text().replace("[data]", f'bundles = ["{bundled_by}"]\n\n[data]', 1)
    notes.world.write(
        notes.definition, re.sub('url = ".*/index.json"', f'url = "{url}"', text, count=1) if url else text
    )


@pytest.fixture(scope="module")
def bundle(installed: Notes, carrier: MinisignKey) -> Path:
    """With 2.0, made while there was a network."""
    world = installed.world
    target = world.make(world.root / "stick") / "monday.bundle"
    key = str(carrier.home / "minisign.key")
    made = world.json("bundle", "create", str(target), "notes=2.0", "--key", key)
    schemas.check("bundle-create", made)
    assert made["bytes"] == target.stat().st_size
    assert made["sha256"] == bundles.sha256(target.read_bytes())
    define(installed, url=DEAD)
    world.slotctl("status")
    world.systemctl("kill", "--signal=HUP", "slotd.service")
    return target


def by_hand(notes: Notes, carrier: MinisignKey, version: str, files: Mapping[str, bytes], **digests: str) -> Path:
    release = bundles.release("notes", version, files, digests=digests)
    folder = notes.world.make(notes.world.root / "stick")
    content = bundles.build([release], list(files.values()), carrier, folder)
    return notes.world.write(folder / f"{bundles.sha256(content)[:12]}.bundle", content)


def kept(world: World) -> dict[str, str]:
    """What lies in the cache and in the slots: every file's digest."""
    places = [world.root / "cache", world.state / "apps"]
    found = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): bundles.sha256(path.read_bytes()) for path in found}


def refused(notes: Notes, file: Path, why: str) -> None:
    """It is refused for that, told in the history, and nothing has changed."""
    world, before = notes.world, kept(notes.world)
    answer = world.slotctl("import", str(file), status=1)
    assert why in answer
    assert kept(world) == before
    last = world.json("history")[-1]
    assert last["kind"] == "import-failed"
    assert why in last["message"]
    assert "nobody (uid 65534)" in last["message"]


def test_a_bundle_is_inspected_without_the_daemon_having_a_part_in_it(installed: Notes, bundle: Path) -> None:
    world = installed.world
    document = world.json("bundle", "inspect", str(bundle))
    schemas.check("bundle-inspect", document)
    [release] = document["releases"]
    assert (release["app"], release["version"], release["problem"]) == ("notes", "2.0", None)
    assert release["signer"].startswith("minisign:")
    assert {file["name"] for file in release["files"]} == {"notes-2.0.tar.gz", "notes-2.0.tar.gz.minisig"}
    said = world.slotctl("bundle", "inspect", str(bundle))
    assert release["signer"] in said
    assert document["sha256"] in said


@pytest.mark.attack
def test_a_bundle_of_a_stranger_is_shown_as_that_and_refused(
    installed: Notes, bundle: Path, carrier: MinisignKey
) -> None:
    stranger = minisign_key(installed.world.root / "stranger")
    release = bundles.release("notes", "2.0", {"notes-2.0.tar.gz": b"harm"})
    folder = installed.world.make(installed.world.root / "stick")
    file = installed.world.write(folder / "strange.bundle", bundles.build([release], [b"harm"], stranger, folder))
    said = installed.world.slotctl("bundle", "inspect", str(file), status=1)
    assert "nobody who may" in said
    refused(installed, file, "it was made by a key that is not among the app's keys")


@pytest.mark.attack
def test_the_signature_of_the_bundle_does_not_stand_in_for_the_publishers(
    installed: Notes, bundle: Path, carrier: MinisignKey
) -> None:
    """Who carries releases over, and turns bad, cannot make one."""
    name, harm = "notes-2.0.tar.gz", b"harm"
    digest = f"sha256:{bundles.sha256(harm)}"
    alone = by_hand(installed, carrier, "2.0", {name: harm}, **{name: digest})
    refused(installed, alone, f"the release has no file {name}.minisig")
    for signature, why in (
        (carrier.sign(harm), "it was made by a key that is not among the app's keys"),
        (installed.key.sign(b"something else"), "it does not fit the file"),
    ):
        files = {name: harm, f"{name}.minisig": signature}
        refused(installed, by_hand(installed, carrier, "2.0", files, **{name: digest}), why)


@pytest.mark.attack
def test_a_digest_that_nobody_gives_is_not_made_up(installed: Notes, bundle: Path, carrier: MinisignKey) -> None:
    name, content = "notes-2.0.tar.gz", b"a release"
    files = {name: content, f"{name}.minisig": installed.key.sign(content)}
    refused(installed, by_hand(installed, carrier, "2.0", files), "nobody gives its sha256")
    wrong = {name: f"sha256:{bundles.sha256(b'another')}"}
    refused(installed, by_hand(installed, carrier, "2.0", files, **wrong), "the source says")


@pytest.mark.attack
def test_a_damaged_bundle_is_refused_and_says_where(installed: Notes, bundle: Path) -> None:
    content = bundle.read_bytes()
    for changed, why in (
        (content[:-600], "its manifest accounts for"),
        (content.replace(b'"2.0"', b'"3.0"', 1), "it does not fit the file"),
        (content[:2000] + b"\xff" + content[2001:], ""),
        (b"", "it ends before"),
        (b"PK\x03\x04" + bytes(5000), "manifest.json is not where it has to be"),
    ):
        file = installed.world.write(bundle.with_name("damaged.bundle"), changed)
        refused(installed, file, why)
        assert installed.world.slotctl("bundle", "inspect", str(file), status=1)


def _pipe(_: Path) -> int:
    return os.pipe()[0]


HANDED: dict[str, tuple[Callable[[Path], int], str]] = {
    "a pipe": (_pipe, "a pipe"),
    "a directory": (lambda folder: os.open(folder, os.O_RDONLY), "a directory"),
    "/dev/zero": (lambda _: os.open("/dev/zero", os.O_RDONLY), "a device"),
    "a path": (lambda folder: os.open(folder / "monday.bundle", os.O_PATH), "not opened for reading"),
    "memory": (lambda _: os.open("/proc/self/mem", os.O_RDONLY), "Input/output error"),
}


async def hand_over(desk: Desk, *fds: int, index: int = 0, **options: Any) -> str:
    given = {key: Variant("b", value) for key, value in options.items()}
    body = [index, given]
    [job] = await desk.ask(NAME, ROOT, MANAGER, "Import", "ha{sv}", body, fds=fds)
    return str(job)


@pytest.mark.attack
@pytest.mark.parametrize("what", HANDED)
async def test_what_is_no_file_is_refused_by_its_job(installed: Notes, bundle: Path, desk: Desk, what: str) -> None:
    make, why = HANDED[what]
    before, descriptor = kept(installed.world), make(bundle.parent)
    try:
        job = await hand_over(desk, descriptor)
        ended = await desk.end_of(job)
    finally:
        os.close(descriptor)
    assert ended["result"] == "failed"
    assert why in (await desk.job(job))["Error"][1]
    assert kept(installed.world) == before


@pytest.mark.attack
async def test_a_call_without_its_one_descriptor_is_refused_at_once(installed: Notes, bundle: Path, desk: Desk) -> None:
    with bundle.open("rb") as file:
        number = file.fileno()
        for fds, index in (((), 0), ((number, number), 0), ((number,), 1), ((number,), 2**32 - 1)):
            with pytest.raises(SlotdError, match="it takes one descriptor"):
                await hand_over(desk, *fds, index=index)
        with pytest.raises(SlotdError, match='there is no option "now"'):
            await hand_over(desk, number, now=True)


@pytest.mark.attack
async def test_callers_who_hand_something_over_and_leave_cost_nothing(
    installed: Notes, bundle: Path, desk: Desk
) -> None:
    pid = int(installed.world.unit("slotd.service", "MainPID")["MainPID"])
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(20):
        leaver = await Desk.open(installed.world.address)
        reading, writing = os.pipe()
        await leaver.begin(NAME, ROOT, MANAGER, "Import", "ha{sv}", [0, {}], fds=[reading])
        await leaver.close()
        os.close(reading)
        os.close(writing)
    wait_for(lambda: not installed.world.json("jobs"))
    assert await desk.call("ListApps")
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 3)


@pytest.mark.attack
@pytest.mark.parametrize("point", ["import:copied", "import:linked", "import:recorded"])
def test_a_daemon_that_is_killed_in_the_middle_of_an_import_has_taken_nothing_in(
    installed: Notes, bundle: Path, point: str
) -> None:
    def others() -> set[str]:
        """Files that belong to no record of the shelf go with the next tidying up."""
        return {path for path in kept(world) if "/imported/" not in path}

    world = installed.world
    before = others()
    world.fail_at(point, "kill")
    world.slotctl("import", str(bundle), status=None)
    wait_for(lambda: world.has_fired(point) and not world.json("jobs"))
    world.start()
    last = world.json("jobs", "--all")[-1]
    assert (last["kind"], last["result"]) == ("import", "failed")
    assert not list((world.root / "cache").rglob("release-*.json"))
    assert not (world.root / "cache" / "slotd" / ".import").exists()
    assert world.json("status", "notes")["version"] == "1.0"
    assert installed.version == "1.0"
    assert others() == before


@pytest.mark.attack
def test_what_was_offered_by_an_import_that_is_killed_at_its_end_is_withdrawn_and_that_is_told(
    installed: Notes, bundle: Path
) -> None:
    world = installed.world
    world.fail_at("import:end", "kill")
    world.slotctl("import", str(bundle), status=None)
    wait_for(lambda: world.has_fired("import:end") and not world.json("jobs"))
    world.start()
    assert not list((world.root / "cache").rglob("release-*.json"))
    assert world.json("status", "notes")["available"] == ""
    told = [event for event in world.json("history", "notes") if event["kind"] in ("imported", "import-failed")]
    told.sort(key=lambda event: event["id"])
    assert [event["kind"] for event in told][-2:] == ["imported", "import-failed"]
    assert "2.0 was taken back: the import of sha256:" in told[-1]["message"]


@pytest.mark.attack
def test_a_second_import_that_is_killed_takes_nothing_of_the_first_away(installed: Notes, bundle: Path) -> None:
    world = installed.world
    world.slotctl("import", str(bundle))
    records = sorted((world.root / "cache").rglob("release-*.json"))
    assert [path.name for path in records] == ["release-2.0.json"]
    content = records[0].read_bytes()
    world.fail_at("import:linked", "kill")
    world.slotctl("import", str(bundle), status=None)
    wait_for(lambda: world.has_fired("import:linked") and not world.json("jobs"))
    world.start()
    last = world.json("jobs", "--all")[-1]
    assert (last["kind"], last["result"]) == ("import", "failed")
    assert records[0].read_bytes() == content


def test_a_release_of_a_bundle_is_available_and_is_installed_without_its_source(installed: Notes, bundle: Path) -> None:
    world = installed.world
    document = world.json("import", str(bundle))
    schemas.check("import", document)
    assert [job["result"] for job in document["jobs"]] == ["done"]
    assert installed.version == "1.0"
    status = world.json("status", "notes")
    assert (status["state"], status["available"]) == ("awaiting-approval", "2.0")
    told = next(event for event in world.json("history", "notes") if event["kind"] == "imported")
    signer = world.json("bundle", "inspect", str(bundle))["releases"][0]["signer"]
    for part in (bundles.sha256(bundle.read_bytes()), signer, "nobody (uid 65534)", "2.0"):
        assert part in told["message"]
    (record,) = (world.root / "cache").rglob("release-2.0.json")
    as_before = {key: value for key, value in json.loads(record.read_text()).items() if key != "job"}
    record.write_text(json.dumps(as_before))  # as an older slotd wrote it
    world.slotctl("approve", "notes", "2.0")
    world.slotctl("update", "--all")
    assert installed.version == "2.0"
    assert not list((world.root / "cache").rglob("release-2.0.json")), "what is installed is not offered any more"


def test_the_same_bundle_once_more_holds_nothing_new(installed: Notes, bundle: Path) -> None:
    assert installed.version == "2.0"
    said = installed.world.slotctl("import", str(bundle), status=3)
    assert "notes 2.0 is installed already" in said


@pytest.mark.attack
def test_an_older_release_is_taken_in_only_when_somebody_says_so_and_installed_when_they_say_it_again(
    installed: Notes, bundle: Path, carrier: MinisignKey
) -> None:
    world, name = installed.world, "notes-1.0.tar.gz"
    if installed.version != "2.0":
        world.slotctl("import", str(bundle))
        world.slotctl("update", "notes")
    content = (installed.server.root / "http" / "notes" / "1.0" / name).read_bytes()
    files = {name: content, f"{name}.minisig": installed.key.sign(content)}
    older = by_hand(installed, carrier, "1.0", files, **{name: f"sha256:{bundles.sha256(content)}"})
    assert "older than 2.0" in world.slotctl("import", str(older), status=2)
    said = world.slotctl("import", str(older), "--force")
    assert "not offered: it is older than the installed 2.0" in said
    world.slotctl("update", "notes", status=None)
    assert installed.version == "2.0"
    world.slotctl("update", "notes", "--version", "1.0", "--force")
    assert installed.version == "1.0"
