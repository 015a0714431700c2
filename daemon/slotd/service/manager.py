"""`org.slotd1.Manager`, the object at `/org/slotd1`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from slotd.errors import BadOption
from slotd.host.bus import Call
from slotd.service.api import Core
from slotd.service.interface import ROOT, Answer, Arg, Interface, Method, Property, Signal, app_path, job_path
from slotd.service.look import INSPECT_BACKUP, inspect_backup
from slotd.service.polkit import Authority
from slotd.service.verbs import (
    BY_NAME,
    HISTORY_LIMIT,
    HISTORY_ROWS_OUT,
    JOB,
    OPTIONS,
    VERBS,
    about_all,
    about_import,
    do,
    history,
    options_of,
    text_of,
)

_JOBS = Arg("jobs", "ao")

JOB_NEW = Signal("JobNew", (Arg("id", "t"), JOB, Arg("app", "s"), Arg("kind", "s")))
JOB_REMOVED = Signal("JobRemoved", (Arg("id", "t"), JOB, Arg("app", "s"), Arg("result", "s"), Arg("details", "a{sv}")))

INTERFACE = Interface(
    "org.slotd1.Manager",
    methods=(
        Method("ListApps", (), (Arg("apps", "a(ssssso)"),), is_read=True),
        Method("GetApp", (Arg("app", "s"),), (Arg("path", "o"),), is_read=True),
        *(verb.method(with_app=True) for verb in VERBS),
        Method(INSPECT_BACKUP.name, (Arg("app", "s"), *INSPECT_BACKUP.takes), INSPECT_BACKUP.gives, is_read=True),
        Method("CheckAll", (OPTIONS,), (_JOBS,)),
        Method("ApplyAll", (OPTIONS,), (_JOBS,)),
        Method("Import", (Arg("bundle", "h"), OPTIONS), (JOB,)),
        Method("ReportFailure", (Arg("unit", "s"), OPTIONS)),
        Method("ListJobs", (OPTIONS,), (Arg("jobs", "a(tssso)"),), is_read=True),
        Method("GetJob", (Arg("id", "t"),), (JOB,), is_read=True),
        Method("History", (Arg("app", "s"), HISTORY_LIMIT, OPTIONS), (HISTORY_ROWS_OUT,), is_read=True),
        Method("Reload"),
    ),
    properties=(Property("Version", "s", emits="const"), Property("NJobs", "u"), Property("Problems", "as")),
    signals=(JOB_NEW, JOB_REMOVED),
)


class ManagerNode:
    """The manager, as the bus sees it."""

    path = ROOT
    interface = INTERFACE

    def __init__(self, core: Core, authority: Authority) -> None:
        self._core = core
        self._authority = authority

    def values(self) -> Mapping[str, Any]:
        """See `Node.values`."""
        return {"Version": self._core.version, "NJobs": self._core.running(), "Problems": list(self._core.problems())}

    def call(self, method: Method, call: Call) -> Answer:
        """See `Node.call`."""
        if method.name in BY_NAME:
            app, *args = call.body[:-1]
            return do(self._core, self._authority, call, BY_NAME[method.name], app, args)
        match method.name:
            case "ListApps":
                return self._list_apps()
            case "GetApp":
                return [app_path(self._core.app(text_of(call.body[0], "the app's name", "GetApp")).name)]
            case "ListJobs":
                return self._list_jobs(call)
            case "GetJob":
                return [job_path(self._core.job(call.body[0]).id)]
            case INSPECT_BACKUP.name:
                return inspect_backup(self._core, self._authority, call, call.body[0])
            case "History":
                options_of(call.body[2], {}, "History")
                return history(self._core, call.body[0], call.body[1])
            case _:
                return self._change(method, call)

    def _list_apps(self) -> Sequence[Any]:
        return [
            [
                [
                    app.name,
                    app.version,
                    app.state.value,
                    app.available,
                    app.mode.value,
                    app_path(app.name),
                ]
                for app in self._core.apps()
            ]
        ]

    def _list_jobs(self, call: Call) -> Sequence[Any]:
        options = options_of(call.body[0], {"all": "b"}, "ListJobs")
        jobs = self._core.jobs(finished=options.get("all", False))
        return [[[job.id, job.app, job.kind.value, job.state.value, job_path(job.id)] for job in jobs]]

    def _change(self, method: Method, call: Call) -> Awaitable[Sequence[Any]]:
        """What changes something, and is not about one app."""
        if method.name not in ("Reload", "Import"):
            options_of(call.body[-1], {}, method.name)
        match method.name:
            case "CheckAll":
                return self._check_all(call)
            case "ApplyAll":
                return self._apply_all(call)
            case "ReportFailure":
                return self._report_failure(call, text_of(call.body[0], "the unit", method.name))
            case "Import":
                return self._import(call)
            case _:
                return self._reload(call)

    async def _check_all(self, call: Call) -> Sequence[Any]:
        await self._authority.require(call, about_all(call.member))
        return [[job_path(job) for job in await self._core.check_all()]]

    async def _apply_all(self, call: Call) -> Sequence[Any]:
        await self._authority.require(call, about_all(call.member))
        return [[job_path(job) for job in await self._core.apply_all()]]

    async def _report_failure(self, call: Call, unit: str) -> Sequence[Any]:
        await self._authority.require_root(call)  # slotd-failed@.service says it, and nobody else has to
        await self._core.report_failure(unit)
        return []

    async def _import(self, call: Call) -> Sequence[Any]:
        force = options_of(call.body[1], {"force": "b"}, call.member).get("force", False)
        await self._authority.require(call, about_import(force=force))
        if call.body[0] != 0 or len(call.fds) != 1:
            raise BadOption("cannot do Import: it takes one descriptor, of a file; or too many of them wait already.")
        uid = await self._authority.user(call)
        [descriptor] = call.take_fds()
        return [job_path(await self._core.start_import(descriptor, uid, force=force))]

    async def _reload(self, call: Call) -> Sequence[Any]:
        await self._authority.require(call, about_all(call.member))
        await self._core.reload()
        return []
