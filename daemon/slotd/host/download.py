"""One large file into a descriptor: resumed where it stopped, hashed as it arrives, never slower than a drip.

A download is one file of one server, or it starts again: a part is only added to what is there if the server proves,
by a strong validator, that both are of the same version (RFC 9110, `If-Range`). With a seed, an older file that holds
much of the new one, the parts that lie there are copied and the others fetched: always from the first byte to the
last, so that what is there can be gone on from in either way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.core.answer import come_back, content_range, shown, validator
from slotd.core.schema import Limits
from slotd.errors import SourceFailed
from slotd.host import seeding
from slotd.host.fetch import Broken, Credential, Pace, Reply, Session
from slotd.host.partfile import PIECE, PartFile

REPORT_EVERY_S = 0.5
BURST_S = 0.1  # of a bandwidth, what was not used may be made up for

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to download. Of `expected_*`, 0 and empty mean unknown; `bandwidth` gives bytes per second, 0 for unlimited,
    and is asked all the while. `state` is what an earlier download into the same file reported; `alike` are addresses
    whose files a digest will tell apart: where their validators agree, it goes on from one with another.
    """

    url: str
    limit_bytes: int
    expected_size: int = 0
    expected_digest: str = ""
    bandwidth: Callable[[], int] = lambda: 0
    state: Mapping[str, Any] = field(default_factory=dict)
    credential: Credential | None = None
    seed: seeding.Seed | None = None
    alike: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        return min(self.expected_size or self.limit_bytes, self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The whole file: its bytes, its digest in hex, and the state that a later call can go on from.

    `fetched` bytes came over the network in this call, `reused` were copied from the seed; `unfit` is one of
    `seeding.REASONS` where that was given up, or empty. `pieced`: it was not fetched from first to last at once, so
    that a digest that does not fit may be our doing.
    """

    bytes: int
    sha256: str
    state: Mapping[str, Any]
    fetched: int = 0
    reused: int = 0
    unfit: str = ""
    pieced: bool = False


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


class _Download:
    def __init__(self, order: Order, fd: int, limits: Limits, progress: Progress, session: Session) -> None:
        self._order = order
        self._limits = limits
        self._progress = progress
        self._session = session
        self._pace = session.pace
        self._target = PartFile(fd, shown(order.url))
        self._validator = ""
        self._total = order.expected_size
        self._reported = self._due = 0.0
        self._where = order.url  # or where that leads, while many parts are asked for
        self._assembly: seeding.Assembly | None = None
        self._unfit = ""
        self._fetched = self._reused = 0

    def run(self) -> Downloaded:
        was_resumed = self._resume()
        self._survey()
        result = self._all()
        wanted = self._order.expected_digest
        is_pieced = was_resumed or self._reused > 0
        if is_pieced and wanted.startswith("sha256:") and wanted != f"sha256:{result.sha256}":
            # The old part may be what is wrong (a power cut, a server that reuses its ETags, a damaged seed): only a
            # file that was fetched whole is called forged.
            is_pieced = False
            self._unfit = seeding.DIFFERENT if self._reused else ""
            self._restart()
            result = self._all()
        return replace(result, fetched=self._fetched, reused=self._reused, unfit=self._unfit, pieced=is_pieced)

    def _resume(self) -> bool:
        state = self._order.state
        kept = state.get("validator")
        is_ours = isinstance(kept, str) and (
            state.get("url") == self._order.url or (state.get("url") in self._order.alike and kept.startswith('"'))
        )
        if is_ours and isinstance(kept, str) and kept and kept.isascii() and kept.isprintable():
            self._target.adopt()
            self._validator = kept
        if not self._validator or self._target.size > self._order.most:
            self._restart()
        return self._target.size > 0

    def _restart(self) -> None:
        self._target.restart()
        self._validator = ""
        self._total = self._order.expected_size
        self._reused = 0
        self._assembly = None

    # -- with an older file ---------------------------------------------------------------------------

    def _survey(self) -> None:
        seed = self._order.seed
        if seed is None or self._is_whole():
            return
        try:
            found = seeding.survey(seed, self._look, self._order.expected_size, self._limits.delta_index_bytes)
            self._expect(found.total)
            self._assembly = found
        except seeding.Unfit as unfit:
            self._unfit = unfit.why
        except SourceFailed:  # whether that was the end of it, a plain download will tell
            self._unfit = seeding.FAILED

    def _look(self, wanted: str, most: int) -> seeding.Part:
        headers = {**self._accepted(), "Range": f"bytes={wanted}"}
        if self._validator:
            headers["If-Range"] = self._validator
        with self._session.get(self._where, headers) as reply:
            part = content_range(reply.headers)
            found = validator(reply.headers) or self._validator
            if reply.status != 206 or part is None or part.first is None or part.last is None or part.total is None:
                raise seeding.Unfit(seeding.CHANGED if self._validator else seeding.NO_RANGES)
            if not found or (self._validator and found != self._validator) or part.last - part.first >= most:
                raise seeding.Unfit(seeding.NO_RANGES)
            self._validator = found
            self._led_to(reply)
            body = reply.body(most)
            self._took(len(body))
        if len(body) != part.last - part.first + 1:
            raise seeding.Unfit(seeding.NO_RANGES)
        return seeding.Part(part.first, part.total, body)

    def _led_to(self, reply: Reply) -> None:
        if not reply.had_credential:
            self._where = reply.url

    def _assemble(self) -> None:
        """From where it is to the end, as long as the older file and the server are what they seemed to be."""
        while (assembly := self._assembly) is not None and self._target.size < assembly.total:
            try:
                self._go_on(assembly)
            except seeding.Unfit as unfit:
                self._unfit, self._assembly = unfit.why, None

    def _go_on(self, assembly: seeding.Assembly) -> None:
        at = self._target.size
        here = assembly.here(at, PIECE)
        if known := here or assembly.held(at):
            self._target.append(known)
            self._reused += len(here)
            self._report(False)
            return
        self._ask(assembly.last(at))
        if self._assembly is None:
            self._unfit = self._unfit or seeding.CHANGED

    # -- from the server ------------------------------------------------------------------------------

    def _all(self) -> Downloaded:
        tries = fruitless = 0
        while not self._is_whole():
            before = self._target.size
            try:
                self._assemble()
                if self._assembly is None and not self._is_whole():
                    self._ask(None)
                break
            except Broken as broken:
                tries += 1
                self._where = self._order.url
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

    def _accepted(self) -> dict[str, str]:
        # Only with a token: the GitHub API then gives JSON unless asked for bytes; others may refuse the type.
        return {"Accept": "application/octet-stream"} if self._order.credential else {}

    def _ask(self, last: int | None) -> None:
        """One answer: from where the file ends to the byte `last`, or, if that is None, all."""
        headers = self._accepted()
        if self._validator and (last is not None or self._target.size):
            headers |= {"Range": f"bytes={self._target.size}-{'' if last is None else last}"}
            headers |= {"If-Range": self._validator}
        elif self._target.size:
            self._restart()
        where = self._order.url if last is None else self._where
        with self._session.get(where, headers) as reply:
            if reply.status == 206 and "Range" in headers:
                if last is not None:
                    self._led_to(reply)
                self._take_part(reply, last)
            elif reply.status == 200:
                self._take_whole(reply)
            elif reply.status == 416 and "Range" in headers:
                self._take_nothing(reply, last)
            elif reply.status >= 500:
                raise self._fault(reply)
            elif where != self._order.url:
                raise Broken(f"cannot read {shown(where)}: the server answered with status {reply.status}")
            else:
                reply.refuse()

    def _take_whole(self, reply: Reply) -> None:
        self._restart()
        self._validator = validator(reply.headers)
        self._expect(reply.length)
        self._receive(reply)

    def _take_part(self, reply: Reply, last: int | None) -> None:
        part = content_range(reply.headers)
        etag = reply.headers.get("etag", self._validator)
        if part is None or part.first is None or part.last is None:
            self._again(reply, "the server sent a part without saying which")
        elif part.first != self._target.size or reply.length not in (None, part.last - part.first + 1):
            self._again(reply, "the server sent another part than was asked for")
        elif last is not None and part.last > last:
            self._again(reply, "the server sent a larger part than was asked for")
        elif self._validator.startswith('"') and etag != self._validator:
            self._again(reply, "the server sent a part of another version")
        else:
            self._expect(part.total)
            self._receive(reply, part.last + 1)
            if self._target.size > part.last + 1:
                self._again(reply, "the server sent more than it said")
            if last is not None and part.last < last:
                self._unfit, self._assembly = seeding.NO_RANGES, None
            wanted = part.total if last is None else part.last + 1
            if wanted is not None and self._target.size < wanted:
                where = f"{self._target.size} of {wanted} bytes"
                raise Broken(f"cannot read {shown(self._order.url)}: it ended at {where}")

    def _take_nothing(self, reply: Reply, last: int | None) -> None:
        part = content_range(reply.headers)
        etag = reply.headers.get("etag", self._validator)
        if last is not None or part is None or part.total != self._target.size or etag != self._validator:
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

    def _receive(self, reply: Reply, end: int | None = None) -> None:
        """Raises `SourceFailed` for more than it may be; what goes beyond `end` is left for the caller to see."""
        window: deque[tuple[float, int]] = deque([(time.monotonic(), self._target.size)])
        self._report(True)
        for chunk in reply.chunks():
            if self._target.size + len(chunk) > self._order.most:
                raise _too_large(self._order, self._order.most)
            self._target.append(chunk)
            self._check_speed(window, time.monotonic())
            self._report(False)
            self._took(len(chunk))
            if end is not None and self._target.size > end:
                return

    def _took(self, count: int) -> None:
        """So many bytes came: wait as long as the bandwidth says."""
        self._fetched += count
        if rate := self._order.bandwidth():
            now = time.monotonic()
            self._due = max(self._due, now - BURST_S) + count / rate
            self._session.rest(self._due - now)

    def _least(self) -> int:
        # Whoever limits the bandwidth to a drip has asked for one.
        least = self._limits.least_bytes_per_s
        return min(least, (self._order.bandwidth() or least * 2) // 2)

    def _check_speed(self, window: deque[tuple[float, int]], now: float) -> None:
        """The least speed over any window. A drip that never falls silent would else hold us until the deadline."""
        length_s = self._pace.silence_s
        while len(window) > 1 and now - window[1][0] >= length_s:
            window.popleft()
        past_s, received = now - window[0][0], self._target.size - window[0][1]
        if past_s >= length_s and received < self._least() * past_s:
            raise SourceFailed(
                f"cannot read {shown(self._order.url)}: only {received} bytes came in {past_s:.0f} s",
                hint=f"The least speed is {self._least()} bytes a second (`least_bytes_per_s` in [limits]).",
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
