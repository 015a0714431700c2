"""What the sources that list releases in pages share: paging, the memory of pages, a release and a file of it.

The list is read whole and nothing is taken for "latest". Each page is asked for with the ETag of the last time; what a
304 stands for is kept in the source's state, as long as it fits there. The address of the next page is ours to say, not
the server's: no loop, no other host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.core import release as form
from slotd.core.answer import shown
from slotd.core.foreign import Foreign, parse
from slotd.core.schema import Limits, Source
from slotd.core.version import version_of_tag
from slotd.errors import SourceFailed
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing

_ETAG = re.compile(r'(?:W/)?"[!#-~]{1,200}"')
_KEPT_PAGE_BYTES = 8 * 1024**2  # unpacked; a state is foreign too


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one server lists. `url` is the list's address with its query, all but the number of the page; `read` makes a
    release of an entry, or None of one to leave out, with a warning if that is worth one.
    """

    url: str
    per_page: int
    read: Callable[[Foreign, list[str]], Release | None]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Accept": "application/json"})


@dataclass(frozen=True, slots=True)
class _Page:
    releases: tuple[Release, ...]
    has_next: bool
    etag: str = ""


def list_pages(dialect: Dialect, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
    """All pages, in the server's order. Raises `SourceFailed`."""
    key = _key(dialect, source)
    kept = _recall(state, key, limits)
    pages: list[_Page] = []
    warnings: list[str] = []
    while not pages or pages[-1].has_next:
        number = len(pages) + 1
        if number > limits.index_pages:
            warnings.append(f"Only the newest {limits.index_pages * dialect.per_page} releases were looked at.")
            break
        pages.append(_page(dialect, number, get, kept.get(number), warnings))
    # A release that is published while we read moves another to the next page, where it is seen again.
    unique = {release.tag: release for page in reversed(pages) for release in reversed(page.releases)}
    releases = form.bounded_notes(reversed(unique.values()))
    return Listing(releases, _remember(pages, key, limits), tuple(warnings))


def version_in(tag: str, source: Source, warnings: list[str]) -> str:
    """The version that a tag stands for; empty, and a warning, if it can be none."""
    version = version_of_tag(source.scheme, tag, (source.repository.rpartition("/")[2],))
    if form.is_tag(tag) and form.is_version(version):
        return version
    warnings.append(f"The release {tag[:60]!r} was left out: its tag cannot be a version.")
    return ""


def file_of(tag: str, name: str, url: str, warnings: list[str], *, size: int = 0, digest: str = "") -> Asset | None:
    """A file of a release; None, and a warning, if its name or address cannot be used."""
    if form.is_file_name(name) and form.is_url(url):
        return Asset(name, url, size, digest if form.is_digest(digest) else "")
    warnings.append(f"The file {name[:60]!r} of release {tag} was left out: its name or address cannot be used.")
    return None


def files(entries: Foreign, read: Callable[[Foreign], Asset | None]) -> tuple[Asset, ...]:
    """The files of a release, of two with one name the first."""
    found = (read(item) for item in entries.items(form.MOST_ASSETS))
    named: dict[str, Asset] = {}
    for asset in found:
        if asset is not None:
            named.setdefault(asset.name, asset)
    return tuple(named.values())


def _page(dialect: Dialect, number: int, get: Getter, kept: _Page | None, warnings: list[str]) -> _Page:
    url = f"{dialect.url}&page={number}"
    answer = get.get(url, headers={**dialect.headers, **({"If-None-Match": kept.etag} if kept else {})})
    if answer.status == 304:
        if kept is None:
            raise SourceFailed(f"cannot use {shown(url)}: the server says that nothing changed since nothing")
        return kept
    entries = parse(answer.body, shown(url))
    found = (dialect.read(entry, warnings) for entry in entries.items(dialect.per_page))
    etag = answer.headers.get("etag", "")
    return _Page(
        tuple(release for release in found if release is not None),
        bool(re.search(r'rel="?next"?', answer.headers.get("link", ""))),
        etag if _ETAG.fullmatch(etag) else "",
    )


def _key(dialect: Dialect, source: Source) -> str:
    """What a kept page depends on beside the server's answer: another definition must not get it."""
    text = "\n".join((dialect.url, source.scheme, "known" if source.credential else "anybody"))
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
