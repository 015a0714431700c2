"""One regular file on its way into a copy: kept, shared with the backup before, or copied.

An SQLite database (`DataSpec.sqlite`) that is being written is copied hot by SQLite itself, so that a copy made while
the app runs is one state of it. The cold pass replaces that by the plain files, the write-ahead log or rollback
journal with them: exactly the bytes the app left, also when it was killed in the middle of a transaction.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slotd.data import SHARED_MEMORY, SIDECARS
from slotd.data.contents import COPYING, Contents
from slotd.data.databases import backup, quiet_state
from slotd.data.entries import VANISHED, At, Vanished, outside_of
from slotd.data.index import DERIVED, Seen, line_of, state_of
from slotd.data.layout import Layout
from slotd.data.places import stat_at
from slotd.data.tally import Tally, one_of
from slotd.host import copy, files
from slotd.host.failpoint import hit


@contextmanager
def reading(at: At) -> Iterator[None]:
    """What goes wrong with the live side: Vanished, or an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in VANISHED:
            raise Vanished from error
        raise files.explain(f"cannot read {at.live}", error) from error


class Regular:
    """The files of one pass. `old` is what the last pass over this copy saw, `based` the same of the base backup."""

    def __init__(
        self,
        layout: Layout,
        tally: Tally,
        old: Mapping[str, Seen],
        based: Mapping[str, Seen],
        is_sqlite: Callable[[str], bool],
        *,
        app_runs: bool,
    ) -> None:
        self.layout = layout
        self.tally = tally
        self.old = old
        self.based = based
        self.is_sqlite = is_sqlite
        self.app_runs = app_runs
        self.contents = Contents(layout, tally.tick)
        self.shared: dict[int, tuple[int, int]] = {}  # inode of the base, the live file it stands for
        self.complete: set[Path] = set()  # databases whose copy needs no log or journal beside it

    def save(self, at: At, sync_source: Callable[[int, int], None]) -> bool:
        """Bring the file into the copy; whether the copy has it now. Raises Vanished."""
        self.sync_source = sync_source
        if sidecar := self.sidecar_of(at.matched):
            database = at.live.with_name(at.live.name.removesuffix(sidecar))
            if sidecar == SHARED_MEMORY or database in self.complete:
                return False
        elif self.app_runs and self.is_sqlite(at.matched):
            return self._database(at)
        self._file(at)
        return True

    def sidecar_of(self, rel: str) -> str:
        """The suffix by which this is a part of a database; "" for all else."""
        sidecar = next((suffix for suffix in (*SIDECARS, SHARED_MEMORY) if rel.endswith(suffix)), "")
        return sidecar if sidecar and self.is_sqlite(rel.removesuffix(sidecar)) else ""

    def _database(self, at: At) -> bool:
        """An SQLite database beside its writer: plain when nobody is writing it, else by SQLite itself."""
        with reading(at):
            before = quiet_state(at.src, at.name)
        if before:
            self._file(at)
            with reading(at):
                if quiet_state(at.src, at.name) == before:
                    self.complete.add(at.live)
                    return True
        with reading(at), files.opened(".", os.O_PATH, dir_fd=at.src) as holder:
            found = os.stat(at.name, dir_fd=at.src, follow_symlinks=False)
            problem = backup(at.live, found, os.fstat(holder), self.layout.tmp / COPYING, self.tally.cancelled)
        self.tally.tick()
        if problem:
            self.tally.tell(self.tally.notes, f"{files.shown(at.live)} was copied as a plain file: {problem}")
            self._file(at)
            return True
        with reading(at):
            src = copy.open_regular(at.src, at.name)
        try:
            with files.opened(self.layout.tmp / COPYING, os.O_RDWR | os.O_NOFOLLOW) as fd:
                kept = copy.copy_attributes(src, fd, found)
                self.contents.take(at)
                self.tally.made_file(at, found, fd, files.hash_fd(fd), kept, os.fstat(fd).st_size, DERIVED)
        finally:
            os.close(src)
        self.complete.add(at.live)
        return True

    def _file(self, at: At) -> None:
        with reading(at):
            src = copy.open_regular(at.src, at.name)
        try:
            found = os.fstat(src)
            self.sync_source(src, found.st_dev)
            if found.st_nlink > 1:
                first = self.tally.links.get(one_of(found))
                if first is not None and self._same_name_again(at, first):
                    return
            if not (self._unchanged(at, src, found) or self._from_base(at, src, found)):
                self._copy(at, src, found)
        finally:
            os.close(src)

    def _copy(self, at: At, src: int, found: os.stat_result) -> None:
        fd, digest, written = self.contents.bring(at, src, found, patched=at.key in self.old, hashed=self.app_runs)
        try:
            hit("data.pass.copied")
            kept = copy.copy_attributes(src, fd, found)
            self.tally.made_file(at, found, fd, digest, kept, written)
        finally:
            os.close(fd)

    def _unchanged(self, at: At, src: int, found: os.stat_result) -> bool:
        """Keep the copy of the last pass if it is still right. Where times cannot tell, the contents must."""
        old = self.old.get(at.key)
        if old is None or old.derived or old.state != state_of(found):
            return False
        try:
            mine = copy.open_regular(at.dst.fd(), at.dst_name)
        except OSError:
            return False
        try:
            if outside_of(os.fstat(mine)) != outside_of(found):
                return False
            if not old.settled:
                if copy.is_hollow(found) or not copy.same_attributes(src, mine):
                    return False
                if files.hash_fd(src, tick=self.tally.tick) != old.digest:
                    return False
        finally:
            os.close(mine)
        self.tally.carry_file(at, found, self.tally.seen(found, old.line))
        return True

    def _same_name_again(self, at: At, first: At) -> bool:
        """Another name of a file that was copied already: a hard link in the copy too."""
        dst = at.dst.fd()
        there = stat_at(at.dst_name, dst)
        path = self.layout.data / first.inside
        try:
            if there is None or there.st_ino != path.lstat().st_ino:
                at.dst.remove(at.dst_name)
                os.link(path, at.dst_name, dst_dir_fd=dst, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.ENAMETOOLONG):
                return False
            raise
        seen = self.tally.index[first.key]
        self.tally.index[at.key] = seen._replace(line=f"{seen.line.rpartition(' ')[0]} {at.key}")
        self.tally.files += 1
        return True

    def _from_base(self, at: At, src: int, found: os.stat_result) -> bool:
        """Share the file with the base backup if it is the same in everything."""
        base = at.base.fd()
        if base is None:
            return False
        try:
            base_fd = copy.open_regular(base, at.base_name)
        except OSError:
            return False
        try:
            theirs = os.fstat(base_fd)
            live = (found.st_dev, found.st_ino)
            if copy.is_hollow(found):  # cheaper copied than compared
                return False
            if outside_of(theirs) != outside_of(found) or self.shared.get(theirs.st_ino, live) != live:
                return False
            if not copy.same_attributes(src, base_fd):
                return False
            known = self.based.get(at.key)
            if known and known.is_still(found) and not known.derived and known.digest:
                digest = known.digest
            else:  # the same size and time are not proof: another file may have been moved there
                digest = files.hash_fd(src, tick=self.tally.tick)
                same = digest == (known.digest if known and known.digest else files.hash_fd(base_fd))
                if not same or state_of(os.fstat(src)) != state_of(found):
                    return False
            line = line_of("f", theirs, f"sha256:{digest}", copy.attributes(base_fd), at.key)
        finally:
            os.close(base_fd)
        at.dst.remove(at.dst_name)
        try:
            os.link(at.base_name, at.dst_name, src_dir_fd=base, dst_dir_fd=at.dst.fd(), follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                return False
            raise
        self.shared[theirs.st_ino] = live
        self.tally.carry_file(at, found, self.tally.seen(found, line))
        return True
