"""GitHub releases, of github.com or any server that speaks its REST API (version 2022-11-28).

Drafts are left out, and so are assets whose upload is not finished: publishers create a release first and upload its
files afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from slotd.core import release as form
from slotd.core.foreign import Foreign
from slotd.core.schema import Limits, Source
from slotd.core.sourcetypes import TYPES
from slotd.errors import Misconfigured
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing, pages

PER_PAGE = 100
HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")


class GitHub:
    """Source type `github`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Newest first, as the server orders them (by creation)."""
        server = (source.url or TYPES["github"].url).rstrip("/")
        url = f"{server}/repos/{repository(source)}/releases?per_page={PER_PAGE}"
        dialect = pages.Dialect(url, PER_PAGE, reader(source, limits, _asset), HEADERS)
        return pages.list_pages(dialect, source, get, state, limits)


def repository(source: Source) -> str:
    """`owner/name`, which goes into an address as it is. Raises `Misconfigured`."""
    if not _REPOSITORY.fullmatch(source.repository) or {"..", "."} & set(source.repository.split("/")):
        raise Misconfigured(f"cannot list releases: {source.repository!r} is not a repository (owner/name)")
    return source.repository


def reader(
    source: Source, limits: Limits, read_file: Callable[[Source, str, list[str], Foreign], Asset | None]
) -> Callable[[Foreign, list[str]], Release | None]:
    """Reads a release in GitHub's form, which others copied, but for its files: `read_file` takes the definition, the
    tag, the warnings and the entry of one.
    """

    def read(entry: Foreign, warnings: list[str]) -> Release | None:
        if entry["draft"].flag(False):
            return None
        tag = entry["tag_name"].line(4096)
        version = pages.version_in(tag, source, warnings)
        if not version:
            return None
        published = entry["published_at"].moment() or entry["created_at"].moment()
        # The flag `prerelease` is not read: publishers forget it, so the version is judged by itself.
        assets = pages.files(entry["assets"], partial(read_file, source, tag, warnings))
        return Release(version, tag, published, entry["body"].prose(limits.notes_bytes, ""), False, assets)

    return read


def _asset(source: Source, tag: str, warnings: list[str], item: Foreign) -> Asset | None:
    name = item["name"].line(4096)
    if item["state"].line(40) != "uploaded":
        return None
    # Only the API gives the files of a private repository, and only to whoever shows the credential.
    url = item["url" if source.credential else "browser_download_url"].line(form.URL_CHARS)
    digest = item["digest"].line(200, "").lower()
    return pages.file_of(tag, name, url, warnings, size=item["size"].integer(0, form.MOST_BYTES), digest=digest)
