"""Second copies of backups, away from this host: pushed by a unit of its own, which nothing waits for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from slotd.core.schema import App
from slotd.data import restic_keep as keeping
from slotd.data import restic_push as second
from slotd.errors import Failed, NoSuchBackup, SlotdError
from slotd.host.offloop import off_loop
from slotd.host.restic import Restic
from slotd.model import Backup
from slotd.recipes.context import Host, Work

_log = logging.getLogger(__name__)


def _repository(host: Host, app: App) -> second.Second:
    policy = app.backup
    if not policy.push:
        raise Failed(f"cannot push backups of {app.name}: its definition names no `push` under [backup].")
    secret = keeping.credential(policy.push_credential, f"the restic repository {policy.push}")
    more = {"HOME": os.path.expanduser("~")}  # of ssh: its key, and the hosts that it knows
    if policy.push_environment:
        more |= second.environment_of(keeping.credential_text(policy.push_environment, f"what {policy.push} needs"))
    return second.Second(Restic(policy.push, secret, host.paths.cache / "restic", cache=True, environment=more))


async def push_app(work: Work) -> None:
    """Push every sealed backup that is not there yet. The first that fails is told and raised; the next run goes on."""
    rows = await off_loop(work.host.store.backups, work.app.name)
    waiting = [row for row in rows if is_waiting(row, work.app)]
    if not waiting:
        return
    try:
        repository = await off_loop(_repository, work.host, work.app)
        for row in waiting:
            await off_loop(_push_one, work, repository, row)
            await work.tell("backup-note", f"backup {row.id} is in {work.app.backup.push}, too")
    except SlotdError as error:
        await work.tell("warning", f"backups wait to be pushed: {error}")
        raise


def _push_one(work: Work, repository: second.Second, row: Backup) -> None:
    dest = Path(row.path)
    with work.data.lent(dest) as source:
        repository.push(dest, (f"app={row.app}", f"version={row.version}", f"reason={row.reason}"), source)


def is_waiting(row: Backup, app: App) -> bool:
    """Whether this backup is still to be pushed."""
    return row.kind == "backup" and row.sealed and not second.is_pushed(Path(row.path), app.backup.push)


async def require_pushed(work: Work) -> None:
    """Where the definition wants it: no update before the backup of the last one is away."""
    if not work.app.backup.push_required:
        return
    rows = await off_loop(work.host.store.backups, work.app.name)
    if any([await off_loop(is_waiting, row, work.app) for row in rows]):
        raise Failed(
            f"cannot update {work.app.name}: a backup is not in {work.app.backup.push} yet (push_required).",
            hint="`systemctl start slotd-push.service` tries now; `journalctl -u slotd-push` says what is wrong.",
        )


async def bring_back(host: Host, app: App, copy_id: str) -> Backup:
    """Bring a pushed backup back to this host, as if it had never gone. Raises `NoSuchBackup`."""
    dest = host.copy_path("backups", app.name, copy_id)
    repository = await off_loop(_repository, host, app)
    header = await off_loop(repository.bring, app.name, copy_id, dest)
    try:
        known = await off_loop(host.store.backup, app.name, copy_id)
    except NoSuchBackup:
        known = None
    row = known or Backup(
        id=copy_id,
        app=app.name,
        kind="backup",
        version=str(header.get("version", "")),
        reason=str(header.get("reason", "")),
        created_at=float(header.get("created_at", 0.0)),
        path=str(dest),
        sealed=True,
    )
    await off_loop(host.store.save, row)
    return row
