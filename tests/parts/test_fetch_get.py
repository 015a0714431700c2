"""The door to HTTP against a server that misbehaves: every answer is bounded, and no secret goes astray."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.release_server import Authority, ReleaseServer

from slotd.core.schema import Limits
from slotd.errors import Misconfigured, SourceFailed
from slotd.host import fetch
from slotd.host.fetch import Broken, Pace, Page, Session, credential, origin, probe_get

LIMITS = Limits()
QUICK = Pace(connect_s=2, answer_s=0.4, silence_s=0.4, tries=2, backoff_s=0.01)


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    fetch.tls_context.cache_clear()
    yield
    fetch.tls_context.cache_clear()


def read(url: str, *, limit: int = 65536, deadline_s: float = 5.0, secret: fetch.Credential | None = None) -> Page:
    with Session(LIMITS, deadline_s, secret, QUICK) as session:
        return session.read(url, limit)


def test_a_page_arrives_with_its_headers_in_lower_case(server: ReleaseServer) -> None:
    page = read(server.file("a.txt", b"hello"))
    assert (page.status, page.body) == (200, b"hello")
    assert page.headers["content-length"] == "5"
    asked = server.requests[0].headers
    assert asked["accept-encoding"] == "identity"
    assert asked["user-agent"].startswith("slotd/")
    assert "cookie" not in asked


@pytest.mark.parametrize(
    "status, sentence",
    [
        (404, "there is nothing of that name (404)"),
        (401, "wants to know who asks (401)"),
        (500, "the server has a fault (500)"),
        (418, "answered with status 418"),
    ],
)
def test_a_bad_status_is_told_in_a_sentence(server: ReleaseServer, status: int, sentence: str) -> None:
    server.misbehave("status", status=status, body="<script>hostile</script>")
    with pytest.raises(SourceFailed) as failed:
        read(f"{server.url}/files/x")
    assert sentence in failed.value.message
    assert "hostile" not in str(failed.value)


def test_a_used_up_limit_says_when_to_come_back(server: ReleaseServer) -> None:
    reset = int(time.time()) + 600
    server.misbehave("rate-limit", reset=reset)
    with pytest.raises(SourceFailed, match="limit of requests is used up until") as failed:
        read(f"{server.url}/files/x")
    assert failed.value.retry_at == reset


def test_retry_after_beats_the_reset_time(server: ReleaseServer) -> None:
    server.misbehave("rate-limit", reset=time.time() + 600, retry_after=30, status=429)
    with pytest.raises(SourceFailed) as failed:
        read(f"{server.url}/files/x")
    assert 25 < failed.value.retry_at - time.time() <= 30


@pytest.mark.attack
def test_a_server_cannot_silence_us_for_longer_than_a_day(server: ReleaseServer) -> None:
    server.misbehave("rate-limit", retry_after=999_999_999)
    with pytest.raises(SourceFailed) as failed:
        read(f"{server.url}/files/x")
    assert failed.value.retry_at <= time.time() + 86400


@pytest.mark.attack
def test_a_page_past_its_limit_is_refused_by_its_announced_length(server: ReleaseServer) -> None:
    url = server.file("big", b"x" * 2000)
    with pytest.raises(SourceFailed, match="larger than 1999 bytes"):
        read(url, limit=1999)
    assert read(url, limit=2000).body == b"x" * 2000


@pytest.mark.attack
def test_a_body_that_never_ends_is_cut_at_the_limit(server: ReleaseServer) -> None:
    server.misbehave("endless")
    start = time.monotonic()
    with pytest.raises(SourceFailed, match="larger than 1048576 bytes"):
        read(f"{server.url}/files/x", limit=1024**2)
    assert time.monotonic() - start < 4


@pytest.mark.attack
def test_a_drip_ends_at_the_deadline_of_the_whole(server: ReleaseServer) -> None:
    url = server.file("slow", b"x" * 1000)
    server.misbehave("drip", interval_s=0.02)
    start = time.monotonic()
    with pytest.raises(SourceFailed, match=r"took longer than 0\.6 s"):
        read(url, deadline_s=0.6)
    assert time.monotonic() - start < 2


@pytest.mark.attack
@pytest.mark.parametrize("fault", ["drip-headers", "drip-framing"])
def test_bytes_that_are_no_progress_do_not_hold_us(server: ReleaseServer, fault: str) -> None:
    server.misbehave(fault, interval_s=0.02)
    start = time.monotonic()
    with pytest.raises(Broken, match="the server fell silent"):
        read(f"{server.url}/files/x")
    assert time.monotonic() - start < 2


@pytest.mark.attack
def test_silence_in_the_middle_is_noticed(server: ReleaseServer) -> None:
    url = server.file("half", b"x" * 1000)
    server.misbehave("silence")
    with pytest.raises(Broken, match="the server fell silent"):
        read(url)


@pytest.mark.attack
def test_silence_does_not_make_an_unmeasured_body_look_whole(server: ReleaseServer) -> None:
    url = server.file("half", b"x" * 1000)
    server.misbehave("drip", interval_s=3600, piece=500)
    with pytest.raises(Broken, match="the server fell silent"):
        read(url)


@pytest.mark.parametrize("fault", ["cut", "chunked-cut", "length", "garbage", "reset"])
def test_a_connection_that_breaks_is_told_as_broken(server: ReleaseServer, fault: str) -> None:
    url = server.file("x", b"x" * 1000)
    server.misbehave(fault)
    with pytest.raises(Broken, match=r"cannot read http://127\.0\.0\.1"):
        read(url)


@pytest.mark.attack
def test_an_encoded_answer_is_refused(server: ReleaseServer) -> None:
    url = server.file("x", b"x" * 1000)
    server.misbehave("gzip")
    with pytest.raises(SourceFailed, match="encoded it"):
        read(url)


def test_a_closed_port_says_so() -> None:
    with ReleaseServer() as server:
        url = server.url
    with pytest.raises(Broken, match="connection refused"):
        read(f"{url}/files/x")


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "file:///etc/passwd", "http://", "http://a b/", "http://127.0.0.1\\@evil/", "http://[::1/", "x"],
)
def test_what_is_no_web_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(SourceFailed, match="cannot use the address"):
        read(address)


def test_redirects_are_followed_to_their_end(server: ReleaseServer) -> None:
    server.file("there", b"found")
    server.misbehave("redirect", "/files/here", to="/files/there")
    page = read(f"{server.url}/files/here")
    assert page.body == b"found"
    assert page.url == f"{server.url}/files/there"


@pytest.mark.attack
def test_a_loop_of_redirects_ends(server: ReleaseServer) -> None:
    server.misbehave("redirect-loop")
    with pytest.raises(SourceFailed, match="redirects more than 5 times"):
        read(f"{server.url}/files/x")
    assert len(server.requests) == LIMITS.redirects + 1


@pytest.mark.attack
@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "gopher://x/", "http://exa mple/", "\\\\host\\x"])
def test_a_redirect_to_something_else_is_refused(server: ReleaseServer, target: str) -> None:
    server.misbehave("redirect", to=target)
    with pytest.raises(SourceFailed, match=r"it redirects|cannot use the address"):
        read(f"{server.url}/files/x")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("trusted")
def test_tls_is_checked_against_the_systems_certificates(authority: Authority) -> None:
    with ReleaseServer(tls=authority) as server:
        assert read(server.file("x", b"safe")).body == b"safe"


@pytest.mark.attack
def test_a_certificate_of_nobody_we_know_is_refused(authority: Authority) -> None:
    fetch.tls_context.cache_clear()
    with ReleaseServer(tls=authority) as server:
        with pytest.raises(Broken, match="certificate is not valid here") as failed:
            read(server.file("x", b"safe"))
    assert "own authority" in failed.value.hint
    assert not server.requests


@pytest.mark.attack
@pytest.mark.usefixtures("trusted")
def test_https_never_becomes_http(authority: Authority, server: ReleaseServer) -> None:
    server.file("x", b"tampered with on the way")
    with ReleaseServer(tls=authority) as safe:
        safe.misbehave("redirect", to=f"{server.url}/files/x")
        with pytest.raises(SourceFailed, match="redirects from https to plain http"):
            read(f"{safe.url}/files/x")
    assert not server.requests


@pytest.mark.attack
def test_a_credential_is_shown_to_its_own_host_only(server: ReleaseServer) -> None:
    with ReleaseServer() as stranger:
        stranger.file("x", b"elsewhere")
        server.misbehave("redirect", to=f"{stranger.url}/files/x")
        page = read(f"{server.url}/files/x", secret=credential("s3cret", server.url))
        assert page.body == b"elsewhere"
        assert server.requests[0].headers["authorization"] == "Bearer s3cret"
        assert all("authorization" not in seen.headers for seen in stranger.requests)
        assert "s3cret" not in str(stranger.requests)


def test_a_credential_comes_back_with_a_redirect_to_its_own_host(server: ReleaseServer) -> None:
    server.file("there", b"private")
    server.misbehave("redirect", "/files/here", to=f"{server.url}/files/there")
    read(f"{server.url}/files/here", secret=credential("user:pass", server.url))
    assert [seen.headers["authorization"] for seen in server.requests] == ["Basic dXNlcjpwYXNz"] * 2


def test_user_and_password_in_an_address_stay_with_its_host_and_out_of_messages(server: ReleaseServer) -> None:
    with ReleaseServer() as stranger:
        server.misbehave("redirect", "/files/out", to=f"{stranger.url}/files/x")
        address = server.url.replace("http://", "http://user:p%40ss@")
        with pytest.raises(SourceFailed) as failed:
            read(f"{address}/files/out")
        assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
        assert "authorization" not in stranger.requests[0].headers
    with pytest.raises(SourceFailed) as failed:
        read(f"{address}/files/none?token=hidden")
    assert "p%40ss" not in str(failed.value)
    assert "hidden" not in str(failed.value)


@pytest.mark.attack
def test_a_server_cannot_put_user_and_password_into_a_redirect(server: ReleaseServer) -> None:
    with ReleaseServer() as stranger:
        stranger.file("x", b"-")
        server.misbehave("redirect", to=stranger.url.replace("http://", "http://planted:it@") + "/files/x")
        read(f"{server.url}/files/x")
        assert "authorization" not in stranger.requests[0].headers


def test_an_unusable_credential_is_refused_without_showing_it() -> None:
    for secret in ("", "  ", "two\nlines", "späßchen"):
        with pytest.raises(Misconfigured) as failed:
            credential(secret, "example.org")
        assert not secret.strip() or secret not in str(failed.value)
    assert "s3cret" not in repr(credential("s3cret", "example.org"))


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("HTTPS://Example.org/x?y") == ("https", "example.org", 443)
    assert origin("https://example.org:443") == origin("https://example.org/other")
    assert origin("http://example.org") != origin("https://example.org")
    assert origin("https://example.org:8443") != origin("https://example.org")
    assert credential("t", "example.org").origin == ("https", "example.org", 443)


class Proxy(BaseHTTPRequestHandler):
    """A forward proxy of the plain kind: GET with a whole address. `asked` are those that came through it."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.path) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def test_the_proxy_that_the_environment_names_is_used_but_for_those_that_need_none(
    server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.file("x", b"through")
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.server_address[1]}")
        assert read(url).body == b"through"
        assert Proxy.asked == [url]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert read(url).body == b"through"
        assert Proxy.asked == [url]
        proxy.shutdown()


def test_a_proxy_that_is_away_or_none_is_named_as_such(server: ReleaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.file("x", b"through")
    monkeypatch.setenv("http_proxy", "gopher://user:secret@proxy:1")
    with pytest.raises(Misconfigured, match="no address of an HTTP proxy") as caught:
        read(url)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceFailed):
        read(url)


def test_pages_of_one_session_share_a_connection_and_a_deadline(server: ReleaseServer) -> None:
    url = server.file("x", b"1")
    with Session(LIMITS, 0.5, None, QUICK) as session:
        assert session.read(url, 10).body == b"1"
        session.rest(10)
        with pytest.raises(SourceFailed, match=r"took longer than 0\.5 s"):
            session.read(url, 10)


async def test_a_probe_gets_status_and_body(server: ReleaseServer) -> None:
    url = server.file("health", b'{"ok": true}')
    assert await probe_get(url, timeout_s=2, limit_bytes=100) == (200, b'{"ok": true}')
    assert (await probe_get(f"{server.url}/files/none", timeout_s=2, limit_bytes=100))[0] == 404


async def test_a_probe_does_not_follow_redirects(server: ReleaseServer) -> None:
    server.misbehave("redirect", to="/files/there")
    assert (await probe_get(f"{server.url}/files/x", timeout_s=2, limit_bytes=100))[0] == 302


@pytest.mark.parametrize("fault", ["drip-headers", "drip-framing", "silence", "slow-start", "drip"])
async def test_a_probe_ends_in_time_whatever_the_server_does(server: ReleaseServer, fault: str) -> None:
    url = server.file("x", b"x" * 1000)
    server.misbehave(fault, interval_s=0.05)
    start = time.monotonic()
    with pytest.raises(SourceFailed, match=r"gave no answer within 0\.3 s"):
        await probe_get(url, timeout_s=0.3, limit_bytes=10_000)
    assert time.monotonic() - start < 1.5


async def test_a_probe_reads_no_more_than_it_may(server: ReleaseServer) -> None:
    server.misbehave("endless")
    with pytest.raises(SourceFailed, match="gave more than 1000 bytes"):
        await probe_get(f"{server.url}/files/x", timeout_s=2, limit_bytes=1000)


async def test_a_probe_of_a_closed_port_says_so() -> None:
    with ReleaseServer() as server:
        url = server.url
    with pytest.raises(SourceFailed, match="failed: "):
        await probe_get(url, timeout_s=2, limit_bytes=1000)


@pytest.mark.usefixtures("trusted")
async def test_a_probe_speaks_tls(authority: Authority) -> None:
    with ReleaseServer(tls=authority) as server:
        assert await probe_get(server.file("x", b"1"), timeout_s=2, limit_bytes=10) == (200, b"1")


def test_the_release_server_runs_by_itself(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    program = Path(__file__).parents[1] / "release_server.py"
    started = subprocess.Popen(
        [sys.executable, str(program), "--root", str(tmp_path), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        url = started.stdout.readline().strip()
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "x").write_bytes(b"served")
        assert read(f"{url}/files/x").body == b"served"
        assert [seen["path"] for seen in json.loads(read(f"{url}/_control/requests").body)] == ["/files/x"]
    finally:
        started.terminate()
        assert started.wait(5) == 0
