"""`check`, `update`, `rollback`, `backup`, `restore`: they start jobs and follow them."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slotd.cli.apps import suggest, suggest_backup
from slotd.cli.client import CHANGE_S, JOB, Client, Silent, Unreachable
from slotd.cli.out import DONE, NOTHING, Out, code_of, worst
from slotd.cli.tables import escape
from slotd.cli.views import Job
from slotd.cli.watch import Watch
from slotd.cli.words import exit_code
from slotd.errors import DataChoiceRequired, NoSuchApp, NoSuchBackup, SlotdError


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the Manager that starts a job (or several, when `app` is empty)."""

    app: str
    kind: str
    member: str
    signature: str
    body: tuple[Any, ...]
    fds: tuple[int, ...] = ()


def options(**values: str | bool | None) -> dict[str, Any]:
    """`a{sv}` options: strings and true flags; what was not given is left out."""
    from slotd.host.bus import Variant

    return {key: Variant("b" if value is True else "s", value) for key, value in values.items() if value}


async def check(client: Client, args: Namespace, out: Out) -> int:
    if args.all:
        return await run_jobs(client, args, out, [Request("", "check", "CheckAll", "a{sv}", ({},))])
    return await run_jobs(client, args, out, [Request(a, "check", "Check", "sa{sv}", (a, {})) for a in args.apps])


async def update(client: Client, args: Namespace, out: Out) -> int:
    if args.all:
        return await run_jobs(client, args, out, [Request("", "update", "ApplyAll", "a{sv}", ({},))])
    given = options(version=args.version, force=args.force, now=args.now)
    return await run_jobs(client, args, out, [Request(a, "update", "Update", "sa{sv}", (a, given)) for a in args.apps])


async def rollback(client: Client, args: Namespace, out: Out) -> int:
    def request(data: str) -> Request:
        given = options(data=data, to=args.to)
        return Request(args.app, "rollback", "Rollback", "sa{sv}", (args.app, given))

    return await run_jobs(client, args, out, [request(args.data or "")], ask=lambda error: _ask(error, out, request))


def _ask(error: SlotdError, out: Out, request: Callable[[str], Request]) -> Request | None:
    """On a terminal a person who has not said what happens to the data is told what there is, and asked."""
    if not isinstance(error, DataChoiceRequired) or out.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    out.line(escape(error.message))
    for line in error.hint.splitlines():
        out.line(f"  {escape(line)}")
    choices = {word[0]: word for word in ("restore", "keep") if f"--data={word}" in error.hint}
    asked = " or ".join(f"[{short}]{word[1:]}" for short, word in choices.items())
    try:
        answer = input(f"The data: {asked}? Anything else leaves all as it is: ").strip().lower()
    except EOFError:
        answer = ""
    chosen = next((word for short, word in choices.items() if answer in (short, word)), "")
    return request(chosen) if chosen else None


async def backup(client: Client, args: Namespace, out: Out) -> int:
    return await run_jobs(client, args, out, [Request(args.app, "backup", "Backup", "sa{sv}", (args.app, {}))])


async def restore(client: Client, args: Namespace, out: Out) -> int:
    from slotd.host.bus import Variant

    given = {"paths": Variant("as", list(args.paths))} if args.paths else {}
    body: tuple[Any, ...] = (args.app, args.id, given)
    return await run_jobs(client, args, out, [Request(args.app, "restore", "Restore", "ssa{sv}", body)])


async def adopt(client: Client, args: Namespace, out: Out) -> int:
    given = {"from": os.path.abspath(args.source)} if args.source else {}
    body = (args.app, options(version=args.version, **given))
    return await run_jobs(client, args, out, [Request(args.app, "adopt", "Adopt", "sa{sv}", body)])


async def release(client: Client, args: Namespace, out: Out) -> int:
    body = (args.app, options(present=args.present))
    return await run_jobs(client, args, out, [Request(args.app, "release", "Release", "sa{sv}", body)])


async def run_jobs(
    client: Client,
    args: Namespace,
    out: Out,
    requests: Sequence[Request],
    *,
    ask: Callable[[SlotdError], Request | None] = lambda _error: None,
) -> int:
    """Subscribes, calls, waits; says how each job ended. Gives the exit code for all of them.

    `ask` may turn a refusal into another request, by asking a person.
    """
    watch = Watch(client, out)
    refused: list[Job] = []
    paths: list[str] = []
    whose = "a bundle" if requests[0].kind == "import" else "all apps"
    watch.screen.begin(f"{requests[0].kind} {', '.join(escape(r.app) for r in requests) or whose} …")
    with watch.until_interrupted(refused, paths):
        if not args.no_wait:
            await watch.start()
        for request in requests:
            try:
                answer = await _call(client, request, ask, watch)
            except Unreachable as error:
                if isinstance(error, Silent):
                    error.hint = f"`slotctl jobs` shows whether a job was started all the same. {error.hint}"
                raise
            except SlotdError as error:
                refused.append(await _refused(client, request, error))
            else:
                paths += [str(path) for path in answer] if isinstance(answer, list) else [str(answer)]
        if args.no_wait:
            ended = [Job.of(await client.properties(path, JOB)) for path in paths]
        else:
            ended = await watch.to_the_end(paths)
    watch.document(refused, ended)
    return _report(out, requests, refused, ended, waited=not args.no_wait)


async def _call(client: Client, request: Request, ask: Callable[[SlotdError], Request | None], watch: Watch) -> Any:
    try:
        return await client.call(request.member, request.signature, request.body, timeout_s=CHANGE_S, fds=request.fds)
    except SlotdError as error:
        watch.screen.close()
        other = ask(error)
        if other is None:
            raise
    return await client.call(other.member, other.signature, other.body, timeout_s=CHANGE_S)


async def _refused(client: Client, request: Request, error: SlotdError) -> Job:
    if isinstance(error, NoSuchApp):
        error = await suggest(client, request.app, error)
    elif isinstance(error, NoSuchBackup) and request.kind in ("restore", "verify"):
        error = await suggest_backup(client, request.app, str(request.body[1]), error)
    return Job(
        id=0,
        app=request.app,
        kind=request.kind,
        state="refused",
        error_name=error.name,
        error_message=error.message,
        error_hint=error.hint,
    )


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
        name = escape(job.whose)
        out.line(f"{name}: {escape(job.kind)} started as job {job.id}; `slotctl follow {job.id}` shows it")
    return worst([*codes, *(DONE for _ in ended)])
