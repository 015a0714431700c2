"""The `http` index and the `directory` source, through the worker's functions."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_server import ReleaseServer

from slotd.core.assets import THIS_ARCHITECTURE, architecture_names
from slotd.core.release import release_to_json
from slotd.core.schema import Limits, Source
from slotd.errors import Failed, Misconfigured, SourceFailed
from slotd.model import Asset, Release
from slotd.sources import Listing
from slotd.sources.work import fetch, list_releases, listing_from_json, small


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


def listing(source: Source, limits: Limits | None = None, **more: Any) -> Listing:
    limits = limits or Limits()
    request = {"source": dataclasses.asdict(source), "limits": dataclasses.asdict(limits), **more}
    return listing_from_json(list_releases(json.loads(json.dumps(request)), [], lambda said: None), source, limits)


def index(server: ReleaseServer, **more: Any) -> Source:
    return Source(
        **{"type": "http", "url": f"{server.url}/http/app/index.json", "asset": ("app-{version}.tar.gz",)} | more
    )


def serve(server: ReleaseServer, *releases: Any) -> None:
    server.misbehave("body", "/http/app/index.json", body=json.dumps({"releases": releases}))


def test_an_index_gives_versions_times_notes_and_files(server: ReleaseServer) -> None:
    server.release(
        "http/app", "1.2", {"app-1.2.tar.gz": b"x", "SHA256SUMS": b"y"}, published="2026-01-31T12:00:00Z", notes="n"
    )
    (release,) = listing(index(server)).releases
    assert (release.version, release.published, release.notes) == ("1.2", 1769860800.0, "n")
    asset = release.asset("app-1.2.tar.gz")
    assert asset is not None
    assert asset.url == f"{server.url}/http/app/1.2/app-1.2.tar.gz"
    assert asset.digest.startswith("sha256:")
    body = small({"url": asset.url, "limit_bytes": 10}, [], lambda said: None)["body"]
    assert base64.b64decode(body) == b"x"


def test_an_asset_may_be_an_address_relative_or_absolute(server: ReleaseServer) -> None:
    assets = {"a": "files/a", "b": "/b", "c": "https://elsewhere.example/c", "d": {"url": "d", "size": 4}}
    serve(server, {"version": "v1.0", "published": 1769860800, "assets": assets})
    (release,) = listing(index(server)).releases
    assert (release.version, release.tag, release.published) == ("1.0", "v1.0", 1769860800.0)
    assert [asset.url for asset in release.assets] == [
        f"{server.url}/http/app/files/a",
        f"{server.url}/b",
        "https://elsewhere.example/c",
        f"{server.url}/http/app/d",
    ]


def test_a_release_without_files_has_those_of_the_templates(server: ReleaseServer) -> None:
    serve(server, {"version": "1.0", "tag": "v1.0"})
    templates = ("app-{version}-{os}-{arch}.tar.gz", "web {tag}.zip")
    found = listing(
        index(server, asset=templates), words={"arch": "arm64"}, also=["SHA256SUMS", "{asset}.asc", "{version}.sums"]
    )
    assert [(asset.name, asset.url.removeprefix(server.url)) for asset in found.releases[0].assets] == [
        ("app-1.0-linux-arm64.tar.gz", "/http/app/app-1.0-linux-arm64.tar.gz"),
        ("web v1.0.zip", "/http/app/web%20v1.0.zip"),
        ("SHA256SUMS", "/http/app/SHA256SUMS"),
        ("app-1.0-linux-arm64.tar.gz.asc", "/http/app/app-1.0-linux-arm64.tar.gz.asc"),
        ("web v1.0.zip.asc", "/http/app/web%20v1.0.zip.asc"),
        ("1.0.sums", "/http/app/1.0.sums"),
    ]


def test_a_list_of_no_files_is_not_filled_in(server: ReleaseServer) -> None:
    serve(server, {"version": "1.0", "assets": {}})
    assert listing(index(server)).releases[0].assets == ()


def test_addresses_are_relative_to_where_the_index_really_is(server: ReleaseServer) -> None:
    server.release("http/app", "1.0", {"a": b"x"})
    server.misbehave("redirect", "/old", to="/http/app/index.json")
    (release,) = listing(index(server, url=f"{server.url}/old")).releases
    assert release.assets[0].url == f"{server.url}/http/app/1.0/a"


def test_a_version_that_is_named_twice_is_taken_once(server: ReleaseServer) -> None:
    serve(server, {"version": "1.0", "notes": "first"}, {"version": "v1.0", "notes": "second"})
    found = listing(index(server))
    assert [release.notes for release in found.releases] == ["first"]
    assert found.warnings == ("The index names version 1.0 twice; the first is used.",)


def test_an_index_cannot_send_us_to_files_of_this_host(server: ReleaseServer) -> None:
    serve(server, {"version": "1.0", "assets": {"a": "file:///etc/shadow", "b": "ftp://x/y", "../c": "c", "ok": "ok"}})
    found = listing(index(server))
    assert [asset.name for asset in found.releases[0].assets] == ["ok"]
    assert len(found.warnings) == 3


@pytest.mark.parametrize(
    "release, sentence",
    [
        (5, "releases[0]: expected an object"),
        ({}, "releases[0].version: expected a text, found nothing"),
        ({"version": 1.0}, "releases[0].version: expected a text, found a number"),
        ({"version": "1", "assets": []}, "releases[0].assets: expected an object, found a list"),
        ({"version": "1", "assets": {"a": 1}}, "releases[0].assets['a']: expected a text, found a number"),
        ({"version": "1", "assets": {"a": {"url": "a", "digest": "crc:1"}}}, ".digest: it is not a digest"),
        ({"version": "1", "published": -5}, "releases[0].published: the number is out of range"),
        ({"version": "1", "published": True}, "releases[0].published: expected a number"),
        ({"version": "1", "yanked": "yes"}, "releases[0].yanked: expected true or false"),
        ({"version": "1", "notes": ["x"]}, "releases[0].notes: expected a text, found a list"),
    ],
)
def test_a_wrong_index_is_refused_by_name_of_the_place(server: ReleaseServer, release: Any, sentence: str) -> None:
    serve(server, release)
    with pytest.raises(SourceFailed) as failed:
        listing(index(server))
    assert sentence in failed.value.message


def test_an_index_without_releases_is_refused(server: ReleaseServer) -> None:
    server.misbehave("body", body='{"error": "x"}')
    with pytest.raises(SourceFailed, match="releases: expected a list, found nothing"):
        listing(index(server))


# --- directory ---


def folder(path: Path, **more: Any) -> Source:
    return Source(**{"type": "directory", "path": str(path), "asset": ("app-{version}-linux-{arch}.tar.gz",)} | more)


def put(path: Path, content: str = "x", *, age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def names(found: Listing) -> dict[str, list[str]]:
    return {release.version: [asset.name for asset in release.assets] for release in found.releases}


def test_a_folder_of_each_version_is_a_release(tmp_path: Path) -> None:
    put(tmp_path / "1.0" / "app.tar.gz", "one", age_s=100)
    put(tmp_path / "v1.1" / "app.tar.gz", "eleven", age_s=50)
    put(tmp_path / "v1.1" / "SHA256SUMS", age_s=50)
    (tmp_path / "empty").mkdir()
    found = listing(folder(tmp_path))
    assert names(found) == {"1.1": ["SHA256SUMS", "app.tar.gz"], "1.0": ["app.tar.gz"]}
    assert found.releases[0].tag == "v1.1"
    assert time.time() - 60 < found.releases[0].published < time.time() - 40
    assert found.releases[0].assets[1].url == f"file://{tmp_path.resolve()}/v1.1/app.tar.gz"
    assert found.releases[0].assets[1].size == 6


def test_files_side_by_side_tell_their_version_by_their_name(tmp_path: Path) -> None:
    usual, other = architecture_names(THIS_ARCHITECTURE)[0], "s390x"
    one = {f"app-1.1-linux-{usual}.tar.gz", f"app-1.1-linux-{other}.tar.gz", "app-1.1.sums"}
    ten = {f"app-1.10-linux-{usual}.tar.gz", f"app-1.10-linux-{usual}.tar.gz.asc"}
    ten |= {f"app-1.10-unknown-linux-gnu-{usual}.tar.gz"}
    both = {"SHA256SUMS", f"app-latest-linux-{usual}.tar.gz"}
    unseen = {f"app-2.0-linux-{usual}.tar.gz.part", f".app-2.0-linux-{usual}.tar.gz"}
    for name in one | ten | both | unseen:
        put(tmp_path / name)
    found = names(listing(folder(tmp_path, asset=("app-{version}-{os}-{arch}.tar.gz",))))
    assert {version: set(held) for version, held in found.items()} == {"1.1": one | both, "1.10": ten | both}


def test_links_lead_nowhere_but_into_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "releases"
    put(tmp_path / "secret" / "shadow")
    put(root / "1.0" / "app.tar.gz")
    (root / "1.0" / "out").symlink_to(tmp_path / "secret" / "shadow")
    (root / "1.0" / "dangling").symlink_to("nothing")
    (root / "1.0" / "loop").symlink_to("loop")
    (root / "1.0" / "in").symlink_to("app.tar.gz")
    (root / "2.0").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "1.0" / "fifo")
    found = listing(folder(root))
    assert names(found) == {"1.0": ["app.tar.gz", "in"]}
    assert found.releases[0].assets[1].url.endswith("/1.0/app.tar.gz")
    assert sorted(warning.rpartition(":")[2] for warning in found.warnings) == [" it leads out of the folder."] * 2


def test_a_folder_that_is_itself_a_link_is_read_where_it_is(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "1.0" / "app.tar.gz", "content")
    (tmp_path / "mount").symlink_to(tmp_path / "disk")
    asset = listing(folder(tmp_path / "mount")).releases[0].assets[0]
    body = small({"url": asset.url, "kind": "file", "limit_bytes": 10}, [], lambda said: None)["body"]
    assert base64.b64decode(body) == b"content"


def test_a_release_of_a_folder_is_fetched_with_its_digest(tmp_path: Path) -> None:
    put(tmp_path / "1.0" / "app 1#2%3.tar.gz", "content")
    asset = listing(folder(tmp_path)).releases[0].assets[0]
    told: list[dict[str, Any]] = []
    with (tmp_path / "out").open("w+b") as file:
        done = fetch({"url": asset.url, "kind": "file", "expected_size": 7}, [file.fileno()], told.append)
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert (done["bytes"], done["sha256"], done["state"], done["pieced"]) == (7, digest, {}, False)
    assert told[-1] == {"bytes": 7, "total": 7, "state": {}}


def test_a_link_that_replaces_a_file_after_the_listing_is_not_followed(tmp_path: Path) -> None:
    path = put(tmp_path / "1.0" / "app.tar.gz")
    asset = listing(folder(tmp_path)).releases[0].assets[0]
    put(tmp_path / "secret")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(SourceFailed, match="symbolic link"):
        small({"url": asset.url, "limit_bytes": 10}, [], lambda said: None)


def test_a_folder_that_is_not_there_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match=r"cannot read the folder .*: No such file") as failed:
        listing(folder(tmp_path / "none"))
    assert "mounted" in failed.value.hint
    with pytest.raises(Misconfigured, match="not absolute"):
        listing(folder(Path("relative")))


# --- what the daemon makes of a worker's word ---


def test_a_worker_cannot_send_the_daemon_to_a_file_of_this_host() -> None:
    release = release_to_json(Release("1.0", "1.0", assets=(Asset("a", "file:///etc/shadow"),)))
    answer = {"releases": [release], "state": {}, "warnings": []}
    with pytest.raises(SourceFailed, match=r"a of 1\.0 is not where it may be"):
        listing_from_json(answer, Source(type="http"), Limits())
    assert listing_from_json(answer, Source(type="directory"), Limits()).releases


def test_a_fetch_of_another_kind_than_expected_is_refused(server: ReleaseServer) -> None:
    for url, kind in (("file:///etc/passwd", "http"), (f"{server.url}/files/x", "file")):
        with pytest.raises(SourceFailed, match="not an address of the kind"):
            small({"url": url, "kind": kind, "limit_bytes": 10}, [], lambda said: None)
    with pytest.raises(SourceFailed, match="not a file of this host"):
        small({"url": "file://other.example/etc/passwd", "kind": "file", "limit_bytes": 10}, [], lambda said: None)
    with pytest.raises(Failed, match="given 0 files instead of 1"):
        fetch({"url": f"{server.url}/files/x"}, [], lambda said: None)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(Misconfigured, match="no source of type 'magic'"):
        listing(Source(type="magic"))
