"""Whether the SQLite databases of a copy are sound: SQLite is asked, with the rights of their owner.

A database may be damaged in the copy because it was in the live data: that is told, and harms no backup, which is just
what the app had. Or it came by the copying: then the live one is sound, and the copy is worth nothing. Which of the two
is asked when a copy is found damaged: of the bytes, and where they differ, because the app has gone on, of SQLite.

A database beside its log or journal cannot be read without writing: it is copied (sharing blocks where it can) to be
looked at. What was found is written down in `checked`, by how the files of the copy look, so that the next backup need
not ask again for what it shares with this one.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from slotd import errors
from slotd.data import SIDECARS, Damage, DataSpec, snapshots
from slotd.data.databases import backup
from slotd.data.entries import VANISHED
from slotd.data.index import LIST_LIMIT, unescape
from slotd.data.layout import Layout, Scope, read_json
from slotd.data.places import matcher, spot, stat_at
from slotd.host import copy, files, sqlite

SCRATCH_BYTES = 1 << 30  # of a database that must be copied to be looked at
LEAST_BYTES = 8 << 20  # what the start of one check costs: so much could be read meanwhile
SPARE_BYTES = 256 << 20  # that must stay free meanwhile
NOBODY = 65534
_SCRATCH = "checking"


class Verdict(NamedTuple):
    """What SQLite said of a database, by its live path, as it is shown: see `sqlite.Sound`."""

    verdict: str
    said: str
    path: str


Checked = dict[str, Verdict]  # by how the files of the database look


@dataclass(frozen=True, slots=True)
class _Database:
    """One in a copy: its live path, its file there, and its log or journal where there is one with anything in it."""

    live: Path
    main: Path
    sidecars: tuple[tuple[str, Path], ...]
    state: str
    size: int


def check(
    layout: Layout, spec: DataSpec, most: int, most_s: float, base: Layout | None, cancelled: Callable[[], bool]
) -> tuple[Damage, ...]:
    """Ask for what was not asked yet, the smallest first, up to `most` bytes together, where each counts as 8 MiB at
    least, and for `most_s` seconds. Raises `Failed`, `NoSpace`. Of a copy that is not sealed, what time ran out for is
    left for later.

    Of a copy that is not sealed all that is damaged is given, of one that is only what was not known before.
    """
    scope = layout.scope()
    if scope is None or scope.kind != "backup" or not scope.sqlite:
        return ()
    before = read(layout)
    if before is not None and before[1]:
        return ()
    known = {**(_checked(base) if base else {}), **(before[0] if before else {})}
    is_sealed = layout.sealed() is not None
    now: Checked = {}
    found: list[Damage] = []
    left, deadline = most, time.monotonic() + most_s
    is_all = is_sealed
    for database in sorted(_databases(layout, scope, is_sealed), key=lambda each: each.size):
        verdict = known.get(database.state)
        is_new = verdict is None
        if verdict is None:
            left -= max(database.size, LEAST_BYTES)
            left_s = deadline - time.monotonic()
            sound = None
            if left >= 0 and left_s > 0 and not cancelled():
                sound = _ask(layout, database, left_s, cancelled)
            if sound is None or (sound.verdict == "unknown" and not is_sealed and time.monotonic() >= deadline):
                is_all = False
                continue
            verdict = Verdict(sound.verdict, sound.said, files.shown(database.live))
        now[database.state] = verdict
        if verdict.verdict != "ok" and (is_new or not is_sealed):
            is_damaged = verdict.verdict == "damaged"
            by_copying = is_damaged and _is_sound_live(layout, spec, database, most_s, cancelled)
            found.append(Damage(verdict.path, verdict.said, is_damaged, by_copying))
    raw = {"all": is_all, "found": {state: list(each) for state, each in now.items()}}
    layout.replace(layout.dest / "checked", json.dumps(raw).encode())
    return tuple(found)


def read(layout: Layout) -> tuple[Checked, bool] | None:
    """What is written down of a copy, and whether that is all of it; None if nothing is."""
    try:
        raw = read_json(layout.dest / "checked")
        found = {str(state): Verdict(*map(str, each)) for state, each in raw["found"].items()}
        return found, bool(raw["all"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, errors.Failed):
        return None


def _checked(layout: Layout) -> Checked:
    """What is surely known of a copy before this one: what was damaged is asked again."""
    found = read(layout)
    return {state: each for state, each in found[0].items() if each.verdict == "ok"} if found else {}


def _databases(layout: Layout, scope: Scope, is_sealed: bool) -> Iterator[_Database]:
    is_sqlite = matcher(scope.sqlite)
    lines = files.read_bounded(layout.manifest, LIST_LIMIT).decode("ascii", "replace").splitlines()
    if is_sealed:  # a snapshot is not walked while the app is down
        lines += snapshots.walked(layout)
    for line in lines:
        number, _, rel = unescape(line[line.rindex(" ") + 1 :]).partition("/")
        top = Path(scope.places[int(number)].path)
        if not line.startswith("f ") or not is_sqlite(rel or top.name):
            continue
        live = top / rel if rel else top
        main = layout.data / number / rel if rel else layout.data / number
        with files.explaining(f"cannot look at {main}"):
            looks = [os.lstat(main)]
            sidecars = []
            for suffix in SIDECARS:
                beside = _beside(layout, scope, live, main, suffix, is_place=not rel)
                with suppress(FileNotFoundError, NotADirectoryError):
                    if beside is not None and (look := os.lstat(beside)).st_size:
                        looks.append(look)
                        sidecars.append((suffix, beside))
        state = " ".join(f"{look.st_dev}:{look.st_ino}:{look.st_size}:{look.st_mtime_ns}" for look in looks)
        yield _Database(live, main, tuple(sidecars), state, sum(look.st_size for look in looks))


def _beside(layout: Layout, scope: Scope, live: Path, main: Path, suffix: str, *, is_place: bool) -> Path | None:
    """Where the copy has a log or journal: of a database that is a place of its own, it is one, too."""
    if not is_place:
        return main.with_name(main.name + suffix)
    number = scope.number_of(live.with_name(live.name + suffix))
    return None if number is None else layout.data / str(number)


def _ask(layout: Layout, database: _Database, most_s: float, cancelled: Callable[[], bool]) -> sqlite.Sound:
    with files.explaining(f"cannot look at {database.main}"):
        found = os.lstat(database.main)
        if not stat.S_ISREG(found.st_mode) or copy.is_hollow(found):
            return sqlite.Sound("unknown", "it is nearly all hole")
        uid, gid = (found.st_uid, found.st_gid) if found.st_uid else (NOBODY, NOBODY)
        if not database.sidecars and sqlite.reads_in_place() and (found.st_uid or os.geteuid()):
            return sqlite.check(database.main, uid=uid, gid=gid, in_place=True, most_s=most_s, cancelled=cancelled)
        if database.size > SCRATCH_BYTES or database.size + SPARE_BYTES > files.free_bytes(layout.dest):
            return sqlite.Sound("unknown", "it would have to be copied to be looked at, and is too large for that")
        with _scratch(layout, uid, gid) as scratch:
            for suffix, source in (("", database.main), *database.sidecars):
                with (
                    files.opened(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as src,
                    files.opened(scratch / f"db{suffix}", os.O_RDWR | os.O_CREAT | os.O_EXCL) as dst,
                ):
                    copy.copy_file(src, dst)
                    _give(dst, uid, gid)
            return sqlite.check(scratch / "db", uid=uid, gid=gid, in_place=False, most_s=most_s, cancelled=cancelled)


@contextmanager
def _scratch(layout: Layout, uid: int, gid: int) -> Iterator[Path]:
    path = layout.tmp / _SCRATCH
    files.remove_tree(path)
    path.mkdir(mode=0o700)
    try:
        with files.opened(path, files.DIRECTORY) as fd:
            _give(fd, uid, gid)
        yield path
    finally:
        files.remove_tree(path)


def _give(fd: int, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.fchown(fd, uid, gid)


# -- the live one ----------------------------------------------------------------------------------------------------


def _is_sound_live(
    layout: Layout, spec: DataSpec, database: _Database, most_s: float, cancelled: Callable[[], bool]
) -> bool:
    """Whether what is damaged in the copy is sound in the data. Where that cannot be told, it is not."""
    try:
        top = next(path for path in spec.paths if path == database.live or path in database.live.parents)
        inner = database.live.relative_to(top).parts
        with _opened_live(top, inner) as (holder, name):
            if _same_bytes(database, holder, name):
                return False
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
            target = layout.tmp / "live"
            try:
                if backup(database.live, found, os.fstat(holder), target, cancelled):
                    return False
                made = os.stat(target)
                copied = _Database(database.live, target, (), "", made.st_size)
                os.chown(target, *((found.st_uid, found.st_gid) if os.geteuid() == 0 else (-1, -1)))
                return _ask(layout, copied, most_s, cancelled).verdict == "ok"
            finally:
                target.unlink(missing_ok=True)
    except (OSError, StopIteration, errors.SlotdError):
        return False


@contextmanager
def _opened_live(top: Path, inner: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The directory of a live file, by way of no link that the app could have made, and its name there."""
    with spot(top) as at:
        if at is None:
            raise FileNotFoundError(top)
        fds = [os.dup(at.parent)]
        try:
            names = (at.name, *inner)
            for name in names[:-1]:
                fds.append(os.open(name, files.DIRECTORY, dir_fd=fds[-1]))
            yield fds[-1], names[-1]
        finally:
            for fd in fds:
                os.close(fd)


def _same_bytes(database: _Database, holder: int, name: str) -> bool:
    copied = {"": database.main, **dict(database.sidecars)}
    for suffix in ("", *SIDECARS):
        try:
            fd = copy.open_regular(holder, name + suffix)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
            if suffix in copied:
                return False
            continue
        try:
            found = os.fstat(fd)
            if suffix not in copied:
                if found.st_size:
                    return False
            elif found.st_size != os.lstat(copied[suffix]).st_size or files.hash_fd(fd) != files.hash_path(
                copied[suffix]
            ):
                return False
        finally:
            os.close(fd)
    return stat_at(name, holder) is not None
