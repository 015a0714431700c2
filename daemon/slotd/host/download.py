"""One large file into a descriptor: resumed where it stopped, hashed as it arrives, never slower than a drip.

A download is one file of one server, or it starts again: a part is only added to what is there if the server proves,
by a strong validator, that both are of the same version (RFC 9110, `If-Range`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotd.core.answer import come_back, content_range, shown, validator
from slotd.core.schema import Limits
from slotd.errors import NoSpace, SlotdError, SourceFailed
from slotd.host.fetch import Broken, Credential, Pace, Reply, Session
from slotd.host.plainfile import open_plain

PIECE = 1024 * 1024
HASH_AT_ONCE = 4 * PIECE
HASH_BEHIND = 8  # orders that may be open: what was written last is still in memory
REPORT_EVERY_S = 0.5

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to download. Of `expected_*`, 0 and empty mean unknown; `bandwidth` is in bytes per second, 0 for unlimited.
    `state` is what an earlier download into the same file reported.
    """

    url: str
    limit_bytes: int
    expected_size: int = 0
    expected_digest: str = ""
    bandwidth: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    credential: Credential | None = None

    @property
    def most(self) -> int:
        return min(self.expected_size or self.limit_bytes, self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The whole file: its bytes, its digest in hex, and the state that a later call can go on from."""

    bytes: int
    sha256: str
    state: Mapping[str, Any]


def download(
    order: Order, fd: int, limits: Limits, progress: Progress, pace: Pace | None = None, deadline_s: float | None = None
) -> Downloaded:
    """Fill `fd` (read and write) with what `order.url` gives, going on with what it holds already if that is safe.

    `progress` gets {bytes, total, state} twice a second and whenever the state changes, so that a killed download
    goes on later; total is 0 while unknown. Raises `SourceFailed` (with `retry_at` where the server said),
    `NoSpace`. What was received stays in the file; to put it on disk is the caller's part.
    """
    if order.expected_size > order.limit_bytes:
        raise _too_large(order, order.limit_bytes)
    deadline_s = limits.download_s if deadline_s is None else deadline_s
    with Session(limits, deadline_s, order.credential, pace) as session:
        return _Download(order, fd, limits, progress, session).run()


def copy(path: Path, fd: int, limit_bytes: int, progress: Progress, expected_size: int = 0) -> Downloaded:
    """As `download`, from a file of this host. No part of `path` may be a symbolic link: it is one as the directory
    source resolved it, and what changed since then is a trap.
    """
    target = _Target(fd, shown(str(path)))
    target.restart()
    with open_plain(path) as source:
        before = os.fstat(source)
        if before.st_size > limit_bytes or (expected_size and before.st_size != expected_size):
            limit = f"expected {expected_size}" if expected_size else f"more than {limit_bytes}"
            raise SourceFailed(f"cannot copy {path}: it has {before.st_size} bytes, {limit}")
        while piece := os.read(source, PIECE):
            target.append(piece)
            if target.size > before.st_size:
                break
            progress({"bytes": target.size, "total": before.st_size, "state": {}})
        after = os.fstat(source)
    if target.size != before.st_size or (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
        raise SourceFailed(f"cannot copy {path}: it is being written to", hint="Try again once it is complete.")
    return Downloaded(target.size, target.hexdigest(), {})


class _Target:
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


class _Download:
    def __init__(self, order: Order, fd: int, limits: Limits, progress: Progress, session: Session) -> None:
        self._order = order
        self._progress = progress
        self._session = session
        self._pace = session.pace
        # Whoever limits the bandwidth to a drip has asked for one.
        limit = order.bandwidth or limits.least_bytes_per_s * 2
        self._least = min(limits.least_bytes_per_s, limit // 2)
        self._target = _Target(fd, shown(order.url))
        self._validator = ""
        self._total = order.expected_size
        self._reported = 0.0

    def run(self) -> Downloaded:
        was_resumed = self._resume()
        result = self._all()
        wanted = self._order.expected_digest
        if was_resumed and wanted.startswith("sha256:") and wanted != f"sha256:{result.sha256}":
            # The old part may be what is wrong (a power cut, a server that reuses its ETags): only a file that was
            # fetched whole is called forged.
            self._restart()
            result = self._all()
        return result

    def _resume(self) -> bool:
        state = self._order.state
        kept = state.get("validator")
        is_ours = state.get("url") == self._order.url and isinstance(kept, str)
        if is_ours and kept and kept.isascii() and kept.isprintable():
            self._target.adopt()
            self._validator = kept
        if not self._validator or self._target.size > self._order.most:
            self._restart()
        return self._target.size > 0

    def _restart(self) -> None:
        self._target.restart()
        self._validator = ""
        self._total = self._order.expected_size

    def _all(self) -> Downloaded:
        tries = fruitless = 0
        while not self._is_whole():
            before = self._target.size
            try:
                self._once()
                break
            except Broken as broken:
                tries += 1
                fruitless = 1 if self._target.size > before else fruitless + 1
                wait_s = min(self._pace.backoff_s * 2 ** (fruitless - 1), self._pace.longest_backoff_s)
                wait_s = max(wait_s, min(broken.retry_at - time.time(), self._pace.longest_backoff_s))
                is_over = wait_s >= self._session.left_s()  # what was wrong says more than that time ran out
                if is_over or fruitless >= self._pace.tries or tries >= self._pace.most_tries:
                    often = f", {tries} times" if tries > 1 else ""
                    raise SourceFailed(f"{broken.message}{often}", hint=broken.hint, retry_at=broken.retry_at) from None
                self._report(True)
                self._session.rest(wait_s)
        if self._order.expected_size and self._target.size != self._order.expected_size:
            raise SourceFailed(
                f"cannot read {shown(self._order.url)}: it has {self._target.size} bytes, "
                f"the release says {self._order.expected_size}",
                hint="The publisher may be replacing the file. Try again later.",
            )
        self._report(True)
        return Downloaded(self._target.size, self._target.hexdigest(), self._state())

    def _is_whole(self) -> bool:
        return 0 < self._order.expected_size == self._target.size and self._validator != ""

    def _once(self) -> None:
        # Only with a token: the GitHub API then gives JSON unless asked for bytes; others may refuse the type.
        headers = {"Accept": "application/octet-stream"} if self._order.credential else {}
        if self._target.size and self._validator:
            headers |= {"Range": f"bytes={self._target.size}-", "If-Range": self._validator}
        elif self._target.size:
            self._restart()
        with self._session.get(self._order.url, headers) as reply:
            if reply.status == 206 and "Range" in headers:
                self._take_part(reply)
            elif reply.status == 200:
                self._take_whole(reply)
            elif reply.status == 416 and "Range" in headers:
                self._take_nothing(reply)
            elif reply.status >= 500:
                raise self._fault(reply)
            else:
                reply.refuse()

    def _take_whole(self, reply: Reply) -> None:
        self._restart()
        self._validator = validator(reply.headers)
        self._expect(reply.length)
        self._receive(reply)

    def _take_part(self, reply: Reply) -> None:
        part = content_range(reply.headers)
        etag = reply.headers.get("etag", self._validator)
        if part is None or part.first is None or part.last is None:
            self._again(reply, "the server sent a part without saying which")
        elif part.first != self._target.size or reply.length not in (None, part.last - part.first + 1):
            self._again(reply, "the server sent another part than was asked for")
        elif self._validator.startswith('"') and etag != self._validator:
            self._again(reply, "the server sent a part of another version")
        else:
            self._expect(part.total)
            self._receive(reply)
            if self._target.size > part.last + 1:
                self._again(reply, "the server sent more than it said")
            if part.total is not None and self._target.size < part.total:
                where = f"{self._target.size} of {part.total} bytes"
                raise Broken(f"cannot read {shown(self._order.url)}: it ended at {where}")

    def _take_nothing(self, reply: Reply) -> None:
        part = content_range(reply.headers)
        etag = reply.headers.get("etag", self._validator)
        if part is None or part.total != self._target.size or etag != self._validator:
            self._again(reply, "the server does not have the part that is missing")

    def _again(self, reply: Reply, why: str) -> None:
        """From the first byte: what is there does not fit what the server has."""
        self._restart()
        raise Broken(f"cannot read {shown(reply.url)}: {why}")

    def _fault(self, reply: Reply) -> SourceFailed:
        try:
            reply.refuse()
        except SourceFailed as refused:
            later_s = come_back(reply.status, reply.headers, time.time()) - time.time()
            if later_s > self._pace.longest_backoff_s:
                return refused
            return Broken(refused.message, hint=refused.hint, retry_at=refused.retry_at)

    def _expect(self, total: int | None) -> None:
        if total is None:
            return
        if total > self._order.limit_bytes:
            raise _too_large(self._order, self._order.limit_bytes)
        if self._order.expected_size and total != self._order.expected_size:
            raise SourceFailed(
                f"cannot read {shown(self._order.url)}: the server has {total} bytes, "
                f"the release says {self._order.expected_size}",
                hint="The publisher may be replacing the file. Try again later.",
            )
        self._total = total

    def _receive(self, reply: Reply) -> None:
        start = time.monotonic()
        first = self._target.size
        window: deque[tuple[float, int]] = deque([(start, first)])
        self._report(True)
        for chunk in reply.chunks():
            if self._target.size + len(chunk) > self._order.most:
                raise _too_large(self._order, self._order.most)
            self._target.append(chunk)
            now = time.monotonic()
            self._check_speed(window, now)
            self._report(False)
            if self._order.bandwidth:
                self._session.rest((self._target.size - first) / self._order.bandwidth - (now - start))

    def _check_speed(self, window: deque[tuple[float, int]], now: float) -> None:
        """The least speed over any window. A drip that never falls silent would else hold us until the deadline."""
        length_s = self._pace.silence_s
        while len(window) > 1 and now - window[1][0] >= length_s:
            window.popleft()
        past_s, received = now - window[0][0], self._target.size - window[0][1]
        if past_s >= length_s and received < self._least * past_s:
            raise SourceFailed(
                f"cannot read {shown(self._order.url)}: only {received} bytes came in {past_s:.0f} s",
                hint=f"The least speed is {self._least} bytes a second (`least_bytes_per_s` in [limits]).",
            )
        if now - window[-1][0] >= length_s / 30:
            window.append((now, self._target.size))

    def _state(self) -> dict[str, str]:
        return {"url": self._order.url, "validator": self._validator}

    def _report(self, is_due: bool) -> None:
        now = time.monotonic()
        if is_due or now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            self._progress({"bytes": self._target.size, "total": self._total, "state": self._state()})


def _too_large(order: Order, most: int) -> SourceFailed:
    if order.expected_size and most == order.expected_size:
        return SourceFailed(
            f"cannot read {shown(order.url)}: it is larger than the {most} bytes that the release says",
            hint="The publisher may be replacing the file. Try again later.",
        )
    return SourceFailed(
        f"cannot read {shown(order.url)}: it is larger than {most} bytes",
        hint="If it really is that large, raise `download_bytes` in [limits].",
    )
