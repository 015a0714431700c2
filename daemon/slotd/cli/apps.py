"""`list`, `status`, `history`, `reload`: what there is and what happened."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from math import ceil

from slotd.cli.client import APP, CHANGE_S, JOB, MANAGER, OBJECTS, ROOT, Client, Gone
from slotd.cli.out import DONE, Out
from slotd.cli.tables import STATE_COLOURS, Cell, coarse, escape, moment, relative, short_moment
from slotd.cli.views import App, Event, Job
from slotd.core.words import duration, size
from slotd.errors import NoSuchApp, NoSuchBackup, NoSuchJob, SlotdError

RECENT = 5  # events that `status APP` shows
LOOKED_AT = 50  # events that those are chosen from: what is told again and again is shown once

_NONE = "-"
_KEYS = ("name", "version", "state", "available", "mode")  # of ListApps


async def load_app(client: Client, name: str) -> App:
    """An app with all its properties; raises NoSuchApp, with a name that is close if there is one."""
    try:
        path = str(await client.call("GetApp", "s", [name]))
    except NoSuchApp as error:
        raise await suggest(client, name, error) from None
    return App.of(await client.properties(path, APP))


async def suggest(client: Client, name: str, error: NoSuchApp) -> NoSuchApp:
    """`error` with a hint that names an app spelt like `name`, or where definitions go."""
    from difflib import get_close_matches

    names = [str(row[0]) for row in await client.call("ListApps")]
    close = get_close_matches(name, names, n=1)
    if close:
        error.hint = f"Did you mean {close[0]}?"
    elif names:
        error.hint = error.hint or "`slotctl list` shows all."
    else:
        error.hint = "No app is defined yet; a definition is a file like /etc/slotd/apps.d/NAME.toml."
    return error


async def suggest_backup(client: Client, app: str, wrong: str, error: NoSuchBackup) -> NoSuchBackup:
    """`error` with a hint that names the backup that could have been meant."""
    from difflib import get_close_matches

    try:
        ids = [backup.id for backup in (await load_app(client, app)).backups]
    except SlotdError:
        return error
    close = [each for each in ids if each.startswith(wrong)] or get_close_matches(wrong, ids, n=1)
    if close:
        error.hint = f"Did you mean {close[0]}?\n{error.hint}".strip()
    return error


async def all_apps(client: Client) -> tuple[list[App], list[Job]]:
    """All apps and all jobs that have an object now, in one call."""
    found = await client.call("GetManagedObjects", interface=OBJECTS)
    objects = found.values() if isinstance(found, dict) else ()
    apps = [App.of(interfaces[APP]) for interfaces in objects if APP in interfaces]
    jobs = [Job.of(interfaces[JOB]) for interfaces in objects if JOB in interfaces]
    return sorted(apps, key=lambda a: a.name), sorted(jobs, key=lambda j: j.id)


async def list_apps(client: Client, args: Namespace, out: Out) -> int:
    everything = await _listed(client)
    rows = [row for row in everything if args.state in (None, row[2])]
    out.document(_documents(rows))
    if not everything:
        _say_none(out)
    elif not rows:
        out.line(f"No app is in the state {args.state}.")
    else:
        out.table(("NAME", "VERSION", "STATE", "AVAILABLE", "MODE"), [_row(*row) for row in rows])
    return DONE


async def _listed(client: Client) -> list[list[str]]:
    return [[str(field) for field in row[: len(_KEYS)]] for row in await client.call("ListApps")]


def _documents(rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(_KEYS, row, strict=True)) for row in rows]


async def reload(client: Client, args: Namespace, out: Out) -> int:
    await client.call("Reload", timeout_s=CHANGE_S)
    rows = await _listed(client)
    out.document(_documents(rows))
    if not rows:
        _say_none(out)
    else:
        out.line(f"The definitions were read: {len(rows)} app{'s' if len(rows) > 1 else ''}.")
    for name, _version, state, *_ in rows:
        if state == "misconfigured":
            out.line(out.look.paint(f"{escape(name)}: misconfigured; `slotctl verify {escape(name)}` says why", "red"))
    for problem in await _problems(client):
        out.line(out.look.paint(escape(problem), "red"))
    return DONE


async def _problems(client: Client) -> list[str]:
    """What is wrong with slotd.toml."""
    said = (await client.properties(ROOT, MANAGER)).get("Problems")
    return [problem for problem in said if isinstance(problem, str)] if isinstance(said, list) else []


def _row(name: str, version: str, state: str, available: str, mode: str) -> Sequence[str | Cell]:
    newer = available if available != version else ""
    return (name, version or _NONE, Cell(state, STATE_COLOURS.get(state, "")), newer or _NONE, mode)


def _say_none(out: Out) -> None:
    out.line("No app is defined. A definition is a file like /etc/slotd/apps.d/NAME.toml; see slotd-app.toml(5).")
    out.line("After writing one: `slotctl verify NAME`, then `slotctl reload`.")


async def status(client: Client, args: Namespace, out: Out) -> int:
    if args.app is None:
        return await _overview(client, out)
    app = await load_app(client, args.app)
    events = await _events(client, args.app, LOOKED_AT)
    job = await _running_job(client, args.app)
    out.document(app.json() | {"job": job.json() if job else None, "history": [e.json() for e in events[-RECENT:]]})
    show(app, job, events, out)
    return DONE


async def _overview(client: Client, out: Out) -> int:
    apps, jobs = await all_apps(client)
    jobs = [job for job in jobs if not job.is_finished]
    problems = await _problems(client)
    documents = {"apps": [app.json() for app in apps], "jobs": [job.json() for job in jobs], "problems": problems}
    out.document(documents)
    now = out.now()
    if not apps:
        _say_none(out)
    else:
        _show_all(apps, now, out)
    notes = _notes(apps, jobs, now, out)
    notes += [out.look.paint(escape(problem), "red") for problem in problems]
    if problems:
        notes.append("  `slotctl verify` checks it again; when it is mended, `slotctl reload`.")
    if notes:
        out.line()
    for note in notes:
        out.line(note)
    return DONE


def _show_all(apps: Sequence[App], now: float, out: Out) -> None:
    head = ("NAME", "VERSION", "STATE", "AVAILABLE", "MODE", "CHECKED")
    out.table(
        head, [(*_row(a.name, a.version, a.state, a.available, a.mode), relative(a.last_check, now)) for a in apps]
    )


def _notes(apps: Sequence[App], jobs: Sequence[Job], now: float, out: Out) -> list[str]:
    """What to know beyond the table, a line each."""
    notes = [
        f"{escape(j.app)}: job {j.id} {escape(j.kind)} is at {escape(j.step or j.state)}, {j.progress} %" for j in jobs
    ]
    for app in apps:
        name = escape(app.name)
        if app.trial:
            notes.append(f"{name}: {_trial(app, now)}")
        if app.held:
            notes.append(f"{name}: held{': ' + escape(app.hold_reason) if app.hold_reason else ''}")
        if app.last_error:
            first, *more = app.last_error.splitlines()
            rest = f" (and {len(more)} more, see `slotctl status {name}`)" if more else ""
            notes.append(f"{name}: {out.look.paint(escape(first), 'red')}{rest}")
    return notes


async def _events(client: Client, name: str, limit: int) -> list[Event]:
    rows = await client.call("History", "sua{sv}", [name, limit, {}])
    return sorted((Event.of(row) for row in rows), key=lambda e: (e.at or 0.0, e.id))


async def _running_job(client: Client, name: str) -> Job | None:
    for _id, app, _kind, _state, path in await client.call("ListJobs", "a{sv}", [{}]):
        if app == name:
            try:
                job = Job.of(await client.properties(path, JOB))
            except (Gone, NoSuchJob):
                continue
            if not job.is_finished:
                return job
    return None


def _trial(app: App, now: float) -> str:
    """`1.1 is on trial, 7 min 58 s left, 3 attempts left`."""
    trial = app.trial
    if trial is None:
        return ""
    parts = [f"{escape(trial.version)} is on trial"]
    if trial.deadline:
        left = trial.deadline - now
        parts.append(f"{duration(ceil(left))} left" if left > 0 else "about to be decided")
    parts.append(f"{trial.attempts_left} attempt{'' if trial.attempts_left == 1 else 's'} left")
    return ", ".join(parts)


def show(app: App, job: Job | None, events: Sequence[Event], out: Out) -> None:
    """Prints `status APP`."""
    now, look, name = out.now(), out.look, escape(app.name)
    title = look.paint(look.bullet, STATE_COLOURS.get(app.state, "")) + " " + look.paint(name, "bold")
    out.line(title + (f" - {escape(app.description)}" if app.description else ""))

    def field(label: str, value: str) -> None:
        if value:
            out.line(f"{label:>12}{':' if label else ' '} {value}", indent=14)

    field("State", look.state(app.state))
    field("Version", _where(app.version, app.slot) or _no_version(app))
    field("Before", _where(app.previous_version, app.previous_slot))
    field("Trial", _trial(app, now))
    if job is not None:
        step = f" at step {escape(job.step)}" if job.step else f" {escape(job.state)}"
        field("Job", f"{job.id} {escape(job.kind)}{step}, {job.progress} %")
    if app.available and app.available != app.version:
        field("Available", escape(app.available) + _next(app, name))
    if app.approved != app.available:
        field("Approved", escape(app.approved))
    field("Mode", escape(app.mode))
    field("Hold", (escape(app.hold_reason) or "yes") if app.held else "")
    field("Units", ", ".join(escape(u) for u in app.units))
    checked = f" ({moment(app.last_check)})" if app.last_check else ""
    field("Last check", relative(app.last_check, now) + checked)
    for number, problem in enumerate(app.last_error.splitlines()):
        field("" if number else "Last error", look.paint(escape(problem), "red"))
    field("Backups", _backups(app, now))
    if events:
        out.line()
        out.line("Recent history:")
        for event, count in once_each(events)[-RECENT:]:
            at = short_moment(event.at or 0.0, now)
            again = f" ({count} times)" if count > 1 else ""
            out.line(f"  {at}  {escape(event.message or event.kind)}{again}", indent=len(at) + 4)


def once_each(events: Sequence[Event]) -> list[tuple[Event, int]]:
    """Events, oldest first; what was told again at once in the same words is one, when it was told last, and how often.

    What happened between two alike keeps them apart: it may be the whole point.
    """
    runs: list[tuple[Event, int]] = []
    for event in events:
        before, count = runs[-1] if runs else (event, 0)
        if (before.kind, before.message) == (event.kind, event.message):
            runs[len(runs) - bool(runs) :] = [(event, count + 1)]
        else:
            runs.append((event, 1))
    return runs


def _no_version(app: App) -> str:
    return "not known until the definition is mended" if app.state == "misconfigured" else "nothing is installed"


def _where(version: str, slot: str) -> str:
    return escape(version) + (f" in slot {escape(slot)}" if slot else "") if version else ""


def _next(app: App, name: str) -> str:
    """What a person may do about the available version."""
    version = escape(app.available)
    if app.held:
        return f" (held: `slotctl unhold {name}`)"
    if app.state == "awaiting-approval":
        return f" (`slotctl approve {name} {version}`)"
    is_due = app.version and (app.mode == "auto" or (app.mode == "approve" and app.approved == app.available))
    approved = "approved; " if app.approved == app.available else ""
    return f" ({approved}{'slotd-apply.timer installs it, or now: ' if is_due else ''}`slotctl update {name}`)"


def _backups(app: App, now: float) -> str:
    saved = [b for b in app.backups if b.kind != "quarantine"]
    aside = len(app.backups) - len(saved)
    if not app.backups:
        return "none"
    text = str(len(saved) or "none")
    if saved:
        newest = saved[0]
        old = f", {coarse(max(now - newest.created, 0))} old" if newest.created else ""
        text += f", newest {escape(newest.id)} (of {escape(newest.version) or 'no version'}, {size(newest.bytes)}{old})"
    return text + (f"; {aside} set aside by rollbacks or restores" if aside else "")


async def history(client: Client, args: Namespace, out: Out) -> int:
    events = await _events(client, args.app or "", args.limit)
    out.document([e.json() for e in events])
    now = out.now()
    if not events:
        out.line(f"Nothing has happened to {escape(args.app)} yet." if args.app else "Nothing has happened yet.")
        return DONE
    head = ["TIME", "JOB", "EVENT", "MESSAGE"] if args.app else ["TIME", "APP", "JOB", "EVENT", "MESSAGE"]
    rows = []
    for e in events:
        row = [short_moment(e.at or 0.0, now), str(e.job or _NONE), e.kind, e.message]
        rows.append(row if args.app else [row[0], e.app, *row[1:]])
    out.table(head, rows)
    return DONE
