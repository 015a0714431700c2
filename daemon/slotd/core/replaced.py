"""Files that are others than when they were first seen at their source: noticed, told, and not taken without consent.

Publishers replace files of a release they have published; so does whoever got hold of their account. What was seen is
remembered for the newest releases, a few bytes a file: a digest, or where the source tells none the size. A source that
tells neither lets nothing be noticed, and the sums and signatures of the definition decide alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.core import assets, policy
from slotd.core.schema import App, Source
from slotd.core.specifier import parse_specifier
from slotd.core.version import parse
from slotd.model import Asset, Blocked, Release

KEY = "seen"  # in an app's source state
MOST = 64  # files, and versions whose files wait for consent

Marks = Mapping[str, str]  # what stands for a tag and a file's name -> what stands for its bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """`of`: the source it was seen at. `files`: as they were first seen, or accepted since, the newest release first.
    `pending`: version -> its files as they are now, where that is something else.
    """

    of: str
    files: Marks = field(default_factory=dict)
    pending: Mapping[str, Marks] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"of": self.of, "files": dict(self.files), "pending": {v: dict(m) for v, m in self.pending.items()}}


def read(known: object, source: Source) -> Memory:
    """What `Memory.plain` gave; empty if there is none, or that of another source."""
    of = _short(repr((source.type, source.url, source.repository, source.package, source.path)))
    if not isinstance(known, Mapping) or known.get("of") != of:
        return Memory(of)
    return _recalled(known)


def accept(known: object, version: str) -> tuple[Mapping[str, Any], bool]:
    """What to remember when someone takes this version's files as they are now, and whether there was anything new."""
    memory = _recalled(known if isinstance(known, Mapping) else {})
    if version not in memory.pending:
        return memory.plain(), False
    pending = {each: marks for each, marks in memory.pending.items() if each != version}
    return replace(memory, files={**memory.files, **memory.pending[version]}, pending=pending).plain(), True


def see(
    memory: Memory, offered: Sequence[tuple[Release, Sequence[Asset]]], mended: Sequence[str]
) -> tuple[Memory, list[tuple[str, str]]]:
    """What to remember now, and of what is replaced since the last look (version, file).

    `offered`: releases that have a version, the highest first, with the files to install. `mended`: versions that
    failed here and whose publisher replaced their files, for which the rules of the block stand.
    """
    first: dict[str, str] = {}
    pending: dict[str, dict[str, str]] = {}
    news: list[tuple[str, str]] = []
    for release, files in offered:
        for asset in files:
            key, now = _short(f"{release.tag}\0{asset.name}"), _mark(asset)
            before = memory.files.get(key) or now
            is_other = bool(now) and _differ(before, now)
            if before:
                first[key] = now if is_other and release.version in mended else before
            if not is_other or release.version in mended:
                continue
            pending.setdefault(release.version, {})[key] = now
            if memory.pending.get(release.version, {}).get(key) != now:
                news.append((release.version, asset.name))
    # What is not offered now may come back: files are deleted before others take their place.
    here = {release.version for release, files in offered if files}
    kept = [*first.items(), *((key, mark) for key, mark in memory.files.items() if key not in first)]
    waiting = [*pending.items(), *((each, marks) for each, marks in memory.pending.items() if each not in here)]
    return Memory(memory.of, dict(kept[:MOST]), dict(waiting[:MOST])), news


def look(
    memory: Memory, releases: Sequence[Release], *, app: App, blocked: Sequence[Blocked]
) -> tuple[Memory, list[str]]:
    """What to remember of the source's files, and a sentence on each that is replaced since the last look.

    Releases that the definition does not want are left out: the nightly of a stable channel is replaced every night.
    """
    scheme, specifier = app.source.scheme, parse_specifier(app.source.scheme, app.source.versions)
    candidates = [
        each
        for each in policy.parsed(releases, app)[0]
        if specifier.allows(each.version) and not (each.version.is_prerelease and app.source.channel == "stable")
    ]
    offered = [(each.release, assets.match(app.source, each.release).assets) for each in candidates[:MOST]]
    mended = [
        release.version
        for each in blocked
        for release, files in offered
        if each.app in ("", app.name)
        and parse(scheme, each.version) == parse(scheme, release.version)
        and policy.is_replaced(each.digest, tuple(asset.digest for asset in files))
    ]
    seen, news = see(memory, offered, mended)
    return seen, [f"{name} of {version} is another file than was first seen at the source" for version, name in news]


def _differ(one: str, other: str) -> bool:
    """A digest and a size, or digests of two kinds, tell nothing of each other."""
    return one.partition(":")[0] == other.partition(":")[0] and one != other


def _mark(asset: Asset) -> str:
    if asset.digest:
        return asset.digest[: len("sha256:") + 24]
    # A file of this host may still be being copied.
    return f"size:{asset.size}" if asset.size and not asset.url.startswith("file:") else ""


def _recalled(known: Mapping[str, Any]) -> Memory:
    files, pending = known.get("files"), known.get("pending")
    waiting = pending.items() if isinstance(pending, Mapping) else ()
    return Memory(str(known.get("of", "")), _marks(files), {str(v): _marks(marks) for v, marks in waiting})


def _marks(value: object) -> dict[str, str]:
    return {str(key): str(mark) for key, mark in value.items()} if isinstance(value, Mapping) else {}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
