"""Whose call is next: users take turns by the time that their calls took, and their connections one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from slotd.host.bus import Call
from slotd.host.bus_credit import Account

_USERS = 64  # that are remembered while they ask nothing, more or less


@dataclass(slots=True, eq=False)
class Peer:
    """A connection that calls. `uid` is None until the bus has said whose it is; all such ones share one turn."""

    account: Account
    uid: int | None = None
    waiting: deque[Call] = field(default_factory=deque)
    waiting_bytes: int = 0
    running: int = 0


@dataclass(slots=True, eq=False)
class _User:
    used_s: float = 0.0
    ready: deque[Peer] = field(default_factory=deque)  # those with calls waiting, in the order of their turns


class Turns:
    """The calls that wait. Next is the user for whom the least time was used, so that no number of connections helps.

    Who has asked nothing for a while has saved nothing up: they begin where the others are.
    """

    def __init__(self) -> None:
        self._users: dict[int | None, _User] = {}
        self._reached_s = 0.0  # by the last one who had a turn
        self.waiting = 0

    def put(self, peer: Peer, call: Call) -> None:
        """Let a call wait for the peer's turn."""
        if not peer.waiting:
            self._join(peer)
        peer.waiting.append(call)
        peer.waiting_bytes += call.held_bytes
        self.waiting += 1

    def next(self, must_wait: Callable[[Peer], bool]) -> tuple[Peer, Call] | None:
        """The next call, and whose; None if there is none but of peers for whom `must_wait` holds."""
        active = [user for user in self._users.values() if user.ready]
        for user in sorted(active, key=lambda one: one.used_s):
            for _ in range(len(user.ready)):
                peer = user.ready[0]
                user.ready.rotate(-1)
                if not must_wait(peer):
                    self._reached_s = max(self._reached_s, user.used_s)
                    return peer, self._take(user, peer)
        return None

    def charge(self, peer: Peer, used_s: float) -> None:
        """A call of that peer took so much of our time."""
        self._user(peer.uid).used_s += used_s

    def know(self, peer: Peer, uid: int) -> None:
        """Whose it is has become known."""
        if peer.waiting:
            self._users[peer.uid].ready.remove(peer)
        peer.uid = uid
        if peer.waiting:
            self._join(peer)

    def drop(self, peer: Peer) -> list[Call]:
        """Forget the calls of one who has left; gives them."""
        dropped = [*peer.waiting]
        if peer.waiting:
            self._users[peer.uid].ready.remove(peer)
        self.waiting -= len(peer.waiting)
        peer.waiting.clear()
        peer.waiting_bytes = 0
        return dropped

    def _take(self, user: _User, peer: Peer) -> Call:
        call = peer.waiting.popleft()
        peer.waiting_bytes -= call.held_bytes
        self.waiting -= 1
        if not peer.waiting:
            user.ready.pop()
        return call

    def _join(self, peer: Peer) -> None:
        user = self._user(peer.uid)
        if not user.ready:
            user.used_s = max(user.used_s, self._reached_s)
        user.ready.append(peer)

    def _user(self, uid: int | None) -> _User:
        user = self._users.get(uid)
        if user is None:
            if len(self._users) >= _USERS:
                self._forget_quiet()
            user = self._users[uid] = _User(self._reached_s)
        return user

    def _forget_quiet(self) -> None:
        """Forget those who would begin where the others are in any case."""
        quiet = [uid for uid, user in self._users.items() if not user.ready and user.used_s <= self._reached_s]
        for uid in quiet:
            del self._users[uid]
