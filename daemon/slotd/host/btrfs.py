"""The door to btrfs: subvolumes and snapshots of them, by ioctl (linux/btrfs.h), without a program or a library.

On any other file system nothing is a subvolume. Making a snapshot takes no privilege but CAP_FOWNER. Removing one at
once takes CAP_SYS_ADMIN, or the mount option `user_subvol_rm_allowed`; else it is emptied like a directory.
All raise plain OSErrors.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from slotd.host import files

ROOT_INODE: Final = 256  # of every subvolume's own directory
_CREATE: Final = 0x50009418
_SNAPSHOT: Final = 0x50009417
_DESTROY: Final = 0x5000943F
_GET_FLAGS: Final = 0x80089419
_SET_FLAGS: Final = 0x4008941A
_INFO: Final = 0x81F8943C
_CHILDREN: Final = 0xD000943D
_PATH: Final = 0xD000943E
_READ_ONLY: Final = 1 << 1
_ARGUMENTS: Final = 4096
_INFO_BYTES: Final = 504
_MOST_CHILDREN: Final = 255  # in one answer
_NOT_AT_ONCE: Final = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOTEMPTY, errno.EBUSY)


def is_subvolume(fd: int) -> bool:
    """Whether an open directory is the top of a subvolume."""
    if os.fstat(fd).st_ino != ROOT_INODE:
        return False
    try:
        _flags(fd)
    except OSError:
        return False
    return True


def is_subvolume_at(dir_fd: int, name: str) -> bool:
    """As `is_subvolume`, for a name in a directory; nothing there, or a link, is none."""
    try:
        with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
            return is_subvolume(fd)
    except OSError:
        return False


def identity(dir_fd: int, name: str) -> int:
    """What tells an entry from any other at its place: its inode; of a subvolume, where that is the same for all, the
    negative of its number, which is never given twice.
    """
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if found.st_ino != ROOT_INODE or not is_subvolume_at(dir_fd, name):
        return found.st_ino
    answer = bytearray(_INFO_BYTES)
    with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
        fcntl.ioctl(fd, _INFO, answer)
    return -int.from_bytes(answer[:8], "little")


def children(fd: int) -> list[str]:
    """The paths of the subvolumes that lie in the subvolume `fd`, relative to it. A snapshot has them as empty
    directories.
    """
    found: list[tuple[int, int]] = []
    first, more = 0, True
    while more:
        answer = bytearray(struct.pack("=Q", first).ljust(_ARGUMENTS, b"\0"))
        try:
            fcntl.ioctl(fd, _CHILDREN, answer)
            more = False
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
        first = int.from_bytes(answer[:8], "little")
        count = _MOST_CHILDREN if more else answer[8 + 16 * _MOST_CHILDREN]
        found += [struct.unpack_from("=QQ", answer, 8 + 16 * number) for number in range(count)]
    return [_path(fd, tree, directory) for tree, directory in found]


def _path(fd: int, tree: int, directory: int) -> str:
    answer = bytearray(struct.pack("=QQ", directory, tree).ljust(_ARGUMENTS, b"\0"))
    fcntl.ioctl(fd, _PATH, answer)
    name, above = (bytes(part).partition(b"\0")[0] for part in (answer[16:272], answer[272:]))
    return os.fsdecode(above + name)


def create(dir_fd: int, name: str) -> None:
    """Make an empty subvolume."""
    fcntl.ioctl(dir_fd, _CREATE, _named(name))


def snapshot(source: int, dir_fd: int, name: str, *, read_only: bool) -> None:
    """Make `name` a snapshot of the subvolume `source`: at once, and on disk when it returns."""
    fcntl.ioctl(dir_fd, _SNAPSHOT, _named(name, fd=source, flags=_READ_ONLY if read_only else 0))


def set_read_only(fd: int, read_only: bool) -> None:
    flags = _flags(fd) & ~_READ_ONLY | (_READ_ONLY if read_only else 0)
    fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=Q", flags))


def remove_at(dir_fd: int, name: str) -> None:
    """Remove a subvolume, read-only or not: by one act where that is allowed, else file by file."""
    if _removed_at_once(dir_fd, name):
        return
    with files.opened(name, files.DIRECTORY, dir_fd=dir_fd) as fd:
        set_read_only(fd, False)
    if not _removed_at_once(dir_fd, name):  # with `user_subvol_rm_allowed`, only what is not read-only
        files.remove_at(dir_fd, name)


def _removed_at_once(dir_fd: int, name: str) -> bool:
    try:
        fcntl.ioctl(dir_fd, _DESTROY, _named(name))
    except OSError as error:
        if error.errno not in _NOT_AT_ONCE:
            raise
        return False
    return True


def _flags(fd: int) -> int:
    answer = bytearray(8)
    fcntl.ioctl(fd, _GET_FLAGS, answer)
    return int.from_bytes(answer, "little")


def _named(name: str, *, fd: int = 0, flags: int = 0) -> bytearray:
    """struct btrfs_ioctl_vol_args_v2."""
    head = struct.pack("=qQQ32x", fd, 0, flags)
    return bytearray((head + os.fsencode(name)).ljust(_ARGUMENTS, b"\0"))
