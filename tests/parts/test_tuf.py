"""A TUF repository and whoever is between it and us: rollback, freeze, mix-and-match and the rest of TUF's attacks.

The repository is made with python-tuf and served over HTTP; what is accepted is kept in a folder between the checks, as
the daemon keeps it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_server import ReleaseServer
from tests.tuf_far import EXTRAS, REPO, Lab

from slotd.core.plain import to_plain
from slotd.core.schema import Limits, Source
from slotd.errors import SlotdError
from slotd.host import tuflib
from slotd.host.run import Workers
from slotd.recipes import tuf as recipe

APP = "app-{version}.tar.gz"


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Workers:
    root = tmp_path_factory.mktemp("package") / "daemon"
    shutil.copytree(REPO / "daemon", root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "slotd-extras").symlink_to(EXTRAS)
    return Workers(limits=Limits(index_s=60.0), sandbox=False, package_root=root)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    running = Lab()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


class Client:
    """What the daemon does at a check, with a folder for what it keeps. `seen`: versions on offer at the last check."""

    def __init__(self, lab: Lab, url: str, folder: Path, kept: Path) -> None:
        self.lab, self.folder, self.kept = lab, folder, kept
        self.workers: Workers | None = None
        self.warnings: list[str] = []
        self.source = Source(type="tuf", url=url, asset=(APP,))

    async def check(self, *, now: float = 0.0, limits: Limits | None = None) -> dict[str, Any]:
        """Version -> its files with digests. Raises what a person is told."""
        pinned = tuflib.encoded({"pinned": (self.folder / "pinned.json").read_bytes()})
        known = {**pinned, "kept": tuflib.encoded(recipe.kept(self.kept)), "now": now or time.time()}
        asked = {"source": to_plain(self.source), "limits": to_plain(limits or Limits(index_s=60.0)), **known}
        collected = await self._do("collect", asked)
        judged = {"source": asked["source"], **known, "offered": collected["offered"]}
        verdict = await self._do("judge", judged)
        offered = tuflib.decoded(collected["offered"])
        recipe.keep(self.kept, {name: offered[name] for name in verdict["accepted"]})
        recipe.raise_problem(collected["problem"])
        recipe.raise_problem(verdict["problem"])
        self.warnings = verdict["warnings"]
        return {
            release["version"]: {asset["name"]: asset["digest"] for asset in release["assets"]}
            for release in verdict["releases"]
        }

    async def _do(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        if self.workers is None:
            return self.lab(verb, request)
        return await self.workers.call(verb, request, unit=f"slotd-worker-app-1-{verb}", timeout_s=60)

    @property
    def versions(self) -> dict[str, int]:
        """The versions of what is kept."""
        found = {name: json.loads(data)["signed"]["version"] for name, data in recipe.kept(self.kept).items()}
        return {name: version for name, version in found.items() if not name.startswith("root.")}


@pytest.fixture
def client(lab: Lab, server: ReleaseServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Of a repository with one release, which was seen once."""
    name = f"r{abs(hash(request.node.name))}"
    folder = server.root / "files" / name
    lab("new", str(folder))
    lab("add", "app-1.0.tar.gz", "one")
    lab("publish")
    yield Client(lab, f"{server.url}/files/{name}", folder, tmp_path / "kept")
    server.behave()
    shutil.rmtree(folder)


@pytest.fixture
async def seen(client: Client) -> Client:
    assert list(await client.check()) == ["1.0"]
    return client


def snapshot_of(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


async def refused(client: Client, says: str, **how: Any) -> None:
    """Nothing is offered, and what was kept before is not replaced by anything older."""
    before, beside = client.versions, snapshot_of(client.kept.parent)
    with pytest.raises(SlotdError, match=says) as caught:
        await client.check(**how)
    assert caught.value.hint or caught.value.message.endswith(".")
    assert all(client.versions[name] >= version for name, version in before.items())
    assert all(path.parent == client.kept for path in snapshot_of(client.kept.parent) - beside)


def saved(client: Client) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (client.folder / "metadata").iterdir()}


def serve(client: Client, files: dict[str, bytes], *names: str) -> None:
    for name in names:
        (client.folder / "metadata" / name).write_bytes(files[name])


async def test_new_releases_are_seen_and_nothing_new_is_no_error(seen: Client, lab: Lab, workers: Workers) -> None:
    seen.workers = workers  # the real program, with a socket to it
    custom = {"slotd": {"version": "1.1", "published": "2026-01-01T00:00:00Z"}}
    lab("add", "app-1.1.tar.gz", "two", custom=custom)
    lab("publish")
    found = await seen.check()
    assert found["1.1"]["app-1.1.tar.gz"].startswith("sha256:")
    assert await seen.check() == found
    assert seen.versions == {"timestamp": 3, "snapshot": 3, "targets": 3}


async def test_keys_are_changed_by_a_new_root_that_the_old_one_signed(seen: Client, lab: Lab) -> None:
    lab("rotate", "root", "timestamp", "snapshot", "targets")
    lab("publish")
    assert list(await seen.check()) == ["1.0"]
    lab("rotate", "root")
    lab("publish")
    assert list(await seen.check()) == ["1.0"]  # from the first root, by the second, which is kept, to the third
    assert "root.2" in recipe.kept(seen.kept)


ROLES = ("timestamp", "snapshot", "targets")


@pytest.mark.attack
async def test_an_older_timestamp_is_refused(seen: Client, lab: Lab) -> None:
    old = saved(seen)
    lab("publish")
    await seen.check()
    serve(seen, old, "timestamp.json")
    await refused(seen, "its timestamp is older than what was seen before")


@pytest.mark.attack
async def test_an_older_snapshot_under_a_newer_timestamp_is_refused(seen: Client, lab: Lab) -> None:
    lab("publish")
    await seen.check()
    lab("set_version", "snapshot", 1)
    lab("publish_snapshot")
    await refused(seen, "its timestamp is older than what was seen before .*snapshot version")


@pytest.mark.attack
async def test_older_targets_under_a_newer_snapshot_are_refused(seen: Client, lab: Lab) -> None:
    lab("publish")
    await seen.check()
    lab("set_version", "targets", 0)
    lab("publish")
    await refused(seen, "its snapshot is older than what was seen before")


@pytest.mark.attack
async def test_a_timestamp_that_was_accepted_is_not_forgotten_when_what_follows_is_refused(
    seen: Client, lab: Lab
) -> None:
    old = saved(seen)
    lab("publish")
    (seen.folder / "metadata" / "3.snapshot.json").unlink()
    await refused(seen, "its snapshot is not there")
    assert seen.versions["timestamp"] == 3
    serve(seen, old, "timestamp.json")
    await refused(seen, "its timestamp is older than what was seen before")


@pytest.mark.attack
@pytest.mark.parametrize("role", ["root", *ROLES])
async def test_metadata_that_have_expired_are_a_freeze(seen: Client, lab: Lab, role: str) -> None:
    lab("expire", role)
    if role == "root":
        lab("rotate", "timestamp")
    lab("publish")
    await refused(seen, f"{role}.*expired.* so something newer may be kept back")


@pytest.mark.attack
async def test_a_server_that_never_says_anything_new_is_noticed_when_its_word_expires(seen: Client) -> None:
    assert await seen.check()
    await refused(seen, "timestamp.json is expired, so something newer may be kept back", now=time.time() + 8 * 86400)


@pytest.mark.attack
async def test_parts_of_two_states_do_not_make_a_third(seen: Client, lab: Lab) -> None:
    lab("add", "app-1.1.tar.gz", "two")
    lab("publish")
    old = saved(seen)
    lab("publish")
    (seen.folder / "metadata" / "4.snapshot.json").write_bytes(old["3.snapshot.json"])
    await refused(seen, "its snapshot is not")


@pytest.mark.attack
@pytest.mark.parametrize("role", ROLES)
async def test_a_strangers_signature_is_refused(seen: Client, lab: Lab, role: str) -> None:
    lab("strangers_keys", role)
    lab("publish")
    await refused(seen, f"its {role} is not signed by enough")


@pytest.mark.attack
async def test_one_of_two_keys_is_not_enough(seen: Client, lab: Lab) -> None:
    lab("demand", "targets", 2)
    lab("publish")
    assert await seen.check()
    lab("fewer", "targets")
    lab("publish")
    await refused(seen, "its targets is not signed by enough")


@pytest.mark.attack
async def test_a_root_that_the_one_before_did_not_sign_is_refused(seen: Client, lab: Lab) -> None:
    lab("rotate", "root", signed_by_old=False)
    lab("publish")
    await refused(seen, "its root is not signed by enough")
    assert "root.2" not in recipe.kept(seen.kept)


@pytest.mark.attack
async def test_a_root_that_is_left_out_cannot_be_jumped_over(seen: Client, lab: Lab) -> None:
    lab("rotate", "root", skip=True)
    lab("rotate", "timestamp")
    lab("publish")
    await refused(seen, "its timestamp is not signed by enough")
    assert "root.3" not in recipe.kept(seen.kept)


@pytest.mark.attack
async def test_versions_that_an_attacker_drove_up_are_forgotten_with_the_attackers_keys(seen: Client, lab: Lab) -> None:
    for role in ROLES:
        lab("set_version", role, 10_000)
    lab("publish")
    await seen.check()
    assert seen.versions["timestamp"] == 10_001
    lab("rotate", "timestamp", "snapshot", "targets")
    for role in ROLES:
        lab("set_version", role, 5)
    lab("publish")
    await seen.check()
    assert seen.versions == dict.fromkeys(ROLES, 6)


@pytest.mark.attack
async def test_endless_metadata_are_cut_off(seen: Client, lab: Lab) -> None:
    lab("publish")
    (seen.folder / "metadata" / "timestamp.json").write_bytes(b" " * 20_000)
    await refused(seen, "it is larger than 16384 bytes")


@pytest.mark.attack
@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"signed": {}}', b"[" * 16_000, b"\xff" * 100])
async def test_what_are_no_metadata_are_refused(seen: Client, data: bytes) -> None:
    (seen.folder / "metadata" / "timestamp.json").write_bytes(data)
    await refused(seen, "cannot use the TUF repository: .*timestamp is")


@pytest.mark.attack
async def test_a_role_speaks_only_of_the_files_that_it_was_given(client: Client, lab: Lab) -> None:
    lab("delegate", "plugins", ["plugins/*"])
    lab("add", "plugins/app-2.0.tar.gz", "theirs", role="plugins")
    lab("add", "app-9.9.tar.gz", "not theirs", role="plugins")
    lab("publish")
    assert sorted(await client.check()) == ["1.0", "2.0"]


@pytest.mark.attack
async def test_nobody_after_a_terminating_role_speaks_of_its_files(client: Client, lab: Lab) -> None:
    lab("delegate", "first", ["*"], terminating=True)
    lab("delegate", "inner", ["app-2.*"], by="first")
    lab("delegate", "second", ["*"])
    lab("add", "app-2.0.tar.gz", "of the role below", role="inner")
    lab("add", "app-3.0.tar.gz", "of the one beside", role="second")
    lab("publish")
    assert sorted(await client.check()) == ["1.0", "2.0"]


@pytest.mark.attack
async def test_a_role_that_the_snapshot_leaves_out_is_missed_and_nobody_speaks_in_its_place(
    client: Client, lab: Lab
) -> None:
    lab("delegate", "first", ["app-2.*", "plugins/*"])
    lab("delegate", "second", ["*"])
    lab("add", "app-2.0.tar.gz", "what the first would have named", role="second")
    lab("add", "app-3.0.tar.gz", "its own", role="second")
    lab("publish")
    lab("hide", "first")
    assert sorted(await client.check()) == ["1.0", "3.0"]
    assert any("'first' were left out" in warning for warning in client.warnings)


@pytest.mark.attack
@pytest.mark.parametrize("damage", ["expire", "strangers_keys"])
async def test_a_delegated_role_that_is_not_good_is_refused_with_all_that_came_with_it(
    client: Client, lab: Lab, damage: str
) -> None:
    lab("delegate", "plugins", ["plugins/*"])
    lab("publish")
    await client.check()
    lab("add", "app-1.1.tar.gz", "new")
    lab(damage, "plugins")
    lab("publish")
    await refused(client, "role 'plugins' is not signed by enough|plugins.* is expired")


@pytest.mark.attack
async def test_roles_that_delegate_to_each_other_come_to_an_end(client: Client, lab: Lab) -> None:
    lab("delegate", "one", ["*"])
    lab("delegate", "two", ["*"], by="one")
    lab("delegate", "one", ["*"], by="two")
    lab("add", "app-2.0.tar.gz", "new", role="two")
    lab("publish")
    with contextlib.suppress(SlotdError):
        assert sorted(await client.check()) == ["1.0", "2.0"]


@pytest.mark.attack
async def test_more_roles_than_anyone_needs_are_refused(seen: Client, lab: Lab) -> None:
    for number in range(65):
        lab("delegate", f"r{number}", ["*"])
    lab("publish")
    await refused(seen, "delegates to more than 64 roles")


@pytest.mark.attack
@pytest.mark.parametrize("role", ["../../../etc/cron.d/x", "..", "a/b", "ro\u202eot", "x" * 150])
async def test_what_a_role_is_called_leads_nowhere(client: Client, lab: Lab, role: str) -> None:
    """Its metadata may be taken, under a name that is only a name; nothing lies anywhere else."""
    lab("delegate", role, ["*"])
    lab("publish")
    beside = snapshot_of(client.kept.parent)
    with contextlib.suppress(SlotdError):
        await client.check()
    after = {path for path in snapshot_of(client.kept.parent) if client.kept not in path.parents}
    assert after == {path for path in beside if client.kept not in path.parents} | {client.kept}


@pytest.mark.attack
@pytest.mark.parametrize("path", ["../../etc/app-2.0.tar.gz", "/etc/app-2.0.tar.gz", "a/../../app-2.0.tar.gz"])
async def test_what_a_file_is_called_is_its_last_part_and_no_path(seen: Client, lab: Lab, path: str) -> None:
    lab("name", path, "theirs")
    lab("publish")
    found = await seen.check()
    assert list(found.get("2.0", {"app-2.0.tar.gz": ""})) == ["app-2.0.tar.gz"]


@pytest.mark.attack
@pytest.mark.parametrize("role", ["snapshot", "targets"])
async def test_endless_metadata_of_any_role_are_cut_off(seen: Client, lab: Lab, role: str) -> None:
    lab("publish")
    place = seen.folder / "metadata" / f"3.{role}.json"
    place.write_bytes(place.read_bytes() + b" " * 3_000_000)
    await refused(seen, "larger than|not the one that is signed for")


@pytest.mark.attack
@pytest.mark.parametrize(
    "named, served", [("timestamp", "3.snapshot"), ("3.snapshot", "3.targets"), ("2.root", "1.root")]
)
async def test_metadata_of_one_role_do_not_stand_for_another(seen: Client, lab: Lab, named: str, served: str) -> None:
    lab("publish")
    place = seen.folder / "metadata"
    (place / f"{named}.json").write_bytes((place / f"{served}.json").read_bytes())
    await refused(seen, f"its {named.rpartition('.')[2]} is|{named}.json: it is larger than")


@pytest.mark.attack
@pytest.mark.parametrize("role", ROLES)
async def test_a_signature_that_stands_twice_counts_once(seen: Client, lab: Lab, role: str) -> None:
    lab("demand", role, 2)
    lab("publish")
    assert await seen.check()
    lab("fewer", role)
    lab("publish")
    place = seen.folder / "metadata" / ("timestamp.json" if role == "timestamp" else f"4.{role}.json")
    document = json.loads(place.read_bytes())
    document["signatures"] *= 2
    place.write_bytes(json.dumps(document).encode())
    await refused(seen, f"its {role} is not|{role}.json: it is larger than .* somebody may be in between")


@pytest.mark.attack
@pytest.mark.parametrize("role", ["root", *ROLES])
async def test_a_single_changed_value_spoils_the_signature(seen: Client, lab: Lab, role: str) -> None:
    lab("rotate", "timestamp")
    lab("publish")
    place = (
        seen.folder / "metadata" / {"root": "2.root.json", "timestamp": "timestamp.json"}.get(role, f"3.{role}.json")
    )
    document = json.loads(place.read_bytes())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    place.write_bytes(json.dumps(document).encode())
    await refused(seen, f"its {role} is not|{role}.json: it is larger than .* somebody may be in between")


@pytest.mark.attack
async def test_a_dripping_server_is_given_up(seen: Client, server: ReleaseServer, lab: Lab) -> None:
    lab("publish")
    server.misbehave("drip", "*/timestamp.json")
    await refused(seen, "took longer than 2 s", limits=Limits(index_s=2.0))
