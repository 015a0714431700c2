"""Files and directories: durable writes, atomic switches, removal and measuring by descriptor.

What is written is written beside and renamed, and is on disk when the call returns. Trees are walked by
directory descriptor and never through a link, because the app's user may swap a directory for a link while
root walks. An OSError leaves here as a SlotdError that names the place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from slotd import errors
from slotd.host.failpoint import hit

READ_SIZE = 1 << 20
FLATTEN_DEPTH = 64  # removal moves what lies deeper up to the top, so that no depth exhausts descriptors
REMOVE_ROUNDS = 100_000
MEASURED_DEPTH = 200
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR)
_libc = ctypes.CDLL(None, use_errno=True)


def explain(what: str, error: OSError) -> errors.SlotdError:
    """`error` as a sentence that begins with `what` ("cannot write /x"): NoSpace for a full disk, else Failed."""
    message = f"{shown(what)}: {os.strerror(error.errno) if error.errno else error}."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return errors.NoSpace(message, hint="Free some space there, then try again.")
        case errno.EIO | errno.EUCLEAN:
            return errors.Failed(message, hint="The disk or its file system is damaged: see `journalctl -k`.")
        case errno.EROFS:
            return errors.Failed(message, hint="The file system is mounted read-only: see `journalctl -k`.")
        case errno.EWOULDBLOCK:
            return errors.Failed(
                f"{shown(what)}: another process has a lease on a file and does not give it back.",
                hint="`lslocks` shows which (TYPE LEASE). Stop it, then try again.",
            )
        case errno.EACCES | errno.EPERM:
            return errors.Failed(message, hint="See who may write there, and whether it is marked immutable (lsattr).")
        case _:
            return errors.Failed(message)


def shown(text: object) -> str:
    """A foreign name as it may stand in a message: no broken encoding, no control characters."""
    decoded = os.fsencode(str(text)).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in decoded)


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Raise an OSError of the block as `explain` puts it."""
    try:
        yield
    except OSError as error:
        raise explain(what, error) from error


@contextmanager
def opened(path: str | Path, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> Iterator[int]:
    """A descriptor, closed at the end of the block. Raises the plain OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def fsync_dir(path: Path) -> None:
    """Put the names in directory `path` on disk."""
    with explaining(f"cannot sync the directory {path}"), opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def syncfs(path: Path) -> None:
    """Put everything that was written to the file system of `path` on disk."""
    with explaining(f"cannot sync the file system of {path}"), opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        syncfs_fd(fd)


def syncfs_fd(fd: int) -> None:
    """As `syncfs`, for the file system of an open descriptor. Raises the plain OSError."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_new(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Rename, refusing to replace anything: FileExistsError if `target` is there. Raises the plain OSError."""
    result = _libc.renameat2(src_dir_fd, os.fsencode(source), dst_dir_fd, os.fsencode(target), RENAME_NOREPLACE)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), source, None, target)
    if exists_at(target, dst_dir_fd):  # a file system that knows no flags: as near as it gets
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def exchange(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Let two names change places, by one act. Raises the plain OSError: EINVAL where the file system cannot."""
    if _libc.renameat2(src_dir_fd, os.fsencode(source), dst_dir_fd, os.fsencode(target), RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)


def exists_at(name: str, dir_fd: int) -> bool:
    """Whether `name` is in the directory, whatever it is (a dangling link too)."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data`, whole or not at all; on disk when it returns. The directory must exist."""
    beside = f".{path.name}.{threading.get_native_id()}.new"
    with explaining(f"cannot write {path}"), opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=parent)
        try:
            with opened(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=parent) as fd:
                write_all(fd, data)
                os.fchmod(fd, mode)
                os.fsync(fd)
            os.rename(beside, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            with suppress(OSError):
                os.unlink(beside, dir_fd=parent)
            raise
        os.fsync(parent)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it where the file stands. Raises the plain OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_unsynced(path: Path, data: bytes) -> None:
    """Write the file anew with mode 0600, replacing what is there; it may be lost with the power until a sync."""
    with explaining(f"cannot write {path}"):
        path.unlink(missing_ok=True)
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) as fd:
            write_all(fd, data)


def _beside(link: Path) -> str:
    return f".{link.name}.new"


def forget_switch(link: Path) -> None:
    """Remove the new link that a switch which was cut short left beside `link`."""
    with explaining(f"cannot tidy up beside {link}"), suppress(FileNotFoundError):
        os.unlink(link.parent / _beside(link))


def switch_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` in one act: the new link beside, on disk, renamed over the old, on disk.

    What the link leads to must be on disk before (`syncfs`).
    """
    beside = _beside(link)
    with explaining(f"cannot point {link} at {target}"), opened(link.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=parent)
        os.symlink(target, beside, dir_fd=parent)
        os.fsync(parent)
        hit("switch:made")
        os.rename(beside, link.name, src_dir_fd=parent, dst_dir_fd=parent)
        hit("switch:renamed")
        os.fsync(parent)


def read_bounded(path: Path, limit: int) -> bytes:
    """The contents of a regular file of at most `limit` bytes. FileNotFoundError if it is not there, else Failed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain(f"cannot read {path}", error) from error
    with explaining(f"cannot read {path}"), open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise errors.Failed(f"cannot read {path}: it is not a regular file.")
        # In pieces: a read of so many bytes at once would ask for as much memory first, whatever the file holds.
        data = bytearray()
        while len(data) <= limit and (piece := file.read(min(READ_SIZE, limit + 1 - len(data)))):
            data += piece
    if len(data) > limit:
        raise errors.Failed(f"cannot read {path}: it is larger than {limit} bytes.")
    return bytes(data)


def remove_tree(path: Path) -> None:
    """Remove whatever is at `path`, a link itself and not what it leads to. Nothing there is fine.

    Refuses (Failed) when a file system is mounted below: what is on it would go too.
    """
    if mounted := mounts_below(path):
        raise errors.Failed(
            f"cannot remove {path}: {mounted[0]} is a mount point.", hint=f"Unmount it first: `umount {mounted[0]}`."
        )
    with explaining(f"cannot remove {path}"):
        try:
            parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            remove_at(parent, path.name)
        finally:
            os.close(parent)


def remove_at(dir_fd: int, name: str) -> None:
    """As `remove_tree`, for `name` in an open directory, without the look for mounts. Raises the plain OSError."""
    if _unlinked(dir_fd, name):
        return
    with _open_any_mode(dir_fd, name) as top:
        for _ in range(REMOVE_ROUNDS):
            _empty(top, top, 0)
            try:
                os.rmdir(name, dir_fd=dir_fd)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)


def _unlinked(dir_fd: int, name: str) -> bool:
    """Unlink anything but a directory; False if it is one."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            return False
        raise
    return True


def _empty(fd: int, top: int, depth: int) -> None:
    for name in os.listdir(fd):
        if _unlinked(fd, name):
            continue
        try:
            with _open_any_mode(fd, name) as child:
                if depth < FLATTEN_DEPTH:
                    _empty(child, top, depth + 1)
                else:
                    os.rename(name, f".slotd-deep-{os.fstat(child).st_ino}", src_dir_fd=fd, dst_dir_fd=top)
                    continue
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (*_GONE, errno.ENOTEMPTY):
                raise  # vanished, swapped or filled again meanwhile: the next round sees it


@contextmanager
def _open_any_mode(dir_fd: int, name: str) -> Iterator[int]:
    """A directory's descriptor, its mode made 0700 where its owner may not list it."""
    with opened(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd) as path_fd:
        if os.fstat(path_fd).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        with opened(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_DIRECTORY) as fd:
            yield fd


def tree_size(path: Path, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes of the regular files at and below `path`, each counted once however many names it has.

    `seen` is what earlier calls counted already: hand the same set to all of those that share files. What lies deeper
    than `MEASURED_DEPTH` directories is not counted: whoever made it would only like this to fail.
    """
    seen = set() if seen is None else seen

    def measure(fd: int, depth: int) -> int:
        total = 0
        if depth > MEASURED_DEPTH:
            return total
        for name in os.listdir(fd):
            with suppress(FileNotFoundError, NotADirectoryError):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    with opened(name, DIRECTORY, dir_fd=fd) as child:
                        total += measure(child, depth + 1)
                elif stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                    if found.st_nlink > 1:
                        seen.add((found.st_dev, found.st_ino))
                    total += found.st_size
        return total

    with explaining(f"cannot measure {path}"):
        try:
            with opened(path, DIRECTORY) as top:
                return measure(top, 0)
        except FileNotFoundError:
            return 0
        except NotADirectoryError:
            found = os.lstat(path)
            return found.st_size if stat.S_ISREG(found.st_mode) else 0


def free_bytes(path: Path) -> int:
    """What an ordinary user could still write on the file system of `path`, or of its nearest parent that exists."""
    with explaining(f"cannot see the free space of {path}"):
        while not path.exists() and path != path.parent:
            path = path.parent
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def mounts_below(path: Path) -> list[Path]:
    """The mount points at or below `path` (an absolute path without links)."""
    prefix = os.fsencode(path).rstrip(b"/")
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = unescape(line.split(b" ")[4])
        if point == prefix or point.startswith(prefix + b"/"):
            found.append(Path(os.fsdecode(point)))
    return sorted(set(found))


def unescape(field: bytes) -> bytes:
    """A path as fstab and mountinfo write it."""
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, char)
    return field


def has_writers(fd: int) -> bool:
    """Whether anyone has the file open for writing, this process included; `fd` must be open read-only.

    A read lease is granted only when nobody does (fcntl(2), F_SETLEASE), by descriptor or shared mapping.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except (BlockingIOError, PermissionError) as error:
        if error.errno == errno.EAGAIN:
            return True
        raise explain("cannot take a lease on a file", error) from error
    except OSError as error:
        raise explain("cannot take a lease on a file", error) from error
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def hash_fd(fd: int, algorithm: str = "sha256", *, tick: Callable[[], None] | None = None) -> str:
    """The hex digest of the whole file, whatever its offset. `tick` is called for each piece and may raise to stop.

    Raises the plain OSError.
    """
    digest = hashlib.new(algorithm)
    offset = 0
    while piece := os.pread(fd, READ_SIZE, offset):
        if tick:
            tick()
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def hash_path(path: Path) -> str:
    """The SHA-256 of a regular file. Raises the plain OSError."""
    with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        return hash_fd(fd)


def hash_and_sync(fd: int) -> str:
    """The SHA-256 of the whole file, which is put on disk meanwhile. Raises the plain OSError of either."""
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(os.fsync, fd)
        digest = hash_fd(fd, "sha256")
        synced.result()
    return digest
