"""What any local user can try on a daemon that runs as root. It goes on, and others are served."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import struct
import time
from typing import Any

import pytest
from tests.parts.bus_peer import NAME, ROOT, wire_value
from tests.parts.bus_world import MANAGER, PROPERTIES, World, eventually, peer_of, world

from slotd.host.bus import Bus, Variant
from slotd.service.objects import PeerLimits

pytestmark = pytest.mark.attack

SERVED_S = 20.0  # a deadline: how long others wait is measured beside systemd, in tests/bench/bench_attacks.py
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
NOTES = wire_value("s", "notes") + bytes(6)  # "notes" and no options


async def is_served(it: World) -> None:
    """Somebody else gets an answer."""
    await asyncio.wait_for(it.call("ListApps"), SERVED_S)


async def test_120_introspections_at_once_are_all_answered() -> None:
    async with world() as it:
        peer = await peer_of(it)

        def pipelined() -> dict[int, Any]:
            return peer.replies([peer.send(member="Introspect", interface=INTROSPECTABLE) for _ in range(120)])

        replies = await asyncio.to_thread(pipelined)
        assert {reply["type"] for reply in replies.values()} == {2}
        await is_served(it)


@pytest.mark.parametrize("interface", [INTROSPECTABLE, MANAGER])
async def test_10_000_calls_that_want_no_reply_starve_nobody(interface: str) -> None:
    async with world() as it:
        peer = await peer_of(it)
        member = "Introspect" if interface == INTROSPECTABLE else "ListApps"

        def flood() -> None:
            for _ in range(10_000):
                peer.send(member=member, interface=interface, flags=1)

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        while not flooding.done():
            await is_served(it)
            await asyncio.sleep(0.01)
        await flooding
        await is_served(it)


async def test_more_changes_at_once_than_one_peer_may_ask_for_are_refused_and_others_get_theirs() -> None:
    async with world(limits=PeerLimits(running=32)) as it:
        it.core.gate = asyncio.Event()
        peer = await peer_of(it)

        def flood() -> list[int]:
            return [peer.send(member="Unhold", interface=MANAGER, signature="sa{sv}", body=NOTES) for _ in range(100)]

        serials = await asyncio.to_thread(flood)
        refused = await asyncio.to_thread(peer.replies, serials[32:])
        assert {reply["error"] for reply in refused.values()} == {LIMITS}
        assert it.service.in_flight == 32
        mine = asyncio.ensure_future(it.call("Hold", "ssa{sv}", "wiki", "why", {}))
        await asyncio.sleep(0.1)
        assert it.service.in_flight == 33
        it.core.gate.set()
        await asyncio.wait_for(mine, SERVED_S)
        accepted = await asyncio.to_thread(peer.replies, serials[:32])
        assert {reply["error"] for reply in accepted.values()} == {""}
        assert len(it.core.done) == 33


async def test_answers_that_nobody_reads_do_not_stop_those_for_others() -> None:
    names = [f"app{number}" for number in range(60)]
    async with world(*names) as it:
        for name in names:
            it.core.views[name] = dataclasses.replace(it.core.views[name], description="ö" * 3000)
        peers = [await peer_of(it) for _ in range(4)]

        def flood() -> None:
            for peer in peers:
                peer.socket.settimeout(2)
                for _ in range(200):
                    peer.send(member="GetManagedObjects", interface=OBJECTS)

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        for _ in range(20):
            await is_served(it)
            await asyncio.sleep(0.02)
        await flooding
        await is_served(it)
        assert it.daemon.is_connected
        assert it.daemon.backlog_bytes == 0


@pytest.mark.parametrize("member", ["ListApps", "Ping", "Import", "Nothing"])
async def test_descriptors_that_nobody_asked_for_are_closed(member: str) -> None:
    async with world(is_open=True) as it:
        peer = await peer_of(it)
        interface = "org.freedesktop.DBus.Peer" if member == "Ping" else MANAGER
        more: dict[str, Any] = {}
        if member == "Import":
            more = {"signature": "ha{sv}", "body": struct.pack("<II", 0, 0)}
        await is_served(it)
        before = len(os.listdir("/proc/self/fd"))
        with open("/dev/null") as null:
            for _ in range(20):
                serial = peer.send(member=member, interface=interface, fds=[null.fileno()] * 10, **more)
                await asyncio.to_thread(peer.replies, [serial])
        await is_served(it)
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_call_without_an_interface_is_served_by_its_name() -> None:
    async with world("notes", is_open=True) as it:
        peer = await peer_of(it)
        serials = [peer.send(member=name) for name in ("ListApps", "Introspect", "Ping", "Nothing")]
        replies = await asyncio.to_thread(peer.replies, serials)
        errors = [replies[serial]["error"] for serial in serials]
        assert errors == ["", "", "", "org.freedesktop.DBus.Error.UnknownMethod"]
        assert b"notes" in replies[serials[0]]["body"]


def odd_value(rng: random.Random, signature: str) -> tuple[Any, str]:
    """A value of the type that the signature begins with, and the rest of the signature."""
    kind, rest = signature[0], signature[1:]
    if kind == "a" and rest[0] == "{":
        _, after = odd_value(rng, odd_value(rng, rest[1:])[1])
        made = {}
        for _ in range(rng.randrange(3)):
            key, more = odd_value(rng, rest[1:])
            made[key] = odd_value(rng, more)[0]
        return made, after[1:]
    if kind == "a":
        _, after = odd_value(rng, rest)
        values = [odd_value(rng, rest)[0] for _ in range(rng.randrange(3))]
        return (bytes(len(values)) if rest[0] == "y" else values), after
    if kind == "(":
        members = []
        while rest[0] != ")":
            value, rest = odd_value(rng, rest)
            members.append(value)
        return members, rest[1:]
    if kind == "v":
        inner = rng.choice(["s", "as", "(iv)", "a{sv}", "t", "d", "ay", "aav", "v", "g"])
        return Variant(inner, odd_value(rng, inner)[0]), rest
    simple = {"s": "ß", "o": "/", "g": "a{sv}", "b": True, "d": float("nan"), "y": 255}
    return simple.get(kind, 1), rest


def odd_signature(rng: random.Random, depth: int = 0) -> str:
    kind = rng.choice("sogbdyntuixqv" if depth > 3 else "sogbdyntuixqvaa((e")
    if kind == "a":
        return "a" + odd_signature(rng, depth + 1)
    if kind == "e":
        return "a{" + rng.choice("sogbyntuixq") + odd_signature(rng, depth + 1) + "}"
    if kind == "(":
        return "(" + "".join(odd_signature(rng, depth + 1) for _ in range(rng.randrange(1, 4))) + ")"
    return kind


async def test_odd_signatures_are_answered_and_harm_nothing() -> None:
    rng = random.Random(20)
    async with world(is_open=True) as it:
        for _ in range(400):
            signature = "".join(odd_signature(rng) for _ in range(rng.randrange(1, 4)))
            rest, body = signature, []
            while rest:
                value, rest = odd_value(rng, rest)
                body.append(value)
            name, _text = await it.error("Update", signature, *body)
            assert name == "org.freedesktop.DBus.Error.InvalidArgs", signature
        await is_served(it)


async def test_options_may_hold_anything_and_only_what_is_known_counts() -> None:
    rng = random.Random(21)
    async with world() as it:
        for _ in range(200):
            signature = odd_signature(rng)
            options = {"force": Variant(signature, odd_value(rng, signature)[0])}
            if signature == "b":
                continue
            name, _text = await it.error("Update", "sa{sv}", "notes", options)
            assert name == "org.slotd1.Error.BadOption", signature
        assert it.core.done == []


async def test_thirty_megabytes_of_options_are_refused_and_others_are_served() -> None:
    async with world() as it:
        entry = wire_value("s", "x") + b"\x01s\0" + bytes(3) + wire_value("s", "") + bytes(7)
        entries = (entry * 1_250_000)[:-7]
        body = wire_value("s", "notes") + bytes(2) + struct.pack("<I", len(entries)) + entries
        peer = await peer_of(it)
        serial = await asyncio.to_thread(
            lambda: peer.send(member="Update", interface=MANAGER, signature="sa{sv}", body=body)
        )
        reply = (await asyncio.to_thread(peer.replies, [serial]))[serial]
        await is_served(it)
        assert reply["error"] == LIMITS


async def test_callers_who_vanish_leave_nothing_behind() -> None:
    async with world() as it:
        it.core.gate = asyncio.Event()
        for _ in range(50):
            peer = await peer_of(it)
            peer.send(member="Unhold", interface=MANAGER, signature="sa{sv}", body=NOTES)
            peer.send(member="GetManagedObjects", interface=OBJECTS)
            peer.close()
        it.core.gate.set()
        await eventually(lambda: not it.service.in_flight)
        await is_served(it)
        assert it.daemon.is_connected


async def test_forged_signals_from_a_peer_change_nothing() -> None:
    async with world() as it:
        peer = await peer_of(it)
        body = b"".join(wire_value("s", text).ljust(16, b"\0") for text in (NAME, ":1.0", ":1.9"))
        peer.send(
            member="NameOwnerChanged",
            path="/org/freedesktop/DBus",
            to=it.daemon.unique_name,
            kind=4,
            signature="sss",
            body=body[:41],
            more={2: ("s", "org.freedesktop.DBus")},
        )
        await is_served(it)


async def test_a_path_without_end_is_not_said_back() -> None:
    async with world(is_open=True) as it:
        path = "/" + "a" * 100_000
        name, text = await it.error("GetAll", "s", MANAGER, path=path, interface=PROPERTIES)
        assert name == "org.freedesktop.DBus.Error.UnknownObject"
        assert len(text) < 200


async def test_calls_that_are_being_worked_on_when_the_daemon_leaves_are_answered() -> None:
    async with world() as it:
        it.core.gate = asyncio.Event()
        asking = asyncio.ensure_future(it.call("Unhold", "sa{sv}", "notes", {}))
        await eventually(lambda: it.service.in_flight)
        await it.daemon.release_name(NAME)
        asyncio.get_running_loop().call_later(0.1, it.core.gate.set)
        await it.service.finish(timeout_s=5)
        assert await asyncio.wait_for(asking, 2) == []


async def test_a_new_connection_finds_the_daemon_after_all_of_this() -> None:
    async with world() as it:
        late: Bus = await it.bus.connect()
        assert (await it.call("GetApp", "s", "notes", by=late, path=ROOT))[0] == "/org/slotd1/app/notes"


async def test_peers_are_served_in_turn_however_much_one_of_them_asks() -> None:
    async with world() as it:
        served: list[str] = []
        answer = it.core.app

        def slow(name: str) -> Any:
            served.append(name)
            time.sleep(0.002)
            return answer(name)

        it.core.app = slow  # type: ignore[method-assign]
        greedy, modest = await peer_of(it), await peer_of(it)
        body = {name: wire_value("s", name) for name in ("notes", "wiki")}
        # Nothing is awaited in between: all of it is there before the daemon looks.
        for _ in range(100):
            greedy.send(member="GetApp", interface=MANAGER, signature="s", body=body["notes"])
        serial = modest.send(member="GetApp", interface=MANAGER, signature="s", body=body["wiki"])
        time.sleep(0.1)
        await asyncio.to_thread(modest.replies, [serial])
        assert served.index("wiki") < 30
        await eventually(lambda: len(served) == 101)
