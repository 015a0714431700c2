"""Peers that do not read what they asked for: the bus holds it for them, and counts it as ours."""

from __future__ import annotations

import asyncio
import socket

from tests.parts.bus_peer import RawPeer
from tests.parts.bus_world import PROPERTIES, World, peer_of, world

from slotd.host.bus_credit import UNKNOWN, Account, Credit, CreditLimits, unread_bytes
from slotd.service.objects import PeerLimits

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
CREDIT = CreditLimits(peer_bytes=100_000, all_bytes=250_000, always_bytes=20_000)


def ask(peer: RawPeer, times: int) -> list[int]:
    return [peer.send(member="Introspect", interface=INTROSPECTABLE) for _ in range(times)]


async def deaf_peer(it: World) -> RawPeer:
    """A peer with so small a buffer that what it does not read lies with the bus."""
    peer = await peer_of(it)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return peer


async def everything_for(peer: RawPeer) -> list[str]:
    """The errors, empty where there is none, of all that lies there for it."""
    errors = []
    peer.socket.settimeout(0.5)
    try:
        while True:
            errors.append((await asyncio.to_thread(peer.receive))["error"])
    except TimeoutError:
        return errors
    finally:
        peer.socket.settimeout(10)


async def test_who_does_not_read_is_told_so_and_is_served_again_once_it_has_read() -> None:
    async with world(limits=PeerLimits(credit=CREDIT)) as it:
        peer, held = await deaf_peer(it), 0
        for _ in range(100):
            await asyncio.to_thread(ask, peer, 5)
            await it.call("ListApps")
            held = await unread_bytes(it.client.call, peer.name)
            if held > CREDIT.peer_bytes:
                break
        assert CREDIT.peer_bytes < held < CREDIT.peer_bytes + 2 * CREDIT.always_bytes
        await asyncio.to_thread(ask, peer, 50)
        await it.call("ListApps")
        errors = await everything_for(peer)
        assert set(errors) == {"", LIMITS}
        for _ in range(50):  # until the daemon has asked the bus again
            [serial] = await asyncio.to_thread(ask, peer, 1)
            error = (await asyncio.to_thread(peer.replies, [serial]))[serial]["error"]
            if not error:
                break
        assert error == ""


async def test_who_reads_is_never_refused_however_much_it_is() -> None:
    async with world(limits=PeerLimits(credit=CREDIT)) as it:
        for _ in range(200):
            await it.call("Introspect", interface=INTROSPECTABLE)


async def test_many_who_do_not_read_leave_room_for_those_who_do() -> None:
    async with world(limits=PeerLimits(credit=CREDIT)) as it:
        peers = [await deaf_peer(it) for _ in range(12)]
        for _ in range(20):
            for peer in peers:
                await asyncio.to_thread(ask, peer, 2)
            await it.call("GetAll", "s", "org.slotd1.Manager", interface=PROPERTIES)
        held = sum([await unread_bytes(it.client.call, peer.name) for peer in peers])
        assert held < CREDIT.all_bytes + len(peers) * 2 * CREDIT.always_bytes


async def test_what_lay_unread_for_those_who_left_is_not_held_against_others() -> None:
    async with world(limits=PeerLimits(credit=CREDIT)) as it:
        for _ in range(30):
            peer = await deaf_peer(it)
            await asyncio.to_thread(ask, peer, 10)
            await it.call("ListApps")
            peer.close()
        for _ in range(20):
            await it.call("Introspect", interface=INTROSPECTABLE)


async def test_without_the_bus_telling_a_peer_is_taken_to_read_slowly() -> None:
    now = 100.0

    async def ask_bus(_: str) -> int:
        return UNKNOWN

    limits = CreditLimits(peer_bytes=1000, all_bytes=5000, always_bytes=100, assumed_bytes_per_s=500)
    credit, peer = Credit(ask_bus, limits, lambda: now, lambda: None), Account(":1.1")
    credit.sent(peer, 1000)
    assert not credit.may_answer(peer)
    await asyncio.sleep(0)  # the question to the bus, which was asked on the way
    await asyncio.sleep(0)
    assert not credit.may_answer(peer)
    now += 0.5
    assert credit.may_answer(peer)
    assert peer.owed == 750
