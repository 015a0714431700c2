"""`check`, `update`, `rollback`, `backup`, `restore`: they start jobs and follow them. And `jobs`, `cancel`."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slotd.cli.apps import load_app, suggest
from slotd.cli.client import CHANGE_S, JOB, Client, Gone, Unreachable
from slotd.cli.follow import Follower
from slotd.cli.out import DONE, NOTHING, Out, code_of, worst
from slotd.cli.progress import screen
from slotd.cli.tables import STATE_COLOURS, Cell, duration, escape, relative, warn
from slotd.cli.views import App, Job
from slotd.cli.words import exit_code, summary
from slotd.errors import NoSuchApp, SlotdError

# The steps before the app is stopped; `Cancel` is refused later.
CANCELLABLE = ("", "resolve", "delay", "fetch", "verify", "stage", "compare", "preserve")


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the Manager that starts a job (or several, when `app` is empty)."""

    app: str
    kind: str
    member: str
    signature: str
    body: tuple[Any, ...]


def options(**values: str | bool | None) -> dict[str, Any]:
    """`a{sv}` options: strings and true flags; what was not given is left out."""
    from slotd.host.bus import Variant

    return {key: Variant("b" if value is True else "s", value) for key, value in values.items() if value}


async def check(client: Client, args: Namespace, out: Out) -> int:
    if args.all:
        return await _run(client, args, out, [Request("", "check", "CheckAll", "a{sv}", ({},))])
    return await _run(client, args, out, [Request(a, "check", "Check", "sa{sv}", (a, {})) for a in args.apps])


async def update(client: Client, args: Namespace, out: Out) -> int:
    if args.all:
        return await _run(client, args, out, [Request("", "update", "ApplyAll", "a{sv}", ({},))])
    given = options(version=args.version, force=args.force, now=args.now)
    return await _run(client, args, out, [Request(a, "update", "Update", "sa{sv}", (a, given)) for a in args.apps])


async def rollback(client: Client, args: Namespace, out: Out) -> int:
    given = options(data=args.data, to=args.to)
    return await _run(client, args, out, [Request(args.app, "rollback", "Rollback", "sa{sv}", (args.app, given))])


async def backup(client: Client, args: Namespace, out: Out) -> int:
    return await _run(client, args, out, [Request(args.app, "backup", "Backup", "sa{sv}", (args.app, {}))])


async def restore(client: Client, args: Namespace, out: Out) -> int:
    body: tuple[Any, ...] = (args.app, args.id, {})
    return await _run(client, args, out, [Request(args.app, "restore", "Restore", "ssa{sv}", body)])


async def _run(client: Client, args: Namespace, out: Out, requests: Sequence[Request]) -> int:
    """Subscribes, calls, waits; says how each job ended. Gives the exit code for all of them."""
    shown = screen(out)
    follower = Follower(client, shown, out.now)
    refused: list[Job] = []
    apps: dict[str, App | None] = {}  # as they were when their jobs had ended
    paths: list[str] = []
    shown.begin(f"{requests[0].kind} {', '.join(escape(r.app) for r in requests) or 'all apps'} …")
    try:
        if not args.no_wait:
            await follower.start()
        for request in requests:
            try:
                answer = await client.call(request.member, request.signature, request.body, timeout_s=CHANGE_S)
            except Unreachable:
                raise
            except SlotdError as error:
                refused.append(await _refused(client, request, error))
            else:
                paths += [str(path) for path in answer] if isinstance(answer, list) else [str(answer)]
        if args.no_wait:
            ended = [Job.of(await client.properties(path, JOB)) for path in paths]
        else:

            async def tell(job: Job) -> None:
                app = apps[job.app] = await _app_after(client, job)
                sentence, hint = summary(job, app)
                failed = exit_code(job) not in (DONE, NOTHING)
                for line in (sentence, *(f"  {line}" for line in hint.splitlines())):
                    shown.note(line, error=failed)

            ended = await follower.finish(paths, tell)
    except asyncio.CancelledError:
        shown.close()
        _say_how_to_follow(follower, paths)
        raise
    finally:
        shown.close()
    out.document({"jobs": [_document(job, apps.get(job.app)) for job in [*refused, *ended]]})
    return _report(out, requests, refused, ended, waited=not args.no_wait)


async def _refused(client: Client, request: Request, error: SlotdError) -> Job:
    if isinstance(error, NoSuchApp):
        error = await suggest(client, request.app, error)
    return Job(
        id=0,
        app=request.app,
        kind=request.kind,
        state="refused",
        error_name=error.name,
        error_message=error.message,
        error_hint=error.hint,
    )


async def _app_after(client: Client, job: Job) -> App | None:
    """The app as it is now, for the summary; its absence costs details only."""
    try:
        return await load_app(client, job.app)
    except SlotdError:
        return None


def _document(job: Job, app: App | None) -> dict[str, Any]:
    """A job with what is installed and available after it (null if it was not waited for)."""
    return job.json() | {"installed": app.version if app else None, "available": app.available if app else None}


def _report(out: Out, requests: Sequence[Request], refused: list[Job], ended: list[Job], *, waited: bool) -> int:
    for job in refused:
        is_named = len(requests) == 1 or job.app in job.error_message
        out.complain(job.error_message if is_named else f"{job.app}: {job.error_message}", job.error_hint)
    if not refused and not ended:
        is_update = requests[0].kind == "update"
        what = "no release is known that may be applied by itself" if is_update else "no app can be checked"
        out.line(f"Nothing to do: {what}.")
        return NOTHING
    codes = [code_of(job.error_name) for job in refused]
    if waited:
        return worst(codes + [exit_code(job) for job in ended])
    for job in ended:
        name = escape(job.app)
        out.line(f"{name}: {escape(job.kind)} started as job {job.id}; follow it with `slotctl monitor {name}`")
    return worst([*codes, *(DONE for _ in ended)])


def _say_how_to_follow(follower: Follower, paths: Sequence[str]) -> None:
    """After Ctrl-C: the job belongs to the daemon and goes on."""
    warn("")
    if not follower.running:
        if not paths:
            warn("Interrupted; `slotctl jobs` shows whether a job was started.")
        return
    for job in follower.running.values():
        name = escape(job.app)
        if job.step == "trial":
            warn(f"{name}: {escape(job.version)} stays on trial; job {job.id} goes on watching it.")
        else:
            warn(f"{name}: the {escape(job.kind)} goes on as job {job.id}.")
        warn(f"  Follow it with `slotctl monitor {name}` or `slotctl status {name}`.")
        if job.step in CANCELLABLE:
            warn(f"  Stop it with `slotctl cancel {job.id}`.")


async def jobs(client: Client, args: Namespace, out: Out) -> int:
    rows = await client.call("ListJobs", "a{sv}", [options(all=args.all)])
    found = [await _job(client, row) for row in sorted(rows)[-args.limit :]]
    out.document([job.json() for job in found])
    if not found:
        out.line(
            "No job runs now. `slotctl jobs --all` shows finished ones." if not args.all else "No job has run yet."
        )
        return DONE
    now = out.now()
    out.table(
        ("ID", "APP", "KIND", "STATE", "STEP", "VERSION", "STARTED", "TOOK"),
        [
            (
                str(j.id),
                j.app,
                j.kind,
                Cell(j.result or j.state, STATE_COLOURS.get(j.result or j.state, "")),
                _step(j),
                j.version or "-",
                relative(j.started, now),
                duration(j.took_s) if j.took_s is not None else "-",
            )
            for j in found
        ],
    )
    return DONE


def _step(job: Job) -> str:
    """Where a job is, or where it failed."""
    if job.state == "done" or not job.step:
        return "-"
    return job.step if job.is_finished else f"{job.step} {job.progress} %"


async def _job(client: Client, row: Sequence[Any]) -> Job:
    """A row of ListJobs with the rest of the job's properties, if it still has an object."""
    number, app, kind, state, path = row
    try:
        return Job.of(await client.properties(path, JOB))
    except Gone:
        return Job(id=number, app=app, kind=kind, state=state)


async def cancel(client: Client, args: Namespace, out: Out) -> int:
    path = str(await client.call("GetJob", "t", [args.job]))
    before = Job.of(await client.properties(path, JOB))
    await client.call("Cancel", interface=JOB, path=path, timeout_s=CHANGE_S)
    out.document({"job": args.job, "app": before.app, "cancelled": True})
    out.line(f"{escape(before.app)}: {escape(before.kind)}, job {args.job}, is being cancelled")
    return DONE
