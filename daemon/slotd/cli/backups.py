"""`backups`: the saved copies of an app's data, what one holds, what has changed since, and whether they are whole."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from slotd.cli.apps import load_app, suggest_backup
from slotd.cli.client import CHANGE_S, Client
from slotd.cli.jobs import Request, run_jobs
from slotd.cli.out import DONE, Out
from slotd.cli.tables import Cell, escape, iso, relative, short_moment
from slotd.cli.views import Backup, number, text, when
from slotd.core.words import size
from slotd.errors import NoSuchBackup

_COLOURS = {"added": "green", "changed": "yellow", "removed": "red"}
_NONE = "-"


async def backups(client: Client, args: Namespace, out: Out) -> int:
    """Lists them all, or looks into one, or reads them again."""
    if args.verify:
        request = Request(args.app, "verify", "VerifyBackup", "ssa{sv}", (args.app, args.id or "", {}))
        return await run_jobs(client, args, out, [request])
    if args.id:
        return await _look(client, args, out)
    app = await load_app(client, args.app)
    out.document([b.json() for b in app.backups])
    now = out.now()
    if not app.backups:
        out.line(f"{escape(app.name)} has no backups. `slotctl backup {escape(app.name)}` makes one.")
        return DONE
    rows = [(b.id, b.kind, _whose(b), relative(b.created, now), size(b.bytes), b.reason) for b in app.backups]
    out.table(("ID", "KIND", "VERSION", "MADE", "SIZE", "REASON"), rows)
    return DONE


def _whose(backup: Backup) -> str:
    """The version that wrote the data; of what was there before slotd installed any, that."""
    return backup.version or ("none yet" if backup.kind == "backup" else _NONE)


async def _look(client: Client, args: Namespace, out: Out) -> int:
    about, entries = await _pages(client, args.app, args.id, diff=args.diff)
    backup, said = Backup.of(about), [each for each in about.get("said", []) if isinstance(each, dict)]
    document = backup.json() | {"said": [_said(each) for each in said]}
    out.document(document | {"changes" if args.diff else "entries": [_json(each) for each in entries]})
    now = out.now()
    whose = f"of {escape(backup.version)}" if backup.version else "of what was there before the first version"
    made = f"{escape(backup.kind)} {whose}, made {relative(backup.created, now)}"
    out.line(f"{escape(backup.id)}: {made} ({escape(backup.reason)}), {size(backup.bytes)}")
    for each in said:
        told = _said(each)
        how = f" (ended with status {told['status']})" if told["status"] else ""
        out.line(f"{escape(told['when'])}: {escape(told['command'])}{how}", indent=4)
        for line in told["output"].splitlines():
            out.line(f"    {escape(line)}", indent=6)
    out.line()
    if args.diff and not entries:
        out.line("Nothing has changed since.")
        return DONE
    rows = [_row(each, now, diff=args.diff) for each in entries]
    first = "CHANGE" if args.diff else "MODE"
    out.table((first, "SIZE", "LAST CHANGE", "PATH"), rows)
    return DONE


async def _pages(client: Client, app: str, backup: str, *, diff: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All pages of a look. Raises NoSuchBackup, with the id that could have been meant."""
    from slotd.host.bus import Variant

    entries: list[dict[str, Any]] = []
    offset = 0
    while True:
        options = {"diff": Variant("b", diff), "offset": Variant("t", offset)}
        try:
            answer = await client.call("InspectBackup", "ssa{sv}", [app, backup, options], timeout_s=CHANGE_S)
        except NoSuchBackup as error:
            raise await suggest_backup(client, app, backup, error) from None
        about, page = answer
        entries += page
        offset = number(about, "next")
        if not offset or not page:
            return about, entries


def _said(values: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {key: text(values, key) for key in ("when", "command", "output")}
    return told | {"status": number(values, "status")}


def _json(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {key: text(values, key) for key in ("path", "kind", "digest")}
    plain |= {"mode": f"{number(values, 'mode'):04o}", "bytes": number(values, "bytes")}
    plain |= {"mtime": iso(when(values, "mtime"))}
    return plain | ({"change": text(values, "change")} if "change" in values else {})


def _row(values: dict[str, Any], now: float, *, diff: bool) -> tuple[str | Cell, ...]:
    kind, at = text(values, "kind"), when(values, "mtime")
    sign = {"directory": "d", "link": "l"}.get(kind, "-")
    first: str | Cell = f"{sign}{number(values, 'mode'):04o}"
    if diff:
        change = text(values, "change")
        first = Cell(change, _COLOURS.get(change, ""))
    leads = f" -> {text(values, 'digest')}" if kind == "link" and text(values, "digest") else ""
    bytes_ = size(number(values, "bytes")) if kind == "file" else _NONE
    return first, bytes_, short_moment(at, now) if at else _NONE, text(values, "path") + leads
