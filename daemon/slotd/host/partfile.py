"""The file that a download grows in: from its beginning, in order, hashed as it grows."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from slotd.errors import NoSpace, SlotdError, SourceFailed

PIECE = 1024 * 1024
HASH_AT_ONCE = 4 * PIECE
HASH_BEHIND = 8  # orders that may be open: what was written last is still in memory


class PartFile:
    """The file being written: where its end is, and the digest of all before it.

    A thread of its own hashes what was written a moment ago, out of the page cache: receiving goes on meanwhile.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.size = 0
        self._fd = fd
        self._name = name
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._reset()

    def _reset(self) -> None:
        self._hash = hashlib.sha256()
        self._ordered = 0  # of the file's bytes, how many the thread has hashed or was told to
        self._orders: deque[Future[None]] = deque()

    def adopt(self) -> None:
        """Take what is there as the beginning."""
        self._wait(0)
        self._reset()
        self.size = os.fstat(self._fd).st_size

    def restart(self) -> None:
        self._wait(0)
        self._reset()
        os.ftruncate(self._fd, 0)
        self.size = 0

    def append(self, piece: bytes) -> None:
        view = memoryview(piece)
        try:
            while view:
                written = os.pwrite(self._fd, view, self.size)
                self.size += written
                view = view[written:]
        except OSError as error:
            raise self._failed(error) from None
        if self.size - self._ordered >= HASH_AT_ONCE:
            self._order()
            self._wait(HASH_BEHIND)

    def _order(self) -> None:
        self._orders.append(self._hasher.submit(self._take, self._hash, self._ordered, self.size))
        self._ordered = self.size

    def _take(self, digest: hashlib._Hash, start: int, end: int) -> None:
        while start < end:
            piece = os.pread(self._fd, min(PIECE, end - start), start)
            if not piece:
                raise SourceFailed(f"cannot store {self._name}: its file was made shorter meanwhile")
            digest.update(piece)
            start += len(piece)

    def _wait(self, most: int) -> None:
        """Until at most so many orders are open. Raises what became of those that are done."""
        try:
            while len(self._orders) > most:
                self._orders.popleft().result()
        except OSError as error:
            raise self._failed(error) from None

    def hexdigest(self) -> str:
        self._order()
        self._wait(0)
        return self._hash.hexdigest()

    def _failed(self, error: OSError) -> SlotdError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return NoSpace(f"cannot store {self._name}: no space is left after {self.size} bytes", hint="Make room.")
        return SourceFailed(f"cannot store {self._name}: {error.strerror}")
