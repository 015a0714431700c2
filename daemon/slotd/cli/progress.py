"""How a running job looks: one line per step, or a bar on a terminal. Both are fed by `follow`."""

from __future__ import annotations

import sys
from math import ceil
from typing import TYPE_CHECKING, Protocol

from slotd.cli.out import Out
from slotd.cli.tables import clip, clock, escape, is_terminal, wrap
from slotd.cli.views import Job, Trial
from slotd.core.words import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STEPS = {
    "check": "asking the source",
    "backup": "copying the data; at its end the app is stopped for a moment",
    "import": "copying the bundle, then verifying what is in it",
    "read": "reading what was saved, every file of it",
    "adopt": "copying what is installed; at its end the app is restarted",
    "release": "starting what was installed before",
    "resolve": "choosing the release",
    "delay": "waiting, as policy.delay says; it can still be cancelled",
    "fetch": "downloading",
    "verify": "checking digests and signatures",
    "stage": "unpacking and preparing the other slot",
    "compare": "comparing with what is installed",
    "preserve": "copying the data, the app is still running",
    "stop": "stopping the app",
    "snapshot": "sealing the backup",
    "switch": "switching slots",
    "migrate": "migrating the data",
    "start": "starting the app",
    "trial": "watching the new version",
    "commit": "keeping the new version",
    "cleanup": "removing what is no longer needed",
    "rb-check": "reading the backup, the app is still running",
    "rb-stop": "stopping the app",
    "rb-quarantine": "setting the data aside, unless they are kept",
    "rb-restore": "restoring the backup, unless the data are kept",
    "rb-switch": "switching slots",
    "rb-start": "starting the app",
    "rb-verify": "checking that it runs",
}


SHOWN_AFTER_S = 1.0


def may_not_apply(job: Job) -> bool:
    """Whether a step often has nothing to do: no delay by hand, no migrations, nothing to stop or save at first."""
    if job.step in ("delay", "migrate"):
        return True
    return job.kind == "update" and not job.previous_version and job.step in ("compare", "preserve", "stop", "snapshot")


class Screen(Protocol):
    """`tick_s`: how often `show` wants to be called without news, None: never."""

    tick_s: float | None

    def begin(self, text: str) -> None:
        """What was asked for, before the daemon has answered; only on a terminal, and only until then."""

    def show(self, job: Job, trial: Trial | None) -> None:
        """The job as it is now."""

    def note(self, text: str, *, error: bool = False) -> None:
        """A line that stays; errors go to standard error."""

    def ended(self, job: Job) -> None:
        """The job is over; its summary follows as a note."""

    def close(self) -> None: ...


def screen(out: Out) -> Screen:
    """The screen that fits: nothing with `--json`, a bar on a terminal, else lines."""
    if out.json:
        return Silence()
    if out.look.width is not None and out.look.unicode and _can_move_cursor():
        return Bar(out)
    return Lines(out)


def _can_move_cursor() -> bool:
    from os import environ

    return environ.get("TERM", "dumb") not in ("dumb", "")


def trial_note(job: Job, trial: Trial | None, now: float) -> str:
    """What to know when the new version has been started and the wait begins."""
    left = trial.deadline - now if trial and trial.deadline else 0
    how_long = f" for {duration(ceil(left))}" if left > 0 else ""
    return (
        f"{escape(job.app)}: {escape(job.version)} was started, on trial{how_long}; "
        "it goes back by itself if it fails. Ctrl-C leaves it so."
    )


class Silence:
    """For `--json`."""

    tick_s: float | None = None

    def begin(self, text: str) -> None:
        return

    def show(self, job: Job, trial: Trial | None) -> None:
        return

    def note(self, text: str, *, error: bool = False) -> None:
        return

    def ended(self, job: Job) -> None:
        return

    def close(self) -> None:
        return


class Lines:
    """`12:03:04 notes: fetch - downloading 1.1`: one line per step, for logs and pipes.

    A step that may not apply is shown when it has lasted a while, or ends the job.
    """

    tick_s: float | None = 1.0

    def __init__(self, out: Out) -> None:
        self._out = out
        self._steps: dict[int, str] = {}
        self._waiting: dict[int, tuple[str, float]] = {}  # by job: a step that may not apply, and when it was entered

    def begin(self, text: str) -> None:
        return

    def show(self, job: Job, trial: Trial | None) -> None:
        if not job.step or self._steps.get(job.id) == job.step:
            return
        if may_not_apply(job):
            step, since = self._waiting.get(job.id, ("", 0.0))
            if step != job.step:
                self._waiting[job.id] = (job.step, self._out.now())
            if step != job.step or self._out.now() - since < SHOWN_AFTER_S:
                return
        self._show(job)

    def _show(self, job: Job) -> None:
        self._steps[job.id] = job.step
        what = STEPS.get(job.step, "")
        if job.step.startswith("rb-") and job.kind != "restore":
            what = f"rolling back: {what}"
        self.note(f"{escape(job.whose)}: {escape(job.step)}{' - ' + what if what else ''}")

    def note(self, text: str, *, error: bool = False) -> None:
        line = f"{clock(self._out.now())} {text}"
        (self._out.error_line if error else self._out.line)(line, indent=11)

    def ended(self, job: Job) -> None:
        if job.state == "failed" and job.step in self._waiting.get(job.id, ()) and self._steps.get(job.id) != job.step:
            self._show(job)

    def close(self) -> None:
        return


class Bar:
    """A line per job at the bottom of the terminal, with the step, a bar, the time; gone when the job is over."""

    tick_s: float | None = 1.0

    def __init__(self, out: Out) -> None:
        self._out = out
        self._progress: Progress | None = None
        self._tasks: dict[int, TaskID] = {}
        self._begun = False

    def begin(self, text: str) -> None:
        room = (self._out.look.width or 80) - 1
        print(clip(text, room), end="", flush=True)
        self._begun = True

    def _clear(self) -> None:
        if self._begun:
            print("\r\x1b[K", end="", flush=True)
            self._begun = False

    def show(self, job: Job, trial: Trial | None) -> None:
        progress = self._progress or self._open()
        task = self._tasks.get(job.id)
        if task is None:
            task = self._tasks[job.id] = progress.add_task(escape(job.whose), total=100, step="", time="")
        now = self._out.now()
        step = escape(job.step or job.state)
        time = duration(int(max(now - job.started, 0))) if job.started else ""
        if job.step == "trial" and trial and trial.deadline:
            time = f"{duration(ceil(max(trial.deadline - now, 0)))} left"
        progress.update(task, completed=job.progress, step=step, time=time)
        progress.refresh()

    def _open(self) -> Progress:
        """rich is imported here, when the daemon already works, not while the user waits for the first line."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = Console(
            file=sys.stdout, highlight=False, markup=False, color_system="auto" if self._out.look.colour else None
        )
        self._clear()
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            TextColumn("{task.fields[step]}", style="cyan", markup=False),
            BarColumn(bar_width=30, complete_style="cyan", finished_style="green"),
            TaskProgressColumn("{task.percentage:>3.0f} %", style="", markup=False),
            TextColumn("{task.fields[time]}", style="dim", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._progress.start()
        return self._progress

    def note(self, text: str, *, error: bool = False) -> None:
        self._clear()
        text = self._out.worded(text)
        if self._progress is None or (error and not is_terminal(sys.stderr)):
            (self._out.error_line if error else self._out.line)(text)
        else:  # above the bar, whatever the stream
            depth = len(text) - len(text.lstrip(" "))
            for line in wrap(text, self._out.look.width or 80, max(depth, 2)):
                style = "red" if error else None
                self._progress.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def ended(self, job: Job) -> None:
        task = self._tasks.pop(job.id, None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)
            self._progress.refresh()

    def close(self) -> None:
        self._clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
