"""What a copy looks like on disk.

dest/            0700
    tree.json    what the copy covers: kind, paths, patterns, and who owned the directories that hold them
    data/N/      place N as it was (a file is `data/N` itself; nothing there = the place did not exist)
    index        one line per entry: how it looked in the live tree before it was read (see `index`)
    unfinished   while a pass runs: what is here is not one state
    manifest     one line per entry: type mode uid gid mtime_ns size digest-or-target attributes path
    header.json  written last, when all the rest is on disk. With it, this is a backup
    tmp/         files being copied
    digests      those that were still missing in the manifest when it was sealed
    snapshots    which places are btrfs snapshots (see `snapshots`); their lines are not in `manifest`, but in
    walked       written when the app ran again
    found/       what turned up at a place after it had been set aside (quarantine only)
    restore.json how far a restore has come that set its data aside here (quarantine only)
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from slotd import errors
from slotd.data import DataSpec
from slotd.data.index import LIST_LIMIT, Index, Seen, read_head, read_index, write_lists
from slotd.data.places import Place, places, spot
from slotd.host import files, mounts
from slotd.host.failpoint import hit

FORMAT = 1
JSON_LIMIT = 64 << 20


class Covered(NamedTuple):
    """One place as it stands in tree.json. `holder`: mode, uid, gid of the directory that holds it, or None.

    `mount`: the mount point that it lay on, "" for the root file system, or if it was not there.
    """

    path: str
    holder: tuple[int, int, int] | None
    mount: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a copy covers, as it was when the copy was begun. `kind` is `backup` or `quarantine`.

    `secret`: what the names of a quarantine's holders end with. The app may write where they are made, and could have
    made others by names that can be guessed. None in a backup, and in a quarantine of an older slotd.
    """

    kind: str
    places: tuple[Covered, ...]
    exclude: tuple[str, ...]
    sqlite: tuple[str, ...]
    secret: str = ""

    def number_of(self, path: Path) -> int | None:
        return next((number for number, place in enumerate(self.places) if place.path == str(path)), None)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one copy. `memory`: what was read of its files, for who looks again and again."""

    dest: Path
    memory: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def data(self) -> Path:
        return self.dest / "data"

    @property
    def tmp(self) -> Path:
        return self.dest / "tmp"

    @property
    def found(self) -> Path:
        return self.dest / "found"

    @property
    def header(self) -> Path:
        return self.dest / "header.json"

    @property
    def manifest(self) -> Path:
        return self.dest / "manifest"

    @property
    def digests(self) -> Path:
        return self.dest / "digests"

    @property
    def walked(self) -> Path:
        return self.dest / "walked"

    @property
    def unfinished(self) -> Path:
        return self.dest / "unfinished"

    def make(self) -> None:
        """Make the directories; they may be there."""
        with files.explaining(f"cannot make {self.dest}"):
            for path in (self.dest, self.data, self.tmp):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def unseal(self) -> None:
        """Take away what makes this a backup, before anything else is changed."""
        if self.header.exists():
            with files.explaining(f"cannot change {self.dest}"):
                self.header.unlink()
            files.fsync_dir(self.dest)

    def scope(self) -> Scope | None:
        """What the copy covers; None if it was never begun."""
        try:
            raw = read_json(self.dest / "tree.json")
            return Scope(
                raw["kind"],
                tuple(_covered(each) for each in raw["places"]),
                tuple(raw["exclude"]),
                tuple(raw["sqlite"]),
                raw.get("secret", ""),
            )
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise errors.Failed(f"cannot use the copy in {self.dest}: its tree.json is damaged ({error}).") from error

    def begin(self, kind: str, spec: DataSpec, before: Scope | None = None) -> Scope:
        """Write down what the copy covers, if that is not what it covered `before`."""
        covered = tuple(_found(place) for place in places(spec))
        secret = secrets.token_hex(8) if kind == "quarantine" else ""
        scope = Scope(kind, covered, spec.exclude, spec.sqlite, secret)
        if scope == before:
            return scope
        raw = asdict(scope) | {"format": FORMAT, "places": [place._asdict() for place in covered]}
        self.replace(self.dest / "tree.json", json.dumps(raw, indent=1).encode())
        return scope

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a file of the copy itself, whole or not at all, and what a kill left of an earlier writing of it."""
        for cut_short in self.dest.glob(f".{path.name}.*.new"):
            cut_short.unlink(missing_ok=True)
        files.write_atomic(path, data, 0o600)

    def snapshots(self) -> Mapping[str, Mapping[str, Any]]:
        """The places that are snapshots, by their number, and what is known of each."""
        try:
            return read_json(self.dest / "snapshots")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise errors.Failed(f"cannot use the copy in {self.dest}: its `snapshots` is damaged ({error}).") from error

    def has_snapshots(self, numbers: Iterable[str] | None = None) -> bool:
        """Whether all snapshots that were planned (or these) are there."""
        return all((self.data / number).is_dir() for number in (self.snapshots() if numbers is None else numbers))

    def write_snapshots(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Say which places are snapshots, not yet on disk. Their lines, if there were any, are of an earlier pass."""
        self.walked.unlink(missing_ok=True)
        if found:
            files.write_unsynced(self.dest / "snapshots", json.dumps(found).encode())
        else:
            (self.dest / "snapshots").unlink(missing_ok=True)

    @property
    def index_path(self) -> Path:
        return self.dest / "index"

    def index(self) -> Index:
        """What the last finished pass saw; empty if there is none."""
        return read_index(self.index_path)

    def index_head(self) -> Index:
        """The same without its entries."""
        return read_head(self.index_path)

    def write_lists(self, total: int, entries: Iterable[Seen]) -> None:
        """The index and the manifest of a pass, not yet on disk."""
        write_lists(self.index_path, self.manifest, total, entries)

    def write_manifest(self, lines: Iterable[str]) -> None:
        """The manifest of what was not made by a pass, not yet on disk."""
        files.write_unsynced(self.manifest, "".join(line + "\n" for line in lines).encode("ascii"))

    def write_header(self, total: int, header: Mapping[str, Any]) -> None:
        """Make this a backup: everything on disk by one sync, then the header by one rename."""
        manifest = files.read_bounded(self.manifest, LIST_LIMIT)
        raw = {
            "format": FORMAT,
            "bytes": total,
            "entries": manifest.count(b"\n"),
            "manifest": "sha256:" + hashlib.sha256(manifest).hexdigest(),
            "snapshots": sorted(self.snapshots()),
            "header": dict(header),
        }
        beside = self.dest / "header.json.new"
        files.write_unsynced(beside, json.dumps(raw, indent=1).encode())
        files.syncfs(self.dest)
        hit("data.seal.header")
        beside.rename(self.header)
        files.fsync_dir(self.dest)

    def sealed(self) -> dict[str, Any] | None:
        """What header.json says, if it is there and fits the manifest; else None."""
        try:
            raw = read_json(self.header)
            manifest = files.read_bounded(self.manifest, LIST_LIMIT)
        except (FileNotFoundError, ValueError, errors.Failed):
            return None
        if raw.get("format") != FORMAT or raw.get("manifest") != "sha256:" + hashlib.sha256(manifest).hexdigest():
            return None
        if not self.has_snapshots(raw.get("snapshots", ())):
            return None  # somebody has removed one
        return raw


def read_json(path: Path) -> dict[str, Any]:
    """An object of a file that we wrote. FileNotFoundError, ValueError if damaged."""
    raw = json.loads(files.read_bounded(path, JSON_LIMIT))
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return raw


def _covered(raw: dict[str, Any]) -> Covered:
    return Covered(raw["path"], tuple(raw["holder"]) if raw["holder"] else None, raw.get("mount", ""))


def _found(place: Place) -> Covered:
    """A place as it is now."""
    with suppress(OSError), spot(place.path) as at:
        if at:
            found = os.fstat(at.parent)
            point = mounts.point_of(at.real) if at.found else Path("/")
            holder = found.st_mode & 0o7777, found.st_uid, found.st_gid
            return Covered(str(place.path), holder, "" if point == Path("/") else str(point))
    return Covered(str(place.path), None)
