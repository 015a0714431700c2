"""One pass over the live data into a copy: hot while the app runs, cold once it is stopped.

Both do the same walk, by directory descriptor and in the order of names. A file that is as the last pass saw it
before reading it stays; one that the base backup has too is shared with it by a hard link; all else is copied beside
and renamed. What is no longer there goes from the copy. Files that vanish or change while they are read are no error:
the cold pass finds that their times differ from what was written down *before* reading, and copies them again.

An SQLite database (`DataSpec.sqlite`) that is being written is copied hot by SQLite itself, so that a copy made while
the app runs is one state of it. The cold pass replaces that by the plain files, the write-ahead log or rollback
journal with them: exactly the bytes the app left, also when it was killed in the middle of a transaction.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slotd import errors
from slotd.data import CopyStats, DataSpec
from slotd.data.databases import backup, quiet_state
from slotd.data.entries import VANISHED, At, Vanished, kind_of, outside_of, state_of
from slotd.data.layout import Layout, Seen
from slotd.data.places import DEPTH, SHARED_MEMORY, SIDECARS, Place, matcher, places, refuse_link, spot, stat_at
from slotd.host import copy, files
from slotd.host.failpoint import hit

SETTLE_NS = 2_000_000_000  # coarser than the time stamps of any file system in use
NAMES_TOLD = 200
_COPYING = "copying"


class Pass:
    """One run. `app_runs`: the hot pass."""

    def __init__(
        self, spec: DataSpec, dest: Path, base: Path | None, *, app_runs: bool, cancelled: Callable[[], bool]
    ) -> None:
        self.spec = spec
        self.layout = Layout(dest)
        self.app_runs = app_runs
        self.cancelled = cancelled
        self.base = Layout(base) if base and base != dest and Layout(base).sealed() else None
        self.base_index = self.base.index() if self.base else {}
        self.base_scope = self.base.scope() if self.base else None
        self.is_excluded = matcher(spec.exclude)
        self.is_sqlite = matcher(spec.sqlite)
        self.old: dict[str, Seen] = {}
        self.index: dict[str, Seen] = {}
        self.links: dict[tuple[int, int], str] = {}  # the first key of each file with several names
        self.shared: dict[int, tuple[int, int]] = {}  # inode of the base, the live file it stands for
        self.complete: set[Path] = set()  # databases whose copy needs no log or journal beside it
        self.synced: dict[int, int] = {}
        self.started_ns = time.time_ns()
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self.files = self.bytes = self.copied_files = self.copied_bytes = 0

    def run(self) -> CopyStats:
        self.layout.make()
        self.layout.unseal()
        files.write_atomic(self.layout.unfinished, b"", 0o600)
        before = self.layout.scope()
        scope = self.layout.begin("backup", self.spec)
        if before and [place.path for place in before.places] == [place.path for place in scope.places]:
            self.old = self.layout.index()
        with (
            self._telling("cannot use"),
            files.opened(self.layout.data, files.DIRECTORY) as data,
            self._opened_base() as base,
        ):
            for place in places(self.spec):
                number = self.base_scope.number_of(place.path) if self.base_scope else None
                self._place(place, data, base if number is not None else None, str(number))
            self._prune(data, {str(number) for number in range(len(scope.places))})
        hit("data.pass.index")
        self.layout.write_index(self.index)
        if self.app_runs:
            files.syncfs(self.layout.dest)  # so that little is left to sync with the app stopped
        self.layout.unfinished.unlink()
        files.fsync_dir(self.layout.dest)
        counts = self.files, self.bytes, self.copied_files, self.copied_bytes
        return CopyStats(*counts, tuple(self.skipped), tuple(self.notes))

    @contextmanager
    def _opened_base(self) -> Iterator[int | None]:
        if self.base is None:
            yield None
            return
        with files.opened(self.base.data, files.DIRECTORY) as fd:
            yield fd

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        with files.explaining(f"{what} the copy in {self.layout.dest}"):
            yield

    @contextmanager
    def _reading(self, at: At) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in VANISHED:
                raise Vanished from error
            raise files.explain(f"cannot read {at.live}", error) from error

    # -- the walk ----------------------------------------------------------------------------------------------------

    def _place(self, place: Place, data: int, base: int | None, base_name: str) -> None:
        kept = False
        with files.explaining(f"cannot reach {place.path}"), spot(place.path) as found:
            if found and found.found and not place.volatile:
                refuse_link(place.path, found)
                at = At(place, "", found.parent, found.name, data, str(place.number), base, base_name)
                kept = self._entry(at)
        if not kept:
            files.remove_at(data, str(place.number))

    def _entry(self, at: At) -> bool:
        """Copy one entry; whether the copy has it now."""
        self._tick()
        hit("data.pass.entry")
        try:
            with self._reading(at):
                found = os.stat(at.name, dir_fd=at.src, follow_symlinks=False)
            if self._surely_unchanged(at, found):
                return True
            with files.explaining(f"cannot save {at.live} in {self.layout.dest}"):
                if stat.S_ISDIR(found.st_mode):
                    return self._directory(at)
                if stat.S_ISREG(found.st_mode):
                    return self._regular(at)
                if stat.S_ISLNK(found.st_mode):
                    return self._link(at)
            self._tell(self.skipped, f"{files.shown(at.live)} ({kind_of(found.st_mode)})")
        except Vanished:
            if not self.app_runs:
                self._tell(self.notes, f"{files.shown(at.live)} vanished while it was copied")
        return False

    def _directory(self, at: At) -> bool:
        if at.depth >= DEPTH:
            raise errors.Failed(f"cannot save {files.shown(at.live)}: more than {DEPTH} directories deep.")
        with self._reading(at):
            src = os.open(at.name, files.DIRECTORY, dir_fd=at.src)
        try:
            found = os.fstat(src)
            self._sync_source(src, found.st_dev)
            with self._own_directory(at) as dst, self._base_directory(at) as base:
                seen = set()
                for name in sorted(os.listdir(src)):
                    rel = f"{at.rel}/{name}" if at.rel else name
                    child = At(at.place, rel, src, name, dst, name, base, name, at.depth + 1)
                    if not self.is_excluded(rel) and self._entry(child):
                        seen.add(name)
                self._prune(dst, seen)
                copy.copy_attributes(src, dst, found)
        finally:
            os.close(src)
        return True

    @contextmanager
    def _own_directory(self, at: At) -> Iterator[int]:
        there = stat_at(at.dst_name, at.dst)
        if there and not stat.S_ISDIR(there.st_mode):
            files.remove_at(at.dst, at.dst_name)
            there = None
        if there is None:
            os.mkdir(at.dst_name, 0o700, dir_fd=at.dst)
        elif there.st_mode & 0o700 != 0o700:  # only matters without root: its own mode comes back at the end
            with files.opened(at.dst_name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at.dst) as path_fd:
                os.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        with files.opened(at.dst_name, files.DIRECTORY, dir_fd=at.dst) as fd:
            yield fd

    @contextmanager
    def _base_directory(self, at: At) -> Iterator[int | None]:
        fd = None
        if at.base is not None:
            with suppress(OSError):
                fd = os.open(at.base_name, files.DIRECTORY, dir_fd=at.base)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _prune(self, dst: int, seen: set[str]) -> None:
        for name in os.listdir(dst):
            if name not in seen:
                files.remove_at(dst, name)

    def _link(self, at: At) -> bool:
        with self._reading(at), files.opened(at.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=at.src) as fd:
            found = os.fstat(fd)
            if not stat.S_ISLNK(found.st_mode):
                raise Vanished
            target = os.readlink("", dir_fd=fd)
        files.remove_at(at.dst, at.dst_name)
        copy.copy_symlink(target, found, at.dst, at.dst_name)
        return True

    # -- files -------------------------------------------------------------------------------------------------------

    def _surely_unchanged(self, at: At, found: os.stat_result) -> bool:
        """The short way for most files of a cold pass, whose time is the app's downtime: nothing is opened."""
        old = self.old.get(at.key)
        if self.app_runs or old is None or old.derived or found.st_nlink > 1 or not old.is_still(found):
            return False
        there = stat_at(at.dst_name, at.dst)
        if there is None or outside_of(there) != outside_of(found):
            return False
        self._count(at, found, old, copied=False)
        return True

    def _regular(self, at: At) -> bool:
        sidecar = next((s for s in (*SIDECARS, SHARED_MEMORY) if at.matched.endswith(s)), "")
        if sidecar and self.is_sqlite(at.matched.removesuffix(sidecar)):
            database = at.live.with_name(at.live.name.removesuffix(sidecar))
            if sidecar == SHARED_MEMORY or database in self.complete:
                return False
        elif self.app_runs and self.is_sqlite(at.matched):
            return self._database(at)
        self._file(at)
        return True

    def _database(self, at: At) -> bool:
        """An SQLite database beside its writer: plain when nobody is writing it, else by SQLite itself."""
        with self._reading(at):
            before = quiet_state(at.src, at.name)
        if before:
            self._file(at)
            with self._reading(at):
                if quiet_state(at.src, at.name) == before:
                    self.complete.add(at.live)
                    return True
        with self._reading(at), files.opened(".", os.O_PATH, dir_fd=at.src) as holder:
            found = os.stat(at.name, dir_fd=at.src, follow_symlinks=False)
            problem = backup(at.live, found, os.fstat(holder), self.layout.tmp / _COPYING, self.cancelled)
        self._tick()
        if problem:
            self._tell(self.notes, f"{files.shown(at.live)} was copied as a plain file: {problem}")
            self._file(at)
            return True
        with self._reading(at):
            src = copy.open_regular(at.src, at.name)
        try:
            with files.opened(self.layout.tmp / _COPYING, os.O_RDWR | os.O_NOFOLLOW) as fd:
                copy.copy_attributes(src, fd, found)
                self._put(at, fd, found, derived=True)
        finally:
            os.close(src)
        self.complete.add(at.live)
        return True

    def _file(self, at: At) -> None:
        with self._reading(at):
            fd = copy.open_regular(at.src, at.name)
        try:
            found = os.fstat(fd)
            self._sync_source(fd, found.st_dev)
            first = self.links.get((found.st_dev, found.st_ino))
            if first is not None and self._same_name_again(at, first):
                return
            if not (self._unchanged(at, fd, found) or self._from_base(at, fd, found)):
                self._copy(at, fd, found)
        finally:
            os.close(fd)

    def _unchanged(self, at: At, fd: int, found: os.stat_result) -> bool:
        """Keep the copy of the last pass if it is still right. Where times cannot tell, the contents must."""
        old = self.old.get(at.key)
        if old is None or old.derived or old[:4] != state_of(found):
            return False
        try:
            mine = copy.open_regular(at.dst, at.dst_name)
        except OSError:
            return False
        try:
            if outside_of(os.fstat(mine)) != outside_of(found):
                return False
            if not old.settled and (files.hash_fd(fd) != old.digest or not copy.same_attributes(fd, mine)):
                return False
        finally:
            os.close(mine)
        self._count(at, found, old._replace(settled=self._is_settled(found)), copied=False)
        return True

    def _same_name_again(self, at: At, first: str) -> bool:
        """Another name of a file that was copied already: a hard link in the copy too."""
        there = stat_at(at.dst_name, at.dst)
        path = self.layout.data / first
        try:
            if there is None or there.st_ino != path.lstat().st_ino:
                files.remove_at(at.dst, at.dst_name)
                os.link(path, at.dst_name, dst_dir_fd=at.dst, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.ENAMETOOLONG):
                return False
            raise
        self.index[at.key] = self.index[first]
        self.files += 1
        return True

    def _from_base(self, at: At, fd: int, found: os.stat_result) -> bool:
        """Share the file with the base backup if it is the same in everything."""
        if at.base is None:
            return False
        try:
            base_fd = copy.open_regular(at.base, at.base_name)
        except OSError:
            return False
        try:
            theirs = os.fstat(base_fd)
            live = (found.st_dev, found.st_ino)
            if outside_of(theirs) != outside_of(found) or self.shared.get(theirs.st_ino, live) != live:
                return False
            if not copy.same_attributes(fd, base_fd):
                return False
            known = self._base_seen(at)
            if known and known.is_still(found) and not known.derived:
                digest = known.digest
            else:  # the same size and time are not proof: another file may have been moved there
                digest = files.hash_fd(fd)
                same = digest == (known.digest if known else files.hash_fd(base_fd))
                if not same or state_of(os.fstat(fd)) != state_of(found):
                    return False
        finally:
            os.close(base_fd)
        files.remove_at(at.dst, at.dst_name)
        try:
            os.link(at.base_name, at.dst_name, src_dir_fd=at.base, dst_dir_fd=at.dst, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                return False
            raise
        self.shared[theirs.st_ino] = live
        self._count(at, found, self._seen(found, digest), copied=False)
        return True

    def _base_seen(self, at: At) -> Seen | None:
        number = self.base_scope.number_of(at.place.path) if self.base_scope else None
        return self.base_index.get(f"{number}/{at.rel}" if at.rel else str(number))

    def _copy(self, at: At, src: int, found: os.stat_result) -> None:
        tmp = self.layout.tmp / _COPYING
        tmp.unlink(missing_ok=True)
        with files.opened(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) as fd:
            copy.copy_file(src, fd, found.st_size, self._tick)
            hit("data.pass.copied")
            copy.copy_attributes(src, fd, found)
            self._put(at, fd, found, derived=False)

    def _put(self, at: At, fd: int, found: os.stat_result, *, derived: bool) -> None:
        """Move the finished file from tmp into its place."""
        digest = files.hash_fd(fd)
        there = stat_at(at.dst_name, at.dst)
        if there and stat.S_ISDIR(there.st_mode):
            files.remove_at(at.dst, at.dst_name)
        os.rename(self.layout.tmp / _COPYING, at.dst_name, dst_dir_fd=at.dst)
        self._count(at, found, self._seen(found, digest, derived=derived), copied=True)

    def _seen(self, found: os.stat_result, digest: str, *, derived: bool = False) -> Seen:
        return Seen(*state_of(found), self._is_settled(found), derived, digest)

    def _is_settled(self, found: os.stat_result) -> bool:
        return found.st_ctime_ns < self.synced.get(found.st_dev, 0) - SETTLE_NS

    def _count(self, at: At, found: os.stat_result, seen: Seen, *, copied: bool) -> None:
        self.index[at.key] = seen
        if found.st_nlink > 1:
            self.links[(found.st_dev, found.st_ino)] = at.key
        self.files += 1
        self.bytes += found.st_size
        self.copied_files += copied
        self.copied_bytes += found.st_size if copied else 0

    def _sync_source(self, fd: int, device: int) -> None:
        """Once per file system, before anything on it is read: writes through mappings show in the times after it."""
        if device not in self.synced:
            self.synced[device] = time.time_ns() if self.app_runs else self.started_ns
            if self.app_runs:
                with suppress(OSError):  # what cannot be synced is still read
                    files.syncfs_fd(fd)

    def _tick(self) -> None:
        if self.cancelled():
            raise errors.Cancelled(f"the copy to {files.shown(self.layout.dest)} was cancelled.")

    def _tell(self, told: list[str], text: str) -> None:
        if len(told) < NAMES_TOLD:
            told.append(text)
        elif len(told) == NAMES_TOLD:
            told.append("… and more")
