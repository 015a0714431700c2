"""Releases as JSON and back: what the list worker hands to the daemon, and what a source keeps between checks.

The daemon trusts a worker as little as the server behind it (section 9), so `releases_from_json` checks
all that a source checks. The bounds stand here once, for sources and daemon alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slotd.core.foreign import Foreign, is_deep
from slotd.core.schema import Limits
from slotd.errors import SourceFailed
from slotd.model import Asset, Release

MOST_ASSETS = 1000  # of one release
VERSION_CHARS = 128
TAG_CHARS = 256
NAME_BYTES = 255  # a file name, as Linux has it
URL_CHARS = 4096
MOST_BYTES = 2**53  # of one file; what JSON's numbers hold exactly
WITH_NOTES = 20  # only the newest releases carry notes: a listing has thousands, and people read the newest
LISTING_BYTES = 6 * 1024**2  # as JSON: a worker's frame is 8 MiB
MOST_WARNINGS = 50
WARNING_CHARS = 500

_VERSION = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.+_~!-]*[0-9A-Za-z])?")
_TAG = re.compile(r"[!-~]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_URL = re.compile(r"(?:https?|file)://[!-~]+", re.IGNORECASE)
_LATEST = 253_402_300_799.0


def is_version(text: str) -> bool:
    """Whether it can stand in file names, commands and messages; whether it is a *good* version is its scheme's."""
    return len(text) <= VERSION_CHARS and _VERSION.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return len(text) <= TAG_CHARS and _TAG.fullmatch(text) is not None


def is_file_name(text: str) -> bool:
    """A plain name, not a path: it must not lead anywhere when it is joined to a folder or put into a command."""
    if text in ("", ".", "..") or text.startswith("-") or any(sign in text for sign in '/\\"'):
        return False
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        return False
    return text.isprintable() and len(text.encode()) <= NAME_BYTES


def is_url(text: str) -> bool:
    """An http, https or file address in plain ASCII, as it goes over the wire."""
    return len(text) <= URL_CHARS and _URL.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """`sha256:` or `sha512:` and lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def release_to_json(release: Release) -> dict[str, Any]:
    return {
        "version": release.version,
        "tag": release.tag,
        "published": release.published,
        "notes": release.notes,
        "yanked": release.yanked,
        "oldest": release.oldest,
        "assets": [
            {"name": asset.name, "url": asset.url, "size": asset.size, "digest": asset.digest}
            for asset in release.assets
        ],
    }


def release_from_json(value: object, limits: Limits, place: str = "a release") -> Release:
    """A release from `release_to_json`'s form, every field checked. Raises `SourceFailed` naming the place."""
    return _release(Foreign(value, place), limits)


def releases_from_json(value: object, limits: Limits, place: str = "the list of releases") -> tuple[Release, ...]:
    """As `release_from_json`, for a list of at most `limits.index_releases`."""
    return tuple(_release(item, limits) for item in Foreign(value, place).items(limits.index_releases))


def _release(entry: Foreign, limits: Limits) -> Release:
    entry.only(("version", "tag", "published", "notes", "yanked", "oldest", "assets"))
    version = entry["version"].line(VERSION_CHARS)
    if not is_version(version):
        entry["version"].refuse(f"{version!r} cannot be a version")
    tag = entry["tag"].line(TAG_CHARS)
    if not is_tag(tag):
        entry["tag"].refuse(f"{tag!r} cannot be a tag")
    notes = entry["notes"].prose(limits.notes_bytes)
    assets = tuple(_asset(item) for item in entry["assets"].items(MOST_ASSETS))
    if len({asset.name for asset in assets}) != len(assets):
        entry["assets"].refuse("two files have the same name")
    oldest = entry["oldest"].line(VERSION_CHARS, "")
    return Release(version, tag, entry["published"].number(0, _LATEST), notes, entry["yanked"].flag(), assets, oldest)


def _asset(entry: Foreign) -> Asset:
    entry.only(("name", "url", "size", "digest"))
    name = entry["name"].line(NAME_BYTES)
    if not is_file_name(name):
        entry["name"].refuse(f"{name!r} is not a plain file name")
    url = entry["url"].line(URL_CHARS)
    if not is_url(url):
        entry["url"].refuse("it is not an http, https or file address")
    digest = entry["digest"].line(7 + 128)
    if digest and not is_digest(digest):
        entry["digest"].refuse("it is not a sha256 or sha512 digest")
    return Asset(name, url, entry["size"].integer(0, MOST_BYTES), digest)


def warnings_from_json(value: object, place: str = "the warnings") -> tuple[str, ...]:
    return tuple(item.line(WARNING_CHARS) for item in Foreign(value, place).items(MOST_WARNINGS))


def state_from_json(value: object, limits: Limits, place: str = "the source's state") -> Mapping[str, Any]:
    """What a source wants kept, if it is an object of at most `limits.source_state_bytes` as JSON."""
    if not isinstance(value, dict):
        raise SourceFailed(f"cannot use {place}: it is not an object")
    if is_deep(value):
        raise SourceFailed(f"cannot use {place}: it is nested too deeply")
    if json_bytes(value) > limits.source_state_bytes:
        raise SourceFailed(f"cannot use {place}: it is larger than {limits.source_state_bytes} bytes")
    return value


def json_bytes(value: object) -> int:
    """How long `value` is as JSON of the shortest form in plain ASCII."""
    return len(json.dumps(value, separators=(",", ":")))


def bounded_notes(releases: Iterable[Release]) -> tuple[Release, ...]:
    """The releases in their order, newest first, with notes for the first `WITH_NOTES` only."""
    return tuple(
        release if number < WITH_NOTES or not release.notes else replace(release, notes="")
        for number, release in enumerate(releases)
    )


def fit(releases: Sequence[Release], limits: Limits) -> tuple[list[dict[str, Any]], list[str]]:
    """Releases as JSON within `LISTING_BYTES` and `limits.index_releases`, and a warning for what was left out."""
    fitting: list[dict[str, Any]] = []
    room = LISTING_BYTES
    for release in releases[: limits.index_releases]:
        plain = release_to_json(release)
        room -= json_bytes(plain) + 1
        if room < 0:
            break
        fitting.append(plain)
    left_out = len(releases) - len(fitting)
    if not left_out:
        return fitting, []
    return fitting, [f"The source lists {len(releases)} releases; the oldest {left_out} were left out."]


def bounded_warnings(warnings: Iterable[str]) -> list[str]:
    """Printable, short and few, each once."""
    plain = ["".join(s if s.isprintable() else "?" for s in text)[:WARNING_CHARS] for text in dict.fromkeys(warnings)]
    if len(plain) <= MOST_WARNINGS:
        return plain
    return [*plain[: MOST_WARNINGS - 1], f"… and {len(plain) - MOST_WARNINGS + 1} more of this kind."]
