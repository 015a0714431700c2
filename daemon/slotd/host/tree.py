"""The door to a slot's tree: taken into root's hands, described, linked - by directory descriptors only.

Whoever wrote the tree is not trusted: names are never resolved through links, and a directory is taken over
before it is listed, so that nobody can put something else under a name between the look and the act.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from slotd.core.artifact import is_inside
from slotd.errors import Failed, Misconfigured, VerificationFailed
from slotd.host.files import has_writers

RECORD_DIRECTORY: Final = ".slotd"
SHIPPED_SUFFIX: Final = ".shipped"
READ_BYTES: Final = 1024**2
HASHERS: Final = min(4, os.cpu_count() or 1)
RECORD_BYTES: Final = 32 * 1024**2  # of a wheel's RECORD, which is read whole
DEPTH_MAX: Final = 1000  # directories held open at once
_SYSTEM_TREES: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo put in its place must not block

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreeSize:
    """What a tree holds: `files` counts every entry, `bytes` the length of each file once, holes counted."""

    files: int
    bytes: int


def check_and_own(
    dirfd: int,
    *,
    uid: int,
    gid: int,
    max_size: int,
    max_files: int,
    path_depth: int,
    allowed_links: Mapping[str, str] = {},
    system_links: bool = False,
    slot_path: str = "",
    writable: bool = False,
    readers: frozenset[int] | None = None,
) -> TreeSize:
    """Checks the tree below `dirfd` and gives it to `uid` and `gid`.

    Refused with `VerificationFailed`: devices, sockets, fifos, set-id files, other file systems, hard links from
    outside, files that somebody still has open for writing (unless `writable`), too much of anything, and links
    that lead out - except those of `allowed_links` (path to target, as `copy_links` gave them), links to below
    `slot_path`, the tree's own absolute path, and, with `system_links`, to programs and libraries of the system
    (a virtual environment has those). A tree that failed is part of each owner's, and is to be removed.

    Modes: whoever owned a file could read it, so may the group; nobody but the owner may write; the rest stays. With
    `readers`, the users who ran it before, that is so for their files alone, and only where the new owner is none of
    them; the group gets no right to others' files that it did not have, and no reader becomes their owner.
    """
    own = _Owner(uid, gid, readers)
    allowed = _Links(dirfd, allowed_links, system_links, slot_path.rstrip("/"))
    device = os.fstat(dirfd).st_dev
    count = total = 0
    linked: dict[int, tuple[int, int, str]] = {}  # of files with several names: how many were met, how many are
    for fd, parts, name, st in walk(dirfd, path_depth):
        if st.st_dev != device:
            _refuse((*parts, name), "is on another file system")
        if not name:
            own.take(fd, st, 0o700)
            continue
        count += 1
        if count > max_files:
            raise VerificationFailed(
                f"cannot accept the slot: it holds more than {max_files} files.",
                hint="If it is right, raise slots.max_files.",
            )
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFLNK:
            allowed.check(fd, parts, name)
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        elif kind == stat.S_IFREG:
            if st.st_mode & (stat.S_ISUID | stat.S_ISGID):
                _refuse((*parts, name), "has a set-id bit")
            met = 1
            if st.st_nlink > 1:
                met += linked.get(st.st_ino, (0,))[0]
                linked[st.st_ino] = met, st.st_nlink, "/".join((*parts, name))
            # A file is only touched once all its names were met in here: it might be somebody else's.
            if met == st.st_nlink:
                total += st.st_size
                if total > max_size:
                    raise VerificationFailed(
                        f"cannot accept the slot: it holds more than {max_size} bytes.",
                        hint="If it is right, raise slots.max_size.",
                    )
                _own_file(fd, parts, name, st, own, writable)
        elif kind != stat.S_IFDIR:
            _refuse((*parts, name), "is neither a file, a directory nor a link")
    for met, names, path in linked.values():
        if met != names:
            _refuse((path,), "has another name outside the slot (hard link)")
    return TreeSize(count, total)


def _refuse(parts: Parts, why: str) -> NoReturn:
    raise VerificationFailed(
        f"cannot accept the slot: {ascii('/'.join(parts))[:200]} {why}.",
        hint="No honest release needs this: ask its publisher, and look at slots.prepare.",
        forged=True,
    )


def walk(top: int, depth: int) -> Iterator[tuple[int, Parts, str, os.stat_result]]:
    """Every directory with an empty name, before it is listed, and then every entry of it with its name.

    Gives the directory's descriptor (closed when the walk moves on), its components, the name and its lstat.
    """
    stack: list[tuple[int, Parts, list[str]]] = []
    try:
        fd = os.open(".", _DIRECTORY_FLAGS, dir_fd=top)
        parts: Parts = ()
        while True:
            inner: list[str] = []
            stack.append((fd, parts, inner))
            yield fd, parts, "", os.fstat(fd)
            with os.scandir(fd) as entries:
                for entry in entries:
                    st = entry.stat(follow_symlinks=False)
                    yield fd, parts, entry.name, st
                    if stat.S_ISDIR(st.st_mode):
                        inner.append(entry.name)
            while not stack[-1][2]:
                os.close(stack.pop()[0])
                if not stack:
                    return
            parent, above, names = stack[-1]
            name = names.pop()
            if len(above) + 1 > min(depth, DEPTH_MAX):
                raise VerificationFailed(
                    f"cannot accept the slot: directories are nested deeper than {min(depth, DEPTH_MAX)}.",
                    hint="If it is right, raise limits.path_depth.",
                )
            fd, parts = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent), (*above, name)
    finally:
        for fd, _, _ in stack:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _Owner:
    """To whom a tree is given."""

    uid: int
    gid: int
    readers: frozenset[int] | None

    def take(self, fd: int, st: os.stat_result, least: int) -> None:
        """Give an open entry away, with the mode that it has then: `least` of the owner's bits are set."""
        owner = st.st_mode & 0o700 | least
        group, others = (owner & 0o500) >> 3, st.st_mode & 0o005
        uid = self.uid
        if self.readers is not None and (st.st_uid not in self.readers or self.uid in self.readers):
            group = st.st_mode & 0o050 if st.st_gid == self.gid else others << 3
            if st.st_uid not in self.readers and self.uid in self.readers and not others & 0o004:
                uid = st.st_uid
        if (st.st_uid, st.st_gid) != (uid, self.gid):
            os.fchown(fd, uid, self.gid)
        if stat.S_IMODE(st.st_mode) != owner | group | others:
            os.fchmod(fd, owner | group | others)


def _own_file(directory: int, parts: Parts, name: str, st: os.stat_result, own: _Owner, writable: bool) -> None:
    fd = os.open(name, _FILE_FLAGS, dir_fd=directory)
    try:
        now = os.fstat(fd)
        if (now.st_dev, now.st_ino, now.st_nlink) != (st.st_dev, st.st_ino, st.st_nlink):
            _refuse((*parts, name), "was changed while the slot was checked")
        own.take(fd, st, 0o600)
        if not writable and own.uid == os.geteuid() and has_writers(fd):
            _refuse((*parts, name), "is still open for writing")
    finally:
        os.close(fd)


class _Links:
    """Which symbolic links a slot may hold."""

    def __init__(self, top: int, allowed: Mapping[str, str], system: bool, slot_path: str) -> None:
        self._top, self._allowed, self._system, self._slot_path = top, allowed, system, slot_path

    def check(self, fd: int, parts: Parts, name: str) -> None:
        target = os.readlink(name, dir_fd=fd)
        path = "/".join((*parts, name))
        if self._allowed.get(path) == target or is_inside(parts, target, self._is_directory):
            return
        if self._slot_path and target.startswith(self._slot_path + "/"):
            inner = target.removeprefix(self._slot_path + "/").lstrip("/")
            if is_inside((), inner, self._is_directory):
                return
        pieces = target.split("/")
        if self._system and target.startswith("/") and ".." not in pieces and pieces[1] in _SYSTEM_TREES:
            return
        _refuse((path,), f"is a link to {ascii(target)[:200]}, outside the slot")

    def _is_directory(self, parts: Sequence[str]) -> bool:
        fds = [os.dup(self._top)]
        try:
            for name in parts:
                fds.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=fds[-1]))
        except OSError:
            return False
        finally:
            for fd in fds:
                os.close(fd)
        return True


def manifest(dirfd: int, slot_path: str) -> bytes:
    """One line for each entry below `dirfd`, sorted: type, mode, SHA-256 or link target, path (JSON strings).

    Two slots with the same content give the same manifest: the slot's own path is read as `{slot}` in files and
    targets, times and owners do not count, and what Python derives from the rest (`__pycache__`, the hashes in a
    wheel's RECORD) and slotd's own record are left out.
    """
    needle = os.fsencode(slot_path.rstrip("/"))
    lines: list[tuple[bytes, str]] = []
    open_sums: deque[tuple[str, str, Future[str]]] = deque()

    def add(what: str, mode: str, value: str, path: str) -> None:
        lines.append((os.fsencode(path), f"{what} {mode} {value} {json.dumps(path)}\n"))

    def collect(most: int) -> None:
        while len(open_sums) > most:
            mode, path, digest = open_sums.popleft()
            add("f", mode, digest.result(), path)

    with ThreadPoolExecutor(HASHERS) as hashers:
        for fd, parts, name, st in walk(dirfd, DEPTH_MAX):
            if not name or "__pycache__" in (*parts, name) or (*parts, name)[0] == RECORD_DIRECTORY:
                continue
            path, mode = "/".join((*parts, name)), f"{stat.S_IMODE(st.st_mode):04o}"
            if stat.S_ISREG(st.st_mode):
                is_record = name == "RECORD" and path.endswith(".dist-info/RECORD") and st.st_size < RECORD_BYTES
                file = os.open(name, _FILE_FLAGS, dir_fd=fd)
                if st.st_size < READ_BYTES:
                    add("f", mode, _digest(file, needle, is_record), path)
                else:  # worth another processor
                    open_sums.append((mode, path, hashers.submit(_digest, file, needle, is_record)))
                    collect(HASHERS)
            elif stat.S_ISLNK(st.st_mode):
                target = os.fsencode(os.readlink(name, dir_fd=fd))
                value = json.dumps(os.fsdecode(target.replace(needle, b"{slot}") if needle else target))
                add("l", mode, value, path)
            else:
                add("d", mode, "-", path)
        collect(0)
    return "".join(line for _, line in sorted(lines)).encode()


def _digest(fd: int, needle: bytes, is_record: bool) -> str:
    """Closes the descriptor."""
    try:
        digest = hashlib.sha256()
        carry, keep = b"", max(len(needle) - 1, 0)
        whole: list[bytes | memoryview] = []
        take: Callable[[bytes | memoryview], None] = whole.append if is_record else digest.update
        while chunk := os.read(fd, READ_BYTES):
            data = carry + chunk
            if needle:
                data = data.replace(needle, b"{slot}")
            cut = max(len(data) - keep, 0)  # the path may go on in the next chunk
            take(memoryview(data)[:cut])
            carry = data[cut:]
        take(carry)
        if is_record:
            paths = (line.rpartition(b",")[0].rpartition(b",")[0] for line in b"".join(whole).splitlines())
            digest.update(b"\n".join(sorted(path for path in paths if b"__pycache__" not in path)))
        return digest.hexdigest()
    finally:
        os.close(fd)


def copy_links(dirfd: int, links: Mapping[str, str]) -> dict[str, str]:
    """Puts `slots.links` into the slot: each path (relative) becomes a link to its target (absolute).

    Parent directories are made. What the release ships in that place is kept beside, as NAME.shipped. Gives the
    links as made, for `check_and_own`. Raises `Misconfigured` for a path that is no path, `Failed` where a link or
    a file is in the way.
    """
    made: dict[str, str] = {}
    for path, target in links.items():
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or path.startswith("/") or ".." in parts or parts[0] == RECORD_DIRECTORY:
            raise Misconfigured(
                f"cannot put the link {path!r} into the slot: it is no path inside a slot.", hint="See slots.links."
            )
        directory = _make_parents(dirfd, parts[:-1], path)
        try:
            _place(directory, parts[-1], target, path)
        finally:
            os.close(directory)
        made["/".join(parts)] = target
    return made


def _make_parents(dirfd: int, parts: Sequence[str], path: str) -> int:
    fd = os.dup(dirfd)
    for part in parts:
        with suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=fd)
        try:
            inner = os.open(part, _DIRECTORY_FLAGS, dir_fd=fd)
        except OSError as error:
            raise Failed(
                f"cannot put the link {path!r} into the slot: {part!r} is not a directory there.",
                hint="The release has another shape than slots.links says.",
            ) from error
        finally:
            os.close(fd)
        fd = inner
    return fd


def _place(directory: int, name: str, target: str, path: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
        return
    except FileExistsError:
        with suppress(OSError):
            if os.readlink(name, dir_fd=directory) == target:
                return
    aside = name + SHIPPED_SUFFIX
    with suppress(FileNotFoundError):
        os.stat(aside, dir_fd=directory, follow_symlinks=False)
        raise Failed(
            f"cannot put the link {path!r} into the slot: the release ships both {name!r} and {aside!r}.",
            hint="Choose another path in slots.links.",
        )
    os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    os.symlink(target, name, dir_fd=directory)
