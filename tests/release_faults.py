"""The misbehaviours of the release server, by name in `FAULTS`. Each answers one request as no server should."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from tests.release_pages import Handler

PIECE = 64 * 1024


@dataclass
class Fault:
    """One misbehaviour, for paths (without query) that fit the pattern. `times` None: until told otherwise."""

    kind: str
    path: str = "*"
    times: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str, default: float) -> float:
        return float(self.options.get(name, default))


def _status(handler: Handler, fault: Fault) -> None:
    """options: status, headers, body"""
    body = str(fault.options.get("body", "no")).encode()
    handler.answer(int(fault.options.get("status", 500)), body, fault.options.get("headers"))


def _rate_limit(handler: Handler, fault: Fault) -> None:
    """options: status (403), reset (epoch), retry_after (s)"""
    headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0"}
    if "reset" in fault.options:
        headers["X-RateLimit-Reset"] = str(int(fault.options["reset"]))
    if "retry_after" in fault.options:
        headers["Retry-After"] = str(fault.options["retry_after"])
    handler.answer(int(fault.options.get("status", 403)), b'{"message": "API rate limit exceeded"}', headers)


def _redirect(handler: Handler, fault: Fault) -> None:
    """options: to (address; {path} is the path asked for), status"""
    to = str(fault.options["to"]).replace("{path}", handler.path)
    handler.answer(int(fault.options.get("status", 302)), b"", {"Location": to})


def _redirect_loop(handler: Handler, fault: Fault) -> None:
    handler.answer(302, b"", {"Location": handler.path})


def _endless(handler: Handler, fault: Fault) -> None:
    """A chunked body without an end. options: interval_s"""
    handler.start(200, {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"})
    chunk = b"%x\r\n%s\r\n" % (PIECE, b"x" * PIECE)
    handler.piecemeal(iter(lambda: chunk, b""), fault.number("interval_s", 0))


def _drip(handler: Handler, fault: Fault) -> None:
    """The right body, byte by byte. options: interval_s (0.05), piece (1), etag"""
    body = handler.content()
    piece = int(fault.number("piece", 1))
    headers = {"Content-Length": str(len(body))}
    handler.start(200, headers | ({"ETag": str(fault.options["etag"])} if "etag" in fault.options else {}))
    handler.piecemeal((body[i : i + piece] for i in range(0, len(body), piece)), fault.number("interval_s", 0.05))


def _drip_headers(handler: Handler, fault: Fault) -> None:
    """Headers without an end, byte by byte. options: interval_s"""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.piecemeal(iter(lambda: b"x", b""), fault.number("interval_s", 0.05))


def _drip_framing(handler: Handler, fault: Fault) -> None:
    """A chunk's extension without an end: bytes arrive, the body does not. options: interval_s"""
    handler.start(200, {"Transfer-Encoding": "chunked"})
    handler.wfile.write(b"1;x=")
    handler.piecemeal(iter(lambda: b"x", b""), fault.number("interval_s", 0.05))


def _silence(handler: Handler, fault: Fault) -> None:
    """Half of the body, then nothing, with the connection open."""
    body = handler.content()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    handler.start(200, {"Content-Length": str(len(body)), "ETag": etag})
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.owner.stopping.wait(fault.number("seconds", 3600))
    handler.close_connection = True


def _slow_start(handler: Handler, fault: Fault) -> None:
    """options: seconds (1). Then as usual."""
    handler.owner.stopping.wait(fault.number("seconds", 1))
    handler.route()


def _cut(handler: Handler, fault: Fault) -> None:
    """Ends the connection after some bytes of a file, whole or part, headers as usual. options: after, hard"""
    body = handler.content()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    first = 0
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("range", ""))
    headers = {"ETag": etag}
    if asked and handler.headers.get("if-range") == etag:
        first = int(asked[1])
        headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    handler.start(206 if first else 200, headers | {"Content-Length": str(len(body) - first)})
    handler.wfile.write(body[first : first + int(fault.number("after", len(body) // 2))])
    handler.hang_up(hard=bool(fault.options.get("hard")))


def _length(handler: Handler, fault: Fault) -> None:
    """Lies in Content-Length. options: add (bytes, may be negative)"""
    body = handler.content()
    handler.close_connection = True
    handler.start(200, {"Content-Length": str(len(body) + int(fault.number("add", 1000))), "Connection": "close"})
    handler.wfile.write(body)


def _no_length(handler: Handler, fault: Fault) -> None:
    """A body that is ended by the end of the connection. options: after (bytes)"""
    body = handler.content()
    handler.close_connection = True
    handler.start(200, {"Connection": "close"})
    handler.wfile.write(body[: int(fault.number("after", len(body)))])


def _chunked_cut(handler: Handler, fault: Fault) -> None:
    """A chunked body whose last chunk never comes."""
    body = handler.content()
    handler.start(200, {"Transfer-Encoding": "chunked"})
    half = body[: len(body) // 2]
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
    handler.hang_up()


def _gzip(handler: Handler, fault: Fault) -> None:
    handler.answer(200, gzip.compress(handler.content()), {"Content-Encoding": "gzip"})


def _corrupt(handler: Handler, fault: Fault) -> None:
    """One bit of the body is not as published; all headers are."""
    body = bytearray(handler.content())
    body[len(body) // 2] ^= 1
    handler.answer(200, bytes(body), {"ETag": '"corrupt"'})


def _etag(handler: Handler, fault: Fault) -> None:
    """Serves the file with another ETag. options: etag ("" for none)"""
    pieces = [unquote(piece) for piece in urlsplit(handler.path).path.split("/")[1:]]
    handler.file(handler.owner.root.joinpath(*pieces), etag=str(fault.options.get("etag", "")))


def _no_range(handler: Handler, fault: Fault) -> None:
    pieces = [unquote(piece) for piece in urlsplit(handler.path).path.split("/")[1:]]
    handler.file(handler.owner.root.joinpath(*pieces), is_ranged=False)


def _wrong_range(handler: Handler, fault: Fault) -> None:
    """A 206 with another part than was asked for. options: shift (1), etag; no_header: without Content-Range"""
    body = handler.content()
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("range", ""))
    if not asked:
        return handler.route()
    first = max(0, int(asked[1]) - int(fault.number("shift", 1)))
    etag = str(fault.options.get("etag", handler.headers.get("if-range", "")))
    headers = {"ETag": etag, "Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}
    if fault.options.get("no_header"):
        del headers["Content-Range"]
    return handler.answer(206, body[first:], headers)


def _wrong_part(handler: Handler, fault: Fault) -> None:
    """A part beside the one that was asked for, said to be that. options: shift (1)"""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("range", ""))
    body = handler.content()
    if not asked or int(asked[1]) == 0 or handler.headers.get("if-range") is None:
        return handler.route()
    first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
    shift = int(fault.number("shift", 1))
    headers = {"ETag": handler.headers["if-range"], "Content-Range": f"bytes {first}-{last}/{len(body)}"}
    return handler.answer(206, body[max(0, first + shift) : last + 1 + shift], headers)


def _crumbs(handler: Handler, fault: Fault) -> None:
    """Of each part that was asked for the first byte, and no more."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("range", ""))
    body = handler.content()
    if not asked or (asked[2] and int(asked[2]) == len(body) - 1):
        return handler.route()
    first = int(asked[1])
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Content-Range": f"bytes {first}-{first}/{len(body)}"}
    return handler.answer(206, body[first : first + 1], headers)


def _huge_json(handler: Handler, fault: Fault) -> None:
    """options: bytes (64 MiB), unit (the JSON text that is repeated)"""
    unit = str(fault.options.get("unit", '{"tag_name": "1"},')).encode()
    size = int(fault.number("bytes", 64 * 1024**2))
    count = size // len(unit)
    handler.start(200, {"Content-Type": "application/json", "Content-Length": str(count * len(unit) + 2)})
    handler.wfile.write(b"[")
    many = unit * 4096
    for _ in range(count // 4096):
        handler.wfile.write(many)
    handler.wfile.write(unit * (count % 4096) + b"]")


def _deep_json(handler: Handler, fault: Fault) -> None:
    """options: depth (100000)"""
    depth = int(fault.number("depth", 100_000))
    handler.answer(200, b"[" * depth + b"]" * depth, {"Content-Type": "application/json"})


def _body(handler: Handler, fault: Fault) -> None:
    """options: body (text), type"""
    kind = str(fault.options.get("type", "application/json"))
    handler.answer(200, str(fault.options["body"]).encode("utf-8", "surrogatepass"), {"Content-Type": kind})


def _garbage(handler: Handler, fault: Fault) -> None:
    """Something that is not HTTP."""
    handler.wfile.write(b"220 mail.example ESMTP ready\r\n")
    handler.hang_up()


def _reset(handler: Handler, fault: Fault) -> None:
    handler.hang_up(hard=True)


FAULTS: dict[str, Callable[[Handler, Fault], None]] = {
    "status": _status,
    "rate-limit": _rate_limit,
    "redirect": _redirect,
    "redirect-loop": _redirect_loop,
    "endless": _endless,
    "drip": _drip,
    "drip-headers": _drip_headers,
    "drip-framing": _drip_framing,
    "silence": _silence,
    "slow-start": _slow_start,
    "cut": _cut,
    "chunked-cut": _chunked_cut,
    "length": _length,
    "no-length": _no_length,
    "gzip": _gzip,
    "corrupt": _corrupt,
    "etag": _etag,
    "no-range": _no_range,
    "wrong-range": _wrong_range,
    "wrong-part": _wrong_part,
    "crumbs": _crumbs,
    "huge-json": _huge_json,
    "deep-json": _deep_json,
    "body": _body,
    "garbage": _garbage,
    "reset": _reset,
}
