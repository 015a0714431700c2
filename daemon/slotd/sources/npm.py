"""npm packages: a registry's document of a package, which lists its versions.

Each version has one file, its tarball, with the SHA-512 that npm itself checks (`dist.integrity`). The tag `latest` is
not read. Without `url` the registry is the one that the host's own npm is set to; npm's tokens are not used.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slotd.core import release as form
from slotd.core.answer import TooLarge, shown
from slotd.core.foreign import Foreign, is_encodable, parse
from slotd.core.npmconf import default_registry, from_environment, registry, settings
from slotd.core.schema import Limits, Source
from slotd.core.version import Version
from slotd.core.version import parse as version_of
from slotd.errors import Misconfigured
from slotd.model import Asset, Release
from slotd.sources import Answer, Getter, Listing

WHOLE = "application/json"
SHORT = "application/vnd.npm.install-v1+json"  # for installing: a tenth of the size, without any date
MOST_VERSIONS = 100_000

_NAME = re.compile(r"(@[a-z0-9~-][a-z0-9._~-]*/)?([a-zA-Z0-9~-][a-zA-Z0-9._~-]*)", re.ASCII)
_STRENGTHS = ("sha512", "sha256")  # the strongest first; sha384 is not measured here, and sha1 proves nothing
_BYTES = {"sha512": 64, "sha256": 32}
_INSIDE_NPM = ("node_modules/@npmcli/config", "../@npmcli/config", ".")
_DEFINITIONS = ("lib/definitions/definitions.js", "lib/utils/config/definitions.js")


class Npm:
    """Source type `npm`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Highest version first."""
        if not _NAME.fullmatch(source.package) or len(source.package) > 214:
            raise Misconfigured(f"cannot list releases: {source.package!r} is not the name of a package")
        url = address(source)
        warnings: list[str] = []
        try:
            answer = get.get(url, headers={"Accept": WHOLE})
            document = parse(answer.body, shown(answer.url))
        except TooLarge:
            answer = get.get(url, headers={"Accept": SHORT})
            document = parse(answer.body, shown(answer.url))
            warnings.append("The registry's document is too large to be read whole; the short one has no dates.")
        return Listing(_Reader(source, url, answer, warnings, limits).releases(document), {}, tuple(warnings))


def address(source: Source) -> str:
    """Where the document of a package is. The slash of a scoped name does not separate folders, so it is escaped."""
    root = source.url or _own_registry(source.package)
    return f"{root.rstrip('/')}/{source.package.replace('/', '%2F')}"


@dataclass
class _Reader:
    source: Source
    url: str
    answer: Answer
    warnings: list[str]
    limits: Limits
    elsewhere: list[tuple[str, str]] = field(default_factory=list)  # (version, where its file is)
    deprecated: list[tuple[str, str]] = field(default_factory=list)  # (version, what its publisher says)

    def releases(self, document: Foreign) -> tuple[Release, ...]:
        name = document["name"].line(500)
        if name != self.source.package:
            document["name"].refuse(f"it is about {name!r}, not about {self.source.package!r}")
        times = {} if document["time"].is_absent else dict(document["time"].members(2 * MOST_VERSIONS))
        if document["versions"].is_absent:
            document.refuse("it has no versions: the package was withdrawn")
        found = []
        for version, entry in document["versions"].members(MOST_VERSIONS):
            if not form.is_version(version) or not is_encodable(version):
                self.warnings.append(f"The version {version[:60]!r} was left out: that cannot be a version.")
                continue
            release = self._release(version, entry, times.get(version))
            if release is not None:
                found.append(release)
        found.sort(key=lambda each: self._order(each.version), reverse=True)
        self._tell(found)
        return form.bounded_notes(found)

    def _release(self, version: str, entry: Foreign, time: Foreign | None) -> Release | None:
        dist = entry["dist"]
        url = dist["tarball"].line(form.URL_CHARS)
        digest = _digest(dist["integrity"])
        said = _deprecation(entry["deprecated"], self.limits)
        if said:
            self.deprecated.append((version, said))
        if not self._is_here(url):
            self.elsewhere.append((version, shown(url)))
            return None
        plain = self.source.package.rpartition("/")[2]
        asset = Asset(f"{plain}-{version}.tgz", url, 0, digest)
        if not form.is_file_name(asset.name):
            entry.refuse("its file would have no usable name")
        published = time.moment() if time else 0.0
        notes = f"Deprecated: {said}" if said else ""
        return Release(version, version, published, notes, yanked=bool(said), assets=(asset,))

    def _is_here(self, url: str) -> bool:
        """Whether a file is on the registry's own server: the one that was asked, or to which that one led."""
        return form.is_url(url) and _server(url) in (_server(self.url), _server(self.answer.url))

    def _tell(self, found: Sequence[Release]) -> None:
        """One warning for each kind, about the newest version; of a deprecation if that version would be chosen."""
        best = max((self._order(each.version) for each in found if self._is_good(each)), default=(-1, ""))
        self.deprecated = [each for each in self.deprecated if self._order(each[0]) > best]
        if self.elsewhere:
            version, where = max(self.elsewhere, key=lambda each: self._order(each[0]))
            self.warnings.append(
                f"{_versions(len(self.elsewhere), version)} left out: {where} is not on the registry's own server."
            )
        if self.deprecated:
            version, said = max(self.deprecated, key=lambda each: self._order(each[0]))
            self.warnings.append(
                f"{_versions(len(self.deprecated), version)} deprecated by the publisher: {' '.join(said.split())}"
            )

    def _is_good(self, release: Release) -> bool:
        version = version_of(self.source.scheme, release.version)
        return version is not None and not version.is_prerelease and not release.yanked

    def _order(self, version: str) -> tuple[int, Version | str]:
        found = version_of(self.source.scheme, version)
        return (0, version) if found is None else (1, found)


def _versions(count: int, newest: str) -> str:
    return f"The version {newest} was" if count == 1 else f"{count} versions up to {newest} were"


def _server(url: str) -> tuple[str, int | None]:
    """Host and port, by which two addresses are compared; https and http are told apart elsewhere."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme.lower())
    except ValueError:
        return "", None


def _digest(integrity: Foreign) -> str:
    """The strongest digest of a Subresource Integrity text (`sha512-<base64> …`) that can be measured; or empty."""
    given: dict[str, str] = {}
    for word in integrity.line(2000, "").split():
        algorithm, _, value = word.partition("-")
        if algorithm not in _STRENGTHS:
            continue
        try:
            raw = base64.b64decode(value.partition("?")[0], validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _BYTES[algorithm]:
            integrity.refuse(f"it holds a {algorithm} that is none")
        if given.setdefault(algorithm, raw.hex()) != raw.hex():
            integrity.refuse(f"it holds two {algorithm}, and a file has one")
    return next((f"{algorithm}:{given[algorithm]}" for algorithm in _STRENGTHS if algorithm in given), "")


def _deprecation(entry: Foreign, limits: Limits) -> str:
    """Why a version should not be used, in its publisher's words; empty if it may be. An empty text takes it back."""
    if isinstance(entry.value, bool):
        return "without a reason" if entry.value else ""
    return entry.prose(limits.notes_bytes, "").strip()


# ── the host's own npm ───────────────────────────────────────────────────────────────────────────────────────────────


def _own_registry(package: str) -> str:
    scope = package.partition("/")[0] if "/" in package else ""
    texts = [text for path in npm_files(os.environ) if (text := _text(Path(path))) is not None]
    url = registry(texts, os.environ, scope) or next(filter(None, map(default_registry, _npm_sources())), "")
    if not url:
        raise Misconfigured(
            "cannot list releases: the host has no npm that would say which registry to use",
            hint="Install npm, set registry in /etc/npmrc, or give `url` in [source].",
        )
    if not form.is_url(url) or url.lower().startswith("file:") or "${" in url:
        raise Misconfigured(
            f"cannot list releases: the registry that the host's npm is set to is no address ({shown(url)[:60]})",
            hint="Mend it in npm's configuration (`npm config list`), or give `url` in [source].",
        )
    return url


def npm_files(environment: Mapping[str, str]) -> list[str]:
    """npm's own configuration files, the strongest last: npm's, the system's, the user's (`npm config list`)."""
    set_here = from_environment(environment)
    root = _npm_root()
    home = environment.get("HOME", "")
    own = set_here.get("userconfig", "") or (f"{home}/.npmrc" if home else "")
    if root is None:
        return list(filter(None, ("/etc/npmrc", own)))
    builtin = f"{root}/npmrc"
    mine, built_in = (settings(_text(Path(path)) or "", environment) if path else {} for path in (own, builtin))
    said = {key: set_here.get(key) or mine.get(key) or built_in.get(key) for key in ("prefix", "globalconfig")}
    prefix = said["prefix"] or environment.get("PREFIX", "") or _prefix()
    return list(filter(None, (builtin, said["globalconfig"] or f"{prefix}/etc/npmrc", own)))


def _prefix() -> str:
    node = _program("node")
    return str(node.parents[1]) if node else "/usr/local"


def _npm_root() -> Path | None:
    """The folder of npm itself: its command is a link to `bin/npm-cli.js` in there."""
    found = _program("npm")
    return found.parents[1] if found else None


def _program(name: str) -> Path | None:
    """Where a command lies. Not by `shutil.which`: for a worker, which may not execute it, it would not be there."""
    for folder in os.environ.get("PATH", "").split(":"):
        if folder.startswith("/") and Path(folder, name).is_file():
            return Path(folder, name).resolve()
    return None


def _npm_sources() -> Iterator[str]:
    """The modules with npm's defaults, of any version since 7."""
    root = _npm_root()
    for folder in _INSIDE_NPM if root else ():
        for name in _DEFINITIONS:
            text = _text(Path(root or "", folder, name))
            if text is not None:
                yield text


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")[:1_000_000]
    except OSError:
        return None  # npm too passes over what is not there or not for it to read
