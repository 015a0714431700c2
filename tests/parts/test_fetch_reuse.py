"""Only what changed is fetched from a real server; what does not fit costs a plain download, never a wrong file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.alike import LATER, archive, held, index_of, noise, versions
from tests.release_server import ReleaseServer

from slotd.core.schema import Limits
from slotd.errors import SourceFailed
from slotd.host.download import Downloaded, Order, download
from slotd.host.fetch import Pace, credential
from slotd.host.seeding import Seed

OLD_FILES, NEW_FILES = versions()
OLD, NEW = archive(OLD_FILES), archive(NEW_FILES, stamp=LATER)
DIGEST = f"sha256:{hashlib.sha256(NEW).hexdigest()}"
QUICK = Pace(connect_s=20, answer_s=20, silence_s=20, tries=3, backoff_s=0.01, longest_backoff_s=0.05)


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


class Fetching:
    """A worker's work on one file."""

    def __init__(self, path: Path, server: ReleaseServer) -> None:
        self.path, self.server = path, server
        self.url = server.file("app.zip", NEW)
        self.told: list[dict[str, Any]] = []

    def get(self, seed: bytes = OLD, *, indexes: tuple[bytes, bytes] = (b"", b""), **more: Any) -> Downloaded:
        given = {"url": self.url, "limit_bytes": 20_000_000, "expected_digest": DIGEST} | more
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        source = held(seed)
        try:
            order = Order(**given, seed=Seed(source, *indexes))
            return download(order, descriptor, Limits(), self.told.append, QUICK, 60)
        finally:
            os.close(descriptor)
            os.close(source)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def fetching(tmp_path: Path, server: ReleaseServer) -> Fetching:
    return Fetching(tmp_path / "partial", server)


def test_of_an_archive_only_changed_members_come_over_the_network(fetching: Fetching, server: ReleaseServer) -> None:
    done = fetching.get(expected_size=len(NEW))
    assert fetching.content == NEW
    assert f"sha256:{done.sha256}" == DIGEST
    assert done.unfit == ""
    assert done.fetched == server.sent < len(NEW) // 5
    assert len(NEW) - done.fetched <= done.reused < len(NEW)
    assert all("if-range" in seen.headers for seen in server.requests[1:])


def test_of_a_file_with_chunk_indexes_only_changed_chunks_do(server: ReleaseServer, tmp_path: Path) -> None:
    old = noise(1, 4_000_000)
    new = old[:1_000_000] + noise(2, 7000) + old[1_000_000:]
    fetching = Fetching(tmp_path / "partial", server)
    url = server.file("app.tar.zst", new)
    digest = f"sha256:{hashlib.sha256(new).hexdigest()}"
    indexes = index_of(old, tmp_path), index_of(new, tmp_path)
    done = fetching.get(old, indexes=indexes, url=url, expected_digest=digest, expected_size=len(new))
    assert fetching.content == new
    assert done.fetched == server.sent < len(new) // 4
    assert done.fetched + done.reused == len(new) + 1  # the first byte was looked at before


def test_what_was_cut_off_goes_on_where_it_was(fetching: Fetching, server: ReleaseServer) -> None:
    short = NEW[: len(NEW) // 2 + 4321]
    first = fetching.get(expected_size=len(NEW))
    fetching.path.write_bytes(short)
    server.sent = 0
    again = fetching.get(state=first.state, expected_size=len(NEW))
    assert fetching.content == NEW
    assert again.reused < first.reused
    assert server.sent < first.fetched


@pytest.mark.parametrize("fault", ["reset", "garbage", "status"])
def test_a_fault_between_two_parts_is_tried_again(fetching: Fetching, server: ReleaseServer, fault: str) -> None:
    url = server.file("slow.zip", NEW)
    fallen = threading.Event()

    def fall(said: dict[str, Any]) -> None:
        if said["bytes"] > 100_000 and not fallen.is_set():
            fallen.set()
            server.misbehave(fault, times=1)

    descriptor, source = os.open(fetching.path, os.O_RDWR | os.O_CREAT), held(OLD)
    order = Order(url, 20_000_000, len(NEW), DIGEST, seed=Seed(source))
    done = download(replace(order), descriptor, Limits(), fall, QUICK, 60)
    os.close(descriptor)
    os.close(source)
    assert fallen.is_set()
    assert fetching.content == NEW
    assert done.reused > len(NEW) // 2


def test_a_server_that_ignores_ranges_gives_all_of_it(fetching: Fetching, server: ReleaseServer) -> None:
    server.misbehave("no-range")
    done = fetching.get()
    assert fetching.content == NEW
    assert (done.unfit, done.reused, done.pieced) == ("no-ranges", 0, False)


def test_without_a_strong_validator_nothing_is_put_together(fetching: Fetching, server: ReleaseServer) -> None:
    server.misbehave("etag", etag='W/"weak"')
    done = fetching.get()
    assert fetching.content == NEW
    assert (done.unfit, done.reused) == ("no-ranges", 0)


def test_a_file_that_changes_meanwhile_is_fetched_whole(fetching: Fetching, server: ReleaseServer) -> None:
    third = archive(NEW_FILES | {"lib/012.bin": noise(77, 100_000)})
    told: list[int] = []

    def replaced(said: dict[str, Any]) -> None:
        told.append(said["bytes"])
        if len(told) == 1:
            server.file("app.zip", third)

    descriptor, source = os.open(fetching.path, os.O_RDWR | os.O_CREAT), held(OLD)
    digest = f"sha256:{hashlib.sha256(third).hexdigest()}"
    order = Order(fetching.url, 20_000_000, 0, digest, seed=Seed(source))
    done = download(order, descriptor, Limits(), replaced, QUICK, 60)
    os.close(descriptor)
    os.close(source)
    assert fetching.content == third
    assert (done.unfit, done.reused) == ("changed", 0)


def test_a_damaged_older_archive_costs_a_plain_download(fetching: Fetching, server: ReleaseServer) -> None:
    damaged = OLD[:500_000] + bytes([OLD[500_000] ^ 1]) + OLD[500_001:]
    done = fetching.get(damaged)
    assert fetching.content == NEW
    assert (done.unfit, done.reused, done.pieced) == ("different", 0, False)
    assert server.sent > len(NEW)


def test_with_no_digest_known_it_is_said_that_it_was_put_together(fetching: Fetching) -> None:
    done = fetching.get(expected_digest="")
    assert fetching.content == NEW
    assert done.pieced


def test_an_archive_with_nothing_in_common_is_fetched_whole(fetching: Fetching) -> None:
    done = fetching.get(archive({"other": noise(500, 100_000)}))
    assert fetching.content == NEW
    assert (done.unfit, done.reused) == ("different", 0)


def test_redirects_are_followed_once_for_all_parts(fetching: Fetching, server: ReleaseServer) -> None:
    server.misbehave("redirect", "/files/latest", to=fetching.url)
    done = fetching.get(url=f"{server.url}/files/latest")
    assert fetching.content == NEW
    assert done.reused > 0
    assert len(server.seen("/files/latest")) == 1


def test_where_a_redirect_leads_that_ends_soon_is_asked_anew(fetching: Fetching, server: ReleaseServer) -> None:
    server.misbehave("redirect", "/files/latest", to=fetching.url)
    gone = threading.Event()

    def expire(said: dict[str, Any]) -> None:
        if not gone.is_set():
            gone.set()
            server.misbehave("status", "/files/app.zip", times=1, status=403)

    descriptor, source = os.open(fetching.path, os.O_RDWR | os.O_CREAT), held(OLD)
    order = Order(f"{server.url}/files/latest", 20_000_000, 0, DIGEST, seed=Seed(source))
    done = download(order, descriptor, Limits(), expire, QUICK, 60)
    os.close(descriptor)
    os.close(source)
    assert fetching.content == NEW
    assert done.reused > 0
    assert len(server.seen("/files/latest")) == 2


@pytest.mark.attack
def test_a_credential_stays_with_its_own_server_for_every_part(fetching: Fetching, server: ReleaseServer) -> None:
    with ReleaseServer() as other:
        there = other.file("app.zip", NEW)
        server.misbehave("redirect", "/files/app.zip", to=there)
        done = fetching.get(credential=credential("secret-token", server.url))
        assert done.reused > 0
        assert len(other.requests) > 2
        assert all("authorization" not in seen.headers for seen in other.requests)


@pytest.mark.attack
@pytest.mark.parametrize("shift", [1, -5])
def test_a_part_that_is_not_the_one_asked_for_is_never_glued_on(
    fetching: Fetching, server: ReleaseServer, shift: int
) -> None:
    server.misbehave("wrong-part", shift=shift, times=40)
    try:
        fetching.get()
    except SourceFailed:
        assert fetching.content != NEW
    else:
        assert fetching.content == NEW


@pytest.mark.attack
def test_parts_of_one_byte_that_never_end_are_given_up(fetching: Fetching, server: ReleaseServer) -> None:
    server.misbehave("crumbs")
    with pytest.raises(SourceFailed):
        fetching.get(expected_size=len(NEW))
    server.behave()
    assert len(server.requests) < 100


@pytest.mark.attack
def test_a_chunk_index_of_another_file_costs_a_plain_download(
    fetching: Fetching, server: ReleaseServer, tmp_path: Path
) -> None:
    lies = index_of(OLD, tmp_path), index_of(OLD + noise(9, 100_000), tmp_path)
    done = fetching.get(indexes=lies)
    assert fetching.content == NEW
    assert (done.unfit, done.reused) == ("odd", 0)


@pytest.mark.attack
def test_a_chunk_index_that_lies_about_the_file_is_found_out_by_the_whole(
    fetching: Fetching, server: ReleaseServer, tmp_path: Path
) -> None:
    old = noise(1, 2_000_000)
    new = noise(2, 2_000_000)
    url = server.file("app.tar", new)
    lie = index_of(old, tmp_path)
    digest = f"sha256:{hashlib.sha256(new).hexdigest()}"
    done = fetching.get(old, indexes=(lie, lie), url=url, expected_digest=digest, expected_size=len(new))
    assert fetching.content == new
    assert (done.unfit, done.reused, done.pieced) == ("different", 0, False)


@pytest.mark.attack
def test_an_archive_larger_than_it_may_be_is_refused_before_a_byte_of_it_is_stored(fetching: Fetching) -> None:
    with pytest.raises(SourceFailed, match="larger than 1000000 bytes"):
        fetching.get(limit_bytes=1_000_000)
    assert fetching.content == b""
