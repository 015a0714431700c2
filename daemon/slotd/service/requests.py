"""The cheap checks before a job, and what the store learns from the disk at start. Blocking, called off the loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from slotd.core.events import BY_NAME
from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.data import make_data_store, spec_of
from slotd.engines import Engine
from slotd.errors import (
    Held,
    Misconfigured,
    NoSuchBackup,
    NothingToDo,
    SlotdError,
)
from slotd.host import failpoint, files, journal
from slotd.model import Backup, Event, Job, Slot, SlotName, SlotState
from slotd.recipes.context import Host, Plan
from slotd.store import Store

LOST = (
    "the state was lost and was rebuilt from what is installed: a hold, a mode, an approval and what was blocked before"
    " are forgotten; say them again"
)

OLDER = (
    "the state was older than what is installed: by its own record, slot {slot} holds {found}, not {known}, and that is"
    " believed; a hold, a mode, an approval and what was blocked in between are forgotten; say them again"
)


def unusable(app: str, broken: Misconfigured) -> Misconfigured:
    """What a request for an app is answered whose definition cannot be used."""
    return Misconfigured(
        f"cannot work on {app}: {broken.message.removeprefix(f'cannot use the definition of {app}: ')}",
        hint=f"`slotctl verify {app}` lists every problem; after mending it, `slotctl reload`.",
        problems=broken.problems,
    )


def last_definition(finished: Sequence[Job]) -> App | None:
    """What the newest job was told of the app: where its slots are, also while its definition cannot be used."""
    for job in finished:
        definition = from_plain(Plan, job.plan).definition
        if definition.name:
            return definition
    return None


def require_updatable(store: Store, app: str) -> None:
    """Raises `Held` or `NothingToDo` while a person or a trial keeps the app as it is."""
    record = store.app(app)
    if record.held:
        raise Held(
            f"cannot update {app}: it is held{f' ({record.hold_reason})' if record.hold_reason else ''}.",
            hint=f"Lift it with `slotctl unhold {app}`.",
        )
    if store.trial(app):
        raise NothingToDo(f"cannot update {app}: a version is on trial.", hint=f"See `slotctl status {app}`.")


def whole_backup(store: Store, app: str, backup_id: str) -> Backup:
    """A backup that can be restored, asked of the disk, before anything is stopped for it. Raises `NoSuchBackup`."""
    row = store.backup(app, backup_id)
    if not make_data_store().is_sealed(Path(row.path)):
        raise NoSuchBackup(
            f"cannot restore backup {backup_id} of {app}: it was never finished, or {row.path} is damaged.",
            hint=f"See `slotctl backups {app}` for others.",
        )
    return row


def parts_to_restore(store: Store, app: App, backup_id: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The paths of a restore, as the job keeps them; none: all that the copy holds. Raises `NoSuchBackup`."""
    row = whole_backup(store, app.name, backup_id)
    return tuple(map(str, make_data_store().parts(spec_of(app.data), Path(row.path), wanted)))


def close_stale_trials(store: Store) -> None:
    """A trial whose job has ended, or is not there, is watched by nobody: it would stand in the way of every update."""
    with store.transaction():
        alive = {job.id for job in store.unfinished_jobs()}
        for trial in store.trials():
            if trial.job not in alive:
                store.forget(trial)


def reconcile(store: Store, engine: Engine, host: Host) -> None:
    """Learn from the disk what the store does not know: slots by their own records, backups by their headers.

    After a store was lost, or its newest writes were, this is all there is; at any other time it changes nothing.
    """
    app = engine.app.name
    if host.lost:
        store.add_event(Event(0, app, host.clock.now(), "warning", LOST))
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
    records = {name: found for name in SlotName if (found := engine.record(name)) is not None and found.app == app}
    is_resting = app not in {job.app for job in store.unfinished_jobs()}  # else its recovery knows what the slots are
    for name, found in records.items():
        known = store.slots(app)[name]
        is_older = is_resting and _is_older(known, found)
        if known.state is not SlotState.EMPTY and not is_older:
            continue
        store.save(dataclasses.replace(found, name=name, state=_state(name, active, records)))
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


def _state(name: SlotName, active: SlotName | None, records: Mapping[SlotName, Slot]) -> SlotState:
    """What was installed after the active version, and is not active, is no version to go back to."""
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
