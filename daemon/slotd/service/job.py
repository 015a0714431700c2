"""`org.slotd1.Job`, one object for each job at `/org/slotd1/job/N`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slotd.errors import BUS_PREFIX
from slotd.host.bus import Call
from slotd.service.api import Core
from slotd.service.interface import Answer, Interface, Method, Property, job_path, seconds
from slotd.service.polkit import Authority
from slotd.service.verbs import about_job

INTERFACE = Interface(
    "org.slotd1.Job",
    methods=(Method("Cancel"),),
    properties=(
        Property("Id", "t", emits="const"),
        Property("App", "s", emits="const"),
        Property("Kind", "s", emits="const"),
        Property("State", "s"),
        Property("Step", "s"),
        Property("Progress", "u"),
        Property("Result", "s"),
        Property("Error", "(ss)"),
        Property("Version", "s"),
        Property("PreviousVersion", "s"),
        Property("Started", "t", emits="const"),
        Property("Finished", "t"),
    ),
)


class JobNode:
    """One job, as the bus sees it: running, finished, or called up again from history."""

    interface = INTERFACE

    def __init__(self, core: Core, authority: Authority, job_id: int) -> None:
        self.path = job_path(job_id)
        self.id = job_id
        self._core = core
        self._authority = authority
        self._progress = 0

    def values(self) -> Mapping[str, Any]:
        """See `Node.values`. The progress never falls, whatever the steps report."""
        job = self._core.job(self.id)
        self._progress = max(self._progress, min(max(job.progress, 0), 100))
        error_name = job.error_name if not job.error_name or "." in job.error_name else BUS_PREFIX + job.error_name
        return {
            "Id": job.id,
            "App": job.app,
            "Kind": job.kind.value,
            "State": job.state.value,
            "Step": job.step,
            "Progress": self._progress,
            "Result": job.result.value,
            "Error": [error_name, job.error_message],
            "Version": job.version,
            "PreviousVersion": job.previous_version,
            "Started": seconds(job.started_at),
            "Finished": seconds(job.finished_at),
        }

    def call(self, method: Method, call: Call) -> Answer:
        """See `Node.call`."""
        return self._cancel(call)

    async def _cancel(self, call: Call) -> Sequence[Any]:
        job = self._core.job(self.id)
        await self._authority.require(call, about_job(job))
        await self._core.cancel(self.id)
        return []
