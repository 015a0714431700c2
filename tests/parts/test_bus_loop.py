"""What answers callers must not block: while it waits for a disk or a process, nobody is answered.

Python tells of every file that is opened, process that is started and host that is looked up (audit events), whatever
the machine's speed. Here those from the thread of the event loop are caught.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.parts.bus_world import MANAGER, PROPERTIES, ROOT, world

from slotd.host.offloop import off_loop

BLOCKING = (
    "open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.posix_spawn", "subprocess.Popen",
    "sqlite3.connect", "socket.getaddrinfo", "socket.gethostbyname", "shutil.", "glob.",
)  # fmt: skip
_watched: dict[int, list[str]] = {}


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event.startswith(BLOCKING):
        found = _watched.get(threading.get_ident())
        if found is not None:
            found.append(f"{event} {args[:1]}")


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_on_event)  # it cannot be taken away again; without anyone watched it does nothing


@contextmanager
def watched() -> Iterator[list[str]]:
    """The blocking calls of this thread, which is the loop's."""
    found = _watched[threading.get_ident()] = []
    try:
        yield found
    finally:
        del _watched[threading.get_ident()]


def file_is_read(path: Path) -> str:
    return path.read_text()


async def test_blocking_calls_in_the_loop_are_found_and_those_beside_it_are_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with watched() as found:
        assert await off_loop(file_is_read, file) == "x"
        assert found == []
        file_is_read(file)
        os.listdir(tmp_path)
        subprocess.run(["true"], check=True)
    kinds = [event.split()[0] for event in found if "pycache" not in event]
    assert kinds[:3] == ["open", "os.listdir", "subprocess.Popen"]


READS = [("ListApps", "", ()), ("GetApp", "s", ("notes",)), ("ListJobs", "a{sv}", ({},)), ("GetJob", "t", (1,)),
         ("History", "sua{sv}", ("notes", 5, {}))]  # fmt: skip


async def test_no_read_and_no_change_over_the_bus_touches_a_disk_in_the_loop() -> None:
    async with world("notes") as it:

        async def everything() -> None:
            await it.call("Hold", "ssa{sv}", "notes", "why", {})
            await it.call("Unhold", "sa{sv}", "notes", {})
            for member, signature, args in READS:
                await it.call(member, signature, *args)
            for path in (ROOT, f"{ROOT}/app/notes", f"{ROOT}/job/1"):
                await it.call("GetAll", "s", "", path=path, interface=PROPERTIES)
                await it.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")
            await it.call("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
            await it.call("Get", "ss", MANAGER, "Version", interface=PROPERTIES)

        await it.call("Check", "sa{sv}", "notes", {})
        await everything()  # what is imported late is imported now
        with watched() as found:
            await everything()
        assert found == []
