"""`InspectBackup`, of the manager and of an app: names of files and words of commands, which not everybody may see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slotd.data import Entry
from slotd.data.listing import spelt
from slotd.host.bus import Call, Variant
from slotd.model import Backup
from slotd.service.api import Core
from slotd.service.interface import Arg, Method, seconds, variant
from slotd.service.polkit import Authority
from slotd.service.verbs import OPTIONS, ask_inspect, options_of, text_of

INSPECT_OPTIONS = {"diff": "b", "offset": "t"}
INSPECT_BACKUP = Method(
    "InspectBackup", (Arg("backup", "s"), OPTIONS), (Arg("about", "a{sv}"), Arg("entries", "aa{sv}")), is_read=True
)


async def inspect_backup(core: Core, authority: Authority, call: Call, app: str) -> Sequence[Any]:
    """One page of what a copy holds, or of what has changed since."""
    verb = INSPECT_BACKUP.name
    backup = text_of(call.body[-2], "the backup", verb)
    options = options_of(call.body[-1], INSPECT_OPTIONS, verb)
    view = core.app(text_of(app, "the app's name", verb))
    await authority.require(call, ask_inspect(view, [backup], options))
    found = await core.inspect_backup(
        view.name, backup, diff=options.get("diff", False), offset=options.get("offset", 0)
    )
    about = backup_of(found.backup) | {
        "said": Variant("aa{sv}", [{key: variant(value) for key, value in each.items()} for each in found.said]),
        "entries": variant(found.total),
        "entry_bytes": variant(found.total_bytes),
        "next": variant(found.next),
    }
    return [about, [_entry(how, entry) for how, entry in found.entries]]


def _entry(how: str, entry: Entry) -> dict[str, Any]:
    told = {
        "path": variant(spelt(entry.path)),
        "kind": variant(entry.kind),
        "mode": variant(entry.mode),
        "bytes": variant(entry.bytes),
        "mtime": variant(seconds(entry.mtime)),
        "digest": variant(spelt(entry.digest)),
    }
    return told | ({"change": variant(how)} if how else {})


def backup_of(backup: Backup) -> dict[str, Any]:
    return {
        "id": variant(backup.id),
        "kind": variant(backup.kind),
        "version": variant(backup.version),
        "reason": variant(backup.reason),
        "created": variant(seconds(backup.created_at)),
        "bytes": variant(backup.bytes),
        "path": variant(backup.path),
        "sealed": variant(backup.sealed),
        "job": variant(backup.job),
    }
