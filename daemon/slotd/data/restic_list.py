"""What is in a snapshot, as `restic ls` tells it: without bringing any of it back.

Kept beside the backup, in `listing`, while people page through it. `complete` takes it away.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from slotd import errors
from slotd.data.layout import Layout
from slotd.data.listing import Look, Written, look_of
from slotd.data.restic_keep import Note

FILE: Final = "listing"
_KINDS: Final = {"file": "file", "dir": "directory", "symlink": "link"}
_SPECIAL_BITS: Final = (
    (1 << 23, 0o4000),
    (1 << 22, 0o2000),
    (1 << 20, 0o1000),
)  # Go's FileMode: setuid, setgid, sticky
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))")


class UnclearError(Exception):
    """The names of this snapshot are not all text, and JSON cannot say them."""


def make(note: Note, part: Path) -> None:
    """Write the listing of the snapshot into the directory `part`."""
    note.keep.open().run("ls", "--json", "--no-lock", note.cold, into=part / FILE)


def written(note: Note, dest: Path) -> Written | None:
    """Every live path that the snapshot holds; None if there is no listing of it yet. Raises `UnclearError`."""
    places = {f"{path}": number for number, path in note.real}
    scope = Layout(dest).scope()
    if scope is None:
        raise errors.Failed(f"cannot read the backup in {dest}: its tree.json is missing.")
    tops = sorted(((real, scope.places[number].path) for real, number in places.items()), reverse=True)
    found: dict[str, tuple[Look, str]] = {}
    try:
        with open(dest / FILE, encoding="utf-8") as lines:
            rows = (json.loads(line) for line in lines if line.startswith("{"))
            if next(rows, {"id": ""})["id"] != note.cold:
                return None
            for row in rows:
                kind, real = _KINDS.get(row["type"]), str(row["path"])
                near = next(((top, live) for top, live in tops if real == top or real.startswith(f"{top}/")), None)
                if "\N{REPLACEMENT CHARACTER}" in real:
                    raise UnclearError(real)
                if kind and near:
                    found[near[1] + real[len(near[0]) :]] = _look(kind, row), ""
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise UnclearError(str(error)) from error
    return found


def reader(found: Written) -> Callable[[Layout], Written]:
    return lambda _layout: found


def _look(kind: str, row: dict[str, Any]) -> Look:
    mode = int(row["mode"])
    bits = mode & 0o777 | sum(bit for flag, bit in _SPECIAL_BITS if mode & flag)
    return look_of(kind, bits, int(row["uid"]), int(row["gid"]), _nanoseconds(row["mtime"]), int(row.get("size", 0)))


def _nanoseconds(text: str) -> int:
    """RFC 3339 with up to nine digits of a second, as nanoseconds since the epoch. ValueError for anything else."""
    said = _TIME.fullmatch(text)
    if said is None:
        raise ValueError(text)
    seconds = calendar.timegm(time.strptime(said[1], "%Y-%m-%dT%H:%M:%S"))
    if said[3]:
        offset = int(said[4]) * 3600 + int(said[5]) * 60
        seconds -= offset if said[3] == "+" else -offset
    return seconds * 10**9 + int((said[2] or "").ljust(9, "0"))
