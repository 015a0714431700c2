"""A plain copy of one entry and all below it, both ends by directory descriptor: for restoring, and for setting aside
where a rename cannot reach.

It is strict: unlike a hot pass, nothing may vanish, since what is not copied here may be removed next.
Nobody else can get into what is being built: directories are ours with mode 0700 until all in them is done, and only
then are they given their owner and mode.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from slotd import errors
from slotd.data.entries import VANISHED, kind_of
from slotd.data.keep import Keep
from slotd.data.places import DEPTH
from slotd.data.tally import one_of
from slotd.host import copy, files
from slotd.host.failpoint import hit


def nothing(_rel: str) -> bool:
    """Leaves nothing out."""
    return False


@dataclass(slots=True)
class TreeCopy:
    """Copies trees, leaving out what `left_out` says of an entry's relative path. `skipped`: sockets and the like.

    What `keep` can give back is not copied.
    """

    left_out: Callable[[str], bool] = nothing
    keep: Keep | None = None
    keep_as: str = ""  # what the place itself is called there
    skipped: list[str] = field(default_factory=list)
    # From the source's inode to its first copy: its path, device and inode.
    _links: dict[tuple[int, ...], tuple[str, int, int]] = field(default_factory=dict)
    _top: int = -1  # the outermost directory that was made: nobody else gets below it, whatever its name becomes

    def run(self, src_dir: int, src: str, dst_dir: int, dst: str, rel: str = "") -> bool:
        """Copy `src` to `dst`, which must not exist. False if there was nothing to copy. Raises plain OSErrors.

        `rel` is the relative path of `src` in its place, "" for the place itself.
        """
        self._links, self._top = {}, -1
        name = rel.rpartition("/")[2] or self.keep_as
        return self._entry(src_dir, src, dst_dir, dst, rel, "", self.keep, name)

    def _entry(
        self, src_dir: int, src: str, dst_dir: int, dst: str, rel: str, path: str, keep: Keep | None, kept: str
    ) -> bool:
        """`path` is the path of the copy below the top, "" for that itself; `kept` the name of what `keep` may have."""
        hit("data.copytree.entry")
        found = os.stat(src, dir_fd=src_dir, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            copy.copy_symlink(os.readlink(src, dir_fd=src_dir), found, dst_dir, dst)
            return True
        if stat.S_ISREG(found.st_mode):
            if keep and keep.take(rel, kept, src_dir, src, found, dst_dir, dst):
                return True
            fd = copy.open_regular(src_dir, src)
        elif stat.S_ISDIR(found.st_mode):
            fd = os.open(src, files.DIRECTORY, dir_fd=src_dir)
        else:
            self.skipped.append(f"{files.shown(rel or src)} ({kind_of(found.st_mode)})")
            return False
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                self._regular(fd, found, dst_dir, dst, path)
            else:
                below = keep.below(kept) if keep else None
                try:
                    self._directory(fd, found, dst_dir, dst, rel, path, below)
                finally:
                    if below:
                        below.close()
        finally:
            os.close(fd)
        return True

    def _directory(
        self, fd: int, found: os.stat_result, dst_dir: int, dst: str, rel: str, path: str, keep: Keep | None
    ) -> None:
        if path.count("/") + bool(path) >= DEPTH:
            raise errors.Failed(f"cannot copy {files.shown(rel)}: more than {DEPTH} directories deep.")
        os.mkdir(dst, 0o700, dir_fd=dst_dir)
        with files.opened(dst, files.DIRECTORY, dir_fd=dst_dir) as made:
            if not path:
                self._top = made
            for name in sorted(os.listdir(fd)):
                below = f"{rel}/{name}" if rel else name
                if not self.left_out(below):
                    self._entry(fd, name, made, name, below, f"{path}/{name}" if path else name, keep, name)
            copy.copy_attributes(fd, made, found)

    def _regular(self, fd: int, found: os.stat_result, dst_dir: int, dst: str, path: str) -> None:
        first = self._links.get(one_of(found))
        if first is not None and self._linked(*first, dst_dir, dst):
            return
        with files.opened(dst, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=dst_dir) as made:
            copy.copy_file(fd, made, found.st_size)
            copy.copy_attributes(fd, made, found)
            if found.st_nlink > 1 and path:
                its = os.fstat(made)
                self._links[one_of(found)] = path, its.st_dev, its.st_ino

    def _linked(self, path: str, device: int, inode: int, dst_dir: int, dst: str) -> bool:
        """Give the first copy another name. By descriptor, and only if it is that file: a path may lead elsewhere by
        now, and what root makes a link to, setuid programs of the system among it, the app could keep for ever.
        """
        try:
            with files.opened(path, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._top) as there:
                its = os.fstat(there)
                if (its.st_dev, its.st_ino) != (device, inode):
                    return False
                os.link(f"/proc/self/fd/{there}", dst, dst_dir_fd=dst_dir, follow_symlinks=True)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.ENAMETOOLONG, *VANISHED):
                raise
            return False
        return True
