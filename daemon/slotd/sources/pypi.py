"""Python packages: the JSON API of PyPI, or the simple API (PEP 691; PEP 503 where an index has only that).

A release's assets are the files that fit this host, the best first: wheels in the order that pip prefers, then the
source archive. Without `url` the index is the one that the host's own pip is set to.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from slotd.core import release as form
from slotd.core.answer import shown
from slotd.core.foreign import Foreign, is_encodable, parse
from slotd.core.pipconf import default_index, index_url
from slotd.core.schema import Limits, Source
from slotd.core.simpleindex import links
from slotd.errors import Misconfigured, SourceFailed
from slotd.model import Asset, Release
from slotd.sources import Answer, Getter, Listing

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
SIMPLE_TYPES = f"{SIMPLE_JSON}, text/html;q=0.1"
MOST_FILES = 100_000  # of one package, all its versions

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    url: str
    version: str
    size: int
    digest: str
    uploaded: float
    is_yanked: bool
    requires_python: str


class PyPI:
    """Source type `pypi`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Highest version first."""
        if not _NAME.fullmatch(source.package):
            raise Misconfigured(f"cannot list releases: {source.package!r} is not the name of a package")
        json_url, simple_url = addresses(source)
        warnings: list[str] = []
        try:
            files = list(_of_json(get.get(json_url, headers={"Accept": "application/json"})))
        except SourceFailed as failed:
            if failed.retry_at:
                raise
            # Many mirrors have only the simple API, and say so with 404, 403, a redirect or a page for people.
            files = list(_of_simple(get.get(simple_url, headers={"Accept": SIMPLE_TYPES}), source.package))
        return Listing(_releases(files, warnings), {}, tuple(warnings))


def addresses(source: Source) -> tuple[str, str]:
    """Where the JSON API and the simple API of a package are. `url` may be the address of a server (`https://host`), or
    of its simple API as pip takes it (`https://host/simple`).
    """
    name = canonicalize_name(source.package)
    root = source.url.rstrip("/") or _pip_index().rstrip("/")
    base = re.sub(r"/\+?simple$", "", root)
    is_simple = base != root or not source.url
    return f"{base}/pypi/{name}/json", f"{root}/{name}/" if is_simple else f"{root}/simple/{name}/"


def _pip_index() -> str:
    texts = []
    for path in pip_files(os.environ):
        try:
            texts.append(Path(path).read_text("utf-8", "replace")[:1_000_000])
        except OSError:
            continue  # pip too passes over what is not there or not for it to read
    found = index_url(texts, os.environ) or next(filter(None, map(default_index, _pip_sources())), "")
    if not found:
        raise Misconfigured(
            "cannot list releases: the host has no pip that would say which index to use",
            hint="Install python3-pip or python3-venv, set index-url in /etc/pip.conf, or give `url` in [source].",
        )
    return found


def _pip_sources() -> Iterator[str]:
    """The module with pip's default: of the installed pip, or of the wheel that new virtual environments get."""
    spec = importlib.util.find_spec("pip")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        with contextlib.suppress(OSError):
            yield Path(folder, "_internal/models/index.py").read_text("utf-8", "replace")
    bundled = Path(os.__file__).parent / "ensurepip/_bundled"
    for folder in filter(None, (sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels", bundled)):
        for wheel in sorted(Path(folder).glob("pip-*.whl"), reverse=True):
            with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(wheel) as archive:
                yield archive.read("pip/_internal/models/index.py").decode("utf-8", "replace")


def pip_files(environment: Mapping[str, str]) -> list[str]:
    """pip's own configuration files on Linux, the strongest last (`pip config debug`)."""
    chosen = environment.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return []
    folders = environment.get("XDG_CONFIG_DIRS", "") or "/etc/xdg"
    files = [f"{folder}/pip/pip.conf" for folder in folders.split(":") if folder] + ["/etc/pip.conf"]
    home = environment.get("HOME", "")
    if home:
        own = environment.get("XDG_CONFIG_HOME", "") or f"{home}/.config"
        files += [f"{home}/.pip/pip.conf", f"{own}/pip/pip.conf"]
    return [*files, f"{sys.prefix}/pip.conf", *([chosen] if chosen else [])]


def _of_json(answer: Answer) -> Iterable[_File]:
    document = parse(answer.body, shown(answer.url))
    for version, files in document["releases"].members(MOST_FILES):
        for entry in files.items(form.MOST_ASSETS):
            yield _file(
                entry,
                name=entry["filename"].line(4096),
                base=answer.url,
                version=version,
                digest=entry["digests"]["sha256"].line(200, ""),
                uploaded=entry["upload_time_iso_8601"].moment() or entry["upload_time"].moment(),
                requires_python=entry["requires_python"].prose(200, ""),
            )


def _of_simple(answer: Answer, package: str) -> Iterable[_File]:
    if "json" in answer.headers.get("content-type", ""):
        entries = parse(answer.body, shown(answer.url))["files"].items(MOST_FILES)
    else:
        entries = Foreign(links(answer.body, MOST_FILES), f"{shown(answer.url)}: files").items(MOST_FILES)
    for entry in entries:
        name = entry["filename"].line(4096)
        version = _version_in(name, package)
        if version:
            yield _file(
                entry,
                name=name,
                base=answer.url,
                version=version,
                digest=entry["hashes"]["sha256"].line(200, ""),
                uploaded=entry["upload-time"].moment(),
                requires_python=entry["requires-python"].prose(200, ""),
            )


def _file(
    entry: Foreign, *, name: str, base: str, version: str, digest: str, uploaded: float, requires_python: str
) -> _File:
    try:
        url = urljoin(base, entry["url"].line(form.URL_CHARS)).partition("#")[0]
    except ValueError:
        entry["url"].refuse("it is not an address")
    digest = f"sha256:{digest.lower()}" if digest else ""
    if digest and not form.is_digest(digest):
        entry.refuse("its sha256 is not a digest")
    # `yanked` is a flag in one API, a flag or the reason in the other (PEP 592, 691).
    yanked = entry["yanked"].value
    if not isinstance(yanked, (bool, str, type(None))):
        entry["yanked"].refuse("it is neither true or false nor a reason")
    size = entry["size"].integer(0, form.MOST_BYTES, 0)
    return _File(name, url, version, size, digest, uploaded, isinstance(yanked, str) or yanked is True, requires_python)


def _version_in(name: str, package: str) -> str:
    """The version in a file's name, or empty if the name is not one of this package."""
    if not form.is_file_name(name):  # a longer one could hold millions of tags
        return ""
    try:
        if name.endswith(".whl"):
            found, version = parse_wheel_filename(name)[:2]
        else:
            found, version = parse_sdist_filename(name)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return ""
    return str(version) if found == canonicalize_name(package) else ""


def _releases(files: Sequence[_File], warnings: list[str]) -> tuple[Release, ...]:
    groups: dict[str, list[_File]] = {}
    for file in files:
        if form.is_version(file.version) and is_encodable(file.version):
            groups.setdefault(file.version, []).append(file)
        else:
            warnings.append(f"The version {file.version[:60]!r} was left out: that cannot be a version.")
    releases: dict[str, Release] = {}
    foreign_python: dict[str, str] = {}
    for version, group in groups.items():
        fitting = [file for file in group if fits_python(file.requires_python)]
        ranked = [(rank(file.name), file) for file in fitting if form.is_file_name(file.name) and form.is_url(file.url)]
        ranked = sorted((each for each in ranked if each[0] is not None), key=lambda each: each[0] or 0)
        if group and not fitting:
            foreign_python[version] = group[0].requires_python
        if not ranked:
            continue
        assets = {file.name: Asset(file.name, file.url, file.size, file.digest) for _, file in reversed(ranked)}
        releases[version] = Release(
            version=version,
            tag=version,
            published=min(file.uploaded for file in group),
            # Yanking is done file by file in the simple API; a release is yanked when nothing else is left of it.
            yanked=all(file.is_yanked for _, file in ranked),
            assets=tuple(reversed(assets.values())),
        )
    if foreign_python:
        newest = max(foreign_python, key=_order)
        warnings.append(
            f"{len(foreign_python)} versions up to {newest} were left out: {newest} needs Python "
            f"{foreign_python[newest][:60]}, this host has {sys.version_info.major}.{sys.version_info.minor}."
        )
    return form.bounded_notes(sorted(releases.values(), key=lambda each: _order(each.version), reverse=True))


def _order(version: str) -> tuple[int, Version]:
    try:
        return (1, Version(version))
    except InvalidVersion:
        return (0, Version("0"))


def fits_python(requires: str) -> bool:
    """Whether this host's Python is one that the file is for. What cannot be read excludes nothing, as in pip."""
    try:
        return SpecifierSet(requires).contains(".".join(map(str, sys.version_info[:3])), prereleases=True)
    except InvalidSpecifier:
        return True


def rank(name: str) -> int | None:
    """How good a file is for this host: 0 is the best wheel, the highest a source archive. None if it does not fit."""
    tags = _tags()
    if not name.endswith(".whl"):
        return len(tags) if name.endswith((".tar.gz", ".zip")) and not name.endswith((".win32.zip", ".egg")) else None
    try:
        own = parse_wheel_filename(name)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return None
    return min((tags[tag] for tag in own if tag in tags), default=None)


@cache
def _tags() -> dict[Tag, int]:
    return {tag: place for place, tag in reversed(list(enumerate(sys_tags())))}
