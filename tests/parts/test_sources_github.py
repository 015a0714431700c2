"""What only the GitHub source does, through the list worker's own function, against a server that speaks GitHub's API.

What it does as all do that list in pages is in `test_sources_forges`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.parts.forges import GITHUB, listing, shown_as
from tests.release_server import ReleaseServer

from slotd.core.schema import Source
from slotd.errors import Misconfigured, SourceFailed
from slotd.sources.work import credential_host


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


def test_a_file_has_its_size_digest_and_public_address(server: ReleaseServer) -> None:
    server.release(GITHUB.project, "v1.2.3", {"notes.tar.gz": b"content"})
    (release,) = GITHUB.listing(server).releases
    (asset,) = release.assets
    assert asset.size == 7
    assert asset.digest == "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert asset.url == f"{server.url}/github/download/acme/notes/v1.2.3/notes.tar.gz"
    assert server.requests[0].headers["x-github-api-version"] == "2022-11-28"


def test_drafts_and_unfinished_uploads_are_not_seen(server: ReleaseServer) -> None:
    server.release(GITHUB.project, "v2.0.0", {"a": b"1"}, draft=True)
    server.release(GITHUB.project, "v1.0.0", {"a": b"1", "b": b"2"}, assets={"b": {"state": "new", "digest": None}})
    (release,) = GITHUB.listing(server).releases
    assert release.version == "1.0.0"
    assert [asset.name for asset in release.assets] == ["a"]


def test_a_missing_digest_is_no_digest(server: ReleaseServer) -> None:
    server.release(
        GITHUB.project, "v1.0.0", {"a": b"1", "b": b"2"}, assets={"a": {"digest": None}, "b": {"digest": "md5:00"}}
    )
    (release,) = GITHUB.listing(server).releases
    assert [asset.digest for asset in release.assets] == ["", ""]


def test_a_replaced_file_shows_by_its_digest(server: ReleaseServer) -> None:
    GITHUB.publish(server, 130)
    first = GITHUB.listing(server)
    server.release(GITHUB.project, "v1.1.0", {"notes-1.1.0.tar.gz": b"replaced"})
    second = GITHUB.listing(server, state=first.state)
    assert second.releases[:-1] == first.releases[:-1]
    assert second.releases[-1].assets[0].digest != first.releases[-1].assets[0].digest


def test_with_a_credential_files_come_from_the_api(server: ReleaseServer) -> None:
    GITHUB.publish(server, 1)
    private = GITHUB.source(server, credential="token")
    (release,) = listing(private, **shown_as(private, "s3cret")).releases
    assert "/github/repos/acme/notes/releases/assets/" in release.assets[0].url


def test_whose_credential_it_is_comes_from_the_definition() -> None:
    assert credential_host(Source(type="github")) == ""
    assert credential_host(Source(type="github", credential="t")) == "https://api.github.com"
    assert credential_host(Source(type="gitlab", credential="t")) == "https://gitlab.com"
    assert credential_host(Source(type="http", url="https://a.example/i", credential="t")) == "https://a.example/i"
    with pytest.raises(Misconfigured, match="which server it is for"):
        credential_host(Source(type="pypi", package="x", credential="t"))


@pytest.mark.parametrize(
    "said, sentence",
    [
        ({"size": -1}, "[0].assets[0].size: the number is out of range"),
        ({"size": 1e99}, "[0].assets[0].size: expected a whole number"),
        ({"state": None}, "[0].assets[0].state: expected a text"),
    ],
)
def test_a_hostile_file_is_refused_by_name_of_the_place(
    server: ReleaseServer, said: dict[str, object], sentence: str
) -> None:
    server.misbehave("body", body=json.dumps([GITHUB.with_files(GITHUB.asset | said)]))
    with pytest.raises(SourceFailed) as failed:
        GITHUB.listing(server)
    assert sentence in failed.value.message


def test_a_draft_must_be_true_or_false(server: ReleaseServer) -> None:
    server.misbehave("body", body=json.dumps([GITHUB.entry | {"draft": "no"}]))
    with pytest.raises(SourceFailed, match="draft: expected true or false, found a text"):
        GITHUB.listing(server)
