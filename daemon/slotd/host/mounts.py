"""Where file systems are to be mounted, as fstab and an administrator's own units say, and where they are."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slotd.errors import Failed
from slotd.host import files

_log = logging.getLogger(__name__)

FILE_BYTES = 1 << 20
FSTAB = "etc/fstab"
UNITS = ("etc/systemd/system", "run/systemd/system")
_WHERE = re.compile(r"^\s*Where\s*=\s*(/[^\n]*?)\s*$", re.MULTILINE)
_UNSURE = ("fuse", "vfat", "msdos", "exfat", "ramfs", "9p", "virtiofs", "vboxsf")
_PLAIN = re.compile(r"[A-Za-z0-9:_.]")


@dataclass(frozen=True, slots=True)
class Declared:
    """A mount point, and the file that says so."""

    where: Path
    by: Path


def declared(root: Path = Path("/")) -> Iterator[Declared]:
    """Where something is to be mounted: lines of fstab that are not `noauto`, and units that are not masked.

    An automount counts: whoever reaches for it has it mounted. What a slotd of a user may not read declares nothing.
    """
    fstab = root / FSTAB
    for words in (line.split() for line in _text(fstab).splitlines() if not line.lstrip().startswith("#")):
        if len(words) >= 4 and words[1].startswith("/") and "noauto" not in words[3].split(","):
            yield Declared(Path(os.fsdecode(files.unescape(os.fsencode(words[1])))), fstab)
    for folder in UNITS:
        for unit in _units(root / folder):
            found = _WHERE.findall(_text(unit)) if os.path.isfile(unit) else []  # a masked one leads to /dev/null
            if found and "%" not in found[-1]:
                yield Declared(Path(os.path.normpath(found[-1])), unit)


def _text(path: Path) -> str:
    try:
        return os.fsdecode(files.read_bounded(path, FILE_BYTES))
    except FileNotFoundError:
        return ""
    except Failed as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        _tell_unread(path)
        return ""


def _units(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".mount"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        _tell_unread(folder)
        return []


@cache
def _tell_unread(path: Path) -> None:
    _log.warning("may not read %s: whether what it says is mounted is not looked at", path)


def present() -> set[Path]:
    """All mount points, automounts among them."""
    return set(files.mounts_below(Path("/")))


def point_of(path: Path) -> Path:
    """The mount point that holds a real path, itself maybe."""
    found = present()
    return next((above for above in (path, *path.parents) if above in found), Path("/"))


def id_of(fd: int) -> str:
    """What tells the mount that a descriptor is in from all others."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return next(line for line in text.splitlines() if line.startswith("mnt_id:"))


def tells_changes(fd: int) -> bool:
    """Whether a change of a file there surely shows in its times: some file systems have no change time, or that of one
    of several disks.
    """
    number = id_of(fd).split()[1]
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[0] == number:
            kind, _, *options = right.split()
            is_volatile = any("volatile" in each.split(",") for each in options)
            return not kind.startswith(_UNSURE) and not is_volatile
    return True


def unit_of(where: Path) -> str:
    """The name of the unit of a mount point (systemd.unit(5), "String Escaping for Inclusion in Unit Names")."""
    path = str(where).strip("/")
    out = ""
    for at, char in enumerate(path):
        if char == "/":
            out += "-"
        elif _PLAIN.fullmatch(char) and not (char == "." and at == 0):
            out += char
        else:
            out += "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
    return f"{out or '-'}.mount"
