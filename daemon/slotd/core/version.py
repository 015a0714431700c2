"""Versions in three schemes: `pep440` (Python's), `semver` and `date`. What does not parse is never guessed at.

pep440 is PEP 440 as `packaging` reads it, semver is SemVer 2.0.0 as `semver` reads it; `date` is a calendar day in
the forms that publishers use for tags. A version judges for itself whether it is a prerelease: the flag of a source
is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import semver
from packaging.version import InvalidVersion
from packaging.version import Version as Pep440

SCHEMES = ("pep440", "semver", "date")
TEXT_LIMIT = 128  # characters: a longer tag is no version, and big numbers are slow to read

# python3-semver 2.10 (Debian 12) has only VersionInfo; 3.x (Debian 13) renamed it.
_SemVer: Any = getattr(semver, "Version", None) or semver.VersionInfo

_DATE = re.compile(
    r"(?:RELEASE\.)?([0-9]{4})([-._]?)([0-9]{2})\2([0-9]{2})"
    r"(?:[T_-]([0-9]{2})[-:.]?([0-9]{2})(?:[-:.]?([0-9]{2}))?Z?)?"
    r"(?:[.-]([0-9]{1,9}))?"
    r"(?:[.-]?(?P<pre>dev|nightly|alpha|beta|preview|pre|rc|a|b)[.-]?(?P<number>[0-9]{0,9}))?",
    re.ASCII,
)
_STAGES = ("dev", "nightly", "a", "alpha", "b", "beta", "pre", "preview", "rc")
_FINAL_STAGE = len(_STAGES)
_GENERIC_PREFIXES = ("release", "releases", "rel", "version", "ver")
_V = re.compile(r"[vV](?=[0-9])")
_SEPARATORS = "-_/@."


@dataclass(frozen=True, slots=True)
class Version:
    """A parsed version. Comparable with others of its scheme; `text` is what the publisher wrote, without a `v`."""

    scheme: str
    text: str = field(compare=False)
    key: Any = field(repr=False)
    is_prerelease: bool = field(default=False, compare=False)

    def __lt__(self, other: Version) -> bool:
        return bool(self.key < self._same(other).key)

    def __le__(self, other: Version) -> bool:
        return bool(self.key <= self._same(other).key)

    def __gt__(self, other: Version) -> bool:
        return bool(self.key > self._same(other).key)

    def __ge__(self, other: Version) -> bool:
        return bool(self.key >= self._same(other).key)

    def _same(self, other: Version) -> Version:
        if self.scheme != other.scheme:
            raise TypeError(f"versions of the schemes {self.scheme} and {other.scheme} cannot be compared")
        return other

    def __str__(self) -> str:
        return self.text

    @property
    def identity(self) -> str:
        """One text for all spellings of a version: the same exactly for those that are equal."""
        return f"{self.scheme} {_pep440_identity(self.key) if self.scheme == 'pep440' else self.key!r}"


def parse(scheme: str, text: str) -> Version | None:
    """The version that `text` is in `scheme`, or None. A leading `v` is allowed; nothing else is stripped."""
    if not text or len(text) > TEXT_LIMIT or not text.isascii() or text != text.strip():
        return None
    bare = _V.sub("", text, count=1) if _V.match(text) else text
    if scheme == "pep440":
        return _pep440(bare)
    if scheme == "semver":
        return _semver(bare)
    if scheme == "date":
        return _date(bare)
    raise ValueError(f'"{scheme}" is no version scheme')


def version_of_tag(scheme: str, tag: str, names: Collection[str] = ()) -> str:
    """The version text in a tag: `v1.2.3`, `release-1.2.3` and, for a name of `names`, `name-v1.2.3` give `1.2.3`.

    Only known names are stripped: the tags of a repository that holds several projects must not be mixed up. A tag
    in which no version is found comes back as it is, so that it can be shown and skipped.
    """
    whole = parse(scheme, tag)
    if whole is not None:
        return whole.text
    for prefix in (*names, *_GENERIC_PREFIXES):
        if not prefix or not tag.lower().startswith(prefix.lower()):
            continue
        rest = tag[len(prefix) :]
        found = parse(scheme, rest.lstrip(_SEPARATORS))
        if found is not None and (rest[:1] in _SEPARATORS or _V.match(rest) or rest[:1].isdigit()):
            return found.text
    return tag


def _pep440(text: str) -> Version | None:
    try:
        found = Pep440(text)
    except InvalidVersion:
        return None
    return Version("pep440", text, found, found.is_prerelease)


def _pep440_identity(found: Pep440) -> str:
    """PEP 440, "Final releases": zeros at the end of a release make no other version."""
    numbers = ".".join(map(str, found.release))
    while numbers.endswith(".0"):
        numbers = numbers.removesuffix(".0")
    return repr((found.epoch, numbers, found.pre, found.post, found.dev, found.local))


def _semver(text: str) -> Version | None:
    try:
        found = _SemVer.parse(text)
    except (ValueError, TypeError):
        return None
    return Version("semver", text, _semver_key(found), found.prerelease is not None)


def _semver_key(found: Any) -> tuple[Any, ...]:
    """SemVer 2.0.0, section 11, as a key. Build metadata has no rank, so two builds of one version are equal."""
    release = (found.major, found.minor, found.patch)
    if found.prerelease is None:
        return (*release, 1, ())
    return (*release, 0, tuple(_identifier(part) for part in found.prerelease.split(".")))


def _identifier(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdigit() else (1, 0, part)


def _date(text: str) -> Version | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, _, month, day, hour, minute, second, serial = found.groups()[:8]
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return None
    clock = (int(hour or 0), int(minute or 0), int(second or 0))
    if clock > (23, 59, 60) or clock[1] > 59 or clock[2] > 60:
        return None
    stage = _STAGES.index(found["pre"]) if found["pre"] else _FINAL_STAGE
    key = (int(year), int(month), int(day), *clock, int(serial or 0), stage, int(found["number"] or 0))
    return Version("date", text, key, stage < _FINAL_STAGE)
