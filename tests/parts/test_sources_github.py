"""The GitHub source through the list worker's own function, against a server that speaks GitHub's API."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_server import Authority, ReleaseServer

from slotd.core.schema import Limits, Source
from slotd.errors import Misconfigured, SourceFailed
from slotd.sources import Listing
from slotd.sources.work import credential_host, fetch, list_releases, listing_from_json, small

PROJECT = "github/acme/notes"
LISTED = "/github/repos/acme/notes/releases"


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


def source(server: ReleaseServer, **more: Any) -> Source:
    return Source(
        **{"type": "github", "repository": "acme/notes", "url": f"{server.url}/github", "asset": ("x",)} | more
    )


def request(source: Source, limits: Limits, **more: Any) -> dict[str, Any]:
    """As it comes over the worker's socket: JSON."""
    plain = {"source": dataclasses.asdict(source), "limits": dataclasses.asdict(limits), "state": {}, **more}
    return dict(json.loads(json.dumps(plain)))


def listing(source: Source, limits: Limits | None = None, **more: Any) -> Listing:
    limits = limits or Limits()
    answer = list_releases(request(source, limits, **more), [], lambda said: None)
    return listing_from_json(json.loads(json.dumps(answer)), source, limits)


def publish(server: ReleaseServer, count: int, **said: Any) -> None:
    for number in range(1, count + 1):
        server.release(
            PROJECT,
            f"v1.{number}.0",
            {f"notes-1.{number}.0.tar.gz": f"content {number}".encode()},
            published=f"2026-01-{1 + number // 60:02}T00:{number % 60:02}:00Z",
            **said,
        )


def test_a_release_has_its_tag_version_time_notes_and_files(server: ReleaseServer) -> None:
    server.release(
        PROJECT,
        "v1.2.3",
        {"notes.tar.gz": b"content", "SHA256SUMS": b"sums"},
        published="2026-01-31T12:00:00Z",
        notes="Line one\r\nLine two\x00",
    )
    (release,) = listing(source(server)).releases
    assert (release.version, release.tag, release.published) == ("1.2.3", "v1.2.3", 1769860800.0)
    assert release.notes == "Line one\nLine two\ufffd"
    asset = release.asset("notes.tar.gz")
    assert asset is not None
    assert asset.size == 7
    assert asset.digest == "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert asset.url == f"{server.url}/github/download/acme/notes/v1.2.3/notes.tar.gz"
    assert server.requests[0].headers["x-github-api-version"] == "2022-11-28"


def test_drafts_and_unfinished_uploads_are_not_seen(server: ReleaseServer) -> None:
    server.release(PROJECT, "v2.0.0", {"a": b"1"}, draft=True)
    server.release(PROJECT, "v1.0.0", {"a": b"1", "b": b"2"}, assets={"b": {"state": "new", "digest": None}})
    (release,) = listing(source(server)).releases
    assert release.version == "1.0.0"
    assert [asset.name for asset in release.assets] == ["a"]


def test_the_prerelease_flag_hides_nothing(server: ReleaseServer) -> None:
    server.release(PROJECT, "v2.0.0", {"a": b"1"}, prerelease=True)
    assert [release.version for release in listing(source(server)).releases] == ["2.0.0"]


def test_a_missing_digest_is_no_digest(server: ReleaseServer) -> None:
    server.release(PROJECT, "v1.0.0", {"a": b"1", "b": b"2"}, assets={"a": {"digest": None}, "b": {"digest": "md5:00"}})
    (release,) = listing(source(server)).releases
    assert [asset.digest for asset in release.assets] == ["", ""]


def test_all_pages_are_read_newest_first(server: ReleaseServer) -> None:
    publish(server, 205)
    found = listing(source(server))
    assert len(found.releases) == 205
    assert found.releases[0].version == "1.205.0"
    assert found.releases[-1].version == "1.1.0"
    assert [seen.path.partition("?")[2] for seen in server.requests] == [f"per_page=100&page={n}" for n in (1, 2, 3)]


def test_paging_is_bounded_and_says_so(server: ReleaseServer) -> None:
    publish(server, 205)
    found = listing(source(server), Limits(index_pages=2))
    assert len(found.releases) == 200
    assert found.warnings == ("Only the newest 200 releases were looked at.",)


def test_the_number_of_releases_is_bounded_and_says_so(server: ReleaseServer) -> None:
    publish(server, 30)
    found = listing(source(server), Limits(index_releases=10))
    assert [release.version for release in found.releases][:2] == ["1.30.0", "1.29.0"]
    assert found.warnings == ("The source lists 30 releases; the oldest 20 were left out.",)


def test_only_the_newest_releases_carry_notes(server: ReleaseServer) -> None:
    publish(server, 30, notes="what is new")
    notes = [release.notes for release in listing(source(server)).releases]
    assert notes == ["what is new"] * 20 + [""] * 10


def test_an_unchanged_list_is_not_sent_again_and_is_the_same(server: ReleaseServer) -> None:
    publish(server, 130, notes="what is new")
    first = listing(source(server))
    server.requests.clear()
    second = listing(source(server), state=first.state)
    assert second == first
    assert all("if-none-match" in seen.headers for seen in server.requests)
    assert len(json.dumps(first.state)) <= Limits().source_state_bytes


def test_a_new_release_shows_although_the_rest_was_kept(server: ReleaseServer) -> None:
    publish(server, 130)
    first = listing(source(server))
    server.release(PROJECT, "v9.0.0", {"notes-9.0.0.tar.gz": b"new"}, published="2026-06-01T00:00:00Z")
    second = listing(source(server), state=first.state)
    assert [release.version for release in second.releases] == ["9.0.0", *(r.version for r in first.releases)]


def test_a_replaced_file_shows_by_its_digest(server: ReleaseServer) -> None:
    publish(server, 130)
    first = listing(source(server))
    server.release(PROJECT, "v1.1.0", {"notes-1.1.0.tar.gz": b"replaced"})
    second = listing(source(server), state=first.state)
    assert second.releases[:-1] == first.releases[:-1]
    assert second.releases[-1].assets[0].digest != first.releases[-1].assets[0].digest


def test_what_does_not_fit_the_state_is_listed_anew(server: ReleaseServer) -> None:
    publish(server, 130)
    limits = Limits(source_state_bytes=2000)
    first = listing(source(server), limits)
    assert len(json.dumps(first.state)) <= 2000
    second = listing(source(server), limits, state=first.state)
    assert second.releases == first.releases


def test_a_state_of_another_definition_is_not_used(server: ReleaseServer) -> None:
    publish(server, 1)
    state = listing(source(server)).state
    server.requests.clear()
    listing(source(server, scheme="semver"), state=state)
    listing(source(server, credential="token"), state=state, credential="t")
    assert all("if-none-match" not in seen.headers for seen in server.requests)


@pytest.mark.parametrize("damage", ["packed", "etag", "next", "pages"])
def test_a_damaged_state_is_forgotten(server: ReleaseServer, damage: str) -> None:
    publish(server, 3)
    first = listing(source(server))
    state = json.loads(json.dumps(dict(first.state)))
    if damage == "pages":
        state["pages"] = [1]
    else:
        state["pages"]["1"][damage] = {"packed": base64.b64encode(b"junk").decode(), "etag": 'W/"x"\r\n', "next": 7}[
            damage
        ]
    assert listing(source(server), state=state).releases == first.releases


def test_a_304_that_nobody_asked_for_is_refused(server: ReleaseServer) -> None:
    publish(server, 1)
    server.misbehave("status", status=304, body="")
    with pytest.raises(SourceFailed, match="nothing changed since nothing"):
        listing(source(server))


def test_with_a_credential_files_come_from_the_api(server: ReleaseServer, tmp_path: Path) -> None:
    publish(server, 1)
    server.token = "s3cret"
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)") as failed:
        listing(source(server))
    assert "credential" in failed.value.hint
    private = source(server, credential="token")
    found = listing(private, credential="s3cret", credential_host=credential_host(private))
    asset = found.releases[0].assets[0]
    assert "/releases/assets/" in asset.url
    more = {"credential": "s3cret", "credential_host": credential_host(private), "limits": {}}
    with (tmp_path / "file").open("w+b") as file:
        done = fetch({"url": asset.url, "kind": "http", **more}, [file.fileno()], lambda said: None)
    assert f"sha256:{done['sha256']}" == asset.digest
    body = small({"url": asset.url, "limit_bytes": 100, **more}, [], lambda said: None)["body"]
    assert base64.b64decode(body) == b"content 1"


def test_without_an_owner_a_credential_is_shown_to_nobody(server: ReleaseServer) -> None:
    server.file("x", b"1")
    small({"url": f"{server.url}/files/x", "limit_bytes": 9, "credential": "s3cret"}, [], lambda said: None)
    assert "authorization" not in server.requests[0].headers


def test_whose_credential_it_is_comes_from_the_definition() -> None:
    assert credential_host(Source(type="github")) == ""
    assert credential_host(Source(type="github", credential="t")) == "https://api.github.com"
    assert credential_host(Source(type="http", url="https://a.example/i", credential="t")) == "https://a.example/i"
    with pytest.raises(Misconfigured, match="which server it is for"):
        credential_host(Source(type="pypi", package="x", credential="t"))


def test_a_tag_with_a_slash_is_a_tag_but_no_version(server: ReleaseServer) -> None:
    server.release(PROJECT, "plugin/v1.0.0", {"a": b"1"})
    server.release(PROJECT, "notes-v1.0.0", {"a": b"1"})
    found = listing(source(server))
    assert [(release.version, release.tag) for release in found.releases] == [("1.0.0", "notes-v1.0.0")]
    assert found.warnings == ("The release 'plugin/v1.0.0' was left out: its tag cannot be a version.",)


def test_rate_limits_are_obeyed(server: ReleaseServer) -> None:
    reset = int(time.time()) + 1800
    server.misbehave("rate-limit", reset=reset)
    with pytest.raises(SourceFailed, match="limit of requests") as failed:
        listing(source(server))
    assert failed.value.retry_at == reset


def test_a_broken_connection_is_tried_again(server: ReleaseServer) -> None:
    publish(server, 1)
    server.misbehave("reset", times=1)
    assert len(listing(source(server)).releases) == 1


def test_a_repository_that_is_not_there_says_what_to_check(server: ReleaseServer) -> None:
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)") as failed:
        listing(source(server))
    assert "Check the names" in failed.value.hint


@pytest.mark.parametrize("repository", ["", "acme", "acme/notes/x", "../acme", "acme/..", "a b/c", "acme/notes?x"])
def test_a_repository_that_cannot_be_is_refused(server: ReleaseServer, repository: str) -> None:
    with pytest.raises(Misconfigured):
        listing(source(server, repository=repository))
    assert not server.requests


GOOD_ASSET = {
    "name": "a",
    "state": "uploaded",
    "size": 1,
    "browser_download_url": "https://example.org/a",
    "url": "https://example.org/a",
}
GOOD = {
    "tag_name": "v1.0",
    "draft": False,
    "published_at": "2026-01-01T00:00:00Z",
    "body": None,
    "assets": [GOOD_ASSET],
}


@pytest.mark.parametrize(
    "body, sentence",
    [
        ("", "it is not JSON"),
        ("<html>", "it is not JSON"),
        ("{}", "expected a list, found an object"),
        ("[1]", "[0]: expected an object, found a number"),
        ('[{"tag_name": NaN}]', "it is not JSON (NaN is not a number in JSON)"),
        ("[" * 70 + "]" * 70, "nested more than 64 levels deep"),
        (json.dumps([GOOD | {"tag_name": 5}]), "[0].tag_name: expected a text, found a number"),
        (json.dumps([GOOD | {"tag_name": "v1\ud800"}]), "[0].tag_name: it holds characters that cannot be shown"),
        (json.dumps([GOOD | {"tag_name": "1" * 5000}]), "[0].tag_name: it is 5000 characters long"),
        (json.dumps([GOOD | {"draft": "no"}]), "[0].draft: expected true or false, found a text"),
        (json.dumps([GOOD | {"published_at": "yesterday"}]), "[0].published_at: it is not a time"),
        (json.dumps([GOOD | {"assets": {}}]), "[0].assets: expected a list, found an object"),
        (json.dumps([GOOD | {"assets": [GOOD_ASSET] * 1001}]), "[0].assets: it has 1001 entries, more than 1000"),
        (
            json.dumps([GOOD | {"assets": [GOOD_ASSET | {"size": -1}]}]),
            "[0].assets[0].size: the number is out of range",
        ),
        (json.dumps([GOOD | {"assets": [GOOD_ASSET | {"size": 1e99}]}]), "[0].assets[0].size: expected a whole number"),
        (json.dumps([GOOD | {"assets": [GOOD_ASSET | {"name": None}]}]), "[0].assets[0].name: expected a text"),
        ('[{"tag_name": ' + "9" * 5000 + "}]", "it is not JSON"),
        (json.dumps([GOOD] * 101), "it has 101 entries, more than 100"),
    ],
)
def test_a_hostile_list_is_refused_by_name_of_the_place(server: ReleaseServer, body: str, sentence: str) -> None:
    server.misbehave("body", body=body)
    with pytest.raises(SourceFailed) as failed:
        listing(source(server))
    assert sentence in failed.value.message
    assert failed.value.message.startswith(f"cannot use {server.url}{LISTED}")


def test_a_hostile_file_is_left_out_and_the_rest_stays(server: ReleaseServer) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "..", "", "-rf", "x" * 300, 'a"b']
    hostile = [GOOD_ASSET | {"name": name} for name in names]
    hostile += [
        GOOD_ASSET | {"name": f"u{n}", "browser_download_url": url} for n, url in enumerate(["javascript:x", "x"])
    ]
    hostile += [GOOD_ASSET | {"name": "local", "browser_download_url": "file:///etc/shadow"}]
    server.misbehave("body", body=json.dumps([GOOD | {"assets": [*hostile, GOOD_ASSET, GOOD_ASSET]}]))
    found = listing(source(server))
    assert [asset.name for asset in found.releases[0].assets] == ["a"]
    assert any(warning.startswith("Left out of 1.0: local,") for warning in found.warnings)


def test_a_huge_list_ends_at_the_limit(server: ReleaseServer) -> None:
    server.misbehave("huge-json")
    with pytest.raises(SourceFailed, match="larger than 33554432 bytes"):
        listing(source(server))


def test_a_list_of_very_many_small_values_is_refused_before_it_is_parsed(server: ReleaseServer) -> None:
    server.misbehave("huge-json", bytes=30 * 1024**2, unit="[],")
    with pytest.raises(SourceFailed, match="more than 3000000 values"):
        listing(source(server))


def test_a_very_deep_list_is_refused(server: ReleaseServer) -> None:
    server.misbehave("deep-json")
    with pytest.raises(SourceFailed, match="nested more than 64 levels deep"):
        listing(source(server))


def test_a_list_that_drips_in_ends_at_the_deadline(server: ReleaseServer) -> None:
    server.misbehave("drip", interval_s=0.05)
    with pytest.raises(SourceFailed, match=r"took longer than 0\.5 s"):
        listing(source(server), Limits(index_s=0.5))


def test_files_over_http_in_a_list_over_https_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ReleaseServer
) -> None:
    from slotd.host import fetch as door

    authority = Authority.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    door.tls_context.cache_clear()
    with ReleaseServer(tls=authority) as safe:
        assets = [GOOD_ASSET, GOOD_ASSET | {"name": "b", "browser_download_url": f"{server.url}/files/b"}]
        safe.misbehave("body", body=json.dumps([GOOD | {"assets": assets}]))
        found = listing(source(safe))
    door.tls_context.cache_clear()
    assert [asset.name for asset in found.releases[0].assets] == ["a"]
    assert found.warnings == ("Left out of 1.0: b, which a list that came by https must not send us to.",)
