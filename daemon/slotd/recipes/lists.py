"""The lists that checks ask for. Many apps have one server: what is wanted of it at once is asked in one worker, over
the same connection, instead of in a process for each.

That is only for apps whose releases are signed by somebody. Where a source's word is all there is, an app's list is
asked in a worker of its own: no other app's server answer has been in the same hands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import urlsplit

from slotd.core.release import json_bytes
from slotd.core.schema import App, Limits
from slotd.core.sourcetypes import TYPES, UNKNOWN
from slotd.core.verifyplan import SIGNED
from slotd.errors import SlotdError
from slotd.host import frames
from slotd.host.run import Workers, error_of
from slotd.recipes import asking

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


@dataclass(frozen=True, slots=True)
class _Wish:
    """Whose list is wanted."""

    limits: Limits
    app: App
    state: Mapping[str, Any]
    unit: str

    @property
    def request(self) -> Mapping[str, Any]:
        return asking.list_request(self.app, self.limits, self.state)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A list that is wanted of a server that a worker is asking already."""

    request: Mapping[str, Any]
    reply: asyncio.Future[Claim | Turn]


class Lists:
    """Asks for lists, `AT_ONCE` workers at a time. Of those who want the same server's the first asks; who comes
    meanwhile waits, and one of them asks for all of them next.
    """

    def __init__(self, workers: Workers) -> None:
        self.room = asyncio.Semaphore(AT_ONCE)
        self._workers = workers
        self._queues: dict[Door, deque[_Waiting]] = {}  # of each server that is being asked

    async def ask(self, limits: Limits, app: App, state: Mapping[str, Any], *, unit: str) -> Claim:
        """As `asking.list_releases`."""
        wish = _Wish(limits, app, state, unit)
        door = _door(app)
        if door is None:
            async with self.room:
                return await self._alone(wish)
        if door not in self._queues:
            self._queues[door] = deque()
            return await self._lead(door, wish)
        mine = _Waiting(wish.request, asyncio.get_running_loop().create_future())
        self._queues[door].append(mine)
        try:
            await asyncio.wait({mine.reply}, timeout=PATIENCE_S)
        except asyncio.CancelledError:
            if not mine.reply.cancel() and mine.reply.exception() is None and mine.reply.result() is Turn.LEAD:
                self._pass_on(door)
            raise
        reply = mine.reply.result() if mine.reply.done() else Turn.ALONE
        if reply is Turn.LEAD:
            return await self._lead(door, wish)
        if not isinstance(reply, Turn):
            return reply
        mine.reply.cancel()
        async with self.room:
            return await self._alone(wish)

    async def _alone(self, wish: _Wish) -> Claim:
        return await asking.list_releases(self._workers, wish.limits, wish.app, wish.state, unit=wish.unit)

    async def _lead(self, door: Door, wish: _Wish) -> Claim:
        """Ask for oneself and for those who wait. Whoever was not answered waits on, and one of them is the next."""
        others: list[_Waiting] = []
        try:
            async with self.room:
                others = self._take(door, wish.request)
                if not others:
                    return await self._alone(wish)
                own, *theirs = await self._together([wish.request, *(other.request for other in others)], wish)
                for other, answer in zip(others, theirs, strict=True):
                    _tell(other, answer)
                if isinstance(own, SlotdError):
                    raise own
                return own if isinstance(own, Mapping) else await self._alone(wish)
        finally:
            self._queues[door].extendleft(reversed([other for other in others if not other.reply.done()]))
            self._pass_on(door)

    async def _together(self, asks: Sequence[Mapping[str, Any]], wish: _Wish) -> Sequence[Answer]:
        """What one worker says of each."""
        timeout_s = 1.5 * wish.limits.index_s + asking.WORKER_GRACE_S  # none is begun after half of the time of one
        try:
            claim = await self._workers.call("lists", {"asks": asks}, unit=wish.unit, timeout_s=timeout_s)
        except SlotdError:
            return [Turn.ALONE] * len(asks)  # one of them may be what it fell over
        answers = claim.get("answers")
        if not isinstance(answers, list) or len(answers) != len(asks):
            return [Turn.ALONE] * len(asks)
        return [_answer(each) for each in answers]

    def _take(self, door: Door, own: Mapping[str, Any]) -> list[_Waiting]:
        """Those who wait, in their order, as many as one request can hold."""
        queue, taken, size = self._queues[door], list[_Waiting](), json_bytes(own)
        while queue and len(taken) < TOGETHER - 1:
            if not queue[0].reply.done():  # whose job was not cancelled
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
    address = source.url or TYPES.get(source.type, UNKNOWN).url
    parts = urlsplit(address)
    if not parts.netloc or not SIGNED & set(app.verify.require):
        return None
    return source.type, parts.scheme.lower(), parts.netloc.lower(), source.credential


def _answer(said: object) -> Answer:
    told = said if isinstance(said, dict) else {}
    if isinstance(told.get("ok"), dict):
        return cast(Claim, told["ok"])
    return error_of(told["error"], "list") if "error" in told else Turn.LATER


def _tell(waiting: _Waiting, answer: Answer) -> None:
    if answer is Turn.LATER or waiting.reply.done():
        return
    if isinstance(answer, SlotdError):
        waiting.reply.set_exception(answer)
    else:
        waiting.reply.set_result(answer)
