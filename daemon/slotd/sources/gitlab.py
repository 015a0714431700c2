"""Releases of a GitLab project, of gitlab.com or any server, by its REST API (v4).

A release of GitLab has no files but links. One to the project's own package registry is an API address, which alone
surely takes a token; other links are asked for at their permanent address, which the server redirects from. The API
tells neither sizes nor digests, so a definition names a file of sums. The source archives that GitLab makes itself are
not offered: their bytes are not promised to stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from slotd.core import forms
from slotd.core import release as form
from slotd.core.foreign import Foreign
from slotd.core.schema import Limits, Source
from slotd.core.sourcetypes import TYPES
from slotd.errors import Misconfigured
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing, pages

PER_PAGE = 100


class GitLab:
    """Source type `gitlab`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Newest first, as the server orders them (by `released_at`)."""
        try:
            project = quote(forms.repository_path(source.repository), safe="")
        except ValueError as error:
            raise Misconfigured(f"cannot list releases of {source.repository!r}: {error}") from None
        api = f"{(source.url or TYPES['gitlab'].url).rstrip('/')}/api/v4/"
        dialect = pages.Dialect(
            f"{api}projects/{project}/releases?per_page={PER_PAGE}", PER_PAGE, partial(_release, source, limits, api)
        )
        return pages.list_pages(dialect, source, get, state, limits)


def _release(source: Source, limits: Limits, api: str, entry: Foreign, warnings: list[str]) -> Release | None:
    if entry["upcoming_release"].flag(False):  # its `released_at` lies ahead
        return None
    tag = entry["tag_name"].line(4096)
    version = pages.version_in(tag, source, warnings)
    if not version:
        return None
    published = entry["released_at"].moment() or entry["created_at"].moment()
    assets = pages.files(entry["assets"]["links"], partial(_asset, source, api, tag, warnings))
    return Release(version, tag, published, entry["description"].prose(limits.notes_bytes, ""), False, assets)


def _asset(source: Source, api: str, tag: str, warnings: list[str], item: Foreign) -> Asset | None:
    linked = item["url"].line(form.URL_CHARS)
    is_api = source.credential and linked.startswith(api)
    url = linked if is_api else item["direct_asset_url"].line(form.URL_CHARS, linked)
    return pages.file_of(tag, item["name"].line(4096), url, warnings)
