"""The door to libarchive: entries of a tar or zip, read from a descriptor, one after the other.

A small binding of its own: the packaged wrapper looks for the library by running `ldconfig`, which a
worker that may not execute anything cannot do, and it hands data out in copies. Only calls, no
callbacks: callbacks need memory that is writable and executable, which workers may not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import locale
import os
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_long, c_size_t, c_ssize_t, c_uint, c_void_p
from typing import Any, Final, NamedTuple

BLOCK_BYTES: Final = 128 * 1024  # stays in the processor's cache
PIPE_BYTES: Final = 1024**2

_OK, _EOF, _WARN = 0, 1, -20
_FORMAT_MASK: Final = 0xFF0000
_IFMT, _IFREG, _IFDIR, _IFLNK = 0o170000, 0o100000, 0o040000, 0o120000


class ArchiveError(Exception):
    """What libarchive says is wrong with the bytes: damaged, cut short, of no kind that was asked for."""


class Format(enum.IntEnum):
    """libarchive's families of formats (`archive.h`, ARCHIVE_FORMAT_*)."""

    TAR = 0x30000
    ZIP = 0x50000
    EMPTY = 0x60000
    RAW = 0x90000


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hard link"
    OTHER = "special file"


class Entry(NamedTuple):
    """One header, as it stands in the archive: nothing in it has been checked. `name` None: it cannot be read.

    `mode` holds permission and set-id bits; `size` is what the header claims; `mtime_ns` since the epoch.
    """

    name: bytes | None
    kind: Kind
    target: bytes | None
    mode: int
    size: int
    mtime_ns: int
    encrypted: bool


_c = ctypes.CDLL("libarchive.so.13")
_libc = ctypes.CDLL(None, use_errno=True)


def _bind(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_c, name)
    function.restype, function.argtypes = result, arguments
    return function


_new = _bind("archive_read_new", c_void_p)
_free = _bind("archive_read_free", c_int, c_void_p)
_open_fd = _bind("archive_read_open_fd", c_int, c_void_p, c_int, c_size_t)
_next = _bind("archive_read_next_header", c_int, c_void_p, POINTER(c_void_p))
_block = _bind("archive_read_data_block", c_int, c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_int64))
_into_fd = _bind("archive_read_data_into_fd", c_int, c_void_p, c_int)
_errno = _bind("archive_errno", c_int, c_void_p)
_error = _bind("archive_error_string", c_char_p, c_void_p)
_format = _bind("archive_format", c_int, c_void_p)
_consumed = _bind("archive_filter_bytes", c_int64, c_void_p, c_int)
_pathname = _bind("archive_entry_pathname", c_char_p, c_void_p)
_symlink = _bind("archive_entry_symlink", c_char_p, c_void_p)
_hardlink = _bind("archive_entry_hardlink", c_char_p, c_void_p)
_filetype = _bind("archive_entry_filetype", c_uint, c_void_p)
_perm = _bind("archive_entry_perm", c_uint, c_void_p)
_size = _bind("archive_entry_size", c_int64, c_void_p)
_mtime = _bind("archive_entry_mtime", c_int64, c_void_p)
_mtime_nsec = _bind("archive_entry_mtime_nsec", c_long, c_void_p)
_encrypted = _bind("archive_entry_is_encrypted", c_int, c_void_p)
_pwrite = _libc.pwrite
_pwrite.restype, _pwrite.argtypes = c_ssize_t, (c_int, c_void_p, c_size_t, c_int64)

# Only what is linked in: libarchive would run a program for the others.
_FILTERS = ("gzip", "bzip2", "xz", "zstd")
_FORMATS = {"tar": "tar", "zip": "zip_seekable", "raw": "raw"}


class Reader:
    """Reads the archive behind `fd`. `formats`: `tar`, `zip`, `raw` (one file, nothing but its bytes)."""

    def __init__(self, fd: int, formats: tuple[str, ...], *, filters: bool) -> None:
        # Names in pax and zip headers are UTF-8 and are converted to the locale's characters.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        self._archive: int | None = _new()
        self._entry = c_void_p()
        self._data, self._length, self._offset = c_void_p(), c_size_t(), c_int64()
        for name in _FILTERS if filters else ():
            _bind(f"archive_read_support_filter_{name}", c_int, c_void_p)(self._archive)
        for name in formats:
            _bind(f"archive_read_support_format_{_FORMATS[name]}", c_int, c_void_p)(self._archive)
        if _open_fd(self._archive, fd, BLOCK_BYTES) != _OK:
            message = self._said()
            self.close()
            raise ArchiveError(message)

    def close(self) -> None:
        if self._archive is not None:
            _free(self._archive)
            self._archive = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _said(self) -> str:
        text = _error(self._archive) or b"it cannot be read"
        return text.decode("utf-8", "replace")

    @property
    def format(self) -> int:
        """The family of the archive, one of `Format`; known after the first entry."""
        return int(_format(self._archive)) & _FORMAT_MASK

    @property
    def consumed(self) -> int:
        """How many bytes of the file behind `fd` were read."""
        return int(_consumed(self._archive, -1))

    def entries(self) -> Iterator[Entry]:
        """Each entry in turn; its data may be taken with `write_data` before the next one. Raises `ArchiveError`."""
        while True:
            status = _next(self._archive, byref(self._entry))
            if status == _EOF:
                return
            if status < _WARN:
                raise ArchiveError(self._said())
            yield self._header()

    def _header(self) -> Entry:
        entry = self._entry
        kind, target = _KINDS.get(_filetype(entry) & _IFMT, Kind.OTHER), _hardlink(entry)
        if target is not None:
            kind = Kind.HARDLINK
        elif kind is Kind.SYMLINK:
            target = _symlink(entry)
        mtime_ns = _mtime(entry) * 10**9 + _mtime_nsec(entry)
        return Entry(_pathname(entry), kind, target, _perm(entry), _size(entry), mtime_ns, bool(_encrypted(entry)))

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Address, length and offset of each block of the entry's data; libarchive's memory, good until the next."""
        data, length, offset = self._data, self._length, self._offset
        while True:
            status = _block(self._archive, byref(data), byref(length), byref(offset))
            if status == _EOF:
                return
            # A warning here is a damaged file too: a checksum or a length that does not fit.
            if status != _OK:
                raise ArchiveError(self._said())
            yield data.value or 0, length.value, offset.value

    def pour(self, pipe: int) -> None:
        """Writes the entry's data to a pipe, in one call that keeps no other thread waiting.

        Stops when nobody reads any more. Raises `ArchiveError` for damaged bytes.
        """
        if _into_fd(self._archive, pipe) != _OK and _errno(self._archive) != errno.EPIPE:
            raise ArchiveError(self._said())

    def write_data(self, fd: int, budget: int, tick: Callable[[], None]) -> int:
        """Writes the entry's data to `fd`, holes kept, and gives the file's length, holes counted.

        Gives more than `budget`, and writes no byte beyond it, when there are more. `tick` is called for each
        block. Raises `ArchiveError` for damaged bytes and `OSError` for a failed write.
        """
        end = 0
        for address, count, start in self.blocks():
            if start + count > budget:
                return budget + 1
            _write_all(fd, address, count, start)
            end = max(end, start + count)
            tick()
        return end


_KINDS = {_IFREG: Kind.FILE, _IFDIR: Kind.DIRECTORY, _IFLNK: Kind.SYMLINK}


def _write_all(fd: int, address: int, count: int, start: int) -> None:
    while count:
        written = _pwrite(fd, address, count, start)
        if written < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        address, count, start = address + written, count - written, start + written


class Decompressor:
    """Undoes the compression of the file behind `fd` in a thread of its own; `pipe` gives what comes out.

    Two threads, because taking apart and writing out cost about as much as each other.
    """

    def __init__(self, fd: int) -> None:
        self._reader: Reader | None = Reader(fd, ("raw",), filters=True)
        self.pipe, self._writing = os.pipe()
        with contextlib.suppress(OSError):  # unprivileged users have an allowance of pipe memory; less is only slower
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.failed: ArchiveError | None = None
        self._thread = threading.Thread(target=self._pump, args=(self._reader,), name="decompress", daemon=True)
        self._thread.start()

    def _pump(self, reader: Reader) -> None:
        try:
            for _ in reader.entries():
                reader.pour(self._writing)
        except ArchiveError as error:
            self.failed = error
        finally:
            os.close(self._writing)

    @property
    def consumed(self) -> int:
        """How many bytes of the compressed file were read."""
        return self._reader.consumed if self._reader is not None else 0

    def drain(self, limit: int) -> None:
        """Reads on to the end, at most `limit` bytes: the checksum of compressed bytes stands behind them."""
        while limit > 0 and (piece := os.read(self.pipe, BLOCK_BYTES)):
            limit -= len(piece)

    def close(self) -> None:
        """Ends the thread. After it, `failed` says what is wrong with the compressed bytes, if anything."""
        if self._reader is not None:
            os.close(self.pipe)
            self._thread.join()
            self._reader.close()
            self._reader = None
