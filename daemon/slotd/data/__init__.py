"""How an app's data are saved and brought back. One file per store; this Protocol is its contract.

All methods block and are called off the event loop. All are idempotent: each may be killed at any
moment and called again with the same arguments (promises 1, 3 and 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slotd.core.schema import BackupPolicy, Data

SIDECARS = ("-wal", "-journal")  # part of an SQLite database
SHARED_MEMORY = "-shm"  # only an index of the -wal, made anew by SQLite


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What belongs to an app's data. `exclude` and `sqlite` are relative to each of `paths` (globs allowed).

    `labels` name a backup of them where it lies among others: `app=…`, `version=…`, `reason=…`.
    With `parts` only these are restored, each at or below one of `paths`; all else stays as it is.
    """

    paths: tuple[Path, ...]
    exclude: tuple[str, ...] = ()
    sqlite: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()


def spec_of(data: Data, labels: tuple[str, ...] = (), parts: tuple[str, ...] = ()) -> DataSpec:
    """The data of a definition."""
    # With a database go its sidecars: a log that is laid beside another state of it destroys that.
    beside = (f"{each.rstrip('/')}{suffix}" for each in data.exclude for suffix in (*SIDECARS, SHARED_MEMORY))
    exclude = (*data.exclude, *beside)
    return DataSpec(tuple(map(Path, data.paths)), exclude, data.sqlite, labels, tuple(map(Path, parts)))


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or link in a copy: its live path, mode, size, last change (seconds since the epoch).

    `digest` is `sha256:<hex>` of a file, of a link where it leads; empty where it is not known.
    """

    path: str
    kind: str
    mode: int
    bytes: int
    mtime: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """How the live data differ from a copy: `added`, `changed` (both as they are now) or `removed` (as it was)."""

    how: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class CopyStats:
    """What one pass did. `skipped` names sockets and fifos, which are never copied; `notes` are sentences to log."""

    files: int = 0
    bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Damage:
    """A database of a copy that SQLite does not find sound, by its live path, and what it `said`.

    `is_damaged`: else it could not tell. `by_copying`: the live one is sound.
    """

    path: str
    said: str
    is_damaged: bool
    by_copying: bool = False


class DataStore(Protocol):
    """Keeps copies of data below a directory `dest` of its own, one per backup."""

    def needs(self, spec: DataSpec, base: Path | None) -> int:
        """About how many bytes a backup of `spec` would take now, given what it can share with `base`."""
        ...

    def hot(self, spec: DataSpec, dest: Path, base: Path | None, cancelled: Callable[[], bool]) -> CopyStats:
        """Copy while the app runs: files may vanish, grow, change. `base` is the last sealed backup, to share with."""
        ...

    def cold(self, spec: DataSpec, dest: Path) -> CopyStats:
        """Bring the copy up to date with the app stopped; copies only what changed since the hot pass."""
        ...

    def check(
        self, spec: DataSpec, dest: Path, most: int, most_s: float, base: Path | None, cancelled: Callable[[], bool]
    ) -> Sequence[Damage]:
        """Ask SQLite for the databases of a copy, sealed or not, that were not asked for yet: up to `most` bytes, for
        `most_s` seconds, all together.

        Gives all that are not sound; of a sealed copy only what was not known. `base`: the backup that it shares with.
        """
        ...

    def unsound(self, dest: Path) -> Sequence[str]:
        """What is known of the databases of a copy that are not sound: SQLite's words, without asking again."""
        ...

    def seal(self, dest: Path, header: Mapping[str, Any]) -> int:
        """Write the manifest and put everything on disk. Only now is it a backup. Gives its bytes."""
        ...

    def is_sealed(self, dest: Path) -> bool: ...

    def complete(self, dest: Path) -> None:
        """Do what a seal leaves for when the app runs again (digests of large files). Idempotent; may take long."""

    def header(self, dest: Path) -> dict[str, Any]:
        """What `seal` was given. Raises `Failed` for what is not sealed."""
        ...

    def contents(self, dest: Path) -> list[Entry]:
        """Every entry of a sealed copy, by path. Raises `Failed` for one that is not whole."""
        ...

    def changes(self, spec: DataSpec, dest: Path) -> list[Change]:
        """How the live data differ from a sealed copy, by how files look: without reading them."""
        ...

    def parts(self, spec: DataSpec, dest: Path, wanted: Sequence[str]) -> tuple[Path, ...]:
        """The `parts` to restore for paths that a person named (absolute, or relative to one of `spec.paths`).

        None named, and nothing given: all. Raises `NoSuchBackup` if the copy holds nothing of a name.
        """
        ...

    def verify(self, dest: Path) -> list[str]:
        """Read a sealed copy whole and hold it against its manifest: what is wrong, a sentence each."""
        ...

    def ready(self, src: Path, aside: Path | None = None) -> None:
        """Do what can fail about a restore of `src`, before any data are touched for it, or more of them: those that
        were touched go to the quarantine `aside`.
        """
        ...

    def lent(self, dest: Path) -> AbstractContextManager[Path]:
        """A sealed tree copy of the backup `dest`, to read while this lasts, whatever a restore does meanwhile."""
        ...

    def quarantine(self, spec: DataSpec, dest: Path) -> int:
        """Set the present data aside into `dest` (renamed where the file system allows it). Gives its bytes."""
        ...

    def restore(self, spec: DataSpec, src: Path, aside: Path) -> None:
        """Bring back the sealed backup or quarantine `src`. What `exclude` names comes back from `aside`."""
        ...

    def put_back(self, spec: DataSpec, src: Path, aside: Path) -> None:
        """Undo a `restore` that could not be finished, without new room: the data are what was set aside in `aside`."""
        ...

    def remove(self, dest: Path) -> None:
        """Remove a copy, also a half-made one."""
        ...


def make_data_store(policy: BackupPolicy | None = None, home: Path | None = None) -> DataStore:
    """The store that `policy` asks for, `home` being its own directory. Copies of every kind are found by all of them:
    a definition may have changed since they were made.
    """
    from slotd.data.restic import ResticStore
    from slotd.data.restic_keep import Keep

    if policy is None or home is None or policy.store == "tree":
        return ResticStore()
    repository = Path(policy.repository) if policy.repository else home / "repository"
    return ResticStore(Keep(repository, home, policy.credential))
