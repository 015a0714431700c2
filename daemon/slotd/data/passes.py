"""One pass over the live data into a copy: hot while the app runs, cold once it is stopped.

Both do the same walk, by directory descriptor and in the order of names. An entry that is as the last pass saw it
before reading it stays, and nothing is opened for it; one that the base backup has too is shared with it by a hard
link; all else is copied (`regular`). What is no longer there goes from the copy. Files that vanish or change while they
are read are no error: the cold pass finds that their times differ from what was written down *before* reading, and
copies them again.

The cold pass is the time the app is stopped. It is one stat per entry, and work for what changed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

from slotd import errors
from slotd.data import CopyStats, DataSpec, snapshots
from slotd.data.digests import known, with_digest
from slotd.data.entries import VANISHED, At, Base, Own, Vanished, kind_of, outside_of
from slotd.data.index import RECENT_NAMES, Index, Recent, Seen, boot_id, escape, line_of
from slotd.data.layout import Layout
from slotd.data.mounts import require_mounted
from slotd.data.places import (
    DEPTH,
    Place,
    Spot,
    is_holder,
    left_out,
    matcher,
    places,
    refuse_link,
    spot,
)
from slotd.data.regular import Regular, reading
from slotd.data.tally import Tally
from slotd.host import btrfs, copy, files, mounts
from slotd.host.failpoint import hit

_BY_NAME = attrgetter("name")


class Pass:
    """One run. `app_runs`: the hot pass. `recent`: what the pass before gave as its `recent`."""

    def __init__(
        self,
        spec: DataSpec,
        dest: Path,
        base: Path | None,
        *,
        app_runs: bool,
        cancelled: Callable[[], bool],
        recent: Recent | None = None,
    ) -> None:
        self.spec = spec
        self.layout = Layout(dest)
        self.app_runs = app_runs
        self._before = recent
        self.recent: Recent | None = None
        self.base = Layout(base) if base and base != dest and Layout(base).sealed() else None
        self.numbers = _numbers(self.base, spec) if self.base else {}
        self.is_excluded = matcher(spec.exclude)
        self.is_sqlite = matcher(spec.sqlite)
        self.tally = Tally(cancelled, str(dest))
        self.started_ns = time.time_ns()
        self.snapshots: dict[str, dict[str, Any]] = {}  # the places that are, or will be, snapshots, by number
        self.is_left_out = left_out(spec.exclude, spec.sqlite)

    def run(self) -> CopyStats:
        require_mounted(self.spec, self.layout.dest, self.base.dest if self.base else None)
        self.layout.make()
        self.layout.unseal()
        self._begin()
        with (
            files.explaining(f"cannot use the copy in {self.layout.dest}"),
            files.opened(self.layout.data, files.DIRECTORY) as data,
            self._opened_base() as base,
        ):
            own = Own(None, "", data)
            for place in places(self.spec):
                self._place(place, own, base)
            numbers = {str(place.number) for place in places(self.spec)}
            for number in set(os.listdir(data)) - numbers:
                snapshots.discard(data, number)
            own.prune(numbers)
        hit("data.pass.index")
        self._finish()
        return self.tally.stats()

    def _begin(self) -> None:
        """See what the last pass left, and mark the copy as no one state."""
        before = self.layout.scope()
        was_finished = not self.layout.unfinished.exists()
        self.layout.unfinished.touch(mode=0o600)
        recent = self._before.still(self.layout.index_path) if self._before else None
        last = (recent or self.layout.index()) if before else Index()
        follows_hot = before is not None and was_finished and not self.app_runs
        self.tried: Mapping[str, Mapping[str, Any]] = self.layout.snapshots() if follows_hot else {}
        scope = self.layout.begin("backup", self.spec, before)
        if before is None or [place.path for place in before.places] != [place.path for place in scope.places]:
            last = Index()
        # Where the last pass came to its end in this boot, the copy is what its index says: it is nobody else's.
        same = before is not None and (before.exclude, before.sqlite) == (scope.exclude, scope.sqlite)
        self.trusted = same and was_finished and not self.app_runs and last.boot == boot_id()
        self.old: Mapping[str, Seen] = last.entries
        self.based = self._base_entries(self.base) if self.base else {}
        self.regular = Regular(self.layout, self.tally, self.old, self.based, self.is_sqlite, app_runs=self.app_runs)

    def _finish(self) -> None:
        """Write the lists. Only a hot pass waits for the disk: what a cold pass leaves is for the seal's one sync."""
        with files.explaining(f"cannot finish the copy in {self.layout.dest}"):
            self.layout.write_lists(self.tally.total, self.tally.index.values())
            self.layout.write_snapshots(self.snapshots)
            if self.app_runs:
                files.syncfs(self.layout.dest)
            hit("data.pass.synced")
            self.layout.unfinished.unlink()
            if self.app_runs and self.tally.names <= RECENT_NAMES:
                self.recent = Recent.of(self.layout.index_path, self.tally.total, self.tally.index)

    @contextmanager
    def _opened_base(self) -> Iterator[Base]:
        if self.base is None:
            yield Base(None, "")
            return
        with files.opened(self.base.data, files.DIRECTORY) as fd:
            yield Base(None, "", fd)

    def _base_entries(self, base: Layout) -> Mapping[str, Seen]:
        """The index of the base by the numbers that its places have now, with the digests that were taken later."""
        entries = base.index().entries
        late = known(base)
        completed = {key: entries[key] for key in late if key in entries}
        entries = {**entries, **{key: s._replace(line=with_digest(s.line, late)) for key, s in completed.items()}}
        if all(str(now) == was for now, was in self.numbers.items()):
            return entries
        now = {was: str(number) for number, was in self.numbers.items()}
        found = {}
        for key, seen in entries.items():
            number, slash, rest = key.partition("/")
            if number in now:
                key = now[number] + slash + rest
                found[key] = seen._replace(line=f"{seen.line.rpartition(' ')[0]} {key}")
        return found

    # -- the walk ----------------------------------------------------------------------------------------------------

    def _place(self, place: Place, data: Own, base: Base) -> None:
        kept = False
        number = str(place.number)
        with files.explaining(f"cannot reach {place.path}"), spot(place.path) as found:
            if found and found.found and not place.volatile:
                refuse_link(place.path, found)
                hit("data.pass.entry")
                snapshots.discard(data.fd(), number)
                if self._by_snapshot(place, found, data.fd(), number):
                    if self.app_runs:
                        data.remove(number)
                    return
                theirs = self.numbers.get(place.number)
                below = base if theirs is not None else Base(None, "")
                at = At(place, "", number, found.parent, found.name, data, number, below, theirs or "")
                kept = self._entry(at, found.found)
        if not kept:
            data.remove(number)

    def _by_snapshot(self, place: Place, at: Spot, data: int, number: str) -> bool:
        """Save a place that is a subvolume as a snapshot of it; False if it is none, or that would not be all of it."""
        if not self.app_runs and files.exists_at(number, data):
            return False  # the hot pass has copied it file by file: there is little left to do
        if not btrfs.is_subvolume_at(at.parent, at.name):
            return False
        with (
            files.explaining(f"cannot save {place.path} in {self.layout.dest}"),
            files.opened(at.name, files.DIRECTORY, dir_fd=at.parent) as subvolume,
        ):
            if problem := snapshots.why_not(at, subvolume, self.is_left_out):
                text = f"{place.path} is copied file by file, not as a snapshot: {files.shown(problem)}"
                self.tally.tell(self.tally.notes, text)
                return False
            note = dict(self.tried.get(number, ()))
            if not note:
                self._sync_source(subvolume, os.fstat(subvolume).st_dev)
                if not snapshots.attempt(subvolume, self.layout):
                    return False
                note["bytes"] = snapshots.measure(subvolume, place.path, self.is_left_out, self.tally)
                note["base"] = str(self.base.dest) if self.base else ""
            if not self.app_runs:
                note |= snapshots.take(subvolume, data, number)
        self.tally.total += note["bytes"]
        self.snapshots[number] = note
        return True

    def _entry(self, at: At, found: os.stat_result) -> bool:
        """Copy one entry; whether the copy has it now."""
        try:
            with files.explaining(f"cannot save {at.live} in {self.layout.dest}"):
                if stat.S_ISDIR(found.st_mode):
                    return self._directory(at)
                if stat.S_ISREG(found.st_mode):
                    return self.regular.save(at, self._sync_source)
                if stat.S_ISLNK(found.st_mode):
                    return self._link(at)
            self.tally.tell(self.tally.skipped, f"{files.shown(at.live)} ({kind_of(found.st_mode)})")
        except Vanished:
            self.tally.index.pop(at.key, None)
            self._vanished(at.live)
        return False

    def _vanished(self, live: Path) -> None:
        if not self.app_runs:
            self.tally.tell(self.tally.notes, f"{files.shown(live)} vanished while it was copied")

    def _directory(self, at: At) -> bool:
        if at.depth >= DEPTH:
            raise errors.Failed(f"cannot save {files.shown(at.live)}: more than {DEPTH} directories deep.")
        with reading(at):
            src = os.open(at.name, files.DIRECTORY, dir_fd=at.src)
        own, base = Own(at.dst, at.dst_name), Base(at.base, at.base_name)
        try:
            found = os.fstat(src)
            self._sync_source(src, found.st_dev)
            old = self.old.get(at.key)
            still = old if old is not None and self.trusted and old.is_still(found) else None
            self.tally.index[at.key] = Seen("", "", "")  # so that it comes before what is in it
            if still is None:
                own.fd()
            names, missed = self._children(at, src, own, base)
            if still is None or missed:
                own.prune(names)
            if still is None:
                kept = copy.copy_attributes(src, own.fd(), found)
                line = line_of("d", os.fstat(own.fd()), "-", kept, at.key)
                self.tally.index[at.key] = self.tally.seen(found, line)
            else:
                self.tally.index[at.key] = still
                if own.is_open:  # as what is opened needs not have the mode that it had
                    os.fchmod(own.fd(), stat.S_IMODE(found.st_mode))
                if own.changed:
                    os.utime(own.fd(), ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            own.close()
            base.close()
            os.close(src)
        return True

    def _children(self, at: At, src: int, own: Own, base: Base) -> tuple[set[str], bool]:
        """The names that the copy has now, and whether it lacks one that was listed."""
        seen = set()
        missed = False
        with reading(at), os.scandir(src) as entries:
            listed = sorted(entries, key=_BY_NAME)
        for entry in listed:
            name = entry.name
            rel = f"{at.rel}/{name}" if at.rel else name
            if self.is_excluded(rel) or is_holder(name):
                continue
            self.tally.tick()
            hit("data.pass.entry")
            key = f"{at.key}/{escape(name)}"
            self.tally.met(key)
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise files.explain(f"cannot read {at.live / name}", error) from error
                self._vanished(at.live / name)
                missed = True
                continue
            if self._carried(key, rel, name, found, own, base) or self._entry(
                At(at.place, rel, key, src, name, own, name, base, name, at.depth + 1), found
            ):
                seen.add(name)
            else:
                missed = True
        return seen, missed

    def _carried(self, key: str, rel: str, name: str, found: os.stat_result, own: Own, base: Base) -> bool:
        """The short way for what surely did not change, most of all: nothing is opened."""
        if stat.S_ISDIR(found.st_mode) or found.st_nlink > 1:  # not every file system counts a directory's names
            return False
        known = self.old.get(key) if self.trusted else self.based.get(key)
        if known is None or not known.is_still(found) or known.derived:
            return False
        if not self.trusted and not self._shared(rel, name, found, own, base, known):
            return False
        self.tally.carry(key, found, known)
        return True

    def _shared(self, rel: str, name: str, found: os.stat_result, own: Own, base: Base, known: Seen) -> bool:
        """Whether the file is now the base's in the copy too."""
        theirs = base.fd()
        if theirs is None or not self.app_runs or not stat.S_ISREG(found.st_mode) or not known.digest:
            return False
        if self.spec.sqlite and (self.is_sqlite(rel) or self.regular.sidecar_of(rel)):
            return False
        try:
            os.link(name, name, src_dir_fd=theirs, dst_dir_fd=own.fd(), follow_symlinks=False)
        except OSError:  # something is there, or it has too many names: the long way knows what to do
            return False
        own.changed = True
        return outside_of(os.stat(name, dir_fd=own.fd(), follow_symlinks=False)) == outside_of(found)

    def _link(self, at: At) -> bool:
        with reading(at), files.opened(at.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=at.src) as fd:
            found = os.fstat(fd)
            if not stat.S_ISLNK(found.st_mode):
                raise Vanished
            target = os.readlink("", dir_fd=fd)
        at.dst.remove(at.dst_name)
        copy.copy_symlink(target, found, at.dst.fd(), at.dst_name)
        made = os.stat(at.dst_name, dir_fd=at.dst.fd(), follow_symlinks=False)
        self.tally.index[at.key] = self.tally.seen(found, line_of("l", made, escape(target), {}, at.key))
        return True

    def _sync_source(self, fd: int, device: int) -> None:
        """Once per file system, before anything on it is read: writes through mappings show in the times after it."""
        if device not in self.tally.synced:
            surely = mounts.tells_changes(fd)  # else nothing is taken for unchanged
            self.tally.synced[device] = (time.time_ns() if self.app_runs else self.started_ns) if surely else 0
            if self.app_runs:
                with suppress(OSError):  # what cannot be synced is still read
                    files.syncfs_fd(fd)


def _numbers(base: Layout, spec: DataSpec) -> dict[int, str]:
    """What each place is called in the base, where it has it."""
    scope = base.scope()
    found = {place.number: scope.number_of(place.path) for place in places(spec)} if scope else {}
    numbers = {number: str(was) for number, was in found.items() if was is not None}
    apart = base.snapshots()  # no file of another subvolume can have a name here
    return {number: was for number, was in numbers.items() if was not in apart}
