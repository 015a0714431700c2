"""Copying one file, link or directory with all that belongs to it: contents, holes, owner, mode, times, attributes.

Everything goes by descriptor. `open_regular` looks before it opens, so that a name that was swapped for a device or a
fifo is never opened; nothing here follows a link. These raise plain OSErrors: the caller knows the place's name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

LEASE_S = 1.0
LEASE_LOOK_S = 0.02
CHUNK = 16 << 20  # bytes between two looks at `tick`
READ = 1 << 20  # bytes read at once
HASHED_BESIDE = 4 << 20  # bytes of a file from which on a thread of its own hashes it
COMPARED = 256 << 10  # bytes compared at once; two of these fit a processor's cache
HOLES_READ = 64 << 30  # bytes of nothing in a file, from which on it is not read only to be hashed
BLOCK = 16 << 10  # the least that is rewritten of a large file
FICLONE = 0x40049409  # linux/fs.h
_NOT_CLONED = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ETXTBSY, errno.ENOSYS)
_NO_RANGE = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_NO_ATTRIBUTE = (errno.ENODATA, errno.EOPNOTSUPP)
_ATTRIBUTES = ("user.", "trusted.", "system.posix_acl_", "security.capability")  # a copy without these is not a copy


def _nothing() -> None:
    return


def open_regular(dir_fd: int, name: str) -> int:
    """A descriptor for reading a regular file, its access time left alone. Raises FileNotFoundError for all else.

    Of a file that another process has a lease on, it asks for that back and waits a second: Samba gives it back soon.
    Who does not could keep each open waiting for 45 s: EWOULDBLOCK.
    """
    path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no longer a regular file", name)
        try:
            return _open_leased(path_fd, os.O_NOATIME)
        except PermissionError:  # O_NOATIME is for the owner
            return _open_leased(path_fd, 0)
    finally:
        os.close(path_fd)


def _open_leased(path_fd: int, flags: int) -> int:
    deadline = time.monotonic() + LEASE_S
    while True:
        try:
            return os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(LEASE_LOOK_S)  # that a lease is given back is told to nobody else


def is_hollow(found: os.stat_result) -> bool:
    """Whether a file is so large by its holes, which cost nothing to make, that reading it would not come to an end."""
    return found.st_size - found.st_blocks * 512 > HOLES_READ


def copy_file(src_fd: int, dst_fd: int, size: int | None = None, tick: Callable[[], None] = _nothing) -> None:
    """Copy the first `size` bytes (all there are now, if None) into the empty file `dst_fd`.

    Shares the blocks where the file system can (reflink), else copies in the kernel and leaves holes as holes.
    `tick` is called every 16 MiB and may raise to stop.
    """
    if size is None:
        size = os.fstat(src_fd).st_size
    if clone(src_fd, dst_fd):
        os.ftruncate(dst_fd, size)
        return
    copy_blocks(src_fd, dst_fd, size, tick)


def copy_blocks(src_fd: int, dst_fd: int, size: int, tick: Callable[[], None] = _nothing) -> None:
    """As `copy_file`, without a look whether blocks can be shared."""
    os.ftruncate(dst_fd, size)
    offset = 0
    while offset < size:
        start, end = _next_data(src_fd, offset, size)
        if start >= size or not _copy_range(src_fd, dst_fd, start, end, tick):
            return
        offset = end


def copy_hashed(src_fd: int, dst_fd: int, size: int, tick: Callable[[], None] = _nothing) -> str:
    """Copy the first `size` bytes into the empty file `dst_fd` by reading them once; their SHA-256 in hex.

    Holes become zeros. Where the source ends early, because it was cut off meanwhile, so does the copy.
    """
    offset = 0
    with Hashing(size) as digest:
        while offset < size:
            tick()
            piece = os.pread(src_fd, min(READ, size - offset), offset)
            if not piece:
                break
            digest.update(piece)
            _write_all(dst_fd, piece, offset)
            offset += len(piece)
    return digest.hexdigest()


def patch(src_fd: int, dst_fd: int, size: int, tick: Callable[[], None] = _nothing) -> int:
    """Make the older copy `dst_fd` equal to the first `size` bytes of the source by writing only what differs.

    Gives the bytes written.
    """
    new, old = bytearray(COMPARED), bytearray(COMPARED)
    offset = written = 0
    while offset < size:
        tick()
        count = os.preadv(src_fd, [new], offset)
        if count == 0:
            break
        there = os.preadv(dst_fd, [old], offset)
        if count != there or new != old:
            for at in range(0, count, BLOCK):
                block = new[at : min(at + BLOCK, count)]
                if block != old[at : min(at + BLOCK, there)]:
                    _write_all(dst_fd, block, offset + at)
                    written += len(block)
        offset += count
    os.ftruncate(dst_fd, min(offset, size))
    return written


class Hashing:
    """SHA-256 of pieces that come one after another; of a large file beside the copying, on another processor."""

    def __init__(self, size: int) -> None:
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1) if size >= HASHED_BESIDE else None
        self._pending: Future[None] | None = None

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def update(self, piece: bytes) -> None:
        if self._pool is None:
            self._digest.update(piece)
            return
        if self._pending:
            self._pending.result()
        self._pending = self._pool.submit(self._digest.update, piece)

    def hexdigest(self) -> str:
        """Once the block is left."""
        return self._digest.hexdigest()


def _write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def clone(src_fd: int, dst_fd: int) -> bool:
    """Make the empty file `dst_fd` share all blocks of the source; False where the file system cannot."""
    try:
        fcntl.ioctl(dst_fd, FICLONE, src_fd)
    except OSError as error:
        if error.errno in _NOT_CLONED:
            return False
        raise
    return True


def _next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Where the next stretch of data begins and ends; (size, size) when only a hole is left."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return offset, size
        raise


def _copy_range(src_fd: int, dst_fd: int, offset: int, end: int, tick: Callable[[], None]) -> bool:
    """False when the source ended early, because it was cut off meanwhile."""
    in_kernel = True
    while offset < end:
        tick()
        count = min(CHUNK, end - offset)
        if in_kernel:
            try:
                done = os.copy_file_range(src_fd, dst_fd, count, offset, offset)
            except OSError as error:
                if error.errno not in _NO_RANGE:
                    raise
                in_kernel = False
                continue
        else:
            done = os.pwrite(dst_fd, os.pread(src_fd, min(count, 1 << 20), offset), offset)
        if done == 0:
            return False
        offset += done
    return True


def copy_attributes(src_fd: int, dst_fd: int, found: os.stat_result) -> dict[str, bytes]:
    """Give `dst_fd` the owner, mode, ACLs, extended attributes and times of the file or directory `src_fd`.

    What it has of extended attributes then is returned.

    `found` is its stat. Times come last; the owner before the mode and the capabilities, which a change of owner
    clears. Without root, what belongs to others stays ours.
    """
    _own(dst_fd, found)
    os.fchmod(dst_fd, stat.S_IMODE(found.st_mode))
    wanted = attributes(src_fd)
    present = attributes(dst_fd)
    for name in sorted(present.keys() - wanted.keys()):  # a default ACL of the directory above, inherited
        with suppress(OSError):
            os.removexattr(dst_fd, name)
            del present[name]
    for name, value in wanted.items():
        if present.get(name) == value:
            continue
        try:
            os.setxattr(dst_fd, name, value)
        except OSError:
            if name.startswith(_ATTRIBUTES):
                raise
        else:
            present[name] = value
    os.utime(dst_fd, ns=(found.st_atime_ns, found.st_mtime_ns))
    return present


def _own(dst_fd: int, found: os.stat_result) -> None:
    now = os.fstat(dst_fd)
    if (now.st_uid, now.st_gid) == (found.st_uid, found.st_gid):
        return
    try:
        os.fchown(dst_fd, found.st_uid, found.st_gid)
    except PermissionError:
        if os.geteuid() == 0:
            raise


def attributes(fd: int) -> dict[str, bytes]:
    """The extended attributes of an open file, ACLs and capabilities among them."""
    found: dict[str, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTE:
            return found
        raise
    for name in names:
        try:
            found[name] = os.getxattr(fd, name)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
    return found


def same_attributes(one: int, other: int) -> bool:
    """Whether two files agree in ACLs, capabilities and the attributes that a copy keeps."""

    def kept(fd: int) -> dict[str, bytes]:
        return {name: value for name, value in attributes(fd).items() if name.startswith(_ATTRIBUTES)}

    return kept(one) == kept(other)


def copy_symlink(target: str, found: os.stat_result, dir_fd: int, name: str) -> None:
    """Make the link `name` with the owner and times of `found`."""
    os.symlink(target, name, dir_fd=dir_fd)
    try:
        os.chown(name, found.st_uid, found.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    except PermissionError:
        if os.geteuid() == 0:
            raise
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=dir_fd, follow_symlinks=False)
