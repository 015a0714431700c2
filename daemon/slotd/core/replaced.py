"""Files that are others than when they were first seen at their source: noticed, told, and not taken without consent.

Publishers replace files of a release they have published; so does whoever got hold of their account. What was seen is
remembered for the newest releases, a few bytes a file: a digest, or where the source tells none the size. A source that
tells neither lets nothing be noticed, and the sums and signatures of the definition decide alone.

A version is the same however its tag spells it. Of one that was approved, what was seen is remembered for as long as
the approval stands, and what does not show that it is the same file counts as another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.core import assets, policy
from slotd.core.schema import App, Source
from slotd.core.specifier import parse_specifier
from slotd.core.version import Version, parse
from slotd.model import Asset, Blocked, Release

KEY = "seen"  # in an app's source state
MOST = 64  # files, and versions whose files wait for consent; what is approved or available comes on top

Marks = Mapping[str, str]  # what stands for a version and a file's name -> what stands for its bytes
_DIGITS = len("sha256:") + 24
Offered = Sequence[tuple[policy.Candidate, Sequence[Asset]]]


@dataclass(frozen=True, slots=True)
class Memory:
    """`of`: the source it was seen at. `files`: as they were first seen, or accepted since, the newest release first.
    `pending`: version -> its files as they are now, where that is, or may be, something else. `held`: which of `files`
    are not forgotten for newer ones, by `Version.identity`.
    """

    of: str
    files: Marks = field(default_factory=dict)
    pending: Mapping[str, Marks] = field(default_factory=dict)
    held: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        pending = {version: dict(marks) for version, marks in list(self.pending.items())[:MOST]}
        held = {identity: list(keys) for identity, keys in self.held.items()}
        return {"of": self.of, "files": dict(self.files), "pending": pending, "held": held}


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


def look(
    memory: Memory,
    releases: Sequence[Release],
    *,
    app: App,
    blocked: Sequence[Blocked],
    approved: str,
    available: str = "",
) -> tuple[Memory, list[str]]:
    """What to remember of the source's files, and a sentence on each that is replaced since the last look.

    `approved` and `available`: the versions of the app's record, or empty; what is remembered of these is not forgotten
    however many newer releases there are. Releases that the definition does not want are left out: the nightly of a
    stable channel is replaced every night.
    """
    scheme, specifier = app.source.scheme, parse_specifier(app.source.scheme, app.source.versions)
    consented = parse(scheme, approved)
    held = [version for version in (consented, parse(scheme, available)) if version is not None]
    matched = [
        (each, files)
        for each in policy.parsed(releases, app)[0]
        if specifier.allows(each.version) and not (each.version.is_prerelease and app.source.channel == "stable")
        if (files := assets.match(app.source, each.release).assets)
    ]
    offered = [*matched[:MOST], *(found for found in matched[MOST:] if found[0].version in held)]
    mended = [
        candidate.release.version
        for each in blocked
        for candidate, files in offered
        if each.app in ("", app.name)
        and parse(scheme, each.version) == candidate.version
        and policy.is_replaced(each.digest, tuple(asset.digest for asset in files))
        # What was approved after the block is not what failed.
        and (candidate.version != consented or _is_known(memory, candidate, files, each.digest))
    ]
    return _see(memory, offered, mended, consented, held)


def _see(
    memory: Memory, offered: Offered, mended: Sequence[str], approved: Version | None, held: Sequence[Version]
) -> tuple[Memory, list[str]]:
    """`offered`: the highest release first, with the files to install. `mended`: versions that failed here and whose
    publisher replaced their files, for which the rules of the block stand. `held`: what is not forgotten.
    """
    first: dict[str, str] = {}
    pending: dict[str, dict[str, str]] = {}
    news: list[str] = []
    keys: dict[str, dict[str, None]] = {
        each.identity: dict.fromkeys(memory.held.get(each.identity, ())) for each in held
    }
    outdated: set[str] = set()
    for candidate, files in offered:
        version = candidate.release.version
        waited = memory.pending.get(version, {})
        for asset in files:
            key, by_tag, now = _key(candidate, asset), _key_by_tag(candidate, asset), _mark(asset)
            before = first.get(key) or _before(memory, candidate, asset)
            # What waits does so until it is accepted, or shows that it is as it was.
            is_strict = candidate.version == approved or not waited.keys().isdisjoint((key, by_tag))
            is_other = before != now if is_strict else _differ(before, now)
            is_pending = is_other and version not in mended
            stays = before if is_pending else now if is_other else before or now
            if stays:
                first[key] = stays
                outdated.add(by_tag)
                if candidate.version in held:
                    keys[candidate.version.identity][key] = None
            if not is_pending:
                continue
            pending.setdefault(version, {})[key] = now
            if now not in (waited.get(key), waited.get(by_tag)):
                news.append(_sentence(asset.name, version, is_known=_differ(before, now)))
    # What is not offered now may come back: files are deleted before others take their place.
    here = {candidate.release.version for candidate, _ in offered}
    kept = {**first, **{key: mark for key, mark in memory.files.items() if key not in first and key not in outdated}}
    waiting = {**pending, **{each: marks for each, marks in memory.pending.items() if each not in here}}
    lasting = {identity: [key for key in found if key in kept][:MOST] for identity, found in keys.items()}
    on_top = {key for found in lasting.values() for key in found}
    newest = [key for key in kept if key not in on_top][:MOST]
    files_now = {key: mark for key, mark in kept.items() if key in on_top or key in newest}
    return Memory(memory.of, files_now, waiting, lasting), news[:MOST]


def _sentence(name: str, version: str, *, is_known: bool) -> str:
    if is_known:
        return f"{name} of {version} is another file than was first seen at the source"
    return f"nothing shows that {name} of {version} is the file that was seen at the source before"


def _is_known(memory: Memory, candidate: policy.Candidate, files: Sequence[Asset], digest: str) -> bool:
    return digest[:_DIGITS] in {_before(memory, candidate, asset) for asset in files}


def _before(memory: Memory, candidate: policy.Candidate, asset: Asset) -> str:
    found = memory.files.get(_key(candidate, asset))
    return memory.files.get(_key_by_tag(candidate, asset), "") if found is None else found


def _key(candidate: policy.Candidate, asset: Asset) -> str:
    return _short(f"version\0{candidate.version.identity}\0{asset.name}")


def _key_by_tag(candidate: policy.Candidate, asset: Asset) -> str:
    """As it was remembered while each tag stood for itself: what was seen then still counts."""
    return _short(f"{candidate.release.tag}\0{asset.name}")


def _differ(one: str, other: str) -> bool:
    """A digest and a size, or digests of two kinds, tell nothing of each other."""
    return one.partition(":")[0] == other.partition(":")[0] and one != other


def _mark(asset: Asset) -> str:
    if asset.digest:
        return asset.digest[:_DIGITS]
    # A file of this host may still be being copied.
    return f"size:{asset.size}" if asset.size and not asset.url.startswith("file:") else ""


def _recalled(known: Mapping[str, Any]) -> Memory:
    pending, held = known.get("pending"), known.get("held")
    waiting = pending.items() if isinstance(pending, Mapping) else ()
    lasting = held.items() if isinstance(held, Mapping) else ()
    return Memory(
        str(known.get("of", "")),
        _marks(known.get("files")),
        {str(version): _marks(marks) for version, marks in waiting},
        {str(each): [str(key) for key in keys] for each, keys in lasting if isinstance(keys, list | tuple)},
    )


def _marks(value: object) -> dict[str, str]:
    return {str(key): str(mark) for key, mark in value.items()} if isinstance(value, Mapping) else {}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
