"""Undoing a restore that cannot be finished: what was set aside goes back to its place by renames, which need no room.

A restore has given back files that had not changed, and left second names of the backup's own in the quarantine: these
are exchanged once more, so that the data share no file with the backup. What the restore had built goes; the backup
has it. A kill at any point leaves what the next call goes on from.
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext

from slotd import errors
from slotd.data import elsewhere
from slotd.data.aside import pinned
from slotd.data.keep import mend_times
from slotd.data.layout import Scope
from slotd.data.manifest import Manifest, unknown
from slotd.data.places import Place, Spot, beside, matcher, places, spot, stat_at, within
from slotd.data.restore import PURPOSE, Restore, carry, found_in, times_kept
from slotd.host import btrfs, files, mounts
from slotd.host.failpoint import hit


class PutBack(Restore):
    """The way back of one `Restore` of `src`, whose data lie in `aside`."""

    def run(self) -> None:
        """Raises `Failed`, before anything is moved, where a rename cannot reach."""
        if not self.aside.dest.exists():
            return  # it was done before
        scope, aside_scope = self.src.scope(), self.aside.scope()
        if scope is None or aside_scope is None or self.aside.sealed() is None:
            raise errors.Failed(f"cannot put the data back from {self.aside.dest}: they are not whole there.")
        self.matches = matcher((*self.spec.exclude, *scope.exclude))
        self.read_state()
        wanted = [place for place in places(self.spec) if aside_scope.number_of(place.path) is not None]
        self._require_reach(wanted, aside_scope)
        for place in wanted:
            with files.explaining(f"cannot put {place.path} back"), spot(place.path) as at:
                if at is not None:
                    self._unmake(at, place, scope, str(aside_scope.number_of(place.path)))
        mend_times(self.aside)
        for place in wanted:
            with files.explaining(f"cannot put {place.path} back"), spot(place.path) as at:
                if at is not None:
                    self._move_back(at, place, aside_scope.number_of(place.path) or 0)
        hit("data.putback.moved")
        if self.aside.found.exists():  # what turned up meanwhile is nobody's else: it stays, as all that is left here
            left = Manifest(unknown).walk(self.aside)
            self.aside.write_manifest(left.lines.values())
            self.aside.write_header(left.bytes, {})
        else:
            elsewhere.remove(self.aside)
            files.remove_tree(self.aside.dest)

    def _require_reach(self, wanted: list[Place], aside_scope: Scope) -> None:
        for place in wanted:
            with (
                files.explaining(f"cannot put {place.path} back"),
                spot(place.path) as at,
                elsewhere.entry(self.aside, (), str(aside_scope.number_of(place.path))) as (kept, name),
            ):
                if at is None or not _reaches(kept, name, at.parent) or pinned(at.real):
                    raise errors.Failed(f"cannot put {place.path} back by a rename: it is on another file system.")

    def _unmake(self, at: Spot, place: Place, scope: Scope, key: str) -> None:
        """What the restore has made of a place goes, after it has given back what is not its own."""
        prefix = within(self.spec, place.path)
        self.is_excluded = (lambda rel: self.matches(f"{prefix}/{rel}")) if prefix else self.matches
        number, parents, name = found_in(scope, place.path)
        is_there = self.is_there(at.parent, at.name, key)
        with elsewhere.entry(self.aside, (), key) as (aside, kept):
            for made in (beside(at.name, PURPOSE), *([at.name] if is_there else [])):
                if number is not None and files.exists_at(kept, aside) and files.exists_at(made, at.parent):
                    with elsewhere.entry(self.src, parents, name) as (data, copied):
                        _exchange(data, copied, at.parent, made, aside, kept)
                    if made == at.name:
                        carry(at.parent, made, aside, kept, self.is_excluded)
                hit("data.putback.unmake")
                files.remove_at(at.parent, made)

    def _move_back(self, at: Spot, place: Place, number: int) -> None:
        is_nested = any(path in place.path.parents for path in self.spec.paths)
        with elsewhere.entry(self.aside, (), str(number)) as (aside, kept):
            if not files.exists_at(kept, aside):
                return  # nothing was there, or it is back
            with times_kept(at.parent) if is_nested else nullcontext():
                self.mover.take_found(at.parent, at.name, number)
                hit("data.putback.move")
                files.rename_new(kept, at.name, src_dir_fd=aside, dst_dir_fd=at.parent)
            os.fsync(at.parent)
            os.fsync(aside)


def _reaches(kept: int, name: str, parent: int) -> bool:
    """Whether a rename brings `name` from the one directory to the other."""
    if os.fstat(kept).st_dev == os.fstat(parent).st_dev:
        return True
    # A subvolume of btrfs as a whole goes from one subvolume into another, if not into another mount.
    return btrfs.is_subvolume_at(kept, name) and mounts.id_of(kept) == mounts.id_of(parent)


def _exchange(data: int, name: str, parent: int, made: str, aside: int, kept: str) -> None:
    """Where the quarantine has a file of the backup itself, the one that was there is in what was made: change them."""
    saved, there, ours = stat_at(name, data), stat_at(made, parent), stat_at(kept, aside)
    if saved is None or there is None or ours is None:
        return
    if stat.S_ISREG(ours.st_mode):
        if (ours.st_dev, ours.st_ino) == (saved.st_dev, saved.st_ino) and stat.S_ISREG(there.st_mode):
            files.exchange(kept, made, src_dir_fd=aside, dst_dir_fd=parent)
        return
    if all(stat.S_ISDIR(found.st_mode) for found in (saved, there, ours)):
        with (
            files.opened(name, files.DIRECTORY, dir_fd=data) as inner_data,
            files.opened(made, files.DIRECTORY, dir_fd=parent) as inner_made,
            files.opened(kept, files.DIRECTORY, dir_fd=aside) as inner_kept,
        ):
            for each in os.listdir(inner_kept):
                _exchange(inner_data, each, inner_made, each, inner_kept, each)
