"""`trial`: the new version is watched until the time has passed, or it has shown that it is not well.

Watched are its probes, its units (crashes, hangs, watchdog kills: every start that systemd makes uses up an
attempt), and a person's word. The time that is left survives restarts of the daemon and of the host.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from importlib import import_module

from slotd.core import health as rules
from slotd.core.health import UnitSeen, UnitStatus, Verdict
from slotd.core.schema import Health
from slotd.errors import Failed
from slotd.host import failpoint
from slotd.host.offloop import off_loop
from slotd.host.systemd import Change
from slotd.model import Trial
from slotd.probes import PROBES, Probe, Target
from slotd.recipes import loops
from slotd.recipes.context import Work
from slotd.recipes.switch import open_trial, start_on_trial
from slotd.store import TROUBLE

_log = logging.getLogger(__name__)

SAVE_EVERY_S = 15.0  # how much watched time a crash of the daemon may cost


class Look(StrEnum):
    """What the units do. Only time in which all are up is watched time, and no trial ends in any other."""

    UP = "up"
    BETWEEN = "between"  # a crash and its restart, or still starting
    DOWN = "down"  # by someone's hand, or slotd starts it again


def make_probe(kind: str) -> Probe:
    module, _, name = PROBES[kind].partition(":")
    probe: Probe = getattr(import_module(module), name)()
    return probe


def probes_of(work: Work) -> tuple[Health, ...]:
    """The definition's probes, or each unit being active where it has none."""
    return work.app.health or tuple(
        Health(type="unit", unit=unit) for unit in work.app.service.units if unit.endswith(".service")
    )


class Watch:
    """The watch over one version's probes."""

    def __init__(self, work: Work, version: str) -> None:
        self.work = work
        self.probes = probes_of(work)
        self.target = Target(
            app=work.app.name,
            version=version,
            units=work.app.service.units,
            user=work.app.service.user,
            slot=str(work.engine.root / "current"),
            systemd=work.host.systemd,
            workers=work.host.workers,
        )
        self.trackers = [rules.track(health, work.host.clock.monotonic()) for health in self.probes]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watch:
        self._tasks = [asyncio.create_task(self._ask(index)) for index in range(len(self.probes))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, index: int) -> None:
        health, probe = self.probes[index], make_probe(self.probes[index].type)
        while True:
            outcome = await probe.check(health, self.target)
            now = self.work.host.clock.monotonic()
            self.trackers[index] = rules.observe(self.trackers[index], health, outcome.healthy, outcome.detail, now)
            self.work.woken.set()
            await asyncio.sleep(health.interval_s)

    def begin_anew(self) -> None:
        """The app was started again: its grace time begins again."""
        self.trackers = [rules.track(health, self.work.host.clock.monotonic()) for health in self.probes]

    def check_alive(self) -> None:
        """A probe's own defect is an error of the trial, never silence."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise Failed("cannot watch the app: a probe stopped working") from task.exception()

    @property
    def verdict(self) -> Verdict:
        return rules.combined(self.trackers)

    @property
    def reason(self) -> str:
        return rules.reason(self.trackers)


async def watch(work: Work) -> None:
    """Watch until the trial's time has passed and all is green. Raises `Failed` with what was seen."""
    # Units that someone started or stopped since the last look, or stopped before this daemon came.
    by_hand = set(work.plan.stopped_by_hand)
    last_words: dict[str, str] = {}  # how a unit ended, before its restart set that back

    def told(change: Change) -> None:
        if change.by_job:
            by_hand.add(change.unit)
        if change.failure:
            last_words[change.unit] = change.failure
        work.woken.set()

    clock = work.host.clock
    trial = await open_trial(work)
    remaining, saved, before = trial.remaining_s, trial.remaining_s, clock.monotonic()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(work.host.systemd.watch(work.app.service.units, told))
        probes = await stack.enter_async_context(Watch(work, work.plan.version))
        while True:
            work.woken.clear()
            if work.verdict == "good":
                await work.tell("marked-good", f"{work.plan.version} was marked good by {work.plan.verdict_by}")
                return
            if work.verdict == "bad":
                raise Failed(work.marked_bad)
            probes.check_alive()
            before_look = trial = await still_open(work, trial)
            look = await look_after_units(work, probes, by_hand, last_words)
            await failpoint.reach("trial:looked")
            now = clock.monotonic()
            if look is Look.UP:
                remaining -= now - before
            trial = await still_open(work, trial)
            if trial.attempts_left < before_look.attempts_left:
                # A crash begins the trial anew: it must pass it in one go. That is saved at once.
                remaining, saved = work.app.policy.trial_s, math.inf
            before = now
            if look is not Look.DOWN and probes.verdict is Verdict.UNHEALTHY:
                raise Failed(f"{work.plan.version} is not healthy: {probes.reason}")
            work.progress(1.0 - max(0.0, remaining) / max(work.app.policy.trial_s, 0.001))
            is_green = look is Look.UP and probes.verdict is Verdict.HEALTHY
            if remaining <= 0 and is_green and work.verdict != "bad":
                work.verdict = "passed"  # who says a word after this is told that it comes too late
                await failpoint.reach("trial:passed")
                return
            if saved - remaining >= SAVE_EVERY_S:
                saved = remaining
                is_progress = trial.remaining_s - remaining >= SAVE_EVERY_S
                await save_rest(work, dataclasses.replace(trial, remaining_s=max(0.0, remaining)))
                if is_progress:
                    await loops.end_row(work)
                work.touch()
            wait_s = min(SAVE_EVERY_S, remaining) if remaining > 0 else SAVE_EVERY_S
            try:
                # Not `wait_for`: of 3.11 it takes a cancellation that comes with the event for the event alone.
                async with asyncio.timeout(max(0.02, wait_s)):
                    await work.woken.wait()
            except TimeoutError:
                continue


async def still_open(work: Work, last: Trial) -> Trial:
    """The trial as the store has it, or as it was `last`: that a disk cannot be read is not the app's doing.

    Raises `Failed` if somebody closed it.
    """
    try:
        return await open_trial(work)
    except TROUBLE:
        _log.exception("%s: its trial could not be read", work.app.name)
        return last


async def save_rest(work: Work, trial: Trial) -> None:
    """How much of the trial is left. Where it cannot be written, a crash costs watched time; the version is as good."""
    try:
        await off_loop(work.host.store.save, trial)
        await failpoint.reach("trial:saved")
    except TROUBLE:
        _log.exception("%s: what is left of its trial could not be written", work.app.name)


async def look_after_units(work: Work, probes: Watch, by_hand: set[str], last_words: Mapping[str, str]) -> Look:
    """Count the starts since the last look; start what gave up.

    Raises `Failed` when the attempts are spent.
    """
    looks = {unit: await work.host.systemd.show(unit) for unit in work.app.service.units}
    seen = {unit: rules.seen(status) for unit, status in looks.items()}
    starts = {
        u: rules.count_starts(work.plan.seen.get(u, UnitSeen()), s) for u, s in seen.items() if u in work.plan.seen
    }
    if seen != dict(work.plan.seen):
        await work.remember(seen=seen)
        if any(rules.count_starts(UnitSeen(), s) or starts.get(u) for u, s in seen.items()):
            probes.begin_anew()
    for unit, count in starts.items():
        for _ in range(count):
            await use_attempt(work, last_words.get(unit) or f"{unit} ended, and systemd started it again")
    down = [status for status in looks.values() if status.active_state in ("failed", "inactive")]
    by_hand.difference_update(status.name for status in looks.values() if rules.is_up(status))
    crashed = [status for status in down if gave_up(status, by_hand)]
    stopped = tuple(sorted(status.name for status in down if status.name in by_hand and not crashed))
    if stopped != work.plan.stopped_by_hand:
        await remember_stopped(work, stopped)
    if crashed:
        why = last_words.get(crashed[0].name) or rules.describe_failure(crashed[0])
        left = (await open_trial(work)).attempts_left
        if left <= 0:
            raise Failed(spent(work, why))
        await work.tell("start-failed", f"{why} during its trial; starting it again (attempts left: {left})")
        await start_on_trial(work, ended=why)
        by_hand.clear()  # those jobs were slotd's own
        probes.begin_anew()
        return Look.DOWN
    if down:
        return Look.DOWN
    return Look.UP if all(rules.is_up(status) for status in looks.values()) else Look.BETWEEN


async def remember_stopped(work: Work, units: tuple[str, ...]) -> None:
    """So that the next daemon does not start what an administrator stopped. A disk's trouble is not the app's."""
    try:
        await work.remember(stopped_by_hand=units)
    except TROUBLE:
        _log.exception("%s: that it was stopped could not be written", work.app.name)


def gave_up(status: UnitStatus, by_hand: set[str]) -> bool:
    """Whether a unit that is down ended by itself.

    A clean end that someone asked systemd for is theirs: the trial waits until they start it again.
    """
    if status.active_state == "failed":
        return True
    return status.name not in by_hand and status.name.endswith(".service")


def spent(work: Work, why: str) -> str:
    return f"{work.plan.version} keeps crashing: {why}, and its {work.app.policy.attempts} attempts are spent"


async def use_attempt(work: Work, why: str) -> None:
    trial = await open_trial(work)
    if trial.attempts_left <= 0:
        raise Failed(spent(work, why))
    trial = dataclasses.replace(trial, attempts_left=trial.attempts_left - 1)
    await off_loop(work.host.store.save, trial)
    await failpoint.reach("trial:counted")
    await work.tell("start-failed", f"{why}; attempts left: {trial.attempts_left}")


async def wait_until_healthy(work: Work, version: str) -> None:
    """For the way back: all probes green once, within the start timeout and the longest grace. Raises `Failed`."""
    patience = work.app.service.start_timeout_s + max((h.grace_s for h in probes_of(work)), default=0.0)
    async with Watch(work, version) as probes:
        try:
            async with asyncio.timeout(patience):
                while probes.verdict is Verdict.PENDING:
                    work.woken.clear()
                    await work.woken.wait()
                    probes.check_alive()
        except TimeoutError:
            raise Failed(f"{version} did not become healthy within {patience:.0f} s: {probes.reason}") from None
        if probes.verdict is Verdict.UNHEALTHY:
            raise Failed(f"{version} is not healthy: {probes.reason}")
