"""What every job needs of this host, opened and put together: for the daemon, and for the ways back without it.

Nothing of `slotd.service` is imported for it: a daemon that cannot even be loaded must not take the ways back with it.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from functools import partial
from pathlib import Path

from slotd.errors import Failed
from slotd.host import definitions
from slotd.host.paths import Paths
from slotd.host.run import Workers
from slotd.host.systemd import Systemd
from slotd.recipes import rebuild, space
from slotd.recipes.context import Clock, Host
from slotd.recipes.lists import Lists
from slotd.store import REBUILD, Store, open_store

_log = logging.getLogger(__name__)


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


def _open(state: Path, *, alone: bool) -> tuple[Store, Path | None]:
    """The store, on a disk that is full to its last byte, too: room is kept for that."""
    make_room, was_full = partial(space.make_room_for_state, state), False
    while not space.has_room_for_state(state) and make_room():
        was_full = True
    opened = open_store(state / "state.db", now=time.time(), alone=alone, make_room=make_room)
    if was_full:
        _log.warning("the disk of %s is full: slotd goes on with the room that it keeps there", state)
    else:
        space.keep_for_state(state)
    return opened


def make_host(paths: Paths, systemd: Systemd, *, user_mode: bool, alone: bool) -> Host:
    """Open the state and put the doors together. `alone`: within `only_one`, so that none but it rebuilds. Blocking."""
    # The system's apps must reach their slots; those of a user are nobody else's business.
    shared = 0o700 if user_mode else 0o755
    for directory, mode in ((paths.state, shared), (paths.cache, 0o700), (paths.state / "apps", shared)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
    for name in ("backups", "quarantine"):
        (paths.state / name).mkdir(mode=0o700, exist_ok=True)
    store, aside = _open(paths.state, alone=alone)
    loaded = definitions.load(paths)
    settings = loaded.settings
    workers = Workers(user_manager=user_mode, limits=settings.limits)
    host = Host(
        store=store,
        systemd=systemd,
        workers=workers,
        lists=Lists(workers),
        paths=paths,
        settings=settings,
        machine_id=read_id("/etc/machine-id"),
        boot_id=this_boot(paths.runtime),
        user_mode=user_mode,
        clock=Clock(),
    )
    if aside is not None or rebuild.was_lost(store):
        if not alone:
            raise Failed(f"cannot use the state in {store.path}: what it held was lost.", hint=REBUILD)
        broken = aside or max(paths.state.glob("state.db.broken.*[0-9]"), default=None)
        what = f"was damaged, and lies at {broken}" if broken else "was gone"
        rebuild.rebuild(
            host, loaded.apps, f"the state database {what}; it was rebuilt from what the slots and copies say"
        )
    return host
