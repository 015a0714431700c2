"""What a restore need not copy: files that are still as the backup found them.

Such a file lies in the quarantine by now. It goes back to the data by one exchange of names with a second name of the
backup's own copy, so that the quarantine stays whole and neither needs new bytes: the time of a restore follows what
changed. The data never share a file with a backup: what comes back is the very file that was there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from slotd.data.entries import VANISHED, Base, outside_of
from slotd.data.index import LIST_LIMIT, Seen, escape, unescape
from slotd.data.layout import Layout
from slotd.host import files
from slotd.host.failpoint import hit

_REFUSED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Keep:
    """Gives back unchanged files from the quarantine's tree. `top` is where the backup has the place, below `data/`."""

    def __init__(self, index: Mapping[str, Seen], top: str, aside: Base) -> None:
        self.index = index
        self.top = top
        self.aside = aside

    def below(self, name: str) -> Keep:
        return Keep(self.index, self.top, Base(self.aside, name))

    def close(self) -> None:
        self.aside.close()

    def take(self, rel: str, name: str, src_dir: int, src: str, found: os.stat_result, dst_dir: int, dst: str) -> bool:
        """Put the file that `src` is a copy of at `dst`, which is not there yet; False if it changed since.

        `found` is the stat of the copy, `name` its counterpart's in the quarantine. Raises the plain OSError.
        """
        seen = self.index.get(escape(f"{self.top}/{rel}" if rel else self.top))
        theirs = self.aside.fd() if seen and not seen.derived else None
        if seen is None or theirs is None:
            return False
        try:
            live = os.stat(name, dir_fd=theirs, follow_symlinks=False)
        except OSError as error:
            if error.errno in VANISHED:
                return False
            raise
        if live.st_nlink != 1 or not seen.is_still(live) or outside_of(live) != outside_of(found):
            return False
        try:
            os.link(src, dst, src_dir_fd=src_dir, dst_dir_fd=dst_dir, follow_symlinks=False)
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            raise
        hit("data.restore.exchange")
        try:
            files.exchange(name, dst, src_dir_fd=theirs, dst_dir_fd=dst_dir)
        except OSError as error:
            os.unlink(dst, dir_fd=dst_dir)
            if error.errno in _REFUSED or error.errno in VANISHED:
                return False
            raise
        now = os.stat(dst, dir_fd=dst_dir, follow_symlinks=False)
        if (now.st_ino, *outside_of(now)) == (live.st_ino, *outside_of(live)):
            return True
        files.exchange(name, dst, src_dir_fd=theirs, dst_dir_fd=dst_dir)  # a stray process was faster
        os.unlink(dst, dir_fd=dst_dir)
        return False


def mend_times(layout: Layout) -> None:
    """Give the directories of a quarantine the times of its manifest again: taking files out has changed them."""
    lines = files.read_bounded(layout.manifest, LIST_LIMIT).decode("ascii", "replace").splitlines()
    with files.opened(layout.data, files.DIRECTORY) as data:
        for line in lines:
            kind, _, _, _, mtime_ns, _, _, _, path = line.split(" ")
            if kind == "d":
                _set_time(data, unescape(path), int(mtime_ns))


def _set_time(data: int, path: str, mtime_ns: int) -> None:
    chain = [Base(None, "", data)]
    try:
        for part in path.split("/"):
            chain.append(Base(chain[-1], part))
        fd = chain[-1].fd()
        if fd is not None:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode) and found.st_mtime_ns != mtime_ns:
                os.utime(fd, ns=(found.st_atime_ns, mtime_ns))
    finally:
        for each in chain[1:]:
            each.close()
