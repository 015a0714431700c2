"""What all sources that list in pages do alike, through the list worker's own function, against a server that speaks
the API of each.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.parts.forges import FORGES, Forge, listing, shown_as
from tests.release_server import Authority, ReleaseServer

from slotd.core.schema import Limits
from slotd.errors import Misconfigured, SourceFailed
from slotd.sources.work import fetch, small


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


@pytest.fixture(params=FORGES, ids=lambda forge: forge.kind)
def forge(request: pytest.FixtureRequest) -> Forge:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[forge for forge in FORGES if forge.has_etag], ids=lambda forge: forge.kind)
def tagged(request: pytest.FixtureRequest) -> Forge:
    """One whose server tells ETags."""
    return request.param  # type: ignore[no-any-return]


def test_a_release_has_its_tag_version_time_notes_and_files(server: ReleaseServer, forge: Forge) -> None:
    files = {"notes.tar.gz": b"content", "SHA256SUMS": b"sums"}
    more = {"published": "2026-01-31T12:00:00Z", "notes": "Line one\r\nLine two\x00"}
    server.release(forge.project, "v1.2.3", files, **more)
    (release,) = forge.listing(server).releases
    assert (release.version, release.tag, release.published) == ("1.2.3", "v1.2.3", 1769860800.0)
    assert release.notes == "Line one\nLine two\ufffd"
    assert sorted(asset.name for asset in release.assets) == sorted(files)
    for asset in release.assets:
        body = small({"url": asset.url, "limit_bytes": 100}, [], lambda said: None)["body"]
        assert base64.b64decode(body) == files[asset.name]


def test_the_prerelease_flag_hides_nothing(server: ReleaseServer, forge: Forge) -> None:
    server.release(forge.project, "v2.0.0", {"a": b"1"}, prerelease=True)
    assert [release.version for release in forge.listing(server).releases] == ["2.0.0"]


def test_all_pages_are_read_newest_first(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 2 * forge.per_page + 5)
    found = forge.listing(server)
    assert len(found.releases) == 2 * forge.per_page + 5
    assert found.releases[0].version == f"1.{len(found.releases)}.0"
    assert found.releases[-1].version == "1.1.0"
    assert [seen.path for seen in server.requests] == [f"{forge.listed}?{forge.pages.format(n)}" for n in (1, 2, 3)]


def test_paging_is_bounded_and_says_so(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 2 * forge.per_page + 5)
    found = forge.listing(server, Limits(index_pages=2))
    assert len(found.releases) == 2 * forge.per_page
    assert found.warnings == (f"Only the newest {2 * forge.per_page} releases were looked at.",)


def test_a_server_that_always_has_a_next_page_ends_at_the_bound(server: ReleaseServer, forge: Forge) -> None:
    link = {"Link": '<http://127.0.0.1:9/elsewhere>; rel="next"'}
    server.misbehave("status", status=200, body=json.dumps([forge.entry]), headers=link)
    found = forge.listing(server, Limits(index_pages=3))
    assert [release.version for release in found.releases] == ["1.0"]
    assert len(server.requests) == 3


def test_the_number_of_releases_is_bounded_and_says_so(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 30)
    found = forge.listing(server, Limits(index_releases=10))
    assert [release.version for release in found.releases][:2] == ["1.30.0", "1.29.0"]
    assert found.warnings == ("The source lists 30 releases; the oldest 20 were left out.",)


def test_only_the_newest_releases_carry_notes(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 30, notes="what is new")
    notes = [release.notes for release in forge.listing(server).releases]
    assert notes == ["what is new"] * 20 + [""] * 10


def test_an_unchanged_list_is_not_sent_again_and_is_the_same(server: ReleaseServer, tagged: Forge) -> None:
    tagged.publish(server, 130, notes="what is new")
    first = tagged.listing(server)
    server.requests.clear()
    second = tagged.listing(server, state=first.state)
    assert second == first
    assert all("if-none-match" in seen.headers for seen in server.requests)
    assert len(json.dumps(first.state)) <= Limits().source_state_bytes


def test_a_server_without_etags_is_asked_in_full_each_time(server: ReleaseServer) -> None:
    (forge,) = (forge for forge in FORGES if not forge.has_etag)
    forge.publish(server, 3)
    first = forge.listing(server)
    assert forge.listing(server, state=first.state) == first
    assert not any("if-none-match" in seen.headers for seen in server.requests)


def test_a_new_release_shows_although_the_rest_was_kept(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 130)
    first = forge.listing(server)
    server.release(forge.project, "v9.0.0", {"notes-9.0.0.tar.gz": b"new"}, published="2026-06-01T00:00:00Z")
    second = forge.listing(server, state=first.state)
    assert [release.version for release in second.releases] == ["9.0.0", *(r.version for r in first.releases)]


def test_what_does_not_fit_the_state_is_listed_anew(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 130)
    limits = Limits(source_state_bytes=2000)
    first = forge.listing(server, limits)
    assert len(json.dumps(first.state)) <= 2000
    second = forge.listing(server, limits, state=first.state)
    assert second.releases == first.releases


def test_a_state_of_another_definition_is_not_used(server: ReleaseServer, tagged: Forge) -> None:
    tagged.publish(server, 1)
    state = tagged.listing(server).state
    server.requests.clear()
    listing(tagged.source(server, scheme="semver"), state=state)
    listing(tagged.source(server, credential="token"), state=state, credential="t")
    assert all("if-none-match" not in seen.headers for seen in server.requests)


@pytest.mark.parametrize("damage", ["packed", "etag", "next", "pages"])
def test_a_damaged_state_is_forgotten(server: ReleaseServer, tagged: Forge, damage: str) -> None:
    tagged.publish(server, 3)
    first = tagged.listing(server)
    state = json.loads(json.dumps(dict(first.state)))
    if damage == "pages":
        state["pages"] = [1]
    else:
        state["pages"]["1"][damage] = {"packed": base64.b64encode(b"junk").decode(), "etag": 'W/"x"\r\n', "next": 7}[
            damage
        ]
    assert tagged.listing(server, state=state).releases == first.releases


def test_a_304_that_nobody_asked_for_is_refused(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 1)
    server.misbehave("status", status=304, body="")
    with pytest.raises(SourceFailed, match="nothing changed since nothing"):
        forge.listing(server)


def test_files_of_a_private_repository_are_had_with_its_credential_and_not_without(
    server: ReleaseServer, forge: Forge, tmp_path: Path
) -> None:
    forge.publish(server, 1)
    server.token = "s3cret"
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)") as failed:
        forge.listing(server)
    assert "credential" in failed.value.hint
    private = forge.source(server, credential="token")
    secret = shown_as(private, "s3cret")
    asset = listing(private, **secret).releases[0].assets[0]
    with (tmp_path / "file").open("w+b") as file:
        fetch({"url": asset.url, "kind": "http", "limits": {}, **secret}, [file.fileno()], lambda said: None)
        file.seek(0)
        assert file.read() == b"content 1"
    body = small({"url": asset.url, "limit_bytes": 100, "limits": {}, **secret}, [], lambda said: None)["body"]
    assert base64.b64decode(body) == b"content 1"


def test_a_credential_is_not_shown_where_a_file_lies_elsewhere(server: ReleaseServer, forge: Forge) -> None:
    with ReleaseServer() as elsewhere:
        away = forge.asset | {key: elsewhere.file("a", b"away") for key in ("url", forge.address)}
        server.misbehave("body", body=json.dumps([forge.with_files(away)]), times=1)
        secret = shown_as(forge.source(server, credential="token"), "s3cret")
        asset = listing(forge.source(server, credential="token"), **secret).releases[0].assets[0]
        small({"url": asset.url, "limit_bytes": 100, "limits": {}, **secret}, [], lambda said: None)
        assert any("s3cret" in value for value in server.requests[0].headers.values())
        assert not any("s3cret" in value for seen in elsewhere.requests for value in seen.headers.values())


def test_a_tag_with_a_slash_is_a_tag_but_no_version(server: ReleaseServer, forge: Forge) -> None:
    server.release(forge.project, "plugin/v1.0.0", {"a": b"1"})
    server.release(forge.project, "notes-v1.0.0", {"a": b"1"})
    found = forge.listing(server)
    assert [(release.version, release.tag) for release in found.releases] == [("1.0.0", "notes-v1.0.0")]
    assert found.warnings == ("The release 'plugin/v1.0.0' was left out: its tag cannot be a version.",)


@pytest.mark.parametrize("family", ["X-RateLimit", "RateLimit"])
def test_rate_limits_are_obeyed(server: ReleaseServer, forge: Forge, family: str) -> None:
    reset = int(time.time()) + 1800
    headers = {f"{family}-Remaining": "0", f"{family}-Reset": str(reset)}
    server.misbehave("status", status=429, headers=headers)
    with pytest.raises(SourceFailed, match="limit of requests") as failed:
        forge.listing(server)
    assert failed.value.retry_at == reset


def test_a_broken_connection_is_tried_again(server: ReleaseServer, forge: Forge) -> None:
    forge.publish(server, 1)
    server.misbehave("reset", times=1)
    assert len(forge.listing(server).releases) == 1


def test_a_repository_that_is_not_there_says_what_to_check(server: ReleaseServer, forge: Forge) -> None:
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)") as failed:
        forge.listing(server)
    assert "Check the names" in failed.value.hint


@pytest.mark.parametrize("repository", ["", "acme", "/notes", "../acme", "acme/..", "a b/c", "acme/notes?x"])
def test_a_repository_that_cannot_be_is_refused(server: ReleaseServer, forge: Forge, repository: str) -> None:
    with pytest.raises(Misconfigured):
        listing(forge.source(server, repository=repository))
    assert not server.requests


def hostile(forge: Forge) -> dict[str, tuple[Any, str]]:
    """What a server may say, and what is said of it."""
    time, files, file = forge.keys["time"], forge.keys["files"], forge.asset
    return {
        "nothing": ("", "it is not JSON"),
        "a page": ("<html>", "it is not JSON"),
        "an object": ({}, "expected a list, found an object"),
        "numbers": ([1], "[0]: expected an object, found a number"),
        "not a number": ('[{"tag_name": NaN}]', "it is not JSON (NaN is not a number in JSON)"),
        "depth": ("[" * 70 + "]" * 70, "nested more than 64 levels deep"),
        "a huge number": ('[{"tag_name": ' + "9" * 5000 + "}]", "it is not JSON"),
        "no tag": ([forge.entry | {"tag_name": 5}], "[0].tag_name: expected a text, found a number"),
        "half a sign": (
            json.dumps([forge.entry | {"tag_name": "v1\ud800"}]),
            "[0].tag_name: it holds characters that cannot be shown",
        ),
        "a long tag": ([forge.entry | {"tag_name": "1" * 5000}], "[0].tag_name: it is 5000 characters long"),
        "no time": ([forge.entry | {time: "yesterday"}], f"[0].{time}: it is not a time"),
        "files as a text": ([forge.entry | {"assets": "none"}], "[0].assets: expected "),
        "too many files": ([forge.with_files(*[file] * 1001)], f"[0].{files}: it has 1001 entries, more than 1000"),
        "a number as file": ([forge.with_files(7)], f"[0].{files}[0]: expected an object, found a number"),
        "no name": ([forge.with_files(file | {"name": None})], f"[0].{files}[0].name: expected a text"),
        "address": ([forge.with_files(file | {forge.address: 5})], f"[0].{files}[0].{forge.address}: expected a text"),
        "too many": ([forge.entry] * (forge.per_page + 1), f"entries, more than {forge.per_page}"),
    }


@pytest.mark.parametrize("what", hostile(FORGES[0]))
def test_a_hostile_list_is_refused_by_name_of_the_place(server: ReleaseServer, forge: Forge, what: str) -> None:
    said, sentence = hostile(forge)[what]
    server.misbehave("body", body=said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(SourceFailed) as failed:
        forge.listing(server)
    assert sentence in failed.value.message
    assert failed.value.message.startswith(f"cannot use {server.url}{forge.listed}")


def test_a_hostile_file_is_left_out_and_the_rest_stays(server: ReleaseServer, forge: Forge) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "..", "", "-rf", "x" * 300, 'a"b']
    said = [forge.asset | {"name": name} for name in names]
    said += [forge.asset | {"name": f"u{n}", forge.address: url} for n, url in enumerate(["javascript:x", "x"])]
    said += [forge.asset | {"name": "local", forge.address: "file:///etc/shadow"}]
    server.misbehave("body", body=json.dumps([forge.with_files(*said, forge.asset, forge.asset)]))
    found = forge.listing(server)
    assert [asset.name for asset in found.releases[0].assets] == ["a"]
    assert any(warning.startswith("Left out of 1.0: local,") for warning in found.warnings)


def test_a_huge_list_ends_at_the_limit(server: ReleaseServer, forge: Forge) -> None:
    server.misbehave("huge-json")
    with pytest.raises(SourceFailed, match="larger than 33554432 bytes"):
        forge.listing(server)


def test_a_list_of_very_many_small_values_is_refused_before_it_is_parsed(server: ReleaseServer, forge: Forge) -> None:
    server.misbehave("huge-json", bytes=30 * 1024**2, unit="[],")
    with pytest.raises(SourceFailed, match="more than 3000000 values"):
        forge.listing(server)


def test_a_very_deep_list_is_refused(server: ReleaseServer, forge: Forge) -> None:
    server.misbehave("deep-json")
    with pytest.raises(SourceFailed, match="nested more than 64 levels deep"):
        forge.listing(server)


def test_a_list_that_drips_in_ends_at_the_deadline(server: ReleaseServer, forge: Forge) -> None:
    server.misbehave("drip", interval_s=0.05)
    with pytest.raises(SourceFailed, match=r"took longer than 0\.5 s"):
        forge.listing(server, Limits(index_s=0.5))


def test_files_over_http_in_a_list_over_https_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ReleaseServer, forge: Forge
) -> None:
    from slotd.host import fetch as door

    authority = Authority.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    door.tls_context.cache_clear()
    with ReleaseServer(tls=authority) as safe:
        plain = forge.asset | {"name": "b", forge.address: f"{server.url}/files/b"}
        safe.misbehave("body", body=json.dumps([forge.with_files(forge.asset, plain)]))
        found = forge.listing(safe)
    door.tls_context.cache_clear()
    assert [asset.name for asset in found.releases[0].assets] == ["a"]
    assert found.warnings == ("Left out of 1.0: b, which a list that came by https must not send us to.",)


def test_without_an_owner_a_credential_is_shown_to_nobody(server: ReleaseServer, forge: Forge) -> None:
    server.file("x", b"1")
    secret = shown_as(forge.source(server, credential="token"), "s3cret")
    del secret["credential_host"]
    small({"url": f"{server.url}/files/x", "limit_bytes": 9, **secret}, [], lambda said: None)
    assert not any("s3cret" in value for value in server.requests[0].headers.values())


def test_the_definition_of_one_type_cannot_be_read_by_another(server: ReleaseServer, forge: Forge) -> None:
    """A state that was kept for one server's answers means nothing to another's."""
    forge.publish(server, 1)
    state = forge.listing(server).state
    for other in FORGES:
        if other is not forge:
            other.publish(server, 2)
            assert len(listing(dataclasses.replace(other.source(server)), state=state).releases) == 2
