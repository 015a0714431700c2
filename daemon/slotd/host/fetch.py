"""The door to HTTP: one bounded GET for the list and fetch workers, and one for the daemon's probes.

What a server can do to us is bounded here: bytes, seconds (for the whole, not for each read), redirects,
silence. https never becomes http, a credential never leaves its own host, and an answer in another encoding than
the bytes that were asked for is refused. Cookies and `.netrc` are not used; a proxy is, if the environment names
one (probes use none). httpx is imported late: it takes 70 ms, and the daemon starts without it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import unquote

from slotd import __version__
from slotd.core.answer import refusal, shown, too_far, too_large, too_late
from slotd.core.schema import Limits
from slotd.core.sourcetypes import BEARER
from slotd.errors import Misconfigured, SourceFailed
from slotd.host.wire import Watchdog, Ways, cause

if TYPE_CHECKING:
    import httpx

REDIRECTS = (301, 302, 303, 307, 308)
AGENT = f"slotd/{__version__}"


class Origin(NamedTuple):
    """Whom a credential belongs to. `host` is in the form of the wire: lower case, punycode."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Credential:
    """The value of a header, `name` (some servers have one of their own), and the one origin that may see it."""

    header: str = field(repr=False)
    origin: Origin
    name: str = "Authorization"


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient we are, in seconds. The deadline of the whole comes with the task."""

    connect_s: float = 20.0
    answer_s: float = 60.0  # from the request to the end of the headers
    silence_s: float = 30.0  # without a single byte of the body; also the window of the least speed
    tries: int = 5  # in a row that brought nothing
    most_tries: int = 50
    backoff_s: float = 1.0  # doubled after each
    longest_backoff_s: float = 30.0


class Broken(SourceFailed):
    """The connection or the server failed in a way that another try may mend."""


def origin(url: str) -> Origin:
    """Scheme, host and port of an http or https address. Raises `SourceFailed` for any other."""
    return _origin(_parse(url))


def credential(secret: str, owner: str, token: str = BEARER) -> Credential:
    """`secret` as an administrator keeps it: a bare token, `user:password`, or a whole `Scheme value`. `owner`: an
    address, or `host[:port]`, which means https. `token`: what stands before a bare one. Raises `Misconfigured`.
    """
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        hint = "It holds a token, `user:password`, or what stands after `Authorization:`."
        raise Misconfigured("cannot use the credential: it is empty or not one line of plain ASCII", hint=hint)
    belongs = origin(owner if "://" in owner else f"https://{owner}")
    if " " in secret or ":" in secret:
        return Credential(secret if " " in secret else _basic(secret), belongs)
    name, _, scheme = token.partition(":")
    return Credential(f"{scheme} {secret}".strip(), belongs, name)


@cache
def tls_context() -> ssl.SSLContext:
    """Trusts the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`; never a library's bundle."""
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole answer. Header names are lower case; `url` is where redirects led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    url: str
    had_credential: bool
    _response: httpx.Response
    _session: Session

    @property
    def length(self) -> int | None:
        """What Content-Length says, if it says something usable."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. Raises `Broken` if it ends early or falls silent, `SourceFailed` at the deadline."""
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise SourceFailed(
                f"cannot read {shown(self.url)}: the server encoded it ({encoding[:20]!r}) though asked not to",
                hint="What arrives must be the published bytes, or no digest fits. Have it send them as they are.",
            )
        session = self._session
        session.expect_bytes()
        with session.translated(self.url):
            for chunk in self._response.iter_raw():
                session.expect_nothing()
                yield chunk
                session.expect_bytes()

    def body(self, limit_bytes: int, hint: str = "") -> bytes:
        """The whole body. Raises as `chunks`, and `SourceFailed` (with `hint`) if it is longer than `limit_bytes`."""
        body = bytearray()
        if (self.length or 0) <= limit_bytes:
            for chunk in self.chunks():
                body += chunk
                if len(body) > limit_bytes:
                    break
            else:
                return bytes(body)
        raise too_large(self.url, limit_bytes, hint)

    def refuse(self) -> NoReturn:
        """Raises the `SourceFailed` that says what the status means."""
        raise refusal(self.status, self.headers, self.url, time.time(), had_credential=self.had_credential)


def _transport(proxy: str) -> httpx.HTTPTransport:
    import httpx

    one = httpx.Limits(max_connections=1)  # at a time, so that the watchdog knows which
    way = httpx.Proxy(proxy) if proxy else None
    return httpx.HTTPTransport(verify=tls_context(), trust_env=False, limits=one, proxy=way)


class Session:
    """GETs, one after another, within one deadline. A context manager; not for several threads."""

    def __init__(
        self, limits: Limits, deadline_s: float, credential: Credential | None = None, pace: Pace | None = None
    ) -> None:
        self.pace = pace or Pace()
        self.deadline_s = deadline_s
        self._redirects = limits.redirects
        self._credential = credential
        self._end = time.monotonic() + deadline_s
        self._ways, self._dog = Ways(_transport), Watchdog()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ways.close()
        self._dog.close()

    def renew(self, deadline_s: float) -> None:
        """A new deadline, for a further task on the same connections."""
        self._end = time.monotonic() + deadline_s
        self._dog.allow(self._end)

    def left_s(self) -> float:
        return self._end - time.monotonic()

    def rest(self, pause_s: float) -> None:
        """Sleeps, but not past the deadline."""
        time.sleep(max(0.0, min(pause_s, self.left_s())))

    def expect_bytes(self) -> None:
        """From now on the server has `silence_s` for its next byte."""
        self._dog.allow(min(self._end, time.monotonic() + self.pace.silence_s))

    def expect_nothing(self) -> None:
        """We are the slow ones now (a full disk queue, a bandwidth limit): only the deadline counts."""
        self._dog.allow(self._end)

    def read(self, url: str, limit_bytes: int, headers: Mapping[str, str] | None = None) -> Page:
        """A whole answer, 200 or 304, of at most `limit_bytes`. Raises `SourceFailed`; `Broken` if a try may help."""
        with self.get(url, headers) as reply:
            if reply.status in (502, 503, 504) and "retry-after" not in reply.headers:
                raise Broken(
                    f"cannot read {shown(url)}: the server has a fault ({reply.status})", hint="Try again later."
                )
            if reply.status not in (200, 304):
                reply.refuse()
            body = reply.body(limit_bytes) if reply.status == 200 else b""
            return Page(reply.status, reply.headers, body, reply.url)

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Reply]:
        """GET `url` and follow redirects. Gives any answer that is not one; its body is read in the `with` block."""
        parsed = _parse(url)
        secret = _own_secret(parsed) or self._credential
        for _ in range(self._redirects + 1):
            response, had_credential = self._send(parsed, headers or {}, secret)
            try:
                if response.status_code not in REDIRECTS:
                    named = {name.lower(): value for name, value in response.headers.items()}
                    yield Reply(response.status_code, named, str(parsed), had_credential, response, self)
                    return
                parsed = _follow(parsed, response.headers.get("location", ""))
            finally:
                self._dog.allow(self._end)
                with contextlib.suppress(Exception):
                    response.close()
        raise too_far(url, self._redirects)

    def _send(
        self, url: httpx.URL, headers: Mapping[str, str], secret: Credential | None
    ) -> tuple[httpx.Response, bool]:
        import httpx

        if self.left_s() <= 0:
            raise too_late(str(url), self.deadline_s)
        self._dog.has_cut = False
        sent, is_secret = _headers(url, headers, secret)
        patience_s = self.pace.answer_s + 1  # a second line: the watchdog comes first
        waits = {
            "connect": min(self.pace.connect_s, self.left_s()),
            "pool": 1.0,
            "read": patience_s,
            "write": patience_s,
        }
        request = httpx.Request(
            "GET",
            url.copy_with(userinfo=b"", fragment=None),
            headers=sent,
            extensions={"timeout": waits, "trace": self._trace},
        )
        self._dog.allow(min(self._end, time.monotonic() + self.pace.answer_s))
        with self.translated(str(url)):
            return self._ways.to(url.scheme, url.host).handle_request(request), is_secret

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._dog.watch(info["return_value"].get_extra_info("socket"))

    @contextlib.contextmanager
    def translated(self, url: str) -> Iterator[None]:
        """The HTTP library's errors as ours."""
        import httpx

        try:
            yield
        except (httpx.TransportError, OSError) as error:
            if self.left_s() <= 0:
                raise too_late(url, self.deadline_s) from None
            if self._dog.has_cut or isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)):
                self._fell_silent(url)
            raise Broken(f"cannot read {shown(url)}: {_why(error)}", hint=_hint(error)) from None
        if self.left_s() <= 0:
            raise too_late(url, self.deadline_s)
        if self._dog.has_cut:  # a body that is ended by the end of the connection looks whole
            self._fell_silent(url)

    def _fell_silent(self, url: str) -> NoReturn:
        raise Broken(f"cannot read {shown(url)}: the server fell silent", hint="Try again later.")


async def probe_get(url: str, *, timeout_s: float, limit_bytes: int) -> tuple[int, bytes]:
    """Status and body of one GET, for health probes: no redirects, no proxies, a connection of its own. Raises
    `SourceFailed` if there is no whole answer of at most `limit_bytes` within `timeout_s`.
    """
    # A task of its own: the HTTP library's own cancel scopes and `asyncio.timeout` do not mix.
    asking = asyncio.create_task(_probe(url, limit_bytes))
    try:
        done, _ = await asyncio.wait({asking}, timeout=timeout_s)
    finally:
        if not asking.done():
            asking.cancel()
            await asyncio.wait({asking})
    if not done:
        raise SourceFailed(f"GET {shown(url)} gave no answer within {timeout_s:g} s")
    return asking.result()


async def _probe(url: str, limit_bytes: int) -> tuple[int, bytes]:
    httpx: Any = await asyncio.to_thread(importlib.import_module, "httpx")
    parsed = _parse(url)
    # TLS needs the certificates read, which blocks; plain http must not pay for it at every probe.
    verify: Any = await asyncio.to_thread(tls_context) if parsed.scheme == "https" else False
    sent, _ = _headers(parsed, {"Connection": "close"}, _own_secret(parsed))
    body = bytearray()
    try:
        async with httpx.AsyncHTTPTransport(verify=verify, trust_env=False) as transport:
            response = await transport.handle_async_request(
                httpx.Request("GET", parsed.copy_with(userinfo=b"", fragment=None), headers=sent)
            )
            async with contextlib.aclosing(response):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit_bytes:
                        raise SourceFailed(f"GET {shown(url)} gave more than {limit_bytes} bytes")
                return response.status_code, bytes(body)
    except (httpx.TransportError, OSError) as error:
        raise SourceFailed(f"GET {shown(url)} failed: {_why(error)}") from None


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


def _parse(url: str) -> httpx.URL:
    # One parser for the checks and for the request: where two disagree on an address there is a way around the checks.
    import httpx

    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise SourceFailed(f"cannot use the address {shown(url)!r}: it holds characters that an address cannot have")
    try:
        parsed = httpx.URL(url)
        port = parsed.port
    except (httpx.InvalidURL, ValueError):
        raise SourceFailed(f"cannot use the address {shown(url)!r}: it is not a valid address") from None
    if parsed.scheme not in ("http", "https") or not parsed.raw_host or port == 0:
        raise SourceFailed(f"cannot use the address {shown(url)!r}: it is not an http or https address")
    return parsed


def _origin(url: httpx.URL) -> Origin:
    port = url.port or (443 if url.scheme == "https" else 80)
    return Origin(url.scheme, url.raw_host.decode("ascii").lower(), port)


def _own_secret(url: httpx.URL) -> Credential | None:
    """The user and password in an address that the administrator wrote (`https://user:password@host/…`)."""
    return Credential(_basic(unquote(url.userinfo.decode("ascii"))), _origin(url)) if url.userinfo else None


def _headers(url: httpx.URL, more: Mapping[str, str], secret: Credential | None) -> tuple[dict[str, str], bool]:
    sent = {"Accept": "*/*", "User-Agent": AGENT, **more, "Accept-Encoding": "identity"}
    if secret is None or secret.origin != _origin(url):
        return sent, False
    return sent | {secret.name: secret.header}, True


def _follow(url: httpx.URL, location: str) -> httpx.URL:
    import httpx

    try:
        if not location or not location.isascii() or not location.isprintable() or set(location) & set(" \\"):
            raise ValueError(location)
        target = _parse(str(url.join(location)))
    except (httpx.InvalidURL, ValueError, SourceFailed):
        raise SourceFailed(
            f"cannot read {shown(str(url))}: it redirects to {shown(location)!r}, which is no http or https address",
            hint="Give an address that does not lead there, or tell whoever runs the server.",
        ) from None
    if url.scheme == "https" and target.scheme != "https":
        raise SourceFailed(
            f"cannot read {shown(str(url))}: it redirects from https to plain http",
            hint="On the way there anybody could change what arrives. Use an address that stays with https.",
        )
    # A user and password in a Location is the server's idea, not the administrator's.
    return target.copy_with(userinfo=b"")


def _why(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return "the server does not answer"
    return cause(error) or (
        "the server broke off" if isinstance(error, httpx.ProtocolError) else "the connection broke"
    )


def _hint(error: Exception) -> str:
    own = "If the server has a certificate of your own authority, add that to the system's certificates."
    return own if "certificate" in _why(error) else "Is the server reachable from this host?"
