"""A rollback that a person asks for: where to, with which data, and what they are told before they choose. Blocking."""

from __future__ import annotations

import dataclasses
import os

from slotd.core import policy
from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.engines import Engine
from slotd.errors import (
    BadOption,
    DataChoiceRequired,
    NoRollback,
    NoSuchBackup,
    NoSuchVersion,
    NothingToDo,
    SlotdError,
)
from slotd.model import Backup, JobKind, Release, Result, SlotName, SlotState
from slotd.recipes.cache import cached_path
from slotd.recipes.context import Host, Plan
from slotd.service.inspecting import summary
from slotd.service.requests import whole_backup
from slotd.store import Store

DATA_CHOICES = ("keep", "restore")


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
    _require_allowed(host, app, there.version)
    backup = newest_backup_of(host.store, app.name, there.version)
    _require_choice(host, app, there.version, backup, data)
    restore = data == "restore" and backup is not None
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


def newest_backup_of(store: Store, app: str, version: str) -> Backup | None:
    for backup in store.backups(app):
        if backup.kind == "backup" and backup.sealed and backup.version == version:
            return backup
    return None


def _require_choice(host: Host, app: App, version: str, backup: Backup | None, data: str) -> None:
    """Raises `DataChoiceRequired` with what a person needs to know to choose, `NoSuchBackup` for what cannot be."""
    if app.data.paths and data not in DATA_CHOICES:
        raise DataChoiceRequired(_choice_text(host, app, version, backup, data), hint=_choice_hint(version, backup))
    if data != "restore":
        return
    if backup is None:
        raise NoSuchBackup(
            f"cannot restore the data of {app.name} {version}: there is no backup of that version.",
            hint=f"See `slotctl backups {app.name}`, or use --data=keep.",
        )
    whole_backup(host.store, app.name, backup.id)


def _choice_text(host: Host, app: App, version: str, backup: Backup | None, data: str) -> str:
    found = f" (not {data!r})" if data else ""
    begun = f"cannot roll back {app.name} to {version} without knowing what happens to its data{found}:"
    if backup is None:
        return f"{begun} there is no backup of that version, so only keep is possible."
    age_s = max(1.0, host.clock.now() - backup.created_at)
    unit_s, unit = next(each for each in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if age_s >= each[0])
    since = ""
    try:
        if os.path.isfile(f"{backup.path}/manifest"):  # elsewhere a look would bring all of it back first
            since = f"; {summary(app, backup)}"
    except (SlotdError, OSError):  # the data cannot be read now: the choice must be made all the same
        pass
    return f"{begun} the backup {backup.id} is {int(age_s // unit_s)} {unit} old{since}."


def _choice_hint(version: str, backup: Backup | None) -> str:
    keep = f"--data=keep lets {version} work on the data as they are."
    restore = "--data=restore brings the backup back; what was written since is set aside as quarantine."
    return f"{restore}\n{keep}" if backup else keep


# -- to a version that is in no slot any more ---------------------------------------------------------------


def is_elsewhere(host: Host, app: App, engine: Engine, to: str) -> bool:
    """Whether `to` is another version than the one in the other slot, which needs no installation."""
    if not to:
        return False
    active = engine.active()
    return active is None or not _holds(host.store, app, engine, active.other, to)


def _holds(store: Store, app: App, engine: Engine, slot: SlotName, version: str) -> bool:
    found = store.slots(app.name)[slot]
    is_whole = found.state in (SlotState.GOOD, SlotState.WHOLE) and engine.record(slot) is not None
    return is_whole and found.version == version


def kept_plan(host: Host, app: App, engine: Engine, *, data: str, to: str) -> Plan:
    """The plan that installs a kept release. Raises `NoSuchVersion`, which names what there is."""
    active = engine.active()
    if active is None:
        raise NoRollback(f"cannot roll back {app.name}: nothing is installed.")
    here = host.store.version_in(app.name, active)
    if to == here:
        raise NothingToDo(f"cannot roll back {app.name} to {to}: that is the version that is installed.")
    kept = _kept(host, app)
    if to not in kept:
        beside = host.store.slots(app.name)[active.other].version
        there = beside if beside and _holds(host.store, app, engine, active.other, beside) else ""
        versions = [each for each in dict.fromkeys((there, *kept)) if each and each != here]
        what = f"there are {', '.join(versions)}" if versions else "there is none"
        raise NoSuchVersion(
            f"cannot roll back {app.name} to {to}: no verified release of it is kept here; {what}.",
            hint=f"`slotctl update {app.name} --version {to} --force` installs it, if the source still has it;"
            " `releases` under [backup] says how many are kept.",
        )
    _require_allowed(host, app, to)
    backup = newest_backup_of(host.store, app.name, to)
    _require_choice(host, app, to, backup, data)
    return dataclasses.replace(
        Plan(app, wanted=to, now=True, kept=True),
        release=kept[to].release,
        artifacts=kept[to].artifacts,
        signers=kept[to].signers,
        brings=backup.id if data == "restore" and backup else "",
    )


def _kept(host: Host, app: App) -> dict[str, Plan]:
    """Versions that have passed their trial here and whose files are still in the cache, the newest job first.

    What they were verified to be is in the job's own row: their digests, measured by slotd.
    """
    cache = host.cache(app.name)
    found = {}
    for version, plan in _passed(host, app).items():
        digests = [artifact.sha256 for artifact in plan.artifacts]
        if digests and all(digests) and all(cached_path(cache, digest).is_file() for digest in digests):
            found[version] = plan
    return found


def _require_allowed(host: Host, app: App, to: str) -> None:
    """A publisher may say how far back one may go: before that lies a hole that was mended, or a format that is gone.

    It binds who asks for a rollback, and not the way back from a trial, which ends where it began.
    """
    installed = [plan.release for plan in _passed(host, app).values()]
    oldest, by = policy.too_old(app.source.scheme, to, installed)
    if oldest:
        raise NoRollback(
            f"cannot roll back {app.name} to {to}: its publisher says with {by} that nothing older than {oldest} may be"
            " gone back to.",
            hint=f"If it must be, `slotctl update {app.name} --version {to} --force` installs it all the same.",
        )


def _passed(host: Host, app: App) -> dict[str, Plan]:
    """Versions that have passed their trial here, the newest job first."""
    found: dict[str, Plan] = {}
    for job in host.store.jobs(app=app.name, limit=2000, checks=False):
        if job.kind is not JobKind.UPDATE or job.result is not Result.UPDATED or job.version in found:
            continue
        try:
            plan = from_plain(Plan, job.plan)
        except SlotdError:
            continue  # an older slotd's
        found[plan.version] = plan
    return found
