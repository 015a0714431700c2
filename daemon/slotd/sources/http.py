"""A version index of one's own: one JSON document on any web server.

    {"releases": [{"version": "1.2.3", "published": "2026-01-31T12:00:00Z", "notes": "…",
                   "assets": {"app-1.2.3.tar.gz": "files/app-1.2.3.tar.gz",
                              "SHA256SUMS": {"url": "…", "size": 123, "digest": "sha256:…"}}}]}

`published` may be seconds since the epoch, `tag` may stand beside `version`, `yanked` may be true; `oldest` is the
oldest version that one may go back to from this one. Addresses are
relative to the index. A release without `assets` has those that the definition's templates name, beside the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urljoin

from slotd.core import release as form
from slotd.core.answer import shown
from slotd.core.foreign import Foreign, parse
from slotd.core.schema import Limits, Source
from slotd.core.template import expand_name
from slotd.core.version import version_of_tag
from slotd.errors import Misconfigured
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing


class HttpIndex:
    """Source type `http`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. In the order of the index, whose other keys are ignored: it may serve others too."""
        if not source.url:
            raise Misconfigured("cannot list releases: [source] has no url", hint="Give the address of the index.")
        answer = get.get(source.url, headers={"Accept": "application/json"})
        index = parse(answer.body, shown(source.url))
        warnings: list[str] = []
        releases: dict[str, Release] = {}
        for entry in index["releases"].items(limits.index_releases):
            release = _release(entry, source, answer.url, limits, warnings)
            if release is not None and releases.setdefault(release.version, release) is not release:
                warnings.append(f"The index names version {release.version} twice; the first is used.")
        return Listing(form.bounded_notes(releases.values()), {}, tuple(warnings))


def _release(entry: Foreign, source: Source, base: str, limits: Limits, warnings: list[str]) -> Release | None:
    tag = entry["tag"].line(4096, "") or entry["version"].line(4096)
    version = version_of_tag(source.scheme, entry["version"].line(4096, tag))
    if not form.is_tag(tag) or not form.is_version(version):
        warnings.append(f"The release {tag[:60]!r} was left out: that cannot be a version.")
        return None
    if entry["assets"].is_absent:
        names = dict.fromkeys(expand_name(template, {"version": version, "tag": tag}) for template in source.asset)
        assets = [Asset(name, urljoin(base, quote(name))) for name in names if form.is_file_name(name)]
    else:
        assets = list(_assets(entry["assets"], base, tag, warnings))
    notes = entry["notes"].prose(limits.notes_bytes, "")
    oldest = entry["oldest"].line(form.VERSION_CHARS, "")
    when, yanked = entry["published"].moment(), entry["yanked"].flag(False)
    return Release(version, tag, when, notes, yanked, tuple(assets), oldest)


def _assets(named: Foreign, base: str, tag: str, warnings: list[str]) -> Iterable[Asset]:
    for name, value in named.members(form.MOST_ASSETS):
        is_object = isinstance(value.value, dict)
        try:
            url = urljoin(base, (value["url"] if is_object else value).line(form.URL_CHARS))
        except ValueError:
            value.refuse("it is not an address")
        # file:// would be a file of this host, and the index has no say in those.
        if not form.is_file_name(name) or not form.is_url(url) or url.lower().startswith("file:"):
            warnings.append(
                f"The file {name[:60]!r} of release {tag} was left out: its name or address cannot be used."
            )
            continue
        size = value["size"].integer(0, form.MOST_BYTES, 0) if is_object else 0
        digest = value["digest"].line(200, "").lower() if is_object else ""
        if digest and not form.is_digest(digest):
            value["digest"].refuse("it is not a digest like sha256:… in hex")
        yield Asset(name, url, size, digest)
