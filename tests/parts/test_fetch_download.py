"""Large files over a bad network: what arrives is the published file, whole and of one version, or an error."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_server import ReleaseServer

from slotd.core.schema import Limits
from slotd.errors import NoSpace, SourceFailed
from slotd.host.download import Downloaded, Order, download
from slotd.host.fetch import Pace, credential
from slotd.host.localfile import copy
from slotd.host.plainfile import read_plain

LIMITS = Limits(least_bytes_per_s=1024)
QUICK = Pace(connect_s=2, answer_s=1, silence_s=0.5, tries=3, backoff_s=0.01, longest_backoff_s=0.05)
CONTENT = random.Random(1).randbytes(1_000_003)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


class Target:
    """The file that a worker is given, and what its progress told the daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[dict[str, Any]] = []

    def get(self, order: Order, *, deadline_s: float = 20.0, limits: Limits = LIMITS, pace: Pace = QUICK) -> Downloaded:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            return download(order, fd, limits, self.told.append, pace, deadline_s)
        finally:
            os.close(fd)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.told[-1]["state"])


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "partial")


def order(url: str, **more: Any) -> Order:
    return Order(url=url, limit_bytes=more.pop("limit_bytes", 10_000_000), **more)


def test_a_file_arrives_whole_with_its_digest(server: ReleaseServer, target: Target) -> None:
    done = target.get(order(server.file("app.tar", CONTENT)))
    assert (done.bytes, done.sha256) == (len(CONTENT), DIGEST)
    assert target.content == CONTENT
    assert target.told[-1]["bytes"] == target.told[-1]["total"] == len(CONTENT)


def test_an_empty_file_is_a_file_too(server: ReleaseServer, target: Target) -> None:
    assert target.get(order(server.file("empty", b""))).sha256 == hashlib.sha256(b"").hexdigest()


def test_a_broken_connection_goes_on_where_it_was(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("cut", times=3, after=200_000)
    done = target.get(order(url))
    assert done.sha256 == DIGEST
    assert [seen.headers.get("range") for seen in server.requests] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
        "bytes=600000-",
    ]
    assert all("if-range" in seen.headers for seen in server.requests[1:])


@pytest.mark.parametrize("fault", ["reset", "garbage", "chunked-cut", "length"])
def test_breaks_of_any_kind_are_tried_again(server: ReleaseServer, target: Target, fault: str) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave(fault, times=1)
    assert target.get(order(url)).sha256 == DIGEST
    assert target.content == CONTENT


def test_a_server_fault_that_passes_is_waited_out(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("status", times=2, status=503)
    assert target.get(order(url)).sha256 == DIGEST


def test_a_server_fault_that_stays_ends_in_an_error(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("status", status=500)
    with pytest.raises(SourceFailed, match=r"the server has a fault \(500\), 3 times"):
        target.get(order(url))


def test_where_no_time_is_left_for_another_try_the_fault_is_said(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("status", status=500)
    patient = Pace(tries=5, backoff_s=10)
    with pytest.raises(SourceFailed, match=r"the server has a fault \(500\)\. Try"):
        target.get(order(url), deadline_s=2, pace=patient)


def test_a_server_that_asks_for_a_long_wait_is_not_waited_for(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("status", status=503, headers={"Retry-After": "600"})
    with pytest.raises(SourceFailed) as failed:
        target.get(order(url))
    assert failed.value.retry_at > time.time() + 500
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_a_plain_no_is_not_asked_twice(server: ReleaseServer, target: Target, status: int) -> None:
    server.misbehave("status", status=status)
    with pytest.raises(SourceFailed):
        target.get(order(f"{server.url}/files/x"))
    assert len(server.requests) == 1


@pytest.mark.attack
def test_a_body_that_always_ends_early_ends_in_an_error(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("length", add=1000)
    with pytest.raises(SourceFailed, match="3 times"):
        target.get(order(url))


def test_a_killed_download_goes_on_in_the_next_worker(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("cut", after=300_000)
    with pytest.raises(SourceFailed):
        target.get(order(url), pace=Pace(tries=1))
    state = target.state
    server.behave()
    server.requests.clear()
    done = target.get(order(url, state=state, expected_digest=f"sha256:{DIGEST}"))
    assert done.sha256 == DIGEST
    assert target.content == CONTENT
    assert server.requests[0].headers["range"] == "bytes=300000-"


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", b"old" * 100_000)
    server.misbehave("cut", after=90_000)
    with pytest.raises(SourceFailed):
        target.get(order(url), pace=Pace(tries=1))
    server.behave()
    server.file("app.tar", CONTENT)
    assert target.get(order(url, state=target.state)).sha256 == DIGEST
    assert target.content == CONTENT


def test_a_file_that_changes_between_two_tries_is_fetched_from_the_start(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", b"old" * 200_000)
    server.misbehave("cut", times=1, after=1000)

    def replaced(said: dict[str, Any]) -> None:
        if said["bytes"] == 1000:
            server.file("app.tar", CONTENT)

    fd = os.open(target.path, os.O_RDWR | os.O_CREAT)
    assert download(order(url), fd, LIMITS, replaced, QUICK, 10).sha256 == DIGEST
    os.close(fd)
    assert server.requests[-1].headers["range"] == "bytes=1000-"
    assert target.content == CONTENT


def test_without_a_validator_a_part_is_thrown_away(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT, age_s=0)
    target.path.write_bytes(b"leftover of something else")
    server.misbehave("etag", etag="")
    assert target.get(order(url, state={"url": url, "validator": ""})).sha256 == DIGEST
    assert "range" not in server.requests[0].headers


def test_a_weak_etag_proves_nothing(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("etag", etag='W/"weak"')
    assert target.get(order(url)).state["validator"] == ""


def test_an_old_modification_time_is_a_proof_where_there_is_no_etag(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("etag", etag="")
    done = target.get(order(url))
    assert done.state["validator"].endswith("GMT")
    target.path.write_bytes(CONTENT[:500_000])
    assert target.get(order(url, state=done.state)).sha256 == DIGEST
    assert server.requests[-1].headers["range"] == "bytes=500000-"


def test_the_state_of_another_address_is_not_used(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    target.path.write_bytes(b"x" * 1000)
    done = target.get(order(url, state={"url": f"{url}.old", "validator": '"x"'}))
    assert done.sha256 == DIGEST
    assert "range" not in server.requests[0].headers


def test_a_whole_file_is_not_fetched_again(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    again = target.get(order(url, state=state, expected_size=len(CONTENT)))
    assert again.sha256 == DIGEST
    assert len(server.requests) == 1


def test_a_whole_file_of_unknown_size_is_confirmed_by_the_server(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    assert target.get(order(url, state=state)).sha256 == DIGEST
    assert server.requests[-1].headers["range"] == f"bytes={len(CONTENT)}-"
    assert target.content == CONTENT


def test_a_file_longer_than_the_servers_is_fetched_from_the_start(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    target.path.write_bytes(CONTENT + b"junk")
    assert target.get(order(url, state=state)).sha256 == DIGEST
    assert target.content == CONTENT


@pytest.mark.attack
@pytest.mark.parametrize(
    "lie", [{"shift": 1}, {"shift": -1}, {"shift": 99}, {"no_header": True}, {"shift": 0, "etag": '"other"'}]
)
def test_a_part_that_is_not_the_one_asked_for_is_never_glued_on(
    server: ReleaseServer, target: Target, lie: dict[str, Any]
) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    target.path.write_bytes(CONTENT[:1000])
    server.misbehave("wrong-range", times=1, **lie)
    assert target.get(order(url, state=state)).sha256 == DIGEST
    assert target.content == CONTENT


def test_a_server_that_ignores_ranges_is_taken_from_the_start(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    target.path.write_bytes(CONTENT[:1000])
    server.misbehave("no-range")
    assert target.get(order(url, state=state)).sha256 == DIGEST


def test_a_rotten_part_is_not_called_a_forgery(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    state = target.get(order(url)).state
    target.path.write_bytes(bytes(1000))  # what a power cut may leave of a file
    done = target.get(order(url, state=state, expected_digest=f"sha256:{DIGEST}"))
    assert done.sha256 == DIGEST
    assert target.content == CONTENT


@pytest.mark.attack
def test_a_forged_file_is_fetched_once_and_left_to_the_verification(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("corrupt")
    done = target.get(order(url, expected_digest=f"sha256:{DIGEST}"))
    assert done.sha256 != DIGEST
    assert done.sha256 == hashlib.sha256(target.content).hexdigest()
    assert len(server.requests) == 1


@pytest.mark.attack
def test_a_size_that_differs_from_the_releases_is_refused_before_a_byte_is_stored(
    server: ReleaseServer, target: Target
) -> None:
    url = server.file("app.tar", CONTENT)
    with pytest.raises(SourceFailed, match="the server has 1000003 bytes, the release says 999"):
        target.get(order(url, expected_size=999))
    assert target.content == b""


@pytest.mark.attack
def test_a_body_without_a_length_is_held_to_the_releases_size(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("no-length", after=5000)
    with pytest.raises(SourceFailed, match="it has 5000 bytes, the release says 1000003"):
        target.get(order(url, expected_size=len(CONTENT)))
    with pytest.raises(SourceFailed, match="larger than the 1000 bytes that the release says"):
        target.get(order(url, expected_size=1000))


@pytest.mark.attack
def test_more_than_the_limit_is_refused_by_its_announced_length(server: ReleaseServer, target: Target) -> None:
    with pytest.raises(SourceFailed, match="larger than 1000 bytes"):
        target.get(order(server.file("app.tar", CONTENT), limit_bytes=1000))
    assert target.content == b""


@pytest.mark.attack
def test_a_body_that_never_ends_stops_at_the_limit(server: ReleaseServer, target: Target) -> None:
    server.misbehave("endless")
    with pytest.raises(SourceFailed, match="larger than 300000 bytes"):
        target.get(order(f"{server.url}/files/x", limit_bytes=300_000))
    assert target.path.stat().st_size <= 300_000


@pytest.mark.attack
def test_a_drip_fails_by_the_least_speed(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("drip", interval_s=0.05, piece=10)
    start = time.monotonic()
    with pytest.raises(SourceFailed, match="bytes came in") as failed:
        target.get(order(url), deadline_s=60)
    assert "least speed is 1024" in failed.value.hint
    assert time.monotonic() - start < 3
    assert len(server.requests) == 1


def test_a_slow_but_steady_server_is_let_be(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT[:20_000])
    server.misbehave("drip", interval_s=0.05, piece=500)
    assert target.get(order(url)).bytes == 20_000


def test_silence_is_a_broken_connection(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("silence", times=1)
    assert target.get(order(url)).sha256 == DIGEST


def test_the_deadline_is_for_the_whole(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    server.misbehave("drip", interval_s=0.05, piece=5000)
    start = time.monotonic()
    with pytest.raises(SourceFailed, match=r"took longer than 0\.8 s"):
        target.get(order(url), deadline_s=0.8)
    assert time.monotonic() - start < 2


def test_the_bandwidth_is_kept(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT[:300_000])
    start = time.monotonic()
    assert target.get(order(url, bandwidth=lambda: 300_000)).bytes == 300_000
    assert time.monotonic() - start > 0.7


def test_a_bandwidth_below_the_least_speed_is_no_drip(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT[:2000])
    limits = Limits(least_bytes_per_s=1_000_000)
    assert target.get(order(url, bandwidth=lambda: 2000), limits=limits).bytes == 2000


def test_redirects_to_a_mirror_are_followed_again_on_resuming(server: ReleaseServer, target: Target) -> None:
    server.file("mirror/app.tar", CONTENT)
    server.misbehave("redirect", "/files/app.tar", to="/files/mirror/app.tar")
    server.misbehave("cut", "/files/mirror/*", times=1, after=4000)
    assert target.get(order(f"{server.url}/files/app.tar")).sha256 == DIGEST
    assert server.seen("/files/mirror/*")[-1].headers["range"] == "bytes=4000-"


@pytest.mark.attack
def test_a_token_does_not_follow_to_the_mirror(server: ReleaseServer, target: Target) -> None:
    with ReleaseServer() as mirror:
        mirror.file("app.tar", CONTENT)
        server.misbehave("redirect", to=f"{mirror.url}/files/app.tar")
        target.get(order(f"{server.url}/files/app.tar", credential=credential("s3cret", server.url)))
        assert server.requests[0].headers["authorization"] == "Bearer s3cret"
        assert server.requests[0].headers["accept"] == "application/octet-stream"
        assert "authorization" not in mirror.requests[0].headers


def test_a_full_disk_is_told_as_such(server: ReleaseServer, target: Target) -> None:
    url = server.file("app.tar", CONTENT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(NoSpace, match="no space is left after 100000 bytes"):
            target.get(order(url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.get(order(url, state=target.state)).sha256 == DIGEST


def test_a_copy_from_a_folder_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(CONTENT)
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    done = copy(tmp_path.resolve() / "app.tar", fd, 10_000_000, lambda said: None)
    os.close(fd)
    assert (done.bytes, done.sha256) == (len(CONTENT), DIGEST)
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.attack
def test_a_copy_follows_no_link(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "real").mkdir()
    (root / "real" / "app.tar").write_bytes(b"secret")
    (root / "link.tar").symlink_to(root / "real" / "app.tar")
    (root / "linked").symlink_to(root / "real")
    os.mkfifo(root / "fifo")
    for name in ("link.tar", "linked/app.tar"):
        with pytest.raises(SourceFailed, match="symbolic link"):
            read_plain(root / name, 100)
    for name, why in (("fifo", "not a regular file"), ("real", "not a regular file"), ("none", "No such file")):
        with pytest.raises(SourceFailed, match=why):
            read_plain(root / name, 100)
    with pytest.raises(SourceFailed, match="not an absolute path"):
        read_plain(root / "linked" / ".." / "x", 100)
    with pytest.raises(SourceFailed, match="larger than 5 bytes"):
        read_plain(root / "real" / "app.tar", 5)
    assert read_plain(root / "real" / "app.tar", 6) == b"secret"


@pytest.mark.attack
def test_a_copy_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path.resolve() / "app.tar"
    path.write_bytes(CONTENT)
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    with pytest.raises(SourceFailed, match="more than 10"):
        copy(path, fd, 10, lambda said: None)
    with pytest.raises(SourceFailed, match="expected 7"):
        copy(path, fd, 10_000_000, lambda said: None, expected_size=7)

    def grow(said: dict[str, Any]) -> None:
        with path.open("ab") as more:
            more.write(b"more")

    with pytest.raises(SourceFailed, match="being written to"):
        copy(path, fd, 10_000_000, grow)
    os.close(fd)
