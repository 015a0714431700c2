"""What only GitLab and Gitea do: planned releases, links, project numbers, drafts. The rest: `test_sources_forges`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from zlib import crc32

import pytest
from tests.parts.forges import GITEA, GITLAB, listing, shown_as
from tests.release_server import ReleaseServer

from slotd.errors import Misconfigured
from slotd.sources.work import small


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


def test_a_release_that_is_planned_is_not_seen_before_its_day(server: ReleaseServer) -> None:
    server.release(GITLAB.project, "v2.0.0", {"a": b"1"}, published="2099-01-01T00:00:00Z", upcoming=True)
    server.release(GITLAB.project, "v1.0.0", {"a": b"1"})
    first = GITLAB.listing(server)
    assert [release.version for release in first.releases] == ["1.0.0"]
    server.release(GITLAB.project, "v2.0.0", {}, published="2026-02-01T00:00:00Z", upcoming=False)
    second = GITLAB.listing(server, state=first.state)
    assert sorted(release.version for release in second.releases) == ["1.0.0", "2.0.0"]


def test_a_project_is_named_by_its_number_too(server: ReleaseServer) -> None:
    GITLAB.publish(server, 1)
    number = str(crc32(GITLAB.repository.encode()))
    assert len(listing(GITLAB.source(server, repository=number)).releases) == 1
    assert f"/projects/{number}/releases" in server.requests[0].path


def test_files_are_asked_for_at_their_permanent_address_which_leads_to_the_registry(server: ReleaseServer) -> None:
    GITLAB.publish(server, 1)
    (asset,) = GITLAB.listing(server).releases[0].assets
    assert asset.url == f"{server.url}/gitlab/acme/tools/notes/-/releases/v1.1.0/downloads/notes-1.1.0.tar.gz"
    body = small({"url": asset.url, "limit_bytes": 100}, [], lambda said: None)["body"]
    assert base64.b64decode(body) == b"content 1"
    assert "/packages/generic/notes/v1.1.0/notes-1.1.0.tar.gz" in server.requests[-1].path
    assert (asset.size, asset.digest) == (0, "")


def test_with_a_credential_files_of_the_registry_come_from_the_api_and_others_from_their_page(
    server: ReleaseServer,
) -> None:
    server.release(GITLAB.project, "v1.0.0", {"a": b"1", "b": b"2"}, assets={"b": {"link": "page"}})
    private = GITLAB.source(server, credential="token")
    (release,) = listing(private, **shown_as(private, "s3cret")).releases
    assert [asset.url.removeprefix(f"{server.url}/gitlab/")[:7] for asset in release.assets] == ["api/v4/", "acme/to"]
    assert server.requests[0].headers["private-token"] == "s3cret"
    assert "authorization" not in server.requests[0].headers


def test_links_of_old_servers_that_have_no_permanent_address_are_taken_as_they_are(server: ReleaseServer) -> None:
    link = {key: value for key, value in GITLAB.asset.items() if key != "direct_asset_url"}
    server.misbehave("body", body=json.dumps([GITLAB.with_files(link)]))
    assert GITLAB.listing(server).releases[0].assets[0].url == "https://example.org/a"


def test_drafts_are_not_seen_and_files_that_lie_elsewhere_are(server: ReleaseServer) -> None:
    server.release(GITEA.project, "v2.0.0", {"a": b"1"}, draft=True)
    far = "https://example.org/b"
    server.release(GITEA.project, "v1.0.0", {"a": b"1", "b": b"22"}, assets={"b": {"link": far, "size": 0}})
    (release,) = GITEA.listing(server).releases
    assert release.version == "1.0.0"
    own = f"{server.url}/gitea/acme/notes/releases/download/v1.0.0/a"
    assert [(asset.url, asset.size, asset.digest) for asset in release.assets] == [(own, 1, ""), (far, 0, "")]


def test_a_token_is_shown_as_gitea_wants_it(server: ReleaseServer) -> None:
    GITEA.publish(server, 1)
    private = GITEA.source(server, credential="token")
    listing(private, **shown_as(private, "s3cret"))
    listing(private, **shown_as(private, "name:password"))
    shown = [seen.headers["authorization"] for seen in server.requests]
    assert shown == ["token s3cret", "Basic bmFtZTpwYXNzd29yZA=="]


def test_a_server_of_gitea_must_be_named(server: ReleaseServer) -> None:
    with pytest.raises(Misconfigured, match="has no url"):
        listing(GITEA.source(server, url=""))
