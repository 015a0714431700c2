"""The executor: a linear list of steps, the intent of each on disk before its first effect.

It obeys the table in `slotd.core.machine` and knows nothing of what the steps do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from slotd.core import machine
from slotd.core.machine import OnError
from slotd.errors import Cancelled, Failed, SlotdError
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.model import Result
from slotd.recipes import loops
from slotd.recipes.context import Work

_log = logging.getLogger(__name__)

LOOK_BACK = 100  # events

Undo = Callable[[Work], Awaitable[Result | None]]


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table with its hands: `do` gives a result to end the job early, or None; both are idempotent.

    `undo` gives a result where the step had done all that it is for: it went forward, and the job ends so.
    """

    name: str
    do: Callable[[Work], Awaitable[Result | None]]
    undo: Undo | None = None


class Stopped(Exception):
    """The list of steps was left before its end: `error` in `step`, and what the table says to do."""

    def __init__(self, step: str, action: OnError, error: SlotdError) -> None:
        super().__init__(f"{step}: {error}")
        self.step, self.action, self.error = step, action, error


async def perform(work: Work, steps: Sequence[Step], *, first: str = "") -> Result | None:
    """Do the steps from `first` on. Gives an early result, or None at the end. Raises `Stopped`."""
    names = [step.name for step in steps]
    start = names.index(first) if first else 0
    for step in steps[start:]:
        try:
            loops.come_to(work, step.name)
            await work.enter(step.name)
            early = await step.do(work)
            await work.leave()
        except asyncio.CancelledError:
            if not work.is_cancelled:
                raise  # the daemon is going down: the job is resumed by the next one
            forgive_cancellation()
            raise Stopped(step.name, OnError.UNDO, Cancelled("cancelled on request")) from None
        except Exception as error:
            known = as_slotd_error(error, step.name)
            action = machine.after_error(step.name, passed=work.has_passed)
            if action is OnError.WARN:
                await work.tell("warning", f"{step.name} did not finish: {known}")
                continue
            raise Stopped(step.name, action, known) from error
        if early is not None:
            return early
    return None


async def undo(work: Work, undos: Mapping[str, Undo], *, last: str) -> Result | None:
    """Undo `last` and all before it, in reverse. A failing undo is told and does not keep the others from running.

    `undos` are those of the steps that have one, by name, in the order of the table. Gives the result of one that went
    forward instead.
    """
    forward: Result | None = None
    for name in reversed([name for name in undos if not machine.is_further(name, last)]):
        try:
            await failpoint.reach(f"{name}:undo")
            forward = await undos[name](work) or forward
            await failpoint.reach(f"{name}:undone")
        except Exception as error:
            await work.tell("warning", f"cleaning up after {name} did not finish: {as_slotd_error(error, name)}")
    return forward


def undos(steps: Sequence[Step]) -> dict[str, Undo]:
    return {step.name: step.undo for step in steps if step.undo is not None}


async def tell_once(work: Work, kind: str, message: str) -> None:
    """For who goes on with a job and does not know whether it was told already."""
    told = await off_loop(work.host.store.events, work.app.name, LOOK_BACK)
    if not any(event.job == work.job.id and event.kind == kind for event in told):
        await work.tell(kind, message)


def as_slotd_error(error: Exception, step: str) -> SlotdError:
    """A foreign exception as one of ours; its traceback goes to the log, never to a caller."""
    if isinstance(error, SlotdError):
        return error
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return Failed(f"cannot finish step {step}:{where} {error.strerror}.")
    _log.error("step %s met an unexpected error", step, exc_info=error)
    return Failed(
        f"cannot finish step {step}: internal error ({type(error).__name__}).", hint="See `journalctl -u slotd`."
    )


def forgive_cancellation() -> None:
    """A cancellation that was heard counts no more: else each time limit that comes true later would be one, too."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
