"""A look into a saved copy, a page at a time: what it holds, what its commands said, what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotd.core.schema import App
from slotd.core.words import size
from slotd.data import make_data_store, spec_of
from slotd.errors import NoSuchJob
from slotd.model import Backup
from slotd.service.api import Inspection
from slotd.service.requests import whole_backup
from slotd.store import Store

PAGE = 2000  # entries in one reply


def inspect(store: Store, app: App, backup_id: str, diff: bool, offset: int) -> Inspection:
    """One page. Blocking. Raises `NoSuchBackup` for a copy that is not whole."""
    backup = whole_backup(store, app.name, backup_id)
    data, path = make_data_store(), Path(backup.path)
    if diff:
        found = [(change.how, change.entry) for change in data.changes(spec_of(app.data), path)]
    else:
        found = [("", entry) for entry in data.contents(path)]
    page = tuple(found[offset : offset + PAGE])
    return Inspection(
        backup=backup,
        said=tuple(_said(store, backup, data.header(path))),
        entries=page,
        total=len(found),
        total_bytes=sum(entry.bytes for _, entry in found),
        next=offset + len(page) if offset + len(page) < len(found) else 0,
    )


def _said(store: Store, backup: Backup, header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the commands before and after the copy said, and those that migrated the data after it."""
    kept = header.get("said")
    said = [dict(each) for each in kept if isinstance(each, Mapping)] if isinstance(kept, list | tuple) else []
    said += [_unsound(each) for each in make_data_store().unsound(Path(backup.path))]
    try:
        plan = store.job(backup.job).plan
    except NoSuchJob:
        return [*said]
    later = plan.get("said", ())
    return [*said, *(dict(each) for each in later if isinstance(each, Mapping) and each.get("when") == "migrate")]


def _unsound(said: str) -> dict[str, Any]:
    return {"when": "check", "command": "PRAGMA integrity_check", "status": 1, "output": said}


def summary(app: App, backup: Backup) -> str:
    """What a restore of the copy would undo, as a clause."""
    changes = make_data_store().changes(spec_of(app.data), Path(backup.path))
    changed = [change for change in changes if change.entry.kind == "file"]
    if not changed:
        return "nothing has changed since"
    counts = {how: [c.entry for c in changed if c.how == how] for how in ("changed", "added", "removed")}
    words = [
        f"{len(found)} {how}{f' ({size(sum(entry.bytes for entry in found))})' if how != 'removed' else ''}"
        for how, found in counts.items()
        if found
    ]
    return f"files since: {', '.join(words)}"
