"""Bringing a backup, or a quarantine, back to where the data live.

The present data are set aside first, by the structure of the call: a restore without a sealed quarantine makes it.
Each unit is built beside its place as `.NAME.slotd-restore`, put on disk, written down in `restore.json` by its inode,
and renamed into place, so that a call after a kill knows what is already there. What the copy has as a btrfs
subvolume is built by one snapshot. Then comes back from the quarantine
what the copy never covered: what `exclude` names, now or when the backup was made, and places that are newer than it.
The copy itself is only read; files that did not change since are given back and not copied (`keep`).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from slotd import errors
from slotd.data import DataSpec, elsewhere
from slotd.data.aside import Aside, pinned
from slotd.data.copytree import TreeCopy
from slotd.data.entries import Base
from slotd.data.index import Seen
from slotd.data.keep import Keep, mend_times
from slotd.data.layout import Covered, Layout, Scope, read_json
from slotd.data.places import DEPTH, Place, Spot, beside, is_holder, left_out, matcher, places, spot, stat_at, within
from slotd.data.snapshots import NOT_HERE, strip
from slotd.host import btrfs, copy, files
from slotd.host.failpoint import hit

PLACE_ATTEMPTS = 3  # someone else may put something at the place between two looks
PURPOSE = "restore"


class Restore:
    """One restore of the copy `src`, the present data set aside in `aside`."""

    def __init__(self, spec: DataSpec, src: Path, aside: Path) -> None:
        self.spec = spec
        self.src = Layout(src)
        self.aside = Layout(aside)
        self.mover = Aside(spec, aside)
        self.state_path = aside / "restore.json"
        self.index: Mapping[str, Seen] = {}
        self.tops: dict[str, str] = {}  # where the copy has a place, by its number in the quarantine
        self.done: dict[str, int] = {}  # unit to the inode that was put there

    def run(self) -> None:
        scope = self.src.scope() if self.src.sealed() else None
        if scope is None:
            raise errors.Failed(
                f"cannot restore from {self.src.dest}: it is not a whole backup.",
                hint="Choose another: see `slotctl backups`.",
            )
        self.mover.run()
        aside_scope = self.aside.scope()
        if aside_scope is None:
            raise errors.Failed(f"cannot restore: the quarantine {self.aside.dest} has lost its tree.json.")
        self.is_excluded = self.matches = matcher((*self.spec.exclude, *scope.exclude))
        sqlite = scope.sqlite if scope.kind == "backup" else ()
        self.is_left_out = self.leaves_out = left_out((*self.spec.exclude, *scope.exclude), sqlite)
        if self._finished_before(aside_scope):
            return
        self.index = self.src.index().entries
        for place in places(self.spec):
            if not place.volatile:
                with files.explaining(f"cannot restore {place.path} from {self.src.dest}"):
                    self._place(place, scope, aside_scope)
        mend_times(self.aside)
        files.syncfs(self.aside.dest)
        hit("data.restore.finish")
        self._write_state(finished=True)

    # -- how far it has come -----------------------------------------------------------------------------------------

    def _finished_before(self, aside_scope: Scope) -> bool:
        state = self.read_state()
        if state is None:
            return False
        if state.get("src") == str(self.src.dest):
            return bool(state.get("finished"))
        # Another copy was being restored: what came back from the quarantine goes there again.
        for place in places(self.spec):
            number = aside_scope.number_of(place.path)
            with files.explaining(f"cannot restore {place.path}"), spot(place.path) as at:
                if at is None or at.found is None or number is None:
                    continue
                if self.is_there(at.parent, at.name, str(number)) or pinned(at.real):
                    with elsewhere.entry(self.aside, (), str(number)) as (kept, name):
                        carry(at.parent, at.name, kept, name, self.is_excluded)
        self.done = {}
        self._write_state(finished=False)
        return False

    def read_state(self) -> Mapping[str, Any] | None:
        """How far a call before this one came, `done` among it; None if there was none."""
        try:
            state = read_json(self.state_path)
            self.done = {str(key): int(inode) for key, inode in state["done"].items()}
        except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return state

    def _write_state(self, *, finished: bool) -> None:
        raw = {"src": str(self.src.dest), "done": self.done, "finished": finished}
        self.aside.replace(self.state_path, json.dumps(raw).encode())

    def is_there(self, parent: int, name: str, key: str) -> bool:
        try:
            return key in self.done and btrfs.identity(parent, name) == self.done[key]
        except FileNotFoundError:
            return False

    # -- places ------------------------------------------------------------------------------------------------------

    def _place(self, place: Place, scope: Scope, aside_scope: Scope) -> None:
        number, parents, name = found_in(scope, place.path)
        kept = aside_scope.number_of(place.path)
        if kept is None:
            raise errors.Failed(f"cannot restore {place.path}: it was not set aside in {self.aside.dest}.")
        prefix = within(self.spec, place.path)
        self.is_excluded = (lambda rel: self.matches(f"{prefix}/{rel}")) if prefix else self.matches
        self.is_left_out = (lambda rel: self.leaves_out(f"{prefix}/{rel}")) if prefix else self.leaves_out
        if number is not None and parents:
            self._make_parents(scope.places[number], number, parents)
        with (
            elsewhere.entry(self.src, parents, name) as (data, copied),
            elsewhere.entry(self.aside, (), str(kept)) as (aside, aside_name),
        ):
            has_copy = number is not None and files.exists_at(copied, data)
            comes_back = number is None and files.exists_at(aside_name, aside)
            holder = scope.places[number].holder if number is not None else aside_scope.places[kept].holder
            create = (holder or (0o755, os.geteuid(), os.getegid())) if has_copy or comes_back else None
            with spot(place.path, create=create) as at:
                if at is None:
                    return
                is_nested = any(path in place.path.parents for path in self.spec.paths)
                with times_kept(at.parent) if is_nested else nullcontext():
                    if has_copy:
                        self.tops[str(kept)] = "/".join((*parents, name))
                        self._bring(at, data, copied, str(kept), kept)
                        carry(aside, aside_name, at.parent, at.name, self.is_excluded)
                        self._carry_left(at, str(kept))
                        _same_times(data, copied, at.parent, at.name)
                    elif comes_back:
                        _move(aside, aside_name, at.parent, at.name)
                    else:
                        self.mover.take_found(at.parent, at.name, kept)
                files.syncfs_fd(at.parent)

    def _carry_left(self, at: Spot, kept: str) -> None:
        """As `carry`, from those units of the place that are elsewhere: children of mount points."""
        for key, holder, unit in elsewhere.units(self.aside):
            rel = key.removeprefix(f"{kept}/")
            if rel == key:
                continue
            with ExitStack() as opened:
                there = at.parent
                *above, last = (at.name, *rel.split("/"))
                for part in above:
                    there = opened.enter_context(files.opened(part, files.DIRECTORY, dir_fd=there))
                if self.is_excluded(rel):
                    _move(holder, unit, there, last)
                else:
                    carry(holder, unit, there, last, partial(_below, self.is_excluded, rel))

    def _make_parents(self, top: Covered, number: int, parents: tuple[str, ...]) -> None:
        """The directories on the way to a part that are not there any more, as they are in the copy."""
        live, copied = Path(top.path), self.src.data / str(number)
        create = top.holder or (0o755, os.geteuid(), os.getegid())
        for name in ("", *parents[1:]):
            live, copied = live / name, copied / name
            with spot(live, create=create) as at:
                if at is None or at.found is not None:
                    continue
                building = beside(at.name, PURPOSE)
                files.remove_at(at.parent, building)
                os.mkdir(building, 0o700, dir_fd=at.parent)
                with (
                    files.opened(copied, files.DIRECTORY) as source,
                    files.opened(building, files.DIRECTORY, dir_fd=at.parent) as made,
                ):
                    copy.copy_attributes(source, made, os.fstat(source))
                files.rename_new(building, at.name, src_dir_fd=at.parent, dst_dir_fd=at.parent)

    def _bring(self, at: Spot, data: int, name: str, key: str, number: int) -> None:
        fixed = pinned(at.real)
        if fixed:
            self._around_mounts(data, name, at.parent, at.name, key, "", fixed, number)
        else:
            self._unit(data, name, at.parent, at.name, key, "", number)

    def _around_mounts(
        self, src_dir: int, src: str, parent: int, name: str, key: str, rel: str, fixed: set[str], number: int
    ) -> None:
        """Restore what is in a directory that stays, because it or something below it is a mount point."""
        with (
            files.opened(src, files.DIRECTORY, dir_fd=src_dir) as copied,
            files.opened(name, files.DIRECTORY, dir_fd=parent) as live,
        ):
            inside = (*self.tops[key.partition("/")[0]].split("/"), *rel.split("/")) if rel else (self.tops[key],)
            wanted = set(os.listdir(copied)) | set(elsewhere.below(self.src, "/".join(inside)))
            for child in sorted(wanted | set(os.listdir(live))):
                below = f"{rel}/{child}" if rel else child
                if self.is_excluded(below) or is_holder(child):
                    continue
                if below in fixed:
                    if child in wanted:
                        self._around_mounts(copied, child, live, child, f"{key}/{child}", below, fixed, number)
                elif child in wanted:
                    with elsewhere.entry(self.src, inside, child) as (holding, name_there):
                        self._unit(holding, name_there, live, child, f"{key}/{child}", below, number)
                else:
                    self.mover.take_found(live, child, number)
            copy.copy_attributes(copied, live, os.fstat(copied))

    def _unit(self, src_dir: int, src: str, parent: int, name: str, key: str, rel: str, number: int) -> None:
        """Build one unit beside its place and rename it there; what is in the way goes to the quarantine's found/."""
        if self.is_there(parent, name, key):
            return
        building = beside(name, PURPOSE)
        self.mover.take_found(parent, name, number)
        files.remove_at(parent, building)
        if not self._as_snapshot(src_dir, src, parent, building, rel):
            with self._kept(key, rel) as keep:
                tree = TreeCopy(self.is_left_out, keep, key.rpartition("/")[2])
                if not tree.run(src_dir, src, parent, building, rel):
                    return
        hit("data.restore.built")
        files.syncfs_fd(parent)
        self.done[key] = btrfs.identity(parent, building)
        self._write_state(finished=False)
        hit("data.restore.place")
        for attempt in range(1, PLACE_ATTEMPTS + 1):
            try:
                files.rename_new(building, name, src_dir_fd=parent, dst_dir_fd=parent)
                break
            except FileExistsError:
                if attempt == PLACE_ATTEMPTS:
                    raise
                self.mover.take_found(parent, name, number)
        os.fsync(parent)
        hit("data.restore.placed")

    def _as_snapshot(self, src_dir: int, src: str, parent: int, building: str, rel: str) -> bool:
        """Build a unit that the copy has as a subvolume by one act; False if it is none, or this is not its disk."""
        if not btrfs.is_subvolume_at(src_dir, src):
            return False
        with files.opened(src, files.DIRECTORY, dir_fd=src_dir) as copied:
            try:
                if btrfs.children(copied):
                    return False  # what lies in them would be missing
                btrfs.snapshot(copied, parent, building, read_only=False)
            except OSError as error:
                if error.errno in NOT_HERE:
                    return False
                raise
        hit("data.restore.snapshot")
        with files.opened(building, files.DIRECTORY, dir_fd=parent) as made:
            strip(made, self.is_left_out, rel)
        return True

    @contextmanager
    def _kept(self, key: str, rel: str) -> Iterator[Keep]:
        """What the quarantine may have of a unit as it was; `key` is the unit's path there."""
        with files.opened(self.aside.data, files.DIRECTORY) as data:
            chain = [Base(None, "", data)]
            try:
                for part in key.split("/")[:-1]:
                    chain.append(Base(chain[-1], part))
                yield Keep(self.index, self.tops[key.partition("/")[0]], chain[-1])
            finally:
                for each in chain[1:]:
                    each.close()


def found_in(scope: Scope, path: Path) -> tuple[int | None, tuple[str, ...], str]:
    """Where a copy has `path`: its place's number (None if it covers nothing of it), the directories below `data/` that
    lead to it, and its name there.
    """
    number = scope.number_of(path)
    if number is not None:
        return number, (), str(number)
    for number, place in enumerate(scope.places):
        if Path(place.path) in path.parents:
            *between, name = path.relative_to(place.path).parts
            return number, (str(number), *between), name
    return None, (), path.name


def _below(is_excluded: Callable[[str], bool], above: str, rel: str) -> bool:
    return is_excluded(f"{above}/{rel}")


# -- what a copy never covered ---------------------------------------------------------------------------------------


def carry(src_dir: int, src: str, dst_dir: int, dst: str, is_carried: Callable[[str], bool]) -> None:
    """Move the entries below `src` whose relative path `is_carried` to the same path below `dst`.

    What is already at `dst` stays, and its counterpart where it is. Directories missing on the way are made like
    those of `src`.
    """
    if not (_is_directory(src_dir, src) and _is_directory(dst_dir, dst)):
        return
    with (
        files.opened(src, files.DIRECTORY, dir_fd=src_dir) as here,
        files.opened(dst, files.DIRECTORY, dir_fd=dst_dir) as there,
    ):
        for rel in _matching(here, "", is_carried, 0):
            _carry_one(here, there, rel.split("/"))


def _is_directory(dir_fd: int, name: str) -> bool:
    found = stat_at(name, dir_fd)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _matching(fd: int, rel: str, is_carried: Callable[[str], bool], depth: int) -> list[str]:
    found = []
    for name in sorted(os.listdir(fd)):
        below = f"{rel}/{name}" if rel else name
        if is_carried(below):
            found.append(below)
        elif depth < DEPTH and _is_directory(fd, name):
            with files.opened(name, files.DIRECTORY, dir_fd=fd) as child:
                found += _matching(child, below, is_carried, depth + 1)
    return found


def _carry_one(here: int, there: int, parts: list[str]) -> None:
    """One entry by its path; the directories that it leaves and enters keep their times."""
    name = parts[0]
    if len(parts) == 1:
        with times_kept(here), times_kept(there):
            _move(here, name, there, name)
        return
    with files.opened(name, files.DIRECTORY, dir_fd=here) as inner:
        if stat_at(name, there) is None:
            with times_kept(there):
                os.mkdir(name, 0o700, dir_fd=there)
            with files.opened(name, files.DIRECTORY, dir_fd=there) as made:
                copy.copy_attributes(inner, made, os.fstat(inner))
        if _is_directory(there, name):
            with files.opened(name, files.DIRECTORY, dir_fd=there) as outer:
                _carry_one(inner, outer, parts[1:])


def _same_times(src_dir: int, src: str, dst_dir: int, dst: str) -> None:
    """Give the directories the times that those of `src` have: a killed call may have left them as it went."""
    if not (_is_directory(src_dir, src) and _is_directory(dst_dir, dst)):
        return
    with (
        files.opened(src, files.DIRECTORY, dir_fd=src_dir) as here,
        files.opened(dst, files.DIRECTORY, dir_fd=dst_dir) as there,
    ):
        with os.scandir(here) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            _same_times(here, name, there, name)
        found = os.fstat(here)
        os.utime(there, ns=(found.st_atime_ns, found.st_mtime_ns))


@contextmanager
def times_kept(fd: int) -> Iterator[None]:
    before = os.fstat(fd)
    yield
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _move(src_dir: int, src: str, dst_dir: int, dst: str) -> None:
    """Move an entry, by a copy where a rename cannot reach; nothing if `dst` is there."""
    if files.exists_at(dst, dst_dir):
        return
    hit("data.restore.carry")
    try:
        files.rename_new(src, dst, src_dir_fd=src_dir, dst_dir_fd=dst_dir)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    building = beside(dst, PURPOSE)
    files.remove_at(dst_dir, building)
    if TreeCopy().run(src_dir, src, dst_dir, building):
        files.syncfs_fd(dst_dir)
        files.rename_new(building, dst, src_dir_fd=dst_dir, dst_dir_fd=dst_dir)
        os.fsync(dst_dir)
        hit("data.restore.carried")
        files.remove_at(src_dir, src)
