"""Jobs on the screen until they end, whoever started them; and what is said when a person does not wait that long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from slotd.cli.apps import load_app
from slotd.cli.client import Client
from slotd.cli.follow import Follower
from slotd.cli.out import DONE, NOTHING, Out
from slotd.cli.progress import screen
from slotd.cli.tables import escape
from slotd.cli.views import App, Job
from slotd.cli.words import exit_code, summary
from slotd.errors import SlotdError

# The steps before the app is stopped; `Cancel` is refused later.
CANCELLABLE = ("", "resolve", "delay", "fetch", "verify", "stage", "compare", "preserve")


class Watch:
    """`start` before the jobs, `to_the_end` with their paths. `ended` are those that were seen to end."""

    def __init__(self, client: Client, out: Out) -> None:
        self.screen = screen(out)
        self.ended: list[Job] = []
        self._follower = Follower(client, self.screen, out.now)
        self._client = client
        self._out = out
        self._apps: dict[str, App | None] = {}  # as they were when their jobs had ended

    async def start(self) -> None:
        """Subscribes, so that nothing of a job that is started after this is missed."""
        await self._follower.start()

    async def to_the_end(self, paths: Sequence[str]) -> list[Job]:
        """All jobs at their ends, in the order given; how each ended has been said."""
        return await self._follower.finish(list(paths), self._tell)

    async def _tell(self, job: Job) -> None:
        self.ended.append(job)
        app: App | None = None
        with suppress(SlotdError):  # costs details only
            app = await load_app(self._client, job.app)
        self._apps[job.app] = app
        sentence, hint = summary(job, app)
        failed = exit_code(job) not in (DONE, NOTHING)
        for line in (sentence, *(f"  {line}" for line in hint.splitlines())):
            self.screen.note(line, error=failed)

    @contextmanager
    def until_interrupted(self, refused: Sequence[Job], paths: Sequence[str]) -> Iterator[None]:
        """Inside, jobs are started and followed. After Ctrl-C it is said how to go on; the terminal is as it was."""
        try:
            yield
        except asyncio.CancelledError:
            self.screen.close()
            self._say_how_to_go_on(refused, paths)
            raise
        finally:
            self.screen.close()

    def document(self, refused: Sequence[Job], jobs: Sequence[Job]) -> None:
        """Prints the JSON document: jobs with what is installed and available after them (null if not waited for)."""
        after = {name: (app.version, app.available) for name, app in self._apps.items() if app}
        documents: list[dict[str, Any]] = []
        for job in (*refused, *jobs):
            installed, available = after.get(job.app, (None, None))
            documents.append(job.json() | {"installed": installed, "available": available})
        self._out.document({"jobs": documents})

    def _say_how_to_go_on(self, refused: Sequence[Job], paths: Sequence[str]) -> None:
        """The jobs belong to the daemon and go on."""
        over = {job.id for job in self.ended}
        numbers = [number for number in (int(path.rsplit("/", 1)[-1]) for path in paths) if number not in over]
        running = [self._follower.running.get(number) or Job(number, "", "", "running") for number in numbers]
        self.document(refused, [*self.ended, *running])
        self._out.error_line("")
        if not paths:
            self._out.error_line("Interrupted; `slotctl jobs` shows whether a job was started.")
        for job in running:
            self._goes_on(job)

    def _goes_on(self, job: Job) -> None:
        name = f"{escape(job.app)}: " if job.app else ""
        if job.step == "trial":
            self._out.error_line(f"{name}{escape(job.version)} stays on trial; job {job.id} goes on watching it.")
        elif job.kind:
            self._out.error_line(f"{name}the {escape(job.kind)} goes on as job {job.id}.")
        else:  # interrupted before anything was known of it
            self._out.error_line(f"Job {job.id} goes on.")
        stop = f"; `slotctl cancel {job.id}` stops it" if job.app and job.step in CANCELLABLE else ""
        self._out.error_line(f"  `slotctl follow {job.id}` shows it again{stop}.")
