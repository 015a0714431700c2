"""Small errands of the units, beside the daemon: `slotd prune`, `push`, `bring`, `failed`, `enable` and `disable`."""

from __future__ import annotations

import logging
import os
import sys

from slotd import enable as enabling
from slotd import engines
from slotd.boot import NothingRuns, host_of
from slotd.core.schema import App
from slotd.errors import Busy, Failed, NoSuchApp, SlotdError
from slotd.host import definitions
from slotd.host.lock import only_one_on
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.model import Job, JobKind
from slotd.recipes.context import Work

_log = logging.getLogger(__name__)


async def prune(*, user_mode: bool) -> int:
    """Retention for every app that has no job running."""
    from slotd.recipes import prune as pruning

    host = await off_loop(lambda: host_of(NothingRuns(), user_mode=user_mode))
    loaded = await off_loop(definitions.load, host.paths)
    failed = changed = False
    for app in loaded.apps.values():
        if app.name in {job.app for job in await off_loop(host.store.unfinished_jobs)}:  # asked anew: time has passed
            continue
        job = Job(id=0, app=app.name, kind=JobKind.CHECK)
        try:
            engine = engines.create(app, host.root(app), host.settings.limits, user_mode=user_mode)
            with only_one_on(host.paths.state, app.name):
                before = await off_loop(host.store.backups, app.name)
                await pruning.prune_app(Work(host, app, job, engine, host.data_store(app), lambda _job: None))
                changed |= before != await off_loop(host.store.backups, app.name)
        except Busy:
            continue  # a job began meanwhile, and tidies up itself
        except Exception as error:  # the next app's old copies go all the same
            _log.error("%s: %s", app.name, error)
            failed = True
    if changed:
        await _tell_daemon(user_mode=user_mode)
    return 1 if failed else 0


async def _tell_daemon(*, user_mode: bool) -> None:
    """One that runs shows what was changed beside it. One that does not is not started for that: it will read it."""
    from slotd.host.bus import Bus

    try:
        bus = await Bus.connect("session" if user_mode else "system")
        try:
            there = "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner"
            if (await bus.call(*there, "s", ["org.slotd1"]))[0]:
                await bus.call("org.slotd1", "/org/slotd1", "org.slotd1.Manager", "Reload")
        finally:
            await bus.close()
    except SlotdError as error:
        _log.warning("slotd may show backups as they were before, until it is reloaded: %s", error)


async def push(*, user_mode: bool) -> int:
    """Second copies of what was sealed since, for every app that wants them."""
    from slotd.recipes import push as pushing

    host = await off_loop(lambda: host_of(NothingRuns(), user_mode=user_mode))
    loaded = await off_loop(definitions.load, host.paths)
    failed = False
    for app in loaded.apps.values():
        if not app.backup.push:
            continue
        job = Job(id=0, app=app.name, kind=JobKind.BACKUP)
        try:
            engine = engines.create(app, host.root(app), host.settings.limits, user_mode=user_mode)
            await pushing.push_app(Work(host, app, job, engine, host.data_store(app), lambda _job: None))
        except Exception as error:  # the next app's backups go all the same
            _log.error("%s: %s", app.name, error)
            failed = True
    return 1 if failed else 0


async def bring(name: str, copy_id: str, *, user_mode: bool) -> int:
    """Bring a pushed backup back; `slotctl restore` takes it from there."""
    from slotd.recipes import push as pushing

    host = await off_loop(lambda: host_of(NothingRuns(), user_mode=user_mode))
    loaded = await off_loop(definitions.load, host.paths)
    row = await pushing.bring_back(host, _defined(loaded, host.paths, name), copy_id)
    await _tell_daemon(user_mode=user_mode)
    sys.stdout.write(
        f"Backup {row.id} of {name} {row.version} is back. `slotctl restore {name} {row.id}` restores it.\n"
    )
    return 0


async def report_failed(unit: str, *, user_mode: bool) -> int:
    """Hand a unit's failure to the daemon; a unit that belongs to no app is not worth an error."""
    from slotd.host.bus import Bus

    bus = await Bus.connect("session" if user_mode else "system")
    try:
        await bus.call("org.slotd1", "/org/slotd1", "org.slotd1.Manager", "ReportFailure", "sa{sv}", [unit, {}])
    except Failed as error:
        sys.stderr.write(f"slotd: {error.message}\n")
    finally:
        await bus.close()
    return 0


def enable(name: str, *, on: bool, user_mode: bool) -> int:
    """Write or remove the drop-ins of an app's units."""
    paths = Paths.from_environment(user_mode, os.environ)
    app = _defined(definitions.load(paths), paths, name)
    act = enabling.enable if on else enabling.disable
    for line in act(app, user=user_mode):
        sys.stdout.write(line + "\n")
    return 0


def _defined(loaded: definitions.Definitions, paths: Paths, name: str) -> App:
    if name in loaded.broken:
        raise loaded.broken[name]
    if name not in loaded.apps:
        raise NoSuchApp(
            f"cannot find a definition named {name!r}.", hint=f"Write {paths.config[-1]}/apps.d/{name}.toml."
        )
    return loaded.apps[name]
