"""Who is next when many ask at once: users in turn by the time that their calls take, on whatever connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

import pytest
from tests.parts.bus_peer import RawPeer, wire_value
from tests.parts.bus_world import MANAGER, NOBODY, World, connect_as_nobody, eventually, peer_of, policed, world

from slotd.errors import SlotdError
from slotd.host.bus import Call
from slotd.host.bus_credit import Account
from slotd.service.callers import Callers, has_left
from slotd.service.turns import Peer, Turns

NO_REPLY = 1
OF_NOTES = {"member": "GetApp", "interface": MANAGER, "signature": "s", "body": wire_value("s", "notes")}
OF_WIKI = OF_NOTES | {"body": wire_value("s", "wiki")}
HISTORY = wire_value("s", "notes") + bytes(14)  # "notes", as many as may be, no options


def a_call(member: str) -> Call:
    return Call(":1.1", "/org/slotd1", MANAGER, member, "", 1, wants_reply=True, is_interactive=False, held_bytes=10)


def is_free(_: Peer) -> bool:
    return False


def order(turns: Turns, cost_s: dict[str, float]) -> list[str]:
    """Which calls have their turn, one after another, when each takes what is said here."""
    served = []
    while (chosen := turns.next(is_free)) is not None:
        peer, call = chosen
        served.append(call.member)
        turns.charge(peer, cost_s[call.member])
    return served


def test_a_user_with_many_connections_has_one_users_turn() -> None:
    turns = Turns()
    for number in range(50):
        for _ in range(4):
            turns.put(Peer(Account(f":1.{number}"), 1000), a_call("his"))
    mine = Peer(Account(":1.99"), 0)
    for _ in range(3):
        turns.put(mine, a_call("mine"))
    served = order(turns, {"his": 0.02, "mine": 0.02})
    assert (len(served), served[:6].count("mine")) == (203, 3)


def test_who_asks_for_what_takes_long_has_fewer_turns() -> None:
    turns = Turns()
    his, mine = Peer(Account(":1.1"), 1000), Peer(Account(":1.2"), 0)
    for _ in range(30):
        turns.put(his, a_call("his"))
        turns.put(mine, a_call("mine"))
    served = order(turns, {"his": 0.020, "mine": 0.001})
    assert served[:30].count("his") <= 2


def test_who_was_silent_has_saved_nothing_up() -> None:
    turns = Turns()
    early, late = Peer(Account(":1.1"), 1), Peer(Account(":1.2"), 2)
    for _ in range(50):
        turns.put(early, a_call("early"))
    assert len(order(turns, {"early": 1.0})) == 50
    for _ in range(10):
        turns.put(late, a_call("late"))
        turns.put(early, a_call("early"))
    assert order(turns, {"early": 1.0, "late": 1.0})[:8].count("early") >= 3


def test_connections_of_unknown_users_share_a_turn_until_it_is_known_whose_they_are() -> None:
    turns = Turns()
    peers = [Peer(Account(f":1.{number}")) for number in range(40)]
    for peer in peers:
        turns.put(peer, a_call("one of many"))
    turns.put(mine := Peer(Account(":1.99")), a_call("mine"))
    turns.know(mine, 0)
    assert order(turns, {"one of many": 1.0, "mine": 1.0}).index("mine") <= 1


def test_calls_of_one_who_has_left_are_forgotten() -> None:
    turns, peer = Turns(), Peer(Account(":1.1"), 1000)
    for _ in range(3):
        turns.put(peer, a_call("x"))
    turns.drop(peer)
    assert (turns.waiting, peer.waiting_bytes, turns.next(is_free)) == (0, 0, None)
    turns.put(peer, a_call("y"))
    assert order(turns, {"y": 1.0}) == ["y"]


def raw_nobody(it: World) -> RawPeer:
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        peer = RawPeer(it.bus.socket)
    finally:
        os.setresuid(0, 0, 0)
    it.bus.peers.append(peer)
    return peer


async def test_a_hundred_connections_of_one_user_do_not_make_another_wait_for_each() -> None:
    async with world() as it:
        served: list[str] = []
        answer = it.core.app

        def dear(name: str) -> Any:
            served.append(name)
            until = time.thread_time() + 0.003
            while time.thread_time() < until:
                continue
            return answer(name)

        it.core.app = dear  # type: ignore[method-assign]
        many = [await asyncio.to_thread(raw_nobody, it) for _ in range(100)]
        mine = await peer_of(it)
        # Nothing is awaited in between: all of it is there before the daemon looks.
        for peer in many:
            for _ in range(3):
                peer.send(**OF_NOTES)
        serial = mine.send(**OF_WIKI)
        await asyncio.to_thread(mine.replies, [serial])
        assert served.index("wiki") < 40
        await eventually(lambda: len(served) == 301, timeout_s=30)


@pytest.mark.parametrize(
    ("member", "signature", "body"),
    [
        ("History", "sua{sv}", HISTORY),
        ("GetApp", "s", wire_value("s", "notes")),
        ("ListApps", "", b""),
        ("ListJobs", "a{sv}", bytes(8)),
    ],
)
async def test_reads_whose_answer_nobody_wants_are_not_worked_on(member: str, signature: str, body: bytes) -> None:
    async with world() as it:
        read: Counter[str] = Counter()
        core = it.core
        history, app, apps, jobs = core.history, core.app, core.apps, core.jobs

        def counted(name: str, of: Any) -> Any:
            def call(*args: Any, **more: Any) -> Any:
                read[name] += 1
                return of(*args, **more)

            return call

        core.history, core.app = counted("History", history), counted("GetApp", app)  # type: ignore[method-assign]
        core.apps, core.jobs = counted("ListApps", apps), counted("ListJobs", jobs)  # type: ignore[method-assign]
        peer = await peer_of(it)
        message = {"member": member, "interface": MANAGER, "signature": signature, "body": body}
        for _ in range(50):
            peer.send(**message, flags=NO_REPLY)
        serial = peer.send(**message)
        answer = (await asyncio.to_thread(peer.replies, [serial]))[serial]
        assert (answer["error"], read[member]) == ("", 1)


async def test_a_call_with_a_descriptor_waits_for_its_turn_like_others() -> None:
    async with world() as it:
        peer = await peer_of(it)
        with open("/dev/null") as null:
            first = [peer.send(**OF_NOTES) for _ in range(30)]
            bundle = {"member": "Import", "interface": MANAGER, "signature": "ha{sv}", "body": bytes(8)}
            last = peer.send(**bundle, fds=[null.fileno()])
        got = await asyncio.to_thread(peer.replies, [*first, last])
        assert list(got) == [*first, last]


class Counted:
    """The door to the bus, with its questions counted."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.asked: Counter[str] = Counter()

    async def call(self, *args: Any, **more: Any) -> list[Any]:
        self.asked[args[3]] += 1
        return list(await self._bus.call(*args, **more))


async def test_the_bus_is_asked_once_whose_a_connection_is_however_often_it_calls() -> None:
    async with world() as it:
        nobody, bus = await connect_as_nobody(it), Counted(it.client)
        callers = Callers(bus)  # type: ignore[arg-type]
        assert callers.known(nobody.unique_name) is None
        assert set(await asyncio.gather(*(callers.user(nobody.unique_name) for _ in range(200)))) == {NOBODY}
        assert (await callers.user(nobody.unique_name), callers.known(nobody.unique_name)) == (NOBODY, NOBODY)
        assert await callers.user(it.client.unique_name) == 0
        assert bus.asked == {"GetConnectionCredentials": 2}


async def test_who_has_left_or_is_no_connection_is_nobody() -> None:
    async with world() as it:
        callers = Callers(it.client)
        for name, is_gone in ((":1.99999", True), ("org.slotd1", False), ("", False)):
            with pytest.raises(SlotdError) as caught:
                await callers.user(name)
            assert (has_left(caught.value), callers.known(name)) == (is_gone, None)


async def test_a_flood_of_changes_is_judged_and_another_user_gets_theirs() -> None:
    async with policed() as (it, polkit, _):
        polkit.is_silent = True
        many = [await asyncio.to_thread(raw_nobody, it) for _ in range(20)]
        body = wire_value("s", "notes") + bytes(6)
        for peer in many:
            for _ in range(20):
                peer.send(member="Unhold", interface=MANAGER, signature="sa{sv}", body=body)
        await it.call("Unhold", "sa{sv}", "wiki", {})
        assert it.core.done == [("unhold", "wiki")]
