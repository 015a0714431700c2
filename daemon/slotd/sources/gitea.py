"""Releases of a Gitea or Forgejo server (Codeberg is one), by its REST API under /api/v1.

The API tells no digests, so a definition names a file of sums. It hands out files at their public addresses, also those
of a private repository: the server takes the token there too. Files that a publisher only links to lie elsewhere,
where the token is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotd.core import release as form
from slotd.core.foreign import Foreign
from slotd.core.schema import Limits, Source
from slotd.errors import Misconfigured
from slotd.model import Asset
from slotd.sources import Getter, Listing, pages
from slotd.sources.github import reader, repository

PER_PAGE = 50  # the most that a server gives whose MAX_RESPONSE_ITEMS nobody changed; it may give less and say "next"


class Gitea:
    """Source type `gitea`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Newest first, as the server orders them (by creation)."""
        if not source.url:
            raise Misconfigured("cannot list releases: [source] has no url", hint="Give the address of the server.")
        url = f"{source.url.rstrip('/')}/api/v1/repos/{repository(source)}/releases?limit={PER_PAGE}"
        dialect = pages.Dialect(url, PER_PAGE, reader(source, limits, _asset))
        return pages.list_pages(dialect, source, get, state, limits)


def _asset(source: Source, tag: str, warnings: list[str], item: Foreign) -> Asset | None:
    name, url = item["name"].line(4096), item["browser_download_url"].line(form.URL_CHARS)
    return pages.file_of(tag, name, url, warnings, size=item["size"].integer(0, form.MOST_BYTES, 0))
