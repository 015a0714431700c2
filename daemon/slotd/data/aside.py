"""Setting data aside: a failed version's data leave their place and become a quarantine, whole (promise 3).

Each unit - a place, or what lies in a mount point, which cannot be renamed itself - moves by one rename. Where the
quarantine is on another file system, the unit is first renamed into `.slotd-aside-ID-…` beside it, which settles by one
act what is being set aside; then it is copied, put on disk, and only then removed. What cannot be copied stays there,
as a part of the quarantine (`elsewhere`). A kill at any point leaves every file in at least one of these, and the next
call goes on from there. What turns up at the place later goes to `found/`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from slotd import errors
from slotd.data import DataSpec, elsewhere
from slotd.data.copytree import TreeCopy
from slotd.data.elsewhere import holder_at
from slotd.data.entries import VANISHED
from slotd.data.layout import Layout, Scope
from slotd.data.manifest import Manifest, unknown
from slotd.data.mounts import require_mounted
from slotd.data.places import Spot, beside, is_holder, places, spot, stat_at
from slotd.host import copy, files
from slotd.host.failpoint import hit

COPY_ATTEMPTS = 3  # a stray process of the app may still change what is copied
_COPY = "aside"


class Aside:
    """Moves data into the quarantine `dest`."""

    def __init__(self, spec: DataSpec, dest: Path) -> None:
        self.spec = spec
        self.layout = Layout(dest)
        self._name(self.layout.scope())

    def _name(self, scope: Scope | None) -> None:
        """Name the holders: as it is written down, so that whoever goes on after a kill finds what waits in them."""
        by = "-".join(part for part in (self.layout.dest.name, scope.secret if scope else "") if part)
        self.first, self.later = beside("", f"aside-{by}"), beside("", f"found-{by}")

    def run(self) -> int:
        """Set all places aside and seal; the bytes. Nothing to do if it is sealed."""
        if sealed := self.layout.sealed():
            return int(sealed["bytes"])
        require_mounted(self.spec)
        self.layout.make()
        scope = self.layout.scope() or self.layout.begin("quarantine", self.spec)
        if scope.kind != "quarantine":
            raise errors.Failed(f"cannot set data aside in {self.layout.dest}: a backup is there.")
        self._name(scope)
        for place in places(self.spec):
            number = scope.number_of(place.path)
            if number is None:
                raise errors.Failed(
                    f"cannot go on setting data aside in {self.layout.dest}: {place.path} was not a data path then.",
                    hint="Bring [data] paths back to what they were until the rollback is done.",
                )
            with files.explaining(f"cannot set {place.path} aside in {self.layout.dest}"):
                with spot(place.path) as at:
                    if at:
                        self._place(at, number)
        found = Manifest(unknown).walk(self.layout)
        hit("data.quarantine.seal")
        self.layout.write_manifest(found.lines.values())
        self.layout.write_header(found.bytes, {})
        return found.bytes

    def _place(self, at: Spot, number: int) -> None:
        fixed = pinned(at.real)
        with files.opened(self.layout.data, files.DIRECTORY) as data:
            if fixed:
                self._around_mounts(at.parent, at.name, data, str(number), "", fixed, number)
            else:
                self._unit(at.parent, at.name, data, str(number), str(number), number)

    def _around_mounts(
        self, parent: int, name: str, dst_dir: int, dst: str, rel: str, fixed: set[str], number: int
    ) -> None:
        """Set aside what is in a directory that must stay, because it or something below it is a mount point."""
        with suppress(FileExistsError):
            os.mkdir(dst, 0o700, dir_fd=dst_dir)
        with (
            files.opened(name, files.DIRECTORY, dir_fd=parent) as live,
            files.opened(dst, files.DIRECTORY, dir_fd=dst_dir) as kept,
        ):
            names = {name for name in os.listdir(live) if not is_holder(name)}
            names |= self._waiting(live, self.first) | self._waiting(live, self.later)
            for child in sorted(names):
                below = f"{rel}/{child}" if rel else child
                if below in fixed:
                    self._around_mounts(live, child, kept, child, below, fixed, number)
                else:
                    self._unit(live, child, kept, child, f"{number}/{below}", number)
            copy.copy_attributes(live, kept, os.fstat(live))

    def _unit(self, parent: int, name: str, dst_dir: int, dst: str, key: str, number: int) -> None:
        if not files.exists_at(dst, dst_dir) and not elsewhere.is_left(self.layout, key):
            self._move(parent, name, self.first, dst_dir, dst, key)
        if not elsewhere.is_left(self.layout, key):
            _drop(parent, self.first, name)
        self.take_found(parent, name, number)

    def take_found(self, parent: int, name: str, number: int) -> None:
        """Move what is at the place although it was set aside before to `found/`."""
        while files.exists_at(name, parent) or self._waits(parent, self.later, name):
            with files.explaining(f"cannot make {self.layout.found}"):
                self.layout.found.mkdir(mode=0o700, exist_ok=True)
            with files.opened(self.layout.found, files.DIRECTORY) as found:
                left = elsewhere.left(self.layout).values()
                taken = {*os.listdir(found), *(each.name for each in left), *self._waiting(parent, self.later)}
                free = next(n for n in map(f"{number}-{{}}".format, range(1, 1 << 20)) if n not in taken)
                self._move(parent, name, self.later, found, free, f"found/{free}")
            _drop(parent, self.later, name)

    def _move(self, parent: int, name: str, holder_name: str, dst_dir: int, dst: str, key: str) -> None:
        """Move `name`, or what a killed call left in the holder, to `dst`, which is not there yet.

        What cannot be copied there stays in the holder.
        """
        if not self._waits(parent, holder_name, name):
            if not files.exists_at(name, parent):
                return
            hit("data.quarantine.rename")
            try:
                files.rename_new(name, dst, src_dir_fd=parent, dst_dir_fd=dst_dir)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                hit("data.quarantine.renamed")
                os.fsync(dst_dir)
                os.fsync(parent)
                return
            with suppress(FileExistsError):
                os.mkdir(holder_name, 0o700, dir_fd=parent)
            with holder_at(parent, holder_name) as holder:
                files.rename_new(name, name, src_dir_fd=parent, dst_dir_fd=holder)
                os.fsync(holder)
            os.fsync(parent)
        hit("data.quarantine.held")
        with holder_at(parent, holder_name) as holder, files.opened(self.layout.tmp, files.DIRECTORY) as tmp:
            try:
                self._copy(holder, name, tmp)
                files.syncfs(self.layout.dest)
            except (OSError, errors.SlotdError):
                files.remove_at(tmp, _COPY)
                elsewhere.leave(self.layout, key, parent, holder_name, name, name if holder_name == self.first else dst)
                hit("data.quarantine.left")
                return
            if files.exists_at(_COPY, tmp):  # a socket or the like leaves no copy
                files.rename_new(_COPY, dst, src_dir_fd=tmp, dst_dir_fd=dst_dir)
                os.fsync(dst_dir)
        hit("data.quarantine.copied")

    def _waiting(self, parent: int, holder_name: str) -> set[str]:
        """What a killed call left in a holder, without what stays there; nothing if there is none."""
        if stat_at(holder_name, parent) is None:
            return set()
        with holder_at(parent, holder_name) as holder:
            return set(os.listdir(holder)) - elsewhere.kept_in(self.layout, parent, holder_name)

    def _waits(self, parent: int, holder_name: str, name: str) -> bool:
        """The same for one name, without a look at all of them."""
        if stat_at(holder_name, parent) is None or name in elsewhere.kept_in(self.layout, parent, holder_name):
            return False
        with holder_at(parent, holder_name) as holder:
            return files.exists_at(name, holder)

    def _copy(self, holder: int, name: str, tmp: int) -> None:
        for attempt in range(1, COPY_ATTEMPTS + 1):
            files.remove_at(tmp, _COPY)
            try:
                TreeCopy().run(holder, name, tmp, _COPY)
            except OSError as error:
                if error.errno not in VANISHED or attempt == COPY_ATTEMPTS:
                    raise
            else:
                return


def pinned(real: Path) -> set[str]:
    """The directories at and below `real` that cannot be renamed, by relative path: mount points and what holds them.

    Empty for an ordinary tree; "" is `real` itself.
    """
    found: set[str] = set()
    for point in files.mounts_below(real):
        rel = point.relative_to(real)
        found.add("" if rel == Path() else str(rel))
        found.update("" if above == Path() else str(above) for above in rel.parents)
    return found


def _drop(parent: int, holder_name: str, name: str) -> None:
    """Remove what was copied from a holder, and the holder when it is empty."""
    if stat_at(holder_name, parent) is None:
        return
    with holder_at(parent, holder_name) as holder:
        files.remove_at(holder, name)
    with suppress(OSError):
        os.rmdir(holder_name, dir_fd=parent)
