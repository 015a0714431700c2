"""The bus's own policy, `packaging/org.slotd1.conf`: what reaches the daemon at all, and who may have its name."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from tests.parts.bus_peer import NAME, ROOT, RawPeer
from tests.parts.bus_world import APP, JOB, MANAGER, NOBODY, PROPERTIES, World, connect_as_nobody, world

from slotd.errors import SlotdError
from slotd.host.bus import Bus, Variant
from slotd.service import app, job, manager

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
FREEDESKTOP = "org.freedesktop.DBus"
EVERYBODY = {
    (interface.name, method.name)
    for interface in (manager.INTERFACE, app.INTERFACE, job.INTERFACE)
    for method in interface.methods
    if method.name != "ReportFailure"
} | {
    (f"{FREEDESKTOP}.ObjectManager", "GetManagedObjects"),
    (PROPERTIES, "Get"),
    (PROPERTIES, "GetAll"),
    (f"{FREEDESKTOP}.Introspectable", "Introspect"),
    (f"{FREEDESKTOP}.Peer", "Ping"),
}
NOBODY_AT_ALL = {
    (PROPERTIES, "Set"),
    (f"{FREEDESKTOP}.Peer", "GetMachineId"),
    (f"{FREEDESKTOP}.Debug.Stats", "GetStats"),
    (f"{FREEDESKTOP}.Monitoring", "BecomeMonitor"),
    (MANAGER, "Nope"),
    (MANAGER, "update"),
    (MANAGER, "Cancel"),
    (APP, "Reload"),
    (APP, "CheckAll"),
    (JOB, "Update"),
    ("org.slotd1.Managers", "Update"),
    ("org.freedesktop.systemd1.Manager", "StartUnit"),
}


async def gets_through(it: World, by: Bus, interface: str, member: str, to: str = NAME) -> bool:
    """Whether a call reaches the daemon, whatever that says to it. Its arguments are wrong, so that nothing is done."""
    path = {APP: f"{ROOT}/app/notes", JOB: f"{ROOT}/job/1"}.get(interface, ROOT)
    calls_before = it.service.last_call
    try:
        await by.call(to, path, interface, member, "(y)", [[1]])
    except SlotdError as error:
        if getattr(error, "remote_name", "") == DENIED:
            assert it.service.last_call == calls_before
            return False
    return True


async def test_everybody_reaches_what_reads_or_asks_polkit_and_nothing_else() -> None:
    async with world("notes") as it:
        nobody = await connect_as_nobody(it)
        for to in (NAME, it.daemon.unique_name):
            for interface, member in EVERYBODY:
                assert await gets_through(it, nobody, interface, member, to), (interface, member)
            for interface, member in NOBODY_AT_ALL | {(MANAGER, "ReportFailure")}:
                assert not await gets_through(it, nobody, interface, member, to), (interface, member)
        assert it.core.done == []


async def test_root_reaches_one_method_more() -> None:
    async with world("notes") as it:
        for interface, member in EVERYBODY | {(MANAGER, "ReportFailure")}:
            assert await gets_through(it, it.client, interface, member), (interface, member)
        for interface, member in NOBODY_AT_ALL:
            assert not await gets_through(it, it.client, interface, member), (interface, member)


def peer_of(it: World, uid: int) -> RawPeer:
    os.setresuid(uid, uid, 0)
    try:
        peer = RawPeer(it.bus.socket)
    finally:
        os.setresuid(0, 0, 0)
    it.bus.peers.append(peer)
    return peer


@pytest.mark.parametrize("uid", [0, NOBODY])
@pytest.mark.parametrize("member", ["Reload", "Update", "Cancel", "ReportFailure", "ListApps", "Ping"])
async def test_a_call_without_an_interface_is_refused(uid: int, member: str) -> None:
    """D-Bus allows it, and it would fit the first interface that has such a method."""
    async with world("notes") as it:
        peer = peer_of(it, uid)

        def ask() -> dict[str, Any]:
            serial = peer.send(member=member)
            while (answer := peer.receive()).get("reply_to") != serial:
                pass
            return answer

        assert (await asyncio.to_thread(ask))["error"] == DENIED
        assert it.core.done == []


async def test_no_property_can_be_set() -> None:
    async with world("notes") as it:
        nobody = await connect_as_nobody(it)
        for by in (nobody, it.client):
            args = (APP, "Mode", Variant("s", "auto"))
            where = {"path": f"{ROOT}/app/notes", "interface": PROPERTIES}
            assert (await it.error("Set", "ssv", *args, **where, by=by))[0] == DENIED


async def test_the_name_is_roots_alone() -> None:
    async with world("notes") as it:
        nobody = await connect_as_nobody(it)
        with pytest.raises(SlotdError) as refused:
            await nobody.request_name(NAME)
        assert getattr(refused.value, "remote_name", "") == DENIED
        await it.daemon.release_name(NAME)
        with pytest.raises(SlotdError):
            await nobody.request_name(NAME)
        await it.daemon.request_name(NAME)
