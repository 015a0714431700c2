"""What the release server serves: the folder as PyPI's APIs, as a version index, as plain files. Beside it: forges."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import html
import http.server
import json
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.release_faults import FAULTS
from tests.release_forges import FORGES, TOKENS
from tests.release_shelf import Published, sha256, versions

if TYPE_CHECKING:
    from tests.release_server import Httpd, ReleaseServer

PIECE = 64 * 1024


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. `path` is with the query; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float
    peer: int = 0  # the caller's port: one for each connection


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Httpd

    @property
    def owner(self) -> ReleaseServer:
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        path = urlsplit(self.path).path
        given = json.loads(body or b"{}")
        if path == "/_control/misbehave":
            self.owner.misbehave(**given)
        elif path == "/_control/behave":
            self.owner.behave()
        elif path == "/_control/forget":
            with self.owner.lock:
                self.owner.requests.clear()
        else:
            return self.answer(404)
        return self.json({})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/_control/requests":
            with self.owner.lock:
                return self.json([asdict(each) for each in self.owner.requests])
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen("GET", self.path, headers, time.time(), self.client_address[1])
        with self.owner.lock:
            self.owner.requests.append(seen)
        fault = self.owner.fault_for(parts.path)
        if self.owner.token and self.token_shown() != self.owner.token:
            return self.answer(404)  # as GitHub does: it does not even say that there is something
        if fault is not None:
            return FAULTS[fault.kind](self, fault)
        return self.route()

    do_HEAD = do_GET

    def token_shown(self) -> str:
        """The token that the client shows, if it does so as the server asked for wants it."""
        kind = self.path.split("/")[1]
        name, scheme = TOKENS.get(kind, ("authorization", "Bearer "))
        shown = self.headers.get(name, "")
        return shown.removeprefix(scheme) if shown.startswith(scheme) else ""

    def route(self) -> None:
        parts = urlsplit(self.path)
        pieces = [unquote(piece) for piece in parts.path.split("/")[1:]]
        if any(piece in ("..", ".") or ("/" in piece and pieces[0] not in FORGES) for piece in pieces):
            return self.answer(400)
        if pieces[0] in FORGES:
            return FORGES[pieces[0]](self, pieces[1:], parse_qs(parts.query))
        for kind, serve in (("pypi-index", self.pypi), ("http", self.index)):
            if pieces[0] == kind:
                return serve(pieces[1:], parse_qs(parts.query))
        if pieces[0] == "files":
            return self.file(self.owner.root.joinpath(*pieces))
        return self.answer(404)

    # --- PyPI ---

    def pypi(self, pieces: list[str], query: Mapping[str, list[str]]) -> None:
        root = self.owner.root / "pypi"
        if pieces[:1] == ["files"] and len(pieces) == 4:
            return self.file(root / pieces[1] / pieces[2] / pieces[3])
        if pieces[:1] == ["pypi"] and pieces[2:] == ["json"] and (root / pieces[1]).is_dir():
            return self.pypi_json(pieces[1])
        if pieces[:1] == ["simple"] and len(pieces) > 1 and (root / pieces[1]).is_dir():
            if pieces[2:] != [""]:
                return self.answer(301, headers={"Location": f"/pypi-index/simple/{pieces[1]}/"})
            return self.pypi_simple(pieces[1])
        return self.answer(404)

    def pypi_files(self, name: str) -> Iterator[tuple[Published, Path, str]]:
        for release in versions(self.owner.root / "pypi" / name):
            for path in release.files():
                tag = quote(release.tag, safe="")
                yield release, path, f"{self.owner.url}/pypi-index/files/{name}/{tag}/{quote(path.name)}"

    def pypi_json(self, name: str) -> None:
        releases: dict[str, list[dict[str, Any]]] = {each.tag: [] for each in versions(self.owner.root / "pypi" / name)}
        for release, path, url in self.pypi_files(name):
            releases[release.tag].append(
                {
                    "filename": path.name,
                    "url": url,
                    "size": release.size(path),
                    "digests": {"md5": "", "sha256": str(release.digest(path)).removeprefix("sha256:")},
                    "upload_time": release.published.rstrip("Z"),
                    "upload_time_iso_8601": release.published,
                    "yanked": release.said.get("yanked", False),
                    "yanked_reason": None,
                    "requires_python": release.said.get("requires_python"),
                }
            )
        self.json({"info": {"name": name}, "releases": releases, "urls": []}, has_etag=True)

    def pypi_simple(self, name: str) -> None:
        if "json" not in self.headers.get("accept", ""):
            return self.pypi_page(name)
        files = [
            {
                "filename": path.name,
                "url": url,
                "size": release.size(path),
                "hashes": {"sha256": str(release.digest(path)).removeprefix("sha256:")},
                "upload-time": release.published,
                "yanked": release.said.get("yanked", False),
                "requires-python": release.said.get("requires_python"),
            }
            for release, path, url in self.pypi_files(name)
        ]
        body = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
        return self.json(body, kind="application/vnd.pypi.simple.v1+json", has_etag=True)

    def pypi_page(self, name: str) -> None:
        lines = ["<!DOCTYPE html><html><body>"]
        for release, path, url in self.pypi_files(name):
            digest = str(release.digest(path)).removeprefix("sha256:")
            requires = html.escape(str(release.said.get("requires_python") or ""))
            yanked = ' data-yanked=""' if release.said.get("yanked") else ""
            lines.append(
                f'<a href="{url}#sha256={digest}" data-requires-python="{requires}"{yanked}>{path.name}</a><br>'
            )
        self.answer(200, "\n".join([*lines, "</body></html>"]).encode(), {"Content-Type": "text/html"})

    # --- a version index ---

    def index(self, pieces: list[str], query: Mapping[str, list[str]]) -> None:
        root = self.owner.root / "http" / pieces[0]
        if pieces[1:] != ["index.json"]:
            return self.file(root.joinpath(*pieces[1:]))
        releases = []
        for release in versions(root):
            assets = {
                path.name: {
                    "url": f"{quote(release.tag, safe='')}/{quote(path.name)}",
                    "size": release.size(path),
                    "digest": release.digest(path) or "",
                }
                for path in release.files()
            }
            entry = {"version": release.tag, "published": release.published, "notes": release.said.get("notes", "")}
            entry |= {key: release.said[key] for key in ("oldest", "yanked") if key in release.said}
            releases.append(entry | ({} if release.said.get("bare") else {"assets": assets}))
        return self.json({"releases": releases}, has_etag=True)

    # --- answers ---

    def json(
        self,
        value: Any,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        kind: str = "application/json; charset=utf-8",
        has_etag: bool = False,
    ) -> None:
        body = json.dumps(value).encode()
        etag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        sent = {"Content-Type": kind, **(headers or {}), **({"ETag": etag} if has_etag else {})}
        if has_etag and self.headers.get("if-none-match") == etag:
            return self.answer(304, headers=sent)
        return self.answer(status, body, sent)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.start(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if not (status == 304 and name == "Content-Length"):
                self.send_header(name, value)
        self.end_headers()

    def file(self, path: Path, *, etag: str | None = None, is_ranged: bool = True) -> None:
        if not path.is_file():
            return self.answer(404)
        stat = path.stat()
        modified = email.utils.formatdate(stat.st_mtime, usegmt=True)
        etag = f'"{sha256(path)[:32]}"' if etag is None else etag
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": modified, "Accept-Ranges": "bytes"}
        headers |= {"ETag": etag} if etag else {}
        first, last, status = 0, stat.st_size - 1, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if is_ranged and asked and self.headers.get("if-range", etag or modified) in (etag, modified):
            first = int(asked[1] or max(0, stat.st_size - int(asked[2] or 0)))
            last = min(int(asked[2] or last), last) if asked[1] else last
            if first > last:
                return self.answer(416, headers=headers | {"Content-Range": f"bytes */{stat.st_size}"})
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{stat.st_size}"
        self.start(status, headers | {"Content-Length": str(last - first + 1)})
        if self.command == "HEAD":
            return None
        with path.open("rb") as source:
            source.seek(first)
            left = last - first + 1
            while left > 0 and (piece := source.read(min(PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)
                with self.owner.lock:
                    self.owner.sent += len(piece)
        return None

    def content(self) -> bytes:
        """What the server would give if it behaved: the whole body of a plain 200."""
        pieces = [unquote(piece) for piece in urlsplit(self.path).path.split("/")[1:]]
        path = self.owner.root.joinpath(*pieces)
        if pieces[:2] == ["github", "download"]:
            path = self.owner.root / "github" / pieces[2] / pieces[3] / quote(pieces[4], safe="") / pieces[5]
        elif pieces[:2] == ["pypi-index", "files"]:
            path = self.owner.root.joinpath("pypi", *pieces[2:])
        return path.read_bytes() if path.is_file() else b'{"releases": []}'

    def piecemeal(self, pieces: Iterator[bytes], interval_s: float) -> None:
        """Writes until the client or the server has had enough."""
        self.close_connection = True
        for piece in pieces:
            if self.owner.stopping.is_set():
                return
            self.wfile.write(piece)
            self.wfile.flush()
            if interval_s:
                self.owner.stopping.wait(interval_s)

    def hang_up(self, *, hard: bool = False) -> None:
        self.close_connection = True
        self.wfile.flush()
        if hard:  # a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
