"""How much of what we sent each peer has not read yet, as far as we know; and when it is enough.

The bus keeps answers for a peer that does not read, and counts them as ours: above a bound (127 MB on a system bus) it
takes nothing from us any more, and nobody is answered. So what lies there is bounded, for each peer and for all. How
much it is, the bus tells root (`org.freedesktop.DBus.Debug.Stats`); where it does not, a peer is taken to read slowly.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from slotd.host.bus_call import BusFailed
from slotd.host.bus_signals import DBUS, DBUS_PATH

UNKNOWN = -1  # the bus does not tell
_ASKING = 8  # questions to the bus at a time
_AGAIN_S = 0.25  # until one that had not read is asked about anew


@dataclass(frozen=True, slots=True)
class CreditLimits:
    """Bytes of answers that may lie unread: of one peer, of all, and of each peer whatever the others do."""

    peer_bytes: int = 8 * 1024**2
    all_bytes: int = 48 * 1024**2
    always_bytes: int = 16 * 1024
    assumed_bytes_per_s: int = 256 * 1024


@dataclass(slots=True, eq=False)
class Account:
    """One peer's."""

    name: str
    owed: int = 0
    asked_at: float = float("-inf")  # and was found not to have read all
    is_asked: bool = False


async def unread_bytes(call: Callable[..., Awaitable[list[Any]]], peer: str) -> int:
    """What the bus holds for a peer that has not read it: 0 if it has left, UNKNOWN if the bus does not tell us."""
    try:
        [stats] = await call(DBUS, DBUS_PATH, DBUS + ".Debug.Stats", "GetConnectionStats", "s", [peer])
        return int(stats["OutgoingBytes"])
    except BusFailed as error:
        return 0 if error.remote_name.endswith((".NameHasNoOwner", ".Disconnected")) else UNKNOWN
    except (KeyError, TypeError, ValueError):
        return UNKNOWN


class Credit:
    """The accounts. `ask` gives what lies unread for a name now: 0 if it has left, UNKNOWN if the bus does not tell.

    `found_out` is called whenever more is known; `now` is a clock in seconds.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[int]],
        limits: CreditLimits,
        now: Callable[[], float],
        found_out: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._found_out = found_out
        self._limits = limits
        self._now = now
        self._debtors: dict[Account, None] = {}
        self._owed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_told = True  # whether the bus tells
        self._paid_at = now()

    def _allowed(self) -> int:
        left = self._limits.all_bytes - self._owed  # shrinks as it fills, so that the greedy never take all of it
        return max(self._limits.always_bytes, min(self._limits.peer_bytes, left))

    def may_answer(self, account: Account) -> bool:
        """Whether another answer may be sent."""
        return self._is_below(account, self._allowed())

    def is_being_asked(self, account: Account) -> bool:
        """Whether it has had its share, and the bus is about to tell what was read of it: its calls wait for that."""
        if account.owed < self._allowed():
            return False
        self._find_out(account)
        return account.is_asked or (self._may_ask(account) and len(self._tasks) >= _ASKING)

    def may_refuse(self, account: Account) -> bool:
        """Whether it may at least be told that there are no more answers. Else it has not read that often enough."""
        return self._is_below(account, self._allowed() + self._limits.always_bytes)

    def sent(self, account: Account, sent_bytes: int) -> None:
        """Take note of a message to that peer."""
        if not sent_bytes:
            return
        account.owed += sent_bytes
        self._owed += sent_bytes
        self._debtors[account] = None
        if account.owed > self._allowed() // 2:
            self._find_out(account)
        if self._owed > self._limits.all_bytes // 2 and not self._tasks:
            for debtor in heapq.nlargest(_ASKING, self._debtors, key=lambda one: one.owed):
                self._find_out(debtor)

    async def settle(self) -> None:
        """Find out about everyone."""
        for account in list(self._debtors):
            if account.owed and not account.is_asked:
                await self._look(account)

    def _is_below(self, account: Account, limit: int) -> bool:
        if account.owed >= limit:
            self._find_out(account)
        return account.owed < limit

    def _may_ask(self, account: Account) -> bool:
        return self._is_told and not account.is_asked and self._now() - account.asked_at > _AGAIN_S

    def _find_out(self, account: Account) -> None:
        if not self._is_told:
            self._assume(self._now())
        elif self._may_ask(account) and len(self._tasks) < _ASKING:
            account.is_asked = True
            task = asyncio.ensure_future(self._look(account))
            self._tasks.add(task)
            task.add_done_callback(self._on_found_out)

    def _on_found_out(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # taken note of: a bus that is gone is seen by others
            self._found_out()

    async def _look(self, account: Account) -> None:
        before, account.is_asked = account.owed, True
        try:
            unread = await self._ask(account.name)
        finally:
            account.is_asked = False
        if unread == UNKNOWN:
            self._is_told, self._paid_at = False, self._now()
        else:
            self._pay(account, max(0, before - unread))
            account.asked_at = self._now() if unread else float("-inf")

    def _pay(self, account: Account, paid: int) -> None:
        paid = min(paid, account.owed)
        account.owed -= paid
        self._owed -= paid
        if not account.owed:
            self._debtors.pop(account, None)

    def _assume(self, now: float) -> None:
        if now - self._paid_at < _AGAIN_S:
            return
        paid = int((now - self._paid_at) * self._limits.assumed_bytes_per_s)
        self._paid_at = now
        for account in list(self._debtors):
            self._pay(account, paid)
