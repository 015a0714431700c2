"""Releases that came in a bundle, until they are installed: files by their digests, and a record of each release.

They lie in the app's cache, `imported/`, which is root's alone. What is there was verified when it was taken in, and is
verified again like any download before it is installed: nothing here is believed because it is here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slotd.core import bundle
from slotd.core.bundle import Bundled
from slotd.core.foreign import parse
from slotd.core.schema import Limits
from slotd.core.version import parse as parse_version
from slotd.errors import Failed, SlotdError, SourceFailed
from slotd.host import failpoint, files
from slotd.model import Release

FOLDER = "imported"
MOST_RECORDS = 8  # of one app; the oldest go first
_RECORD = "release-"


@dataclass(frozen=True, slots=True)
class Imported:
    """One release, and where it came from: the bundle's SHA-256, who signed that, when and in which job it came."""

    release: Bundled
    bundle: str
    signer: str
    at: float
    job: int


def put(cache: Path, imported: Imported, sources: Mapping[str, Path]) -> None:
    """Take a release in, whole or not at all: its files are there before its record is. `sources`: by digest.

    The record of an earlier import of the same bundle stays as it is, so that it is nobody's to take off again.
    """
    folder, version = cache / FOLDER, imported.release.version
    is_known = any((each.bundle, each.release.version) == (imported.bundle, version) for each in on_it(cache))
    with files.explaining(f"cannot store {imported.release.app} {version}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for sha256 in {each.sha256 for each in imported.release.contents}:
            (folder / sha256).unlink(missing_ok=True)  # what lies there may be why it is imported again
            os.link(sources[sha256], folder / sha256)
            failpoint.hit("import:linked")
    files.fsync_dir(folder)
    if is_known:
        return
    record = {
        "bundle": imported.bundle,
        "signer": imported.signer,
        "at": int(imported.at),
        "job": imported.job,
        "release": bundle.release_to_plain(imported.release),
    }
    files.write_atomic(folder / f"{_RECORD}{version}.json", json.dumps(record).encode(), 0o600)
    failpoint.hit("import:recorded")


def drop_of(cache: Path, sha256: str, job: int) -> list[str]:
    """Take off what this job took in of this bundle, and give the versions; the files go with the next `prune`."""
    with files.explaining(f"cannot tidy up {cache / FOLDER}"):
        versions = [each.release.version for each in on_it(cache) if (each.bundle, each.job) == (sha256, job)]
        for version in versions:
            (cache / FOLDER / f"{_RECORD}{version}.json").unlink(missing_ok=True)
    return versions


def dependencies(cache: Path, version: str) -> dict[str, Path]:
    """What the release's prepare commands would fetch from elsewhere: name -> file."""
    here = next((each.release for each in on_it(cache) if each.release.version == version), None)
    contents = here.contents if here else ()
    return {each.name: cache / FOLDER / each.sha256 for each in contents if each.kind == bundle.DEPENDENCY}


def on_it(cache: Path) -> list[Imported]:
    """All that is there, the newest first. A record that cannot be read is none."""
    found = []
    with suppress(OSError):
        for path in (cache / FOLDER).glob(f"{_RECORD}*.json"):
            with suppress(SlotdError, OSError):
                found.append(_read(path))
    return sorted(found, key=lambda each: each.at, reverse=True)


def _read(path: Path) -> Imported:
    top = parse(files.read_bounded(path, bundle.MANIFEST_BYTES), str(path))
    return Imported(
        release=bundle.release_from_plain(top["release"]),
        bundle=top["bundle"].line(64),
        signer=top["signer"].line(1000),
        at=top["at"].number(0, 2**53),
        job=top["job"].integer(0, 2**53, 0),  # an older slotd did not write it down
    )


def releases(cache: Path) -> tuple[Release, ...]:
    """The same as a source lists them, but for their addresses."""
    return tuple(each.release.release() for each in on_it(cache))


def has(here: Sequence[Release], wanted: str) -> bool:
    """Whether the version or tag is among them."""
    return bool(wanted) and any(wanted in (each.version, each.tag) for each in here)


def merged(here: Sequence[Release], listed: Sequence[Release]) -> tuple[Release, ...]:
    """What is here, and what else the source lists. A release that its publisher withdrew is withdrawn here, too."""
    known = {each.version: each for each in listed}
    kept = tuple(each for each in here if each.version not in known or not known[each.version].yanked)
    names = {each.version for each in kept}
    return (*kept, *(each for each in listed if each.version not in names))


def bring(cache: Path, sha256: str, target: Path) -> None:
    """Put a file where downloads lie, in the place of what is there. Raises `Failed` if it is in neither place."""
    source = cache / FOLDER / sha256
    with files.explaining(f"cannot take {sha256} from what was imported"):
        if source.is_file():
            target.unlink(missing_ok=True)
            os.link(source, target)
        elif not target.is_file():
            raise _gone(cache)


def small(cache: Path, sha256: str, limits: Limits) -> bytes:
    """A sums file or a signature. Raises `Failed` if it is here no more."""
    path = cache / FOLDER / sha256
    try:
        body = files.read_bounded(path, max(limits.sums_bytes, limits.signature_bytes))
    except FileNotFoundError:
        raise _gone(cache) from None
    if hashlib.sha256(body).hexdigest() != sha256:
        raise SourceFailed(f"cannot use {path}: its bytes have changed.", hint="The disk may be failing; import again.")
    return body


def _gone(cache: Path) -> Failed:
    return Failed(
        f"cannot go on with what was imported: it is no longer in {cache / FOLDER}.",
        hint="Import the bundle again: `slotctl import FILE`.",
    )


def prune(cache: Path, scheme: str, installed: str) -> None:
    """Remove releases that are not newer than what is installed, the oldest of too many, and files of none."""
    folder, here = cache / FOLDER, on_it(cache)
    if not folder.is_dir():
        return
    current = parse_version(scheme, installed)
    kept: list[Imported] = []
    for each in here:
        version = parse_version(scheme, each.release.version)
        if len(kept) < MOST_RECORDS and (current is None or version is None or version > current):
            kept.append(each)
    wanted = {one.sha256 for each in kept for one in each.release.contents}
    wanted |= {f"{_RECORD}{each.release.version}.json" for each in kept}
    # Records first: one whose files are gone would be offered.
    for path in sorted(folder.iterdir(), key=lambda path: not path.name.startswith(_RECORD)):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
