"""`jobs`, `follow`, `cancel`: jobs that run, whoever started them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from slotd.cli.apps import load_app
from slotd.cli.client import CHANGE_S, JOB, Client, Gone
from slotd.cli.out import DONE, NOTHING, Out, worst
from slotd.cli.tables import STATE_COLOURS, Cell, escape, relative
from slotd.cli.views import Job
from slotd.cli.watch import Watch
from slotd.cli.words import exit_code
from slotd.core.words import duration
from slotd.errors import NoSuchJob

_NONE_RUNS = "No job runs now. `slotctl jobs --all` shows finished ones."


def _all() -> dict[str, Any]:
    from slotd.host.bus import Variant

    return {"all": Variant("b", True)}


async def jobs(client: Client, args: Namespace, out: Out) -> int:
    rows = await client.call("ListJobs", "a{sv}", [_all() if args.all else {}])
    found = [await _job(client, row) for row in sorted(rows)[-args.limit :]]
    out.document([job.json() for job in found])
    if not found:
        out.line("No job has run yet." if args.all else _NONE_RUNS)
        return DONE
    now = out.now()
    out.table(
        ("ID", "APP", "KIND", "STATE", "STEP", "VERSION", "STARTED", "TOOK"),
        [
            (
                str(j.id),
                j.whose,
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


async def follow(client: Client, args: Namespace, out: Out) -> int:
    """Shows jobs to their ends, as the command that started them would; gives the exit code that it would give."""
    watch = Watch(client, out)
    await watch.start()
    paths: list[str] = []
    for word in args.what or [""]:
        paths += await _paths(client, word)
    if not paths:
        out.document({"jobs": []})
        names = ", ".join(escape(word) for word in args.what)
        story = f"`slotctl history {escape(args.what[0])}` shows what happened" if names else ""
        out.line(f"{names}: no job runs now; {story}" if names else _NONE_RUNS)
        return NOTHING
    paths = list(dict.fromkeys(paths))
    with watch.until_interrupted((), paths):
        ended = await watch.to_the_end(paths)
    watch.document((), ended)
    return worst(exit_code(job) for job in ended)


async def _paths(client: Client, word: str) -> list[str]:
    """The job of a number, finished or not; or what runs of an app; or all that runs, for an empty word."""
    if word.isascii() and word.isdigit():
        return [await _path_of(client, int(word))]
    rows = await client.call("ListJobs", "a{sv}", [{}])
    found = [str(row[4]) for row in rows if word in ("", row[1])]
    if word and not found:
        await load_app(client, word)  # an app that is not there is told as such
    return found


async def _path_of(client: Client, number: int) -> str:
    """The path of a job by its number; raises NoSuchJob with what could have been meant."""
    try:
        return str(await client.call("GetJob", "t", [min(number, 2**63 - 1)]))
    except NoSuchJob as error:
        running = await client.call("ListJobs", "a{sv}", [{}])
        now = ", ".join(f"{job} ({kind} of {app})" for job, app, kind, *_ in sorted(running)[:5])
        if now:
            error.hint = f"Running now: {now}."
        raise


async def cancel(client: Client, args: Namespace, out: Out) -> int:
    path = await _path_of(client, args.job)
    before = Job.of(await client.properties(path, JOB))
    await client.call("Cancel", interface=JOB, path=path, timeout_s=CHANGE_S)
    out.document({"job": args.job, "app": before.app, "cancelled": True})
    out.line(f"{escape(before.app)}: {escape(before.kind)}, job {args.job}, is being cancelled")
    return DONE
