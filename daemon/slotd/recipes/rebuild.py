"""What the store learns from the disk. Blocking, called off the loop.

Of a store that was lost: what the slots and the copies say of themselves, and what was under way from the files beside
it, so that a rollback in the middle goes on, and a trial is watched on. Where that cannot be known, the app is held,
and is not started on data of which nobody knows whether they are whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from slotd import engines
from slotd.core.events import BY_NAME
from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.data import unfinished
from slotd.engines import Engine
from slotd.errors import SlotdError
from slotd.host import failpoint, files, holdback, journal, underway
from slotd.model import Backup, Event, Slot, SlotName, SlotState, Trial
from slotd.recipes.context import Host
from slotd.store import Store

_log = logging.getLogger(__name__)

LOST = (
    "the state was lost and was rebuilt from what is installed: a hold, a mode, an approval and what was blocked before"
    " are forgotten; say them again"
)

OLDER = (
    "the state was older than what is installed: by its own record, slot {slot} holds {found}, not {known}, and that is"
    " believed; a hold, a mode, an approval and what was blocked in between are forgotten; say them again"
)


HALF = "the state was lost in the middle of a change of its data"  # so begins the reason to keep an app down


def was_lost(store: Store) -> bool:
    """Whether this store has taken the place of one that was lost, and nobody has yet said so in it."""
    state = store.path.parent
    signs = (
        "backups/*/*/header.json",
        "apps/*/[ab]/.slotd/slot.json",
        f"{store.path.name}.broken.*",
        f"{store.underway.name}/*",
    )
    return store.is_new and any(True for sign in signs for _ in state.glob(sign))


def rebuild(host: Host, apps: Mapping[str, App], told: str) -> None:
    """Fill a new store after one was lost, and say so: in the history of each app, and in the journal.

    All in one transaction, without which the store still counts as lost: whoever comes next does it again.
    """
    store, now = host.store, host.clock.now()
    host.lost = True
    found = list(underway.read(store.underway))
    jobs = {job.app: (job, trial) for _, job, trial in found if job is not None}
    damaged = {app for app, job, _ in found if job is None}
    with store.transaction():
        for job, trial in jobs.values():
            store.save(job)
            if trial is not None and trial.job == job.id:
                store.save(trial)
        for app in apps.values():
            try:
                reconcile(store, _engine(host, app), host)
            except Exception:  # one app's disk must not keep the others from what is due (promise 7)
                _log.exception("%s: what is on the disk could not be read", app.name)
        halves = {name: why for name, app in apps.items() if name not in jobs and (why := _half(host, app, damaged))}
        for name in sorted({*apps, *jobs, *damaged}):
            store.add_event(Event(0, name, now, "warning", LOST))
        for name, why in halves.items():
            store.change_app(name, held=True, hold_reason=why, last_error=why)
            store.add_event(Event(0, name, now, "held", why))
        store.add_event(Event(0, "", now, "warning", told))
    journal.send(BY_NAME["warning"], told, fields={}, units=())
    for name in sorted({*apps, *jobs, *damaged}):
        units = apps[name].service.units if name in apps else ()
        said = halves.get(name, LOST)
        journal.send(BY_NAME["warning"], f"{name}: {said}", fields={"SLOTD_APP": name}, units=units)
    for name in filter(lambda name: halves[name].startswith(HALF), halves):
        holdback.hold_back_over_boots(host.paths, *apps[name].service.units)


def is_half(host: Host, app: str) -> bool:
    """Whether the app is held because nobody knows whether its data are whole."""
    record = host.store.app(app)
    return record.held and record.hold_reason.startswith(HALF)


def _half(host: Host, app: App, damaged: set[str]) -> str:
    """Why an app must not be started of which it is not known what was under way; empty if all is well."""
    name, aside = app.name, host.paths.state / "quarantine" / app.name
    slots = host.store.slots(name)
    installed = max((slot.installed_at for slot in slots.values() if slot.state is SlotState.GOOD), default=0.0)
    copies = [copy for copy in host.store.backups(name) if copy.kind == "backup"]
    for path in sorted(aside.iterdir() if aside.is_dir() else (), key=unfinished.begun_at, reverse=True):
        if unfinished.begun_at(path) < installed:
            break  # a version that was installed later has had its data since
        found = unfinished.of_quarantine(path)
        if found is None and name not in damaged:
            break  # the newest was done
        source = found.source if found is not None else ""
        copy = Path(source).name or (copies[0].id if copies else "ID")
        what = f"{path} holds what was set aside" + (f", and {source} was being restored" if source else "")
        return (
            f"{HALF}: {what}. It is not started on what may be half there. `slotctl backups {name}` lists"
            f" what there is; `slotctl restore {name} {copy}` brings data back and starts it, then `slotctl unhold"
            f" {name}`."
        )
    if name in damaged:
        return (
            "the state was lost in the middle of a job, and the record of it is damaged: a version may have been on"
            " trial, and is not watched any more."
            f" See that it is well and `slotctl unhold {name}`, or go back with"
            f" `slotctl rollback {name} --data=restore`."
        )
    return ""


def _engine(host: Host, app: App) -> Engine:
    return engines.create(app, host.root(app), host.settings.limits, user_mode=host.user_mode)


def reconcile(store: Store, engine: Engine, host: Host) -> None:
    """Learn from the disk what the store does not know: slots by their own records, backups by their headers.

    After a store was lost, or its newest writes were, this is all there is but what was under way; at any other time it
    changes nothing.
    """
    app = engine.app.name
    try:
        active = engine.active()
    except SlotdError:
        return  # the view tells it
    _learn_slots(store, engine, host, active)
    known = {backup.id for backup in store.backups(app)}
    for kind in ("backup", "quarantine"):
        directory = host.paths.state / ("backups" if kind == "backup" else "quarantine") / app
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            if path.name not in known and (backup := _read_header(path, app, kind)) is not None:
                store.save(backup)
                failpoint.hit("rebuild:backup")


def _learn_slots(store: Store, engine: Engine, host: Host, active: SlotName | None) -> None:
    app = engine.app.name
    trial = store.trial(app)
    records = {name: found for name in SlotName if (found := engine.record(name)) is not None and found.app == app}
    is_resting = app not in {job.app for job in store.unfinished_jobs()}  # else its recovery knows what the slots are
    for name, found in records.items():
        known = store.slots(app)[name]
        is_older = is_resting and _is_older(known, found)
        if known.state is not SlotState.EMPTY and not is_older:
            continue
        store.save(dataclasses.replace(found, name=name, state=_state(name, active, records, trial)))
        failpoint.hit("rebuild:slot")
        if is_resting and not host.lost and (is_older or name == active):
            told = OLDER.format(slot=name, found=found.version, known=known.version or "nothing")
            store.add_event(Event(0, app, host.clock.now(), "warning", told, version=found.version))
            journal.send(
                BY_NAME["warning"], f"{app}: {told}", fields={"SLOTD_APP": app}, units=engine.app.service.units
            )


def _is_older(known: Slot, found: Slot) -> bool:
    """Whether what the store knows of a slot is of an earlier time than what the slot says of itself."""
    if known.state in (SlotState.EMPTY, SlotState.STAGING) or found.installed_at <= known.installed_at:
        return False
    return (found.version, found.digest, found.manifest) != (known.version, known.digest, known.manifest)


def _state(name: SlotName, active: SlotName | None, records: Mapping[SlotName, Slot], trial: Trial | None) -> SlotState:
    """What was installed after the active version, and is not active, is no version to go back to."""
    if trial is not None and trial.slot == name:
        return SlotState.WHOLE
    if name == active:
        return SlotState.GOOD
    is_later = active is not None and active in records and records[name].installed_at > records[active].installed_at
    return SlotState.BAD if is_later else SlotState.WHOLE


def _read_header(path: Path, app: str, kind: str) -> Backup | None:
    try:
        header = json.loads(files.read_bounded(path / "header.json", 1024 * 1024))
        said = {"bytes": header.get("bytes", 0)} | dict(header.get("header", {}))  # what `seal` was given is inside
        fields = {"id": path.name, "path": str(path), "app": app, "kind": kind, "sealed": True}
        wanted = {"version", "reason", "created_at", "job", "bytes"}
        defaults = {"version": "", "reason": "found", "created_at": path.stat().st_mtime}
        return from_plain(Backup, defaults | {k: v for k, v in said.items() if k in wanted} | fields)
    except (OSError, ValueError, TypeError, AttributeError, SlotdError):
        return None
