"""What the release server serves: the folder as GitHub's API, as PyPI's APIs, as a version index, as plain files."""

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
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.release_faults import FAULTS

if TYPE_CHECKING:
    from tests.release_server import Httpd, ReleaseServer

META = ".release.json"
PIECE = 64 * 1024


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. `path` is with the query; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float


def meta(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / META).read_text()))
    except FileNotFoundError:
        return {}


@dataclass(frozen=True)
class Published:
    """One version's folder, with what it says of itself."""

    tag: str
    folder: Path
    said: Mapping[str, Any]

    @property
    def published(self) -> str:
        said = self.said.get("published")
        return str(said) if said else _iso(self.folder.stat().st_mtime)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def about(self, path: Path) -> Mapping[str, Any]:
        return dict(self.said.get("assets", {}).get(path.name, {}))

    def digest(self, path: Path) -> Any:
        about = self.about(path)
        return about["digest"] if "digest" in about else f"sha256:{_sha256(path)}"

    def size(self, path: Path) -> Any:
        return self.about(path).get("size", path.stat().st_size)


def versions(folder: Path) -> list[Published]:
    """The newest first."""
    if not folder.is_dir():
        return []
    found = [Published(unquote(each.name), each, meta(each)) for each in folder.iterdir() if each.is_dir()]
    return sorted(found, key=lambda each: (each.published, each.tag), reverse=True)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
        seen = Seen("GET", self.path, {name.lower(): value for name, value in self.headers.items()}, time.time())
        with self.owner.lock:
            self.owner.requests.append(seen)
        fault = self.owner.fault_for(parts.path)
        if self.owner.token and self.headers.get("authorization") != f"Bearer {self.owner.token}":
            return self.answer(404)  # as GitHub does: it does not even say that there is something
        if fault is not None:
            return FAULTS[fault.kind](self, fault)
        return self.route()

    do_HEAD = do_GET

    def route(self) -> None:
        parts = urlsplit(self.path)
        pieces = [unquote(piece) for piece in parts.path.split("/")[1:]]
        if any(piece in ("..", ".") or ("/" in piece and pieces[0] != "github") for piece in pieces):
            return self.answer(400)
        for kind, serve in (("github", self.github), ("pypi-index", self.pypi), ("http", self.index)):
            if pieces[0] == kind:
                return serve(pieces[1:], parse_qs(parts.query))
        if pieces[0] == "files":
            return self.file(self.owner.root.joinpath(*pieces))
        return self.answer(404)

    # --- GitHub ---

    def github(self, pieces: list[str], query: Mapping[str, list[str]]) -> None:
        root = self.owner.root / "github"
        if pieces[:1] == ["download"] and len(pieces) == 5:
            return self.file(root / pieces[1] / pieces[2] / quote(pieces[3], safe="") / pieces[4])
        if pieces[:1] != ["repos"] or pieces[3:4] != ["releases"] or not (root / pieces[1] / pieces[2]).is_dir():
            return self.json({"message": "Not Found"}, status=404)
        name = f"{pieces[1]}/{pieces[2]}"
        found = versions(root / name)
        if pieces[4:5] == ["assets"]:
            return self.github_asset(name, found, pieces[5])
        if pieces[4:5] == ["tags"]:
            match = next((each for each in found if each.tag == pieces[5]), None)
            return self.json(self.github_release(name, match)) if match else self.json({}, status=404)
        size = min(int(query.get("per_page", ["30"])[0]), 100)
        page = int(query.get("page", ["1"])[0])
        shown = found[(page - 1) * size : page * size]
        headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59"}
        if page * size < len(found):
            base = f"{self.owner.url}/github/repos/{name}/releases?per_page={size}"
            headers["Link"] = (
                f'<{base}&page={page + 1}>; rel="next", <{base}&page={-(-len(found) // size)}>; rel="last"'
            )
        self.json([self.github_release(name, each) for each in shown], headers=headers, has_etag=True)

    def github_release(self, name: str, release: Published) -> dict[str, Any]:
        base = f"{self.owner.url}/github"
        tag = quote(release.tag, safe="")
        assets = []
        for path in release.files():
            about = release.about(path)
            number = self.github_id(name, release, path)
            assets.append(
                {
                    "id": number,
                    "name": path.name,
                    "state": about.get("state", "uploaded"),
                    "size": release.size(path),
                    "digest": release.digest(path),
                    "content_type": "application/octet-stream",
                    "url": f"{base}/repos/{name}/releases/assets/{number}",
                    "browser_download_url": f"{base}/download/{name}/{tag}/{quote(path.name)}",
                    "created_at": release.published,
                    "updated_at": _iso(path.stat().st_mtime),
                }
            )
        return {
            "id": zlib.crc32(f"{name} {release.tag}".encode()),
            "tag_name": release.tag,
            "name": release.said.get("name", release.tag),
            "draft": release.said.get("draft", False),
            "prerelease": release.said.get("prerelease", False),
            "created_at": release.said.get("created", release.published),
            "published_at": None if release.said.get("draft") else release.published,
            "body": release.said.get("notes"),
            "assets": assets,
            "tarball_url": f"{base}/tarball/{name}/{tag}",
            "zipball_url": f"{base}/zipball/{name}/{tag}",
            "author": {"login": "someone"},
        }

    def github_id(self, name: str, release: Published, path: Path) -> int:
        return zlib.crc32(f"{name} {release.tag} {path.name} {_sha256(path)}".encode())

    def github_asset(self, name: str, found: list[Published], number: str) -> None:
        for release in found:
            for path in release.files():
                if str(self.github_id(name, release, path)) == number:
                    if self.headers.get("accept") == "application/octet-stream":
                        return self.file(path)
                    return self.json({"id": int(number), "name": path.name})
        self.json({"message": "Not Found"}, status=404)

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
            entry |= {key: release.said[key] for key in ("oldest",) if key in release.said}
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
        etag = f'"{_sha256(path)[:32]}"' if etag is None else etag
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": modified, "Accept-Ranges": "bytes"}
        headers |= {"ETag": etag} if etag else {}
        first, last, status = 0, stat.st_size - 1, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if is_ranged and asked and self.headers.get("if-range", etag or modified) in (etag, modified):
            first = int(asked[1])
            last = min(int(asked[2] or last), last)
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
