"""The lists that checks ask for. Many apps have one server: what is wanted of it at once is asked in one worker, over
the same connection, instead of in a process for each.

That is only for apps whose releases are signed by somebody. Where a source's word is all there is, an app's list is
asked in a worker of its own: no other app's server answer has been in the same hands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import urlsplit

from slotd.core.release import json_bytes
from slotd.core.schema import App, Limits
from slotd.core.sourcetypes import TOGETHER_S
from slotd.core.verifyplan import SIGNED
from slotd.errors import SlotdError
from slotd.host import frames
from slotd.host.run import Workers, error_of
from slotd.recipes import asking

_log = logging.getLogger(__name__)

AT_ONCE: Final = 8  # workers: each is a process of some 40 MB
TOGETHER: Final = 16  # lists by one of them: few enough that a check's answer does not wait for long
PATIENCE_S: Final = 15.0  # of who waits for others' lists: a slow server is asked by several at a time
_ASKED_BYTES: Final = frames.FRAME_BYTES // 2

Claim = Mapping[str, Any]
Door = tuple[str, str, str, str]  # type of source, scheme, server, credential


class Turn(Enum):
    """What one who waits may be told instead of a list."""

    LEAD = "ask now, and for those who wait, too"
    ALONE = "ask, for yourself"
    LATER = "wait on"


Answer = Claim | SlotdError | Turn


@dataclass(slots=True, eq=False)
class _Wish:
    """A list that is wanted, and what became of it while others ask. `require` raises what keeps it from being asked
    for now.
    """

    limits: Limits
    app: App
    state: Mapping[str, Any]
    unit: str
    require: Callable[[], Awaitable[None]]
    request: Mapping[str, Any]
    reply: asyncio.Future[Claim | Turn]


async def _nothing() -> None:
    return None


class Lists:
    """Asks for lists, `AT_ONCE` workers at a time. Of those who want the same server's the first asks; who comes
    meanwhile waits, and one of them asks for all of them next.
    """

    def __init__(self, workers: Workers, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self.room = asyncio.Semaphore(AT_ONCE)
        self._workers = workers
        self._queues: dict[Door, deque[_Wish]] = {}  # those who wait, of each server that is being asked

    async def ask(
        self,
        limits: Limits,
        app: App,
        state: Mapping[str, Any],
        *,
        unit: str,
        require: Callable[[], Awaitable[None]] = _nothing,
    ) -> Claim:
        """As `asking.list_releases`. `require` is asked once more after others had their turn, and raises if the server
        must not be asked any more.
        """
        request = asking.list_request(app, limits, state)
        wish = _Wish(limits, app, state, unit, require, request, asyncio.get_running_loop().create_future())
        door = _door(app)
        if door is None:
            async with self.room:
                return await self._alone(wish)
        if door not in self._queues:
            self._queues[door] = deque()
            return await self._lead(door, wish)
        self._queues[door].append(wish)
        try:
            await asyncio.wait({wish.reply}, timeout=self._patience_s)
        except asyncio.CancelledError:
            if not wish.reply.cancel() and wish.reply.exception() is None and wish.reply.result() is Turn.LEAD:
                self._pass_on(door)
            raise
        reply = wish.reply.result() if wish.reply.done() else Turn.ALONE
        if reply is Turn.LEAD:
            return await self._lead(door, wish)
        if not isinstance(reply, Turn):
            return reply
        wish.reply.cancel()
        async with self.room:
            await wish.require()
            return await self._alone(wish)

    async def _alone(self, wish: _Wish) -> Claim:
        return await asking.list_releases(self._workers, wish.limits, wish.app, wish.state, unit=wish.unit)

    async def _lead(self, door: Door, wish: _Wish) -> Claim:
        """Ask for oneself and for those who wait. Whoever was not answered waits on, and one of them is the next."""
        others: list[_Wish] = []
        try:
            async with self.room:
                await wish.require()
                others = self._take(door, wish)
                if not others:
                    return await self._alone(wish)
                own, *theirs = await self._together([wish, *others])
                for other, answer in zip(others, theirs, strict=True):
                    _tell(other, answer)
                if isinstance(own, SlotdError):
                    raise own
                return own if isinstance(own, Mapping) else await self._alone(wish)
        finally:
            self._queues[door].extendleft(reversed([other for other in others if not other.reply.done()]))
            self._pass_on(door)

    async def _together(self, wishes: Sequence[_Wish]) -> Sequence[Answer]:
        """What one worker says of each."""
        first, count = wishes[0], len(wishes)
        timeout_s = first.limits.index_s + TOGETHER_S + asking.WORKER_GRACE_S
        request = {"asks": [wish.request for wish in wishes]}
        try:
            claim = await self._workers.call("lists", request, unit=first.unit, timeout_s=timeout_s)
        except SlotdError as error:  # one of them may be what it fell over
            _log.warning("%s Each of %d apps is asked for alone.", error, count)
            return [Turn.ALONE] * count
        answers = claim.get("answers")
        if not isinstance(answers, list) or len(answers) != count:
            _log.warning("%s did not answer for %d apps. Each is asked for alone.", first.unit, count)
            return [Turn.ALONE] * count
        return [_answer(each) for each in answers]

    def _take(self, door: Door, leader: _Wish) -> list[_Wish]:
        """Those who still wait, in their order, as many as one request can hold."""
        queue, taken, size = self._queues[door], list[_Wish](), json_bytes(leader.request)
        while queue and len(taken) < TOGETHER - 1:
            if not queue[0].reply.done():
                size += json_bytes(queue[0].request)
                if size > _ASKED_BYTES:
                    break
                taken.append(queue[0])
            queue.popleft()
        return taken

    def _pass_on(self, door: Door) -> None:
        queue = self._queues[door]
        while queue:
            following = queue.popleft()
            if not following.reply.done():
                following.reply.set_result(Turn.LEAD)
                return
        del self._queues[door]


def _door(app: App) -> Door | None:
    """What apps share whose lists may be asked together; None where that must not be."""
    source = app.source
    parts = urlsplit(source.url)
    if not parts.netloc or not SIGNED & set(app.verify.require):
        return None
    return source.type, parts.scheme.lower(), parts.netloc.lower(), source.credential


def _answer(said: object) -> Answer:
    told = said if isinstance(said, dict) else {}
    if isinstance(told.get("ok"), dict):
        return cast(Claim, told["ok"])
    return error_of(told["error"], "list") if "error" in told else Turn.LATER


def _tell(waiting: _Wish, answer: Answer) -> None:
    if answer is Turn.LATER or waiting.reply.done():
        return
    if isinstance(answer, SlotdError):
        waiting.reply.set_exception(answer)
    else:
        waiting.reply.set_result(answer)
