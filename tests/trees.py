"""Trees for the tests of data: what one looks like in every detail, and how a store is run and killed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slotd.data import DataSpec

DAEMON = Path(__file__).resolve().parents[1] / "daemon"

PROGRAM = """
import json, sys
from pathlib import Path
from slotd.data import DataSpec
from slotd.data.tree import TreeStore
call = json.loads(sys.argv[1])
parts = tuple(map(Path, call["parts"]))
spec = DataSpec(tuple(map(Path, call["paths"])), tuple(call["exclude"]), tuple(call["sqlite"]), (), parts)
store, dest = TreeStore(), Path(call["dest"])
match call["verb"]:
    case "hot":
        store.hot(spec, dest, Path(call["base"]) if call["base"] else None, lambda: False)
    case "cold":
        store.cold(spec, dest)
    case "seal":
        store.seal(dest, {"version": "1"})
    case "quarantine":
        store.quarantine(spec, dest)
    case "restore":
        store.restore(spec, Path(call["src"]), dest)
    case "put_back":
        store.put_back(spec, Path(call["src"]), dest)
    case "complete":
        store.complete(dest)
    case "remove":
        store.remove(dest)
"""


def look(path: Path, *, inodes: bool = True) -> dict[str, tuple[Any, ...]]:
    """Every entry at and below `path` with all that must come back: type, mode, owner, times, contents, attributes,
    and which names are one file."""
    seen: dict[str, tuple[Any, ...]] = {}
    groups: dict[tuple[int, int], str] = {}

    def entry(at: Path, rel: str) -> None:
        found = at.lstat()
        outside = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns)
        if stat.S_ISLNK(found.st_mode):
            seen[rel] = ("link", *outside[1:], os.readlink(at))
        elif stat.S_ISREG(found.st_mode):
            first = groups.setdefault((found.st_dev, found.st_ino), rel) if inodes else rel
            digest = hashlib.sha256(at.read_bytes()).hexdigest()
            seen[rel] = ("file", *outside, digest, found.st_size, _attributes(at), first)
        elif stat.S_ISDIR(found.st_mode):
            seen[rel] = ("directory", *outside, _attributes(at))
            for name in sorted(os.listdir(at)):
                entry(at / name, f"{rel}/{name}")
        else:
            seen[rel] = ("other", *outside)

    if path.exists() or path.is_symlink():
        entry(path, "")
    return seen


def acl(uid: int, permissions: int) -> bytes:
    """A POSIX ACL that grants one more user something (acl(5), posix_acl_xattr.h)."""
    entries = [(1, 6, 0xFFFFFFFF), (2, permissions, uid), (4, 0, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def digests(*paths: Path) -> set[str]:
    """The contents of all regular files below `paths`, wherever they are."""
    found = set()
    for top in paths:
        for at in [top, *top.rglob("*")] if top.is_dir() else [top]:
            if at.is_file() and not at.is_symlink():
                found.add(hashlib.sha256(at.read_bytes()).hexdigest())
    return found


def _attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path) if name != "security.selinux"))


def call(
    verb: str,
    spec: DataSpec,
    dest: Path,
    *,
    base: Path | None = None,
    src: Path | None = None,
    failpoint: str = "",
    prefix: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """One call of the store in a process of its own, which `failpoint` may kill."""
    request = {
        "verb": verb,
        "paths": [str(path) for path in spec.paths],
        "exclude": spec.exclude,
        "sqlite": spec.sqlite,
        "parts": [str(path) for path in spec.parts],
        "dest": str(dest),
        "base": str(base) if base else "",
        "src": str(src) if src else "",
    }
    environment = os.environ | {"PYTHONPATH": str(DAEMON), "SLOTD_FAILPOINTS": failpoint}
    return subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, json.dumps(request)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def make_place(path: Path) -> None:
    """A directory for an app's data; on btrfs a subvolume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_on_btrfs(path.parent):
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(path)], check=True)
    else:
        path.mkdir()


def is_on_btrfs(path: Path) -> bool:
    said = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(path)], check=True, capture_output=True, text=True
    )
    return said.stdout.strip() == "btrfs"


def clear(path: Path) -> None:
    """Remove all of it, read-only snapshots too."""
    if path.exists() and is_on_btrfs(path):
        for top, names, _ in os.walk(path):
            for name in names:
                at = Path(top, name)
                if not at.is_symlink() and at.stat().st_ino == 256:
                    subprocess.run(["btrfs", "property", "set", str(at), "ro", "false"], check=True)
    subprocess.run(["rm", "-rf", str(path)], check=True)


@contextmanager
def mounted(kind: str, room: Path, *, size: int = 512 << 20) -> Iterator[Path]:
    """A fresh file system of that kind in a file below `room`, mounted."""
    image, mount = room / "image", room / "mount"
    mount.mkdir(parents=True)
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        image.unlink()


def let_in(path: Path) -> None:
    """As under /var/lib: the app's user can get to its data, in `path`."""
    for at in (path, *path.parents):
        if at.stat().st_mode & 0o5 != 0o5:
            at.chmod(at.stat().st_mode | 0o755)
