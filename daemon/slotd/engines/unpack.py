"""Unpacks an artifact into a slot: the part of the *unpack* worker that touches foreign bytes.

Everything goes through the slot's directory descriptor, one component of a name at a time, never through a
link: files are made new (`O_EXCL`), and symbolic links are made last, when nothing will pass through them
any more. What an archive of an honest publisher never holds - names that lead out, devices, set-id bits, a
file in place of a directory - is refused as forged; what is merely too much is refused with the bound's name.
The daemon checks the finished tree again (`slotd.host.tree`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from slotd.core.artifact import (
    RECORD_DIRECTORY,
    Bounds,
    Names,
    bare_mode,
    file_name,
    is_inside,
    is_odd,
    kind_of,
    refused,
)
from slotd.errors import Failed, NoSpace, VerificationFailed
from slotd.host.archive import ArchiveError, Decompressor, Entry, Format, Kind, Reader

Progress = Callable[[dict[str, Any]], None]

STAGING: Final = ".slotd-unpack"
DRAIN_BYTES: Final = 16 * 1024**2  # of what may follow an archive's end: padding
MTIME_MAX_NS: Final = 2**33 * 10**9

_FOUND: Final[Mapping[int, str]] = {Format.TAR: "tar", Format.ZIP: "zip", Format.RAW: "compressed"}
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(request: dict[str, Any], fds: list[int], progress: Progress) -> dict[str, Any]:
    """The worker's verb. `fds`: the artifact, open for reading, and the slot's directory, maybe with other artifacts.

    `request`: `name` of the artifact, `kind` (`auto none tar zip`), `strip` (`"auto"` or a number), `limits` (the
    fields of `Bounds`), `target_name` for an artifact that is one file. Gives `files`, `bytes`, and `kind`: `tar`,
    `zip`, `compressed` (one file) or `file`. Raises `VerificationFailed` (`forged` for tricks, not for damage or
    mere size), `NoSpace`, `Failed`.
    """
    artifact, slot = fds
    limits = request["limits"]
    bounds = Bounds(limits["max_size"], limits["max_files"], limits["path_bytes"], limits["path_depth"])
    name = str(request["name"])
    try:
        kind = kind_of(name, str(request["kind"]), os.pread(artifact, 512, 0))
        os.lseek(artifact, 0, os.SEEK_SET)
        if kind == "file":
            size = _put(artifact, slot, str(request.get("target_name") or name), name, bounds)
            return {"files": 1, "bytes": size, "kind": "file"}
        return _Unpacking(name, artifact, slot, request, bounds, progress).run(kind)
    except ArchiveError as error:
        raise VerificationFailed(
            f"cannot unpack {name}: {error}.", hint="The artifact is damaged; ask its publisher, or set slots.unpack."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"cannot unpack {name}: the disk is full.", hint="Make room below slots.root.") from error
        raise Failed(f"cannot unpack {name}: {error.strerror}.", hint="See the journal.") from error


def _put(artifact: int, slot: int, target: str, name: str, bounds: Bounds) -> int:
    """Puts the artifact in as it is, under the name `target`. Gives its bytes."""
    size = os.fstat(artifact).st_size
    if size > bounds.max_size:
        raise _too_big(name, bounds)
    fd = os.open(file_name(target, name), _CREATE_FLAGS, 0o600, dir_fd=slot)
    try:
        done = 0
        while done < size:
            sent = os.sendfile(fd, artifact, done, size - done)
            if not sent:
                raise Failed(f"cannot unpack {name}: it became shorter while it was read.", hint="Try again.")
            done += sent
        os.fchmod(fd, bare_mode(os.pread(artifact, 4, 0)))
    finally:
        os.close(fd)
    return size


def _too_big(name: str, bounds: Bounds) -> VerificationFailed:
    return VerificationFailed(
        f"cannot unpack {name}: it holds more than {bounds.max_size} bytes.",
        hint="If it is right, raise slots.max_size.",
    )


class _Unpacking:
    """One archive on its way into one slot."""

    def __init__(
        self, name: str, artifact: int, slot: int, request: Mapping[str, Any], bounds: Bounds, progress: Progress
    ) -> None:
        self._name, self._artifact, self._slot, self._bounds = name, artifact, slot, bounds
        self._strip: int | None = None if request["strip"] == "auto" else int(request["strip"])
        self._target_name = str(request.get("target_name") or "")
        self._progress, self._told_at = progress, 0.0
        self._total = os.fstat(artifact).st_size
        self._consumed: Callable[[], int] = lambda: 0
        self._bytes = self._files = self._entries = 0
        self._names = Names(name, bounds, self._strip or 0)
        self._seen: dict[str, Kind] = {}
        self._links: dict[str, tuple[str, int]] = {}
        self._directories: dict[str, int] = {}  # mtime, set when all is inside
        self._open: OrderedDict[str, int] = OrderedDict()
        self._root = -1

    def run(self, kind: str) -> dict[str, Any]:
        # Beside the slot's own top, so that a top directory can be dropped by renaming its children.
        os.mkdir(STAGING, 0o700, dir_fd=self._slot)
        self._root = os.open(STAGING, _DIRECTORY_FLAGS, dir_fd=self._slot)
        try:
            with self._reader(kind) as reader:
                found = self._take_all(reader)
            strip = self._drop()
            self._make_links(strip)
            self._finish_directories()
            self._move_up(strip)
        finally:
            for fd in (*self._open.values(), self._root):
                os.close(fd)
        os.rmdir(STAGING, dir_fd=self._slot)
        return {"files": self._files, "bytes": self._bytes, "kind": found}

    @contextmanager
    def _reader(self, kind: str) -> Iterator[Reader]:
        if not kind.startswith("compressed"):
            with Reader(self._artifact, (kind,), filters=False) as reader:
                self._consumed = lambda: reader.consumed
                yield reader
            return
        source = Decompressor(self._artifact)
        self._consumed = lambda: source.consumed
        try:
            with Reader(source.pipe, ("tar",) if kind == "compressed-tar" else ("tar", "raw"), filters=False) as reader:
                yield reader
            source.drain(DRAIN_BYTES)
        except ArchiveError as error:
            source.close()
            raise source.failed or error from error
        finally:
            source.close()
        if source.failed is not None:
            raise source.failed

    def _take_all(self, reader: Reader) -> str:
        found = ""
        for entry in reader.entries():
            found = _FOUND.get(reader.format, "")
            if found == "compressed":
                self._take_single(reader)
                break
            self._take(entry, reader)
            self._tick()
        if not self._seen:
            raise VerificationFailed(
                f"cannot unpack {self._name}: it holds no files.", hint="See slots.strip, and ask its publisher."
            )
        return found

    def _refuse(self, entry: bytes | str | None, why: str) -> NoReturn:
        raise refused(self._name, entry, why)

    def _claim(self, path: str, kind: Kind) -> bool:
        """Notes that `path` is a `kind` now. True if it was one before. Anything else in its place is a trick."""
        before = self._seen.get(path)
        if before is not None:
            if before is not kind:
                self._refuse(path, f"comes twice, as a {before.value} and as a {kind.value}")
            return True
        self._seen[path] = kind
        self._files += 1
        self._require_few(self._files)
        return False

    def _require_few(self, count: int) -> None:
        if count > self._bounds.max_files:
            raise VerificationFailed(
                f"cannot unpack {self._name}: it holds more than {self._bounds.max_files} files.",
                hint="If it is right, raise slots.max_files.",
            )

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────

    def _take(self, entry: Entry, reader: Reader) -> None:
        self._entries += 1  # one file ten million times over is one file, and takes as long
        self._require_few(self._entries)
        parts = self._names.parts(entry.name)
        if entry.encrypted:
            raise VerificationFailed(
                f"cannot unpack {self._name}: it is encrypted.", hint="slotd has no password for it."
            )
        if entry.kind is Kind.OTHER:
            self._refuse(entry.name, "is neither a file, a directory nor a link")
        if entry.mode & (stat.S_ISUID | stat.S_ISGID) and entry.kind is not Kind.DIRECTORY:
            self._refuse(entry.name, "has a set-id bit")
        if not parts:
            if entry.kind is not Kind.DIRECTORY and not self._strip:
                self._refuse(entry.name, f"is a {entry.kind.value} in the place of the top")
            return
        path = "/".join(parts)
        if entry.kind is Kind.DIRECTORY:
            self._enter(parts)
            self._directories[path] = _clamp(entry.mtime_ns)
            return
        directory = self._enter(parts[:-1])
        if entry.kind is Kind.FILE:
            self._file(path, parts[-1], directory, entry, reader)
        elif entry.kind is Kind.HARDLINK:
            self._hard_link(path, parts[-1], directory, entry)
        else:
            self._claim(path, Kind.SYMLINK)
            self._links[path] = self._text(entry), _clamp(entry.mtime_ns)

    def _text(self, entry: Entry) -> str:
        try:
            target = (entry.target or b"").decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(entry.name, "is a link whose target is not UTF-8")
        if not target or len(target) > self._bounds.path_bytes or is_odd(target):
            self._refuse(entry.name, "is a link with an odd target")
        return target

    def _file(self, path: str, name: str, directory: int, entry: Entry, reader: Reader) -> None:
        if self._claim(path, Kind.FILE):
            os.unlink(name, dir_fd=directory)  # the later one counts, as with tar
        fd = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=directory)
        try:
            self._data(fd, entry.size, reader)
            os.fchmod(fd, 0o755 if entry.mode & 0o100 else 0o644)  # a release is public; the app must read it
            os.utime(fd, ns=(_clamp(entry.mtime_ns),) * 2)
        finally:
            os.close(fd)

    def _data(self, fd: int, size: int, reader: Reader) -> None:
        budget = self._bounds.max_size - self._bytes
        if size > budget:
            raise _too_big(self._name, self._bounds)
        length = reader.write_data(fd, budget, self._tick)
        if max(length, size) > budget:
            raise _too_big(self._name, self._bounds)
        if length < size:
            os.ftruncate(fd, size)  # ends in a hole
        self._bytes += max(length, size)

    def _hard_link(self, path: str, name: str, directory: int, entry: Entry) -> None:
        parts = self._names.parts(entry.target)
        target = "/".join(parts)
        if self._seen.get(target) is not Kind.FILE or target == path:
            self._refuse(entry.name, "is a hard link to what is not a file of this archive")
        if self._claim(path, Kind.FILE):
            os.unlink(name, dir_fd=directory)
        source = self._enter(parts[:-1])
        os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def _take_single(self, reader: Reader) -> None:
        name = file_name(self._target_name or self._name, self._name, unpacked=True)
        self._claim(name, Kind.FILE)
        fd = os.open(name, _CREATE_FLAGS & ~os.O_WRONLY | os.O_RDWR, 0o600, dir_fd=self._root)
        try:
            self._bytes = reader.write_data(fd, self._bounds.max_size, self._tick)
            if self._bytes > self._bounds.max_size:
                raise _too_big(self._name, self._bounds)
            os.fchmod(fd, bare_mode(os.pread(fd, 4, 0)))
        finally:
            os.close(fd)

    # ── directories ──────────────────────────────────────────────────────────────────────────────────

    def _enter(self, parts: list[str]) -> int:
        """A descriptor of the directory `parts`, made where it is missing. Links are never passed through."""
        path = "/".join(parts)
        if not path:
            return self._root
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        fd, path = self._root, ""
        for name in parts:
            path = f"{path}/{name}" if path else name
            fd = self._step(fd, path, name)
        while len(self._open) > 2 * self._bounds.path_depth + 64:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _step(self, parent: int, path: str, name: str) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if not self._claim(path, Kind.DIRECTORY):
            os.mkdir(name, 0o700, dir_fd=parent)
            self._directories[path] = -1
        self._open[path] = fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        return fd

    def _drop(self) -> int:
        """How many components are left to drop, now that all names are known."""
        if self._strip is not None:
            return 0
        tops = {path.partition("/")[0] for path in self._seen}
        top = next(iter(tops))
        return 1 if len(tops) == 1 and self._seen[top] is Kind.DIRECTORY else 0

    def _make_links(self, strip: int) -> None:
        for path, (target, mtime_ns) in self._links.items():
            parts = path.split("/")
            top = parts[:strip]

            def is_directory(below: Sequence[str], top: list[str] = top) -> bool:
                return self._seen.get("/".join([*top, *below])) is Kind.DIRECTORY

            if not is_inside(parts[strip:-1], target, is_directory):
                self._refuse(path, f"is a link to {target[:200]!r}, outside the slot")
            directory = self._enter(parts[:-1])
            os.symlink(target, parts[-1], dir_fd=directory)
            os.utime(parts[-1], ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _finish_directories(self) -> None:
        for path, mtime_ns in reversed(self._directories.items()):
            fd = self._enter(path.split("/"))
            os.fchmod(fd, 0o755)
            if mtime_ns >= 0:
                os.utime(fd, ns=(mtime_ns, mtime_ns))

    def _move_up(self, strip: int) -> None:
        source = self._root
        top = next(iter(self._seen)).partition("/")[0] if strip else ""
        if strip:
            source = self._enter([top])
        if RECORD_DIRECTORY in os.listdir(source):
            self._refuse(RECORD_DIRECTORY, "is in the place of slotd's own record")
        self._merge(source, self._slot)
        if strip:
            os.rmdir(top, dir_fd=self._root)

    def _merge(self, source: int, destination: int) -> None:
        """Renames what is in one directory into the other; a directory on both sides becomes one."""
        there = set(os.listdir(destination))
        for name in os.listdir(source):
            if name not in there:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=destination)
                continue
            inner: list[int] = []
            try:
                inner.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=source))
                inner.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=destination))
                self._merge(*inner)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise VerificationFailed(
                    f"cannot unpack {self._name}: {ascii(name)[:200]} is already there, from another artifact.",
                    hint="Take one of them out of source.asset.",
                ) from error
            finally:
                for fd in inner:
                    os.close(fd)
            os.rmdir(name, dir_fd=source)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._told_at > 0.2:
            self._told_at = now
            self._progress({"bytes": self._consumed(), "total": self._total})


def _clamp(mtime_ns: int) -> int:
    return min(max(mtime_ns, 0), MTIME_MAX_NS)
