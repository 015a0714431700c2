"""The one place that knows everyone: doors and parts are made here and handed out, and the daemon's life is run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
import uuid
from pathlib import Path

from slotd.core.events import BY_NAME
from slotd.host import definitions, journal
from slotd.host.bus import Bus
from slotd.host.notify import Notifier
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.host.run import Workers
from slotd.host.systemd import BusSystemd, Systemd
from slotd.recipes.context import Clock, Host
from slotd.service.daemon import Daemon
from slotd.service.publish import Service
from slotd.service.publish import serve as put_on_bus
from slotd.store import open_store

_log = logging.getLogger(__name__)

BUS_NAME = "org.slotd1"
SWITCH_S = 0.0005
IDLE_S = 60.0  # without a job and without a caller for so long, the daemon leaves; the bus starts it again


def read_id(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def this_boot(runtime: Path) -> str:
    """What tells this boot from every other: a mark in a directory that does not outlive one.

    The kernel's boot id would do on a machine; in a container, a sandboxed unit is shown the host's.
    """
    runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    mark = runtime / "boot"
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        return read_id(str(mark))
    with os.fdopen(descriptor, "w") as file:
        file.write(uuid.uuid4().hex)
    return read_id(str(mark))


def make_host(paths: Paths, systemd: Systemd, *, user_mode: bool) -> Host:
    """Open the state and put the doors together. Blocking."""
    # The system's apps must reach their slots; those of a user are nobody else's business.
    shared = 0o700 if user_mode else 0o755
    for directory, mode in ((paths.state, shared), (paths.cache, 0o700), (paths.state / "apps", shared)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
    for name in ("backups", "quarantine"):
        (paths.state / name).mkdir(mode=0o700, exist_ok=True)
    store, aside = open_store(paths.state / "state.db", now=time.time())
    lost = aside is not None or (store.is_new and any(paths.state.glob("apps/*/[ab]/.slotd/slot.json")))
    if lost:
        what = f"was damaged, and lies at {aside}" if aside else "was gone"
        message = f"the state database {what}; it was rebuilt from what the slots and copies say"
        journal.send(BY_NAME["warning"], message, fields={}, units=())
    settings = definitions.load(paths).settings
    return Host(
        store=store,
        systemd=systemd,
        workers=Workers(user_manager=user_mode, limits=settings.limits),
        paths=paths,
        settings=settings,
        machine_id=read_id("/etc/machine-id"),
        boot_id=this_boot(paths.runtime),
        user_mode=user_mode,
        lost=lost,
        clock=Clock(),
    )


async def serve(*, user_mode: bool) -> int:
    """Run until told to stop or idle. Gives the exit status."""
    # The loop shares the interpreter with the threads that copy and hash, and asks for it anew after every system call:
    # with Python's 5 ms each, an answer to a caller took 20 ms while data were saved.
    sys.setswitchinterval(SWITCH_S)
    notifier = Notifier()
    paths = Paths.from_environment(user_mode, os.environ)
    bus = await Bus.connect("session" if user_mode else "system")
    systemd = BusSystemd(bus)
    await systemd.subscribe()
    host = await off_loop(make_host, paths, systemd, user_mode=user_mode)
    await host.workers.stop_leftovers()
    daemon = Daemon(host)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(daemon.reload()))
    async with asyncio.TaskGroup() as group:
        watchdog = group.create_task(notifier.feed_watchdog())
        surface = put_on_bus(bus, daemon, user_mode=user_mode)
        await daemon.begin()
        await bus.request_name(BUS_NAME)
        gc.freeze()  # what is there by now stays: to look it all through again and again holds up the callers
        notifier.ready("ready")
        ended = group.create_task(bus.wait_disconnected())
        idle = group.create_task(leave_when_idle(daemon, surface, notifier))
        waiting = group.create_task(stop.wait())
        await asyncio.wait({ended, idle, waiting}, return_when=asyncio.FIRST_COMPLETED)
        lost = ended.done() and not waiting.done()
        notifier.stopping()
        if not lost:
            # The name first: calls from now on start the next daemon instead of being lost.
            await bus.release_name(BUS_NAME)
            await surface.finish()
        await daemon.end()
        for task in (watchdog, ended, idle, waiting):
            task.cancel()
    await bus.close()
    await off_loop(host.store.close)
    return 1 if lost else 0


async def leave_when_idle(daemon: Daemon, surface: Service, notifier: Notifier) -> None:
    """Return when nobody needs the daemon: no job, no trial, no caller for `IDLE_S`."""
    limit = float(os.environ.get("SLOTD_IDLE_SECONDS", IDLE_S))
    loop = asyncio.get_running_loop()
    busy_at = loop.time()
    shown = ""
    while True:
        if not daemon.is_idle:
            busy_at = loop.time()
        text = f"{daemon.running()} jobs running" if daemon.running() else "ready"
        if text != shown:
            notifier.status(text)
            shown = text
        last = max(busy_at, surface.last_call)
        left = last + limit - loop.time()
        if left <= 0 and not surface.in_flight:
            return
        await asyncio.sleep(max(0.05, min(left, 5.0)))
