"""What slotd keeps of a backup that lies in a restic repository, in the backup's own directory.

dest/            0700
    tree.json    what the backup covers, as in a tree copy
    restic.json  the repository, the credential's name, the time of the hot pass and the snapshots; with `header`, this
                 is a backup
    tree/        the snapshot brought back as a sealed tree copy, while a restore is under way
    part-*/      the same, not whole yet, or for one who only reads it; locked by whoever makes it
    listing      what the snapshot holds, while somebody looks at it

Whether the snapshot is there is asked of the repository's own file: it is named by its SHA-256, so that it is whole or
not that file. That takes no password and no time, and is the same at boot.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slotd import errors
from slotd.data.layout import read_json
from slotd.host import files
from slotd.host.restic import Restic

FORMAT: Final = 1
SECRET_LIMIT: Final = 64 << 10
_PART: Final = "part-"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT_LIMIT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Keep:
    """Where an app's new backups go. `repository` and `home` are directories; `credential` empty: our own password."""

    repository: Path
    home: Path
    credential: str = ""

    def open(self) -> Restic:
        return Restic(str(self.repository), self.secret(), self.home)

    def secret(self) -> bytes:
        """The password. Raises `Failed` when slotd was not given it."""
        if not self.credential:
            try:
                return files.read_bounded(self.home / "password", SECRET_LIMIT).strip()
            except FileNotFoundError:
                raise errors.Failed(
                    f"cannot open the restic repository {self.repository}: {self.home}/password is gone.",
                    hint="Bring the file back from wherever you keep copies of it.",
                ) from None
        return credential(self.credential, f"the restic repository {self.repository}")

    def make(self) -> None:
        """Make the repository, once. One that was there before is never made anew: its disk may only be missing."""
        known = self.home / "known.json"
        there = (self.repository / "config").exists()
        with suppress(FileNotFoundError, ValueError):
            if read_json(known).get("repository") == str(self.repository):
                if there:
                    return
                raise errors.Failed(
                    f"cannot back up to the restic repository {self.repository}: it was there before, and is not now.",
                    hint=f"Mount its disk. If it is gone for ever, remove {known} to begin a new one.",
                )
        with files.explaining(f"cannot make the restic repository {self.repository}"):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.credential and not (self.home / "password").exists():
                files.write_atomic(self.home / "password", secrets.token_hex(32).encode() + b"\n", 0o600)
            if not there:
                self.repository.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.open().run("init")
                files.syncfs(self.repository)
            files.write_atomic(known, json.dumps({"repository": str(self.repository)}).encode(), 0o600)


def credential(name: str, what: str) -> bytes:
    """A systemd credential of this service, one line. `what` names its use. Raises `Failed` if it was not given."""
    secret = credential_text(name, what).strip()
    if b"\n" in secret:
        raise errors.Failed(f"cannot open {what}: the credential {name!r} is not one line.")
    return secret


def credential_text(name: str, what: str) -> bytes:
    """A systemd credential of this service. Raises `Failed` if it was not given, or is empty."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        secret = files.read_bounded(Path(directory) / name, SECRET_LIMIT) if directory else b""
    except FileNotFoundError:
        secret = b""
    if not secret.strip():
        raise errors.Failed(
            f"cannot open {what}: this service was not given the credential {name!r}.",
            hint=f"Add LoadCredential={name}:/path to its unit, as docs/backups.md says.",
        )
    return secret


@dataclass(frozen=True, slots=True)
class Note:
    """What restic.json says. `since_ns`: when the live file systems were synced before the hot pass.

    `real`: where each place really lay, by its number.
    """

    keep: Keep
    since_ns: int = 0
    hot: str = ""
    cold: str = ""
    bytes: int = 0
    real: tuple[tuple[int, str], ...] = ()
    header: Mapping[str, Any] | None = None

    def write(self, dest: Path) -> None:
        raw: dict[str, Any] = {
            "format": FORMAT,
            "repository": str(self.keep.repository),
            "home": str(self.keep.home),
            "credential": self.keep.credential,
            "since_ns": self.since_ns,
            "hot": self.hot,
            "cold": self.cold,
            "bytes": self.bytes,
            "real": self.real,
        }
        if self.header is not None:
            raw["header"] = dict(self.header)
        with files.explaining(f"cannot write into {dest}"):
            files.write_atomic(dest / "restic.json", json.dumps(raw, indent=1).encode(), 0o600)


@contextmanager
def part_of(dest: Path) -> Iterator[Path]:
    """An empty directory in `dest` for one process alone, gone at the end unless it got another name.

    Others may bring back the same backup meanwhile: a person who looks at it, a push, a restore.
    """
    with files.explaining(f"cannot make room in {dest}"):
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=dest))
        with files.opened(part, files.DIRECTORY) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                yield part
            finally:
                files.remove_tree(part)


def remove_parts(dest: Path) -> None:
    """Remove what those left who were killed. What somebody is still making stays."""
    for part in dest.glob(f"{_PART}*"):
        with files.opened(part, files.DIRECTORY) as fd, suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.remove_tree(part)


def is_kept(dest: Path) -> bool:
    """Whether the copy `dest` lies in a repository, whole or not."""
    return (dest / "restic.json").exists()


def read(dest: Path) -> Note | None:
    """The note of a copy; None when there is none that can be read."""
    try:
        raw = read_json(dest / "restic.json")
        keep = Keep(Path(raw["repository"]), Path(raw["home"]), str(raw["credential"]))
        header = raw.get("header")
        hot, cold = str(raw["hot"]), str(raw["cold"])
        if raw["format"] != FORMAT or not all(each == "" or _ID.fullmatch(each) for each in (hot, cold)):
            return None
        real = tuple((int(number), str(path)) for number, path in raw["real"])
        return Note(keep, int(raw["since_ns"]), hot, cold, int(raw["bytes"]), real, header)
    except (FileNotFoundError, ValueError, KeyError, TypeError, errors.Failed):
        return None


def snapshot_is_there(repository: Path, snapshot: str) -> bool:
    """Whether the repository has this snapshot: its file, whole."""
    try:
        data = files.read_bounded(repository / "snapshots" / snapshot, _SNAPSHOT_LIMIT)
    except (OSError, errors.Failed):
        return False
    return hashlib.sha256(data).hexdigest() == snapshot


def full_id(repository: Path, said: str) -> tuple[str, int]:
    """The snapshot that a run of `restic backup --json` made, and its bytes. Raises `Failed`."""
    for line in reversed(said.splitlines()):
        with suppress(ValueError, KeyError, TypeError):
            raw = json.loads(line)
            if raw["message_type"] == "summary":
                short = str(raw["snapshot_id"])
                names = [name for name in os.listdir(repository / "snapshots") if name.startswith(short)]
                if len(names) == 1 and _ID.fullmatch(names[0]):
                    return names[0], int(raw["total_bytes_processed"])
    raise errors.Failed(f"cannot tell which snapshot restic made in {repository}.", hint="See `restic snapshots`.")
