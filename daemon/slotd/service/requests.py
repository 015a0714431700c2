"""The cheap checks before a job, and what the store learns from the disk at start. Blocking, called off the loop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.data import make_data_store
from slotd.engines import Engine
from slotd.errors import (
    BadOption,
    DataChoiceRequired,
    Held,
    Misconfigured,
    NoRollback,
    NoSuchBackup,
    NothingToDo,
    SlotdError,
)
from slotd.host import failpoint, files
from slotd.model import Backup, Release, SlotName, SlotState
from slotd.recipes import space
from slotd.recipes.context import Host, Plan
from slotd.store import Store

DATA_CHOICES = ("keep", "restore")


def unusable(app: str, broken: Misconfigured) -> Misconfigured:
    """What a request for an app is answered whose definition cannot be used."""
    return Misconfigured(
        f"cannot work on {app}: {broken.message.removeprefix(f'cannot use the definition of {app}: ')}",
        hint=f"`slotctl verify {app}` lists every problem; after mending it, `systemctl reload slotd`.",
        problems=broken.problems,
    )


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


def require_trial_choice(app: str, data: str, to: str, previous: str) -> None:
    """Within a trial the data come back with the code, to the version before; nothing else makes sense."""
    if to and to != previous:
        raise NoRollback(
            f"cannot roll back {app} to {to}: while a version is on trial, the way back is to {previous or 'nothing'}."
        )
    if data not in ("", "restore"):
        raise BadOption(
            f"cannot roll back {app} with data={data!r}: while a version is on trial its data are always restored.",
            hint="What the new version wrote is kept as quarantine.",
        )


def rollback_plan(host: Host, app: App, engine: Engine, *, data: str, to: str) -> Plan:
    """The plan of a rollback after commit. Raises `NoRollback`, `DataChoiceRequired`, `NoSuchBackup`."""
    active = engine.active()
    slots = host.store.slots(app.name)
    if active is None:
        raise NoRollback(f"cannot roll back {app.name}: nothing is installed.")
    here, there = slots[active], slots[active.other]
    if there.state not in (SlotState.GOOD, SlotState.WHOLE) or engine.record(active.other) is None:
        raise NoRollback(
            f"cannot roll back {app.name}: the other slot holds no version to go back to.",
            hint=f"`slotctl update {app.name} --version VERSION --force` installs one that the source still has;"
            f" `slotctl restore {app.name} ID` brings data back.",
        )
    if to and to != there.version:
        raise NoRollback(
            f"cannot roll back {app.name} to {to}: only {there.version} is kept in a slot.",
            hint=f"`slotctl update {app.name} --version {to} --force` installs it, if the source still has it.",
        )
    backup = newest_backup_of(host.store, app.name, there.version)
    if app.data.paths and data not in DATA_CHOICES:
        raise DataChoiceRequired(
            _choice_text(host, app, there.version, backup, data), hint=_choice_hint(there.version, backup)
        )
    if data == "restore" and backup is None:
        raise NoSuchBackup(
            f"cannot restore the data of {app.name} {there.version}: there is no backup of that version.",
            hint=f"See `slotctl backups {app.name}`, or use --data=keep.",
        )
    restore = data == "restore" and backup is not None
    if restore and backup is not None:
        whole_backup(host.store, app.name, backup.id)
        space.require_for_restore(app.name, app.data.paths, host.paths.state, backup.bytes)
    return Plan(
        definition=app,
        release=Release(version=here.version, tag=here.version),
        slot=active,
        old_slot=active.other,
        old_version=there.version,
        old_digest=there.digest,
        backup=backup.id if restore and backup else "",
        restore=restore,
    )


def whole_backup(store: Store, app: str, backup_id: str) -> Backup:
    """A backup that can be restored, asked of the disk, before anything is stopped for it. Raises `NoSuchBackup`."""
    row = store.backup(app, backup_id)
    if not make_data_store().is_sealed(Path(row.path)):
        raise NoSuchBackup(
            f"cannot restore backup {backup_id} of {app}: it was never finished, or {row.path} is damaged.",
            hint=f"See `slotctl backups {app}` for others.",
        )
    return row


def close_stale_trials(store: Store) -> None:
    """A trial whose job has ended, or is not there, is watched by nobody: it would stand in the way of every update."""
    with store.transaction():
        alive = {job.id for job in store.unfinished_jobs()}
        for trial in store.trials():
            if trial.job not in alive:
                store.forget(trial)


def newest_backup_of(store: Store, app: str, version: str) -> Backup | None:
    for backup in store.backups(app):
        if backup.kind == "backup" and backup.sealed and backup.version == version:
            return backup
    return None


def _choice_text(host: Host, app: App, version: str, backup: Backup | None, data: str) -> str:
    found = f" (not {data!r})" if data else ""
    if backup is None:
        return (
            f"cannot roll back {app.name} to {version} without knowing what happens to its data{found}:"
            " there is no backup of that version, so only keep is possible."
        )
    age_s = max(1.0, host.clock.now() - backup.created_at)
    unit_s, unit = next(each for each in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if age_s >= each[0])
    return (
        f"cannot roll back {app.name} to {version} without knowing what happens to its data{found}: the backup"
        f" {backup.id} is {int(age_s // unit_s)} {unit} old."
    )


def _choice_hint(version: str, backup: Backup | None) -> str:
    keep = f"--data=keep lets {version} work on the data as they are."
    restore = "--data=restore brings the backup back; what was written since is set aside as quarantine."
    return f"{restore}\n{keep}" if backup else keep


def reconcile(store: Store, engine: Engine, host: Host) -> None:
    """Learn from the disk what the store does not know: slots by their own records, backups by their headers.

    After a store was lost this is all there is; at any other time it changes nothing.
    """
    app = engine.app.name
    try:
        active = engine.active()
    except SlotdError:
        return  # the view tells it
    for name, slot in store.slots(app).items():
        if slot.state is not SlotState.EMPTY:
            continue
        found = engine.record(name)
        if found is not None and found.app == app:
            state = SlotState.GOOD if name == active else SlotState.WHOLE
            store.save(dataclasses.replace(found, name=SlotName(name), state=state))
            failpoint.hit("rebuild:slot")
    known = {backup.id for backup in store.backups(app)}
    for kind in ("backup", "quarantine"):
        directory = host.paths.state / ("backups" if kind == "backup" else "quarantine") / app
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            if path.name not in known and (backup := _read_header(path, app, kind)) is not None:
                store.save(backup)
                failpoint.hit("rebuild:backup")


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
