"""The kinds of server that list releases in pages, each spoken by the release server, and a source of each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from tests.release_server import ReleaseServer

from slotd.core.schema import Limits, Source
from slotd.core.sourcetypes import TYPES
from slotd.sources import Listing
from slotd.sources.work import credential_host, list_releases, listing_from_json


@dataclass(frozen=True)
class Forge:
    """`pages`: how a page is asked for. `entry`: a good release as the server says it, with one good file `a`; `keys`:
    where in it tag, time and files are, `address` the key of a file's address.
    """

    kind: str
    listed: str
    pages: str
    per_page: int
    keys: dict[str, str]
    entry: dict[str, Any]
    asset: dict[str, Any]
    address: str
    repository: str = "acme/notes"
    has_etag: bool = True

    @property
    def project(self) -> str:
        return f"{self.kind}/{self.repository}"

    def source(self, server: ReleaseServer, **more: Any) -> Source:
        usual = {"type": self.kind, "repository": self.repository, "url": f"{server.url}/{self.kind}", "asset": ("x",)}
        return Source(**usual | more)

    def listing(self, server: ReleaseServer, limits: Limits | None = None, **more: Any) -> Listing:
        return listing(self.source(server), limits, **more)

    def with_files(self, *files: dict[str, Any] | int) -> dict[str, Any]:
        """The good release, with other files."""
        return self.entry | {"assets": {"links": list(files)} if self.kind == "gitlab" else list(files)}

    def publish(self, server: ReleaseServer, count: int, **said: Any) -> None:
        for number in range(1, count + 1):
            server.release(
                self.project,
                f"v1.{number}.0",
                {f"notes-1.{number}.0.tar.gz": f"content {number}".encode()},
                published=f"2026-01-{1 + number // 60:02}T00:{number % 60:02}:00Z",
                **said,
            )


_URL = "https://example.org/a"
_SAID = {"tag_name": "v1.0", "draft": False, "published_at": "2026-01-01T00:00:00Z", "body": None}
_FILE = {"name": "a", "size": 1, "browser_download_url": _URL}
_LINK = {"name": "a", "url": _URL, "direct_asset_url": _URL}
_KEYS = {"time": "published_at", "files": "assets"}

GITHUB = Forge(
    "github",
    "/github/repos/acme/notes/releases",
    "per_page=100&page={}",
    100,
    _KEYS,
    _SAID | {"assets": [_FILE | {"state": "uploaded", "url": _URL}]},
    _FILE | {"state": "uploaded", "url": _URL},
    "browser_download_url",
)
GITEA = Forge(
    "gitea",
    "/gitea/api/v1/repos/acme/notes/releases",
    "limit=50&page={}",
    50,
    _KEYS,
    _SAID | {"assets": [_FILE]},
    _FILE,
    "browser_download_url",
    has_etag=False,
)
GITLAB = Forge(
    "gitlab",
    "/gitlab/api/v4/projects/acme%2Ftools%2Fnotes/releases",
    "per_page=100&page={}",
    100,
    {"time": "released_at", "files": "assets.links"},
    {
        "tag_name": "v1.0",
        "released_at": "2026-01-01T00:00:00Z",
        "description": None,
        "upcoming_release": False,
        "assets": {"links": [_LINK]},
    },
    _LINK,
    "direct_asset_url",
    repository="acme/tools/notes",
)
FORGES = (GITHUB, GITEA, GITLAB)


def request(source: Source, limits: Limits, **more: Any) -> dict[str, Any]:
    """As it comes over the worker's socket: JSON."""
    plain = {"source": dataclasses.asdict(source), "limits": dataclasses.asdict(limits), "state": {}, **more}
    return dict(json.loads(json.dumps(plain)))


def listing(source: Source, limits: Limits | None = None, **more: Any) -> Listing:
    """What the list worker gives for a source and the daemon takes."""
    limits = limits or Limits()
    answer = list_releases(request(source, limits, **more), [], lambda said: None)
    return listing_from_json(json.loads(json.dumps(answer)), source, limits)


def shown_as(source: Source, secret: str) -> dict[str, str]:
    """The keys of a worker's request that hold a credential, as the daemon sends them."""
    token = TYPES[source.type].token
    return {"credential": secret, "credential_host": credential_host(source), "credential_as": token}
