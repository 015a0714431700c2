"""The cheap checks before a job, and what is put straight at start. Blocking, called off the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slotd.core.plain import from_plain
from slotd.core.schema import App
from slotd.data import make_data_store, spec_of
from slotd.errors import Held, Misconfigured, NoSuchBackup, NothingToDo
from slotd.host import underway
from slotd.model import Backup, Job
from slotd.recipes.context import Plan
from slotd.store import Store


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
    underway.sweep(store.underway, {job.app for job in store.unfinished_jobs()})
