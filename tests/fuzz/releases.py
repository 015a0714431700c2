"""What servers say of releases, each in its own way, and what a worker made of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tests.fuzz import mutate
from tests.fuzz.target import Target

from slotd.core import release as form
from slotd.core.schema import Limits, Source
from slotd.errors import SourceFailed
from slotd.sources import Answer, Listing, SourceType
from slotd.sources.gitea import Gitea
from slotd.sources.github import GitHub
from slotd.sources.gitlab import GitLab
from slotd.sources.http import HttpIndex
from slotd.sources.npm import Npm
from slotd.sources.pypi import PyPI
from slotd.sources.work import _only_safe as only_safe
from slotd.sources.work import listing_from_json

_LIMITS = Limits()
_BASE = "https://host.example/index"
_NAMES = ("demo-{version}.tar.gz",)
_KINDS: dict[bytes, tuple[SourceType, Source, str]] = {
    b"g": (GitHub(), Source(type="github", url=_BASE, repository="o/demo", asset=_NAMES), "application/json"),
    b"h": (HttpIndex(), Source(type="http", url=_BASE, asset=_NAMES, scheme="semver"), "application/json"),
    b"p": (PyPI(), Source(type="pypi", url=_BASE, package="demo"), "application/json"),
    b"s": (PyPI(), Source(type="pypi", url=_BASE + "/simple", package="demo"), "application/vnd.pypi.simple.v1+json"),
    b"t": (PyPI(), Source(type="pypi", url=_BASE + "/simple", package="demo"), "text/html"),
    b"e": (Gitea(), Source(type="gitea", url=_BASE, repository="o/demo", asset=_NAMES), "application/json"),
    b"l": (GitLab(), Source(type="gitlab", url=_BASE, repository="g/o/demo", asset=_NAMES), "application/json"),
    b"n": (Npm(), Source(type="npm", url=_BASE, package="demo", scheme="semver"), "application/json"),
    b"d": (HttpIndex(), Source(type="http", url=_BASE, asset=_NAMES, scheme="date"), "application/json"),
}


@dataclass(frozen=True)
class _Server:
    """A server with one answer. The simple API of an index is asked only when the other one failed."""

    body: bytes
    content_type: str
    simple_only: bool

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        if self.simple_only and url.endswith("/json"):
            raise SourceFailed("not here")
        return Answer(200, {"content-type": self.content_type, "etag": '"1"'}, self.body, url)


def one(data: bytes) -> None:
    """The first byte is the kind of server; `w` is the list worker's own answer."""
    kind, body = data[:1], data[1:]
    if kind == b"w":
        try:
            claim = json.loads(body)
        except (ValueError, RecursionError):
            return
        if isinstance(claim, dict):
            listing_from_json(claim, _KINDS[b"h"][1], _LIMITS)
        return
    if kind not in _KINDS:
        return
    reader, source, content_type = _KINDS[kind]
    server = _Server(body, content_type, simple_only=kind in (b"s", b"t"))
    _require_usable(reader.list_releases(source, server, {}, _LIMITS), source)


def _require_usable(listing: Listing, source: Source) -> None:
    """What a source gives is what the daemon takes from it, and never an address on this host."""
    releases, _ = only_safe(source, True, listing.releases)
    plain, _ = form.fit(releases, _LIMITS)
    sent = json.loads(json.dumps({"releases": plain, "warnings": form.bounded_warnings(listing.warnings)}))
    assert all(asset.url.lower().startswith("https:") for each in releases for asset in each.assets)
    assert json.dumps(dict(listing.state)).encode()
    taken = listing_from_json(sent | {"state": {}}, source, _LIMITS)
    assert len(taken.releases) == len(plain)


def _mutate(data: bytes, most: int, seed: int) -> bytes:
    return data[:1] + mutate.json_value(mutate.plain)(data[1:], most - 1, seed)


_D = "sha256:" + "a" * 64
_GITHUB = [
    {"tag_name": "v1.2", "draft": False, "prerelease": False, "body": "notes", "published_at": "2026-01-02T03:04:05Z",
     "created_at": "2026-01-02T03:04:05Z", "assets": [
        {"name": "demo-1.2.tar.gz", "state": "uploaded", "size": 12, "digest": _D, "url": f"{_BASE}/1",
         "browser_download_url": f"{_BASE}/demo-1.2.tar.gz"},
        {"name": "SHA256SUMS", "state": "starter", "size": 0, "digest": None, "url": f"{_BASE}/2",
         "browser_download_url": f"{_BASE}/SHA256SUMS"}]},
    {"tag_name": "1.1", "draft": True, "assets": []},
]  # fmt: skip
_INDEX = {"releases": [
    {"version": "1.2.0", "tag": "v1.2.0", "published": "2026-01-02", "notes": "n", "yanked": False, "oldest": "1.0.0",
     "assets": {"demo-1.2.0.tar.gz": {"url": "files/demo", "size": 3, "digest": _D}, "SUMS": "https://h/s"}},
    {"version": "1.1.0", "published": 1e9}, {"version": "2024-02-03", "assets": None},
]}  # fmt: skip
_PYPI = {"releases": {"1.0": [
    {"filename": "demo-1.0-py3-none-any.whl", "url": f"{_BASE}/demo-1.0-py3-none-any.whl", "size": 5,
     "digests": {"sha256": "a" * 64}, "upload_time_iso_8601": "2026-01-02T03:04:05.000006Z", "upload_time": None,
     "requires_python": ">=3.9", "yanked": False}], "1.0rc1": []}}  # fmt: skip
_SIMPLE = {"files": [
    {"filename": "demo-1.0.tar.gz", "url": "../demo-1.0.tar.gz#x", "hashes": {"sha256": "a" * 64}, "size": 4,
     "upload-time": "2026-01-02T03:04:05Z", "requires-python": "~=3.8", "yanked": "broken"}]}  # fmt: skip
_GITEA = [
    {"tag_name": "v1.2", "draft": False, "body": "notes", "published_at": "2026-01-02T03:04:05Z", "assets": [
        {"name": "demo-1.2.tar.gz", "size": 12, "browser_download_url": f"{_BASE}/demo-1.2.tar.gz", "uuid": "u"}]},
]  # fmt: skip
_GITLAB = [
    {"tag_name": "v1.2", "upcoming_release": False, "description": "n", "released_at": "2026-01-02T03:04:05Z",
     "assets": {"links": [{"name": "demo-1.2.tar.gz", "url": f"{_BASE}/x", "direct_asset_url": f"{_BASE}/y"}]}},
]  # fmt: skip
_NPM = {
    "name": "demo", "time": {"1.0.0": "2026-01-02T03:04:05.000Z"}, "versions": {
        "1.0.0": {"dist": {"tarball": "https://host.example/demo/-/demo-1.0.0.tgz", "shasum": "a" * 40,
                           "integrity": "sha512-" + "A" * 86 + "=="}, "deprecated": "old", "engines": {}}},
}  # fmt: skip
_WORKER = {"releases": [
    {"version": "1.0", "tag": "v1.0", "published": 1.0, "notes": "n", "yanked": False, "oldest": "", "assets": [
        {"name": "a", "url": f"{_BASE}/a", "size": 1, "digest": _D}]}], "state": {"k": 1}, "warnings": []}  # fmt: skip
_HTML = (
    b'<!DOCTYPE html><a href="/f/demo-1.0-py3-none-any.whl#sha256=' + b"a" * 64 + b'" data-requires-python="&gt;=3.9"'
    b' data-yanked="x">demo</a><a href=demo-1.1.tar.gz>y</a><!-- <![CDATA[ ]]> <?php --><a href="http://[x">'
)

TARGET = Target(
    "releases",
    one,
    (SourceFailed,),
    seeds=(
        *(
            kind + mutate.plain(each)
            for kind, each in ((b"g", _GITHUB), (b"h", _INDEX), (b"p", _PYPI), (b"s", _SIMPLE))
        ),
        b"d" + mutate.plain(_INDEX),
        b"e" + mutate.plain(_GITEA),
        b"l" + mutate.plain(_GITLAB),
        b"n" + mutate.plain(_NPM),
        b"w" + mutate.plain(_WORKER),
        b"t" + _HTML,
    ),
    modules=(
        *(f"slotd.core.{name}" for name in ("foreign", "release", "version", "simpleindex")),
        *(f"slotd.sources.{name}" for name in ("github", "gitea", "gitlab", "pages", "http", "pypi", "npm")),
    ),
    words=(
        '"tag_name":',
        '"digest":',
        '"published":',
        "sha256:",
        "\\ud800",
        "<!",
        "<![",
        "<!--",
        "&#x110000;",
        "href=",
        "-py3-none-any.whl",
    ),
    mutate=_mutate,
)
