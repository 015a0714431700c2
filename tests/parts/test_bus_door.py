"""The door to the bus: calls, signals, owners of names, and what the library under it gets wrong."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.parts.bus_peer import RawPeer
from tests.parts.bus_world import PrivateBus, eventually, private_bus

from slotd.errors import Busy
from slotd.host.bus import Bus, BusFailed, Call, Variant, current_sender
from slotd.host.bus_wire import GuardedSocket, WireLimits

DBUS = "org.freedesktop.DBus"


@pytest.fixture
async def bus() -> AsyncIterator[PrivateBus]:
    async with private_bus(is_open=True) as running:
        yield running


async def pair(bus: PrivateBus) -> tuple[Bus, Bus]:
    """A service named org.example.peer, and a client."""
    service = await bus.connect()
    await service.request_name("org.example.peer")
    return service, await bus.connect()


async def ask(client: Bus, member: str = "Ask", signature: str = "", *body: Any, **more: Any) -> list[Any]:
    return await client.call("org.example.peer", "/x", "org.example.Peer", member, signature, body, **more)


async def test_values_come_and_go_plain(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    senders = []

    def answer(call: Call) -> None:
        senders.append((call.sender, current_sender()))
        service.reply(call, call.signature, call.body)

    service.serve(answer)
    values: list[Any] = [
        {"a": Variant("as", ["ä", "€\0", ""]), "b": Variant("ay", b"\x01")},
        ["/x", -3],
        2.5,
        True,
        "Bücher",
    ]
    assert await ask(client, "Ask", "a{sv}(oi)dbs", *values) == [
        {"a": ["ä", "€?", ""], "b": b"\x01"}, ["/x", -3], 2.5, True, "Bücher"
    ]  # fmt: skip
    assert senders == [(client.unique_name, client.unique_name)]
    assert current_sender() == ""


async def test_errors_keep_their_name_and_text(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    service.serve(lambda call: [service.refuse(call, call.body[0], "not nöw") and None][0])
    with pytest.raises(BusFailed, match="not nöw") as caught:
        await ask(client, "Ask", "s", "org.example.Error.Odd")
    assert caught.value.remote_name == "org.example.Error.Odd"
    with pytest.raises(Busy, match="not nöw"):
        await ask(client, "Ask", "s", "org.slotd1.Error.Busy")
    with pytest.raises(BusFailed) as caught:
        await client.call("org.example.nobody", "/x", "org.example.Peer", "Ask")
    assert caught.value.remote_name == DBUS + ".Error.ServiceUnknown"
    with pytest.raises(BusFailed, match="cannot call") as caught:
        await client.call("not a name", "/x", "org.example.Peer", "Ask")
    assert caught.value.remote_name == DBUS + ".Error.InvalidArgs"


async def test_a_silent_peer_costs_no_more_than_the_deadline(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    calls: list[Call] = []
    service.serve(calls.append)
    with pytest.raises(BusFailed, match=r"no answer within 0\.1 s") as caught:
        await ask(client, timeout_s=0.1)
    assert caught.value.remote_name == DBUS + ".Error.NoReply"
    service.reply(calls[0])  # late, and of no interest
    with pytest.raises(BusFailed, match=r"no answer"):
        await ask(client, timeout_s=0.1)


async def test_a_bus_that_ends_is_noticed_by_those_who_wait_and_those_who_come(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    service.serve(lambda _call: None)
    waiting = asyncio.ensure_future(ask(client))
    await asyncio.sleep(0.05)
    bus.process.kill()
    with pytest.raises(BusFailed, match="has closed the connection"):
        await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(client.wait_disconnected(), 5)
    with pytest.raises(BusFailed, match="has closed the connection"):
        await ask(client)
    client.emit("/x", "org.example.Peer", "Late")
    await client.close()


async def test_no_bus_is_said_with_its_address() -> None:
    with pytest.raises(BusFailed, match="cannot reach the bus at unix:path=/nowhere/at/all: No such file"):
        await Bus.connect("unix:path=/nowhere/at/all")


async def test_a_signal_is_believed_only_from_the_owner_of_the_name(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    heard: list[Any] = []
    stop = await client.on_signal(
        lambda path, member, body: heard.append((path, member, body)),
        sender="org.example.peer", path_namespace="/x", interface="org.example.Peer",
    )  # fmt: skip
    liar = RawPeer(bus.socket)
    said = {2: ("s", "org.example.Peer")}
    liar.send(member="News", path="/x", to=client.unique_name, kind=4, more=said)
    service.emit("/x/y", "org.example.Peer", "News", "v", [Variant("s", "true")])
    service.emit("/xy", "org.example.Peer", "News")
    await asyncio.sleep(0.2)
    assert heard == [("/x/y", "News", ["true"])]
    # A new owner is believed from the moment that it owns the name.
    await service.release_name("org.example.peer")
    heir = await bus.connect()
    await heir.request_name("org.example.peer")
    service.emit("/x", "org.example.Peer", "News", "s", ["old"])
    heir.emit("/x", "org.example.Peer", "News", "s", ["new"])
    await asyncio.sleep(0.2)
    assert heard[1:] == [("/x", "News", ["new"])]
    await stop()
    heir.emit("/x", "org.example.Peer", "News", "s", ["after"])
    await asyncio.sleep(0.2)
    assert len(heard) == 2


async def test_a_listener_that_fails_does_not_keep_the_news_from_others(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    heard: list[str] = []

    def fail(path: str, member: str, body: list[Any]) -> None:
        raise ValueError("mine")

    await client.on_signal(fail, sender="org.example.peer")
    await client.on_signal(lambda _path, member, _body: heard.append(member), sender="org.example.peer", arg0="a")
    service.emit("/x", "org.example.Peer", "One", "s", ["a"])
    service.emit("/x", "org.example.Peer", "Two", "s", ["b"])
    await asyncio.sleep(0.2)
    assert heard == ["One"]


async def test_the_end_of_a_peer_is_told_once_it_is_gone(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    lost, gone = await client.name_owner_lost("org.example.peer"), await client.name_owner_lost(service.unique_name)
    assert (await client.name_owner_lost("org.example.nobody")).done()
    assert not lost.done()
    await service.close()
    await asyncio.wait_for(asyncio.gather(lost, gone), 5)


async def test_a_name_that_is_taken_is_refused(bus: PrivateBus) -> None:
    _, client = await pair(bus)
    with pytest.raises(BusFailed, match="another process has it"):
        await client.request_name("org.example.peer")


@pytest.mark.parametrize("flags", [2, 3, 5, 6, 7, 0xFF])
async def test_odd_flags_do_not_end_the_connection_and_are_understood(bus: PrivateBus, flags: int) -> None:
    service, client = await pair(bus)
    calls: list[Call] = []
    service.serve(calls.append)
    peer = RawPeer(bus.socket)
    peer.send(member="Ask", path="/x", to="org.example.peer", flags=flags)
    await asyncio.sleep(0.1)
    assert [(call.wants_reply, call.is_interactive) for call in calls] == [(not flags & 1, bool(flags & 4))]
    service.serve(service.reply)  # type: ignore[arg-type]
    assert await ask(client) == []


def test_a_message_of_an_unknown_type_is_skipped_with_what_came_along() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    guard = GuardedSocket(near, WireLimits())

    def message(kind: int, serial: int) -> bytes:
        return b"l" + bytes([kind, 0, 1]) + struct.pack("<III", 4, serial, 8) + b"8 bytes." + b"body"

    reading, writing = os.pipe2(os.O_NONBLOCK)
    socket.send_fds(far, [message(9, 1)], [writing])
    os.close(writing)
    far.sendall(message(2, 2))
    assert guard.recvmsg(16, 64)[0] == message(2, 2)[:16]
    assert guard.recvmsg(100, 64)[0] == b"8 bytes.body"
    assert os.read(reading, 1) == b"", "the descriptor that came along is open"
    os.close(reading)
    far.close()
    assert guard.recvmsg(16, 64)[0] == b""
    near.close()


async def test_arguments_without_end_are_not_even_parsed(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    calls: list[Call] = []

    def answer(call: Call) -> None:
        calls.append(call)
        service.reply(call)

    service.serve(answer)
    assert await ask(client, "Ask", "as", [""] * 500_000) == []
    assert (calls[0].refused_bytes, calls[0].body) == (4 + 8 * 500_000 - 3, [])
    assert await ask(client, "Ask", "s", "and the next is whole") == []
    assert (calls[1].refused_bytes, calls[1].body) == (0, ["and the next is whole"])


async def test_a_stalled_bus_gets_everything_in_order_when_it_goes_on(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    heard: list[int] = []
    await client.on_signal(lambda _path, _member, body: heard.append(body[0]), sender="org.example.peer")
    os.kill(bus.process.pid, 19)  # SIGSTOP: the socket's buffer fills up, and sending gives EAGAIN
    for number in range(2000):
        service.emit("/x", "org.example.Peer", "News", "us", [number, "x" * 1000])
    os.kill(bus.process.pid, 18)
    await eventually(lambda: len(heard) >= 2000)
    assert heard == list(range(2000))
    assert service.is_connected


async def test_descriptors_reach_the_callee_even_when_the_buffer_was_full(bus: PrivateBus) -> None:
    service, client = await pair(bus)
    got: list[bytes] = []

    def read(call: Call) -> None:
        for fd in call.take_fds():
            got.append(os.read(fd, 100))
            os.close(fd)
        service.reply(call)

    service.serve(read)
    mine, theirs = os.pipe()
    os.write(theirs, b"through the pipe")
    os.kill(bus.process.pid, 19)
    for number in range(500):
        client.emit("/x", "org.example.Peer", "News", "us", [number, "x" * 2000])
    sending = asyncio.ensure_future(ask(client, "Ask", "h", 0, fds=[mine]))
    await asyncio.sleep(0.1)
    os.kill(bus.process.pid, 18)
    assert await asyncio.wait_for(sending, 20) == []
    assert got == [b"through the pipe"]
    os.close(mine)
    os.close(theirs)


def test_descriptors_wait_with_their_message_for_room_in_the_buffer() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    guard = GuardedSocket(near, WireLimits())
    while guard.send(b"x" * 65536):
        pass
    with open("/dev/null") as null:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()]))]
        assert guard.sendmsg([b"with a descriptor"], ancillary) == 0
        # The library takes them for sent now, and goes on with `send`.
        far.settimeout(5)
        while far.recv(1 << 20)[-1:] == b"x" and guard.send(b"with a descriptor") == 0:
            pass
    received, fds, _, _ = socket.recv_fds(far, 1 << 20, 4)
    while not fds:
        received, fds, _, _ = socket.recv_fds(far, 1 << 20, 4)
    assert received.endswith(b"with a descriptor")
    assert len(fds) == 1
    os.close(fds[0])
    near.close()
    far.close()
