"""GitHub releases, of github.com or any server that speaks its REST API (version 2022-11-28).

The list is read whole and nothing is taken for "latest". Each page is asked for with the ETag of the last time; what a
304 stands for is kept in the source's state, as long as it fits there. Drafts are left out, and so are assets whose
upload is not finished: publishers create a release first and upload its files afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from slotd.core import release as form
from slotd.core.answer import shown
from slotd.core.foreign import Foreign, parse
from slotd.core.schema import Limits, Source
from slotd.core.version import version_of_tag
from slotd.errors import Misconfigured, SourceFailed
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing

DEFAULT_URL = "https://api.github.com"
PER_PAGE = 100
HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")
_ETAG = re.compile(r'(?:W/)?"[!#-~]{1,200}"')
_KEPT_PAGE_BYTES = 8 * 1024**2  # unpacked; a state is foreign too


@dataclass(frozen=True, slots=True)
class _Page:
    releases: tuple[Release, ...]
    has_next: bool
    etag: str = ""


class GitHub:
    """Source type `github`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Newest first, as the server orders them (by creation)."""
        if not _REPOSITORY.fullmatch(source.repository) or ".." in source.repository.split("/"):
            raise Misconfigured(f"cannot list releases: {source.repository!r} is not a repository (owner/name)")
        base = f"{(source.url or DEFAULT_URL).rstrip('/')}/repos/{source.repository}/releases?per_page={PER_PAGE}"
        key = _key(base, source)
        kept = _recall(state, key, limits)
        pages: list[_Page] = []
        warnings: list[str] = []
        while not pages or pages[-1].has_next:
            number = len(pages) + 1
            if number > limits.index_pages:
                warnings.append(f"Only the newest {limits.index_pages * PER_PAGE} releases were looked at.")
                break
            pages.append(self._page(f"{base}&page={number}", source, get, kept.get(number), limits, warnings))
        # A release that is published while we read moves another to the next page, where it is seen again.
        unique = {release.tag: release for page in reversed(pages) for release in reversed(page.releases)}
        releases = form.bounded_notes(reversed(unique.values()))
        return Listing(releases, _remember(pages, key, limits), tuple(warnings))

    def _page(
        self, url: str, source: Source, get: Getter, kept: _Page | None, limits: Limits, warnings: list[str]
    ) -> _Page:
        answer = get.get(url, headers=HEADERS | ({"If-None-Match": kept.etag} if kept else {}))
        if answer.status == 304:
            if kept is None:
                raise SourceFailed(f"cannot use {shown(url)}: the server says that nothing changed since nothing")
            return kept
        entries = parse(answer.body, shown(url))
        found = (_release(entry, source, limits, warnings) for entry in entries.items(PER_PAGE))
        etag = answer.headers.get("etag", "")
        return _Page(
            tuple(release for release in found if release is not None),
            # The address of the next page is ours to say, not the server's: no loop, no other host.
            bool(re.search(r'rel="?next"?', answer.headers.get("link", ""))),
            etag if _ETAG.fullmatch(etag) else "",
        )


def _release(entry: Foreign, source: Source, limits: Limits, warnings: list[str]) -> Release | None:
    if entry["draft"].flag(False):
        return None
    tag = entry["tag_name"].line(4096)
    version = version_of_tag(source.scheme, tag, (source.repository.partition("/")[2],))
    if not form.is_tag(tag) or not form.is_version(version):
        warnings.append(f"The release {tag[:60]!r} was left out: its tag cannot be a version.")
        return None
    published = entry["published_at"].moment() or entry["created_at"].moment()
    # The flag `prerelease` is not read: publishers forget it, so the version is judged by itself.
    assets: dict[str, Asset] = {}
    for item in entry["assets"].items(form.MOST_ASSETS):
        asset = _asset(item, source, tag, warnings)
        if asset is not None:
            assets.setdefault(asset.name, asset)
    return Release(version, tag, published, entry["body"].prose(limits.notes_bytes, ""), False, tuple(assets.values()))


def _asset(item: Foreign, source: Source, tag: str, warnings: list[str]) -> Asset | None:
    name = item["name"].line(4096)
    if item["state"].line(40) != "uploaded":
        return None
    # Only the API gives the files of a private repository, and only to whoever shows the credential.
    url = item["url" if source.credential else "browser_download_url"].line(form.URL_CHARS)
    if not form.is_file_name(name) or not form.is_url(url):
        warnings.append(f"The file {name[:60]!r} of release {tag} was left out: its name or address cannot be used.")
        return None
    digest = item["digest"].line(200, "").lower()
    return Asset(name, url, item["size"].integer(0, form.MOST_BYTES), digest if form.is_digest(digest) else "")


def _key(base: str, source: Source) -> str:
    """What a kept page depends on beside the server's answer: another definition must not get it."""
    text = "\n".join((base, source.scheme, "api" if source.credential else "browser"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _remember(pages: list[_Page], key: str, limits: Limits) -> dict[str, Any]:
    """The state: every page that fits, packed. A page that does not is listed anew the next time."""
    notes = form.WITH_NOTES
    state: dict[str, Any] = {"key": key, "pages": {}}
    for number, page in enumerate(pages, 1):
        kept = [
            form.release_to_json(release if place < notes else replace(release, notes=""))
            for place, release in enumerate(page.releases)
        ]
        notes = max(0, notes - len(kept))
        if not page.etag:
            continue
        packed = base64.b64encode(zlib.compress(json.dumps(kept).encode(), 9)).decode("ascii")
        state["pages"][str(number)] = {"etag": page.etag, "next": page.has_next, "packed": packed}
        if form.json_bytes(state) > limits.source_state_bytes:
            del state["pages"][str(number)]
    return state


def _recall(state: Mapping[str, Any], key: str, limits: Limits) -> dict[int, _Page]:
    """What `_remember` kept; nothing where the definition changed or the state is not as we wrote it."""
    if state.get("key") != key:
        return {}
    try:
        pages = {}
        for number, entry in Foreign(state.get("pages"), "the kept pages").members(limits.index_pages):
            etag = entry["etag"].line(210)
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(base64.b64decode(entry["packed"].value, validate=True), _KEPT_PAGE_BYTES)
            if not _ETAG.fullmatch(etag) or not unpacker.eof:
                return {}
            releases = form.releases_from_json(parse(text, "a kept page").value, limits)
            pages[int(number)] = _Page(releases, entry["next"].flag(), etag)
        return pages
    except (SourceFailed, ValueError, TypeError, zlib.error):
        return {}
