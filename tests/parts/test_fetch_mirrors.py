"""A file that its source does not give comes from a mirror, whose word counts for nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.release_server import Authority, ReleaseServer

from slotd.core.schema import Limits
from slotd.errors import SourceFailed
from slotd.host.download import Order
from slotd.host.fetch import Pace, credential
from slotd.host.mirrors import download

CONTENT = os.urandom(600_000)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
QUICK = Pace(connect_s=20, answer_s=20, silence_s=2, tries=2, backoff_s=0.01, longest_backoff_s=0.05)


class Getting:
    """A source, two mirrors of it, and what a worker gets of them."""

    def __init__(self, path: Path, source: ReleaseServer, first: ReleaseServer, second: ReleaseServer) -> None:
        self.path, self.source, self.first, self.second = path, source, first, second
        self.url = source.file("app.tar", CONTENT)
        self.mirrors = [first.file("app.tar", CONTENT), second.file("app.tar", CONTENT)]

    def get(self, mirrors: list[str] | None = None, limits: Limits | None = None, **more: object) -> tuple[str, int]:
        given = {"url": self.url, "limit_bytes": 10**7, "expected_size": len(CONTENT), "expected_digest": DIGEST}
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            order = Order(**(given | more))  # type: ignore[arg-type]
            asked = self.mirrors if mirrors is None else mirrors
            done, number = download(order, asked, descriptor, limits or Limits(), lambda said: None, QUICK, 60)
            return f"sha256:{done.sha256}", number
        finally:
            os.close(descriptor)


@pytest.fixture
def getting(tmp_path: Path) -> Iterator[Getting]:
    with ReleaseServer() as source, ReleaseServer() as first, ReleaseServer() as second:
        yield Getting(tmp_path / "partial", source, first, second)


def test_while_the_source_gives_it_no_mirror_is_asked(getting: Getting) -> None:
    assert getting.get() == (DIGEST, 0)
    assert getting.first.requests == getting.second.requests == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_mirrors_are_asked_in_their_order(getting: Getting, status: int) -> None:
    getting.source.misbehave("status", status=status)
    getting.first.misbehave("status", status=404)
    assert getting.get() == (DIGEST, 2)
    assert getting.path.read_bytes() == CONTENT


def test_a_source_that_is_too_slow_is_left_for_a_mirror(getting: Getting) -> None:
    getting.source.misbehave("drip", interval_s=0.05)
    assert getting.get(limits=Limits(least_bytes_per_s=10_000)) == (DIGEST, 1)


def test_where_nobody_has_it_the_sources_own_no_is_told(getting: Getting) -> None:
    for server in (getting.source, getting.first, getting.second):
        server.misbehave("status", status=404)
    with pytest.raises(SourceFailed) as failed:
        getting.get()
    assert getting.url in failed.value.message
    assert getting.mirrors[1] in failed.value.message


def test_what_came_of_it_is_gone_on_from_where_the_validators_agree(getting: Getting) -> None:
    getting.source.misbehave("cut", after=200_000, times=1)
    getting.source.misbehave("status", status=404)
    assert getting.get() == (DIGEST, 1)
    assert [seen.headers.get("range") for seen in getting.first.requests] == ["bytes=200000-"]


def test_it_begins_anew_where_they_do_not_or_no_digest_is_known(getting: Getting) -> None:
    for more in ({}, {"expected_digest": ""}):
        getting.source.misbehave("cut", after=200_000, times=1)
        getting.source.misbehave("status", status=404)
        getting.first.misbehave("etag", etag='"another"')
        assert getting.get(**more) == (DIGEST, 1)
        assert getting.path.read_bytes() == CONTENT
        getting.source.behave()
    assert "range" not in getting.first.requests[-1].headers


@pytest.mark.attack
@pytest.mark.parametrize("fault", ["corrupt", "endless", "length"])
def test_a_mirror_that_lies_is_passed_over(getting: Getting, fault: str) -> None:
    getting.source.misbehave("status", status=404)
    getting.first.misbehave(fault)
    assert getting.get() == (DIGEST, 2)
    assert getting.path.read_bytes() == CONTENT


@pytest.mark.attack
def test_a_mirror_that_reuses_the_validator_for_other_bytes_is_found_out(getting: Getting) -> None:
    getting.source.misbehave("cut", after=200_000, times=1)
    getting.source.misbehave("status", status=404)
    etag = f'"{DIGEST.removeprefix("sha256:")[:32]}"'
    getting.first.file("app.tar", bytes(len(CONTENT)))
    getting.first.misbehave("etag", etag=etag)
    assert getting.get() == (DIGEST, 2)


@pytest.mark.attack
def test_a_mirror_never_sees_the_credential(getting: Getting) -> None:
    getting.source.misbehave("status", status=404)
    assert getting.get(credential=credential("secret-token", getting.source.url)) == (DIGEST, 1)
    assert "authorization" in getting.source.requests[0].headers
    assert "authorization" not in getting.first.requests[0].headers


@pytest.mark.attack
def test_what_the_source_gives_by_https_is_not_asked_for_in_plain_text(
    getting: Getting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.make(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with ReleaseServer(tls=authority) as secure, pytest.raises(SourceFailed, match="it would not be"):
        getting.get(url=f"{secure.url}/files/none")
    assert getting.first.requests == []
