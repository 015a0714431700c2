"""A second copy of sealed backups, in a restic repository that may be anywhere: pushed, and brought back from there.

A snapshot holds the directory of one sealed tree copy, its manifest and its header among it: what is brought back is
held against that manifest, every byte, before it counts as a backup.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slotd import errors
from slotd.data.layout import read_json
from slotd.data.tree import TreeStore
from slotd.host import files
from slotd.host.failpoint import hit
from slotd.host.restic import Restic

_MARK: Final = "pushed.json"
_VARIABLES: Final = ("AWS_", "B2_", "AZURE_", "GOOGLE_", "OS_", "RCLONE_", "ST_", "SSH_AUTH_SOCK", "HOME")


def environment_of(text: bytes) -> dict[str, str]:
    """The lines NAME=VALUE of a credential, for the services that restic speaks to. Raises `Failed` for others."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not name.startswith(_VARIABLES):
            raise errors.Failed(
                f"cannot use {files.shown(name[:40])} of push_environment: it is no variable of a storage service.",
                hint="Its lines are NAME=VALUE, like AWS_ACCESS_KEY_ID=….",
            )
        found[name] = value
    return found


def is_pushed(dest: Path, address: str) -> bool:
    """Whether this backup is in the repository `address`, as far as this host knows."""
    with suppress(FileNotFoundError, ValueError, errors.Failed):
        return bool(read_json(dest / _MARK).get("repository") == address)
    return False


@dataclass(frozen=True, slots=True)
class Second:
    """The repository of the second copies."""

    restic: Restic

    def push(self, dest: Path, labels: tuple[str, ...], source: Path | None = None) -> None:
        """Push the backup `dest`; `source` is its sealed tree copy, where that is not `dest`. Raises unless it is whole
        there."""
        source = source or dest
        if not TreeStore().is_sealed(source):
            raise errors.Failed(f"cannot push {dest}: it is not a whole backup.")
        tags = [f"--tag={label.replace(',', '_')}" for label in ("slotd", "pass=push", f"id={dest.name}", *labels)]
        self.restic.run("backup", "--json", f"--exclude={source}/{_MARK}", *tags, "--", str(source))
        if not self._found(f"id={dest.name}"):
            raise errors.Failed(f"cannot push {dest}: the repository has no snapshot of it afterwards.")
        hit("data.restic.pushed")
        mark = {"repository": self.restic.repository, "at": time.time()}
        files.write_atomic(dest / _MARK, json.dumps(mark).encode(), 0o600)

    def bring(self, app: str, copy_id: str, dest: Path) -> Mapping[str, Any]:
        """Bring the backup back as `dest`, whole or not at all. Gives what its seal says. Raises `NoSuchBackup`."""
        found = self._found(f"app={app}", f"id={copy_id}")
        if not found:
            raise errors.NoSuchBackup(
                f"cannot bring back {copy_id} of {app}: {self.restic.repository} has no such backup.",
                hint="`restic snapshots --tag pass=push` lists what is there.",
            )
        newest = max(found, key=lambda each: str(each["time"]))
        part = dest.with_name(f".{dest.name}.bring")
        with files.explaining(f"cannot bring back {copy_id}"):
            files.remove_tree(part)
            part.mkdir(mode=0o700, parents=True)
            self.restic.run("restore", "--no-lock", "--target", str(part), str(newest["id"]))
            whole = _inside(part, str(newest["paths"][0]))
            if wrong := TreeStore().verify(whole):
                raise errors.Failed(f"cannot use what came back of {copy_id}: {wrong[0]}.")
            header = TreeStore().header(whole)
            if (header.get("app"), header.get("id")) != (app, copy_id):
                raise errors.Failed(f"cannot use what came back of {copy_id}: it is a backup of something else.")
            files.syncfs(part)
            TreeStore().remove(dest)
            hit("data.restic.brought")
            whole.rename(dest)
            files.fsync_dir(dest.parent)
            files.remove_tree(part)
        return header

    def _found(self, *labels: str) -> list[dict[str, Any]]:
        tags = ",".join(("slotd", "pass=push", *labels))
        return self.restic.run("snapshots", "--json", "--no-lock", "--tag", tags).rows


def _inside(part: Path, path: str) -> Path:
    """What came back of `path` in `part`: the repository is somebody else's, and neither `..` nor a link leads out."""
    whole = part
    for name in path.strip("/").split("/"):
        whole = whole / name
        if name in ("", "..") or not stat.S_ISDIR(os.lstat(whole).st_mode):
            raise errors.Failed(f"cannot use what came back: {files.shown(path)} is not a directory in it.")
    return whole
