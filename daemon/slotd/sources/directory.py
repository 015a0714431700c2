"""A folder of releases, local or mounted. Two layouts, also side by side:

- `VERSION/` folders with the files of that release;
- files side by side, whose names fit one of the definition's `asset` templates and so tell their version. A file that
  fits none belongs to the release whose version its name holds (`app-1.2.tar.gz.asc`), or else to all (`SHA256SUMS`).

Hidden and unfinished files (`.name`, `name.part`, `name.tmp`) are not seen: whoever copies into the folder renames
last. A symbolic link counts only if it leads to something in the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slotd.core import release as form
from slotd.core.assets import captured, patterns
from slotd.core.schema import Limits, Source
from slotd.core.version import version_of_tag
from slotd.errors import Misconfigured, SourceFailed
from slotd.model import Asset, Release
from slotd.sources import Getter, Listing

UNFINISHED = (".part", ".partial", ".tmp", ".swp", "~")
MOST_ENTRIES = 20_000  # of one folder


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path  # real: no part of it is a link
    size: int
    changed: float

    def asset(self) -> Asset:
        return Asset(self.name, f"file://{quote(str(self.path))}", self.size)


class Directory:
    """Source type `directory`."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """See `SourceType`. Newest first by the time of the files, which is a release's `published`."""
        if not source.path.startswith("/"):
            raise Misconfigured("cannot list releases: [source] path is not absolute")
        warnings: list[str] = []
        try:
            root = Path(source.path).resolve(strict=True)
            flat, folders = _scan(root, root, warnings)
            releases = {release.version: release for release in _flat(flat, source)}
            for folder in folders:
                files, _ = _scan(folder.path, root, warnings)
                release = _folder(folder, files, source, warnings)
                if release is not None:
                    releases[release.version] = release
        except OSError as error:
            raise SourceFailed(
                f"cannot read the folder {source.path}: {error.strerror}.",
                hint="Is it mounted, and may everyone read it? slotd reads it as an unprivileged user.",
            ) from None
        newest = sorted(releases.values(), key=lambda release: release.published, reverse=True)
        return Listing(tuple(newest), {}, tuple(warnings))


def _scan(folder: Path, root: Path, warnings: list[str]) -> tuple[list[_File], list[_File]]:
    """Plain files and folders in `folder`, by name."""
    files: list[_File] = []
    folders: list[_File] = []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_ENTRIES:
                raise SourceFailed(f"cannot use the folder {folder}: it holds more than {MOST_ENTRIES} entries")
            if entry.name.startswith(".") or entry.name.endswith(UNFINISHED):
                continue
            path = Path(entry.path)
            if not form.is_file_name(entry.name):
                warnings.append(f"{entry.name[:60]!r} in {folder} was left out: its name cannot be used.")
                continue
            try:
                if entry.is_symlink():
                    path = path.resolve(strict=True)
                    if not path.is_relative_to(root):
                        warnings.append(f"{entry.path} was left out: it leads out of the folder.")
                        continue
                found = os.lstat(path)
            except (OSError, RuntimeError):  # removed since, a dangling link, a loop of links
                continue
            file = _File(entry.name, path, found.st_size, max(found.st_mtime, 0.0))
            if stat.S_ISREG(found.st_mode):
                files.append(file)
            elif stat.S_ISDIR(found.st_mode):
                folders.append(file)
    return sorted(files, key=lambda file: file.name), sorted(folders, key=lambda file: file.name)


def _folder(folder: _File, files: list[_File], source: Source, warnings: list[str]) -> Release | None:
    version = version_of_tag(source.scheme, folder.name)
    if not form.is_tag(folder.name) or not form.is_version(version):
        warnings.append(f"The folder {folder.name[:60]!r} was left out: its name cannot be a version.")
        return None
    # A folder without a file may be a release on its way, or no release at all.
    return _release(version, folder.name, files) if files else None


def _flat(files: list[_File], source: Source) -> Iterator[Release]:
    wanted = [pattern for template in source.asset for pattern in patterns(template)]
    owned: dict[str, list[_File]] = {}
    tags: dict[str, str] = {}
    others: list[_File] = []
    for file in files:
        fitting = filter(None, (captured(pattern, file.name, source.scheme) for pattern in wanted))
        version, tag = next(fitting, ("", ""))
        if version:
            owned.setdefault(version, []).append(file)
            tags.setdefault(version, tag)
        else:
            others.append(file)
    for file in others:
        holding = [version for version in owned if version in file.name]
        # 1.1 is in the name of 1.10's signature too: the longest is meant.
        for version in [max(holding, key=len)] if holding else list(owned):
            owned[version].append(file)
    for version, group in owned.items():
        yield _release(version, tags[version], group)


def _release(version: str, tag: str, files: list[_File]) -> Release:
    published = max(file.changed for file in files)
    return Release(version, tag, published, assets=tuple(file.asset() for file in files[: form.MOST_ASSETS]))
