"""The one place that knows everyone: doors and parts are made here and handed out, and the daemon's life is run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from slotd.host.bus import Bus
from slotd.host.bus_systemd import BusSystemd
from slotd.host.notify import Notifier
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.recipes.hosting import make_host
from slotd.service.daemon import Daemon
from slotd.service.publish import Service
from slotd.service.publish import serve as put_on_bus

_log = logging.getLogger(__name__)

BUS_NAME = "org.slotd1"
SWITCH_S = 0.0005
LEAVE_S = 45.0  # less than slotd.service's TimeoutStopSec=; the steps stand anything, a unit that fails is told
THREADS = 64  # most of them wait: for a disk, for restic, for a lock
IDLE_S = 60.0  # without a job and without a caller for so long, the daemon leaves; the bus starts it again


async def serve(*, user_mode: bool) -> int:
    """Run until told to stop or idle. Gives the exit status."""
    # The loop shares the interpreter with the threads that copy and hash, and asks for it anew after every system call:
    # with Python's 5 ms each, an answer to a caller took 20 ms while data were saved.
    sys.setswitchinterval(SWITCH_S)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="slotd"))
    notifier = Notifier()
    paths = Paths.from_environment(user_mode, os.environ)
    bus = await Bus.connect("session" if user_mode else "system")
    systemd = BusSystemd(bus)
    await systemd.subscribe()
    host = await off_loop(make_host, paths, systemd, user_mode=user_mode, alone=True)
    await host.workers.stop_leftovers()
    daemon = Daemon(host)
    stop = asyncio.Event()
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
        leave_at_last(1 if lost else 0)
        if not lost:
            # The name first: calls from now on start the next daemon instead of being lost.
            await bus.release_name(BUS_NAME)
            await surface.finish()
        await daemon.end(asked=not lost)
        for task in (watchdog, ended, idle, waiting):
            task.cancel()
    await bus.close()
    await off_loop(host.store.close)
    return 1 if lost else 0


def leave_at_last(status: int) -> None:
    """End the process when a thread does not: one may wait for a disk that does not answer."""
    last = threading.Timer(float(os.environ.get("SLOTD_LEAVE_SECONDS", LEAVE_S)), os._exit, (status,))
    last.daemon = True
    last.start()


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
