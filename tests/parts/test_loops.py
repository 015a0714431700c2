"""What is a loop: resumes in a row that came to nothing. What ends the row, and what does not."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from tests.parts.test_jobs import Nobody, make_work

from slotd.core import machine
from slotd.model import Result
from slotd.recipes import loops
from slotd.recipes.context import Work
from slotd.recipes.run import Step, perform
from slotd.service.jobs import Jobs


async def nothing(work: Work) -> None: ...


def kept(work: Work) -> Work:
    """The job as the next daemon finds it."""
    job = work.host.store.job(work.job.id)
    return Work(work.host, work.app, job, work.engine, work.data, lambda _: None)


async def come_to(work: Work, *steps: str) -> Work:
    await perform(work, [Step(name, nothing) for name in steps])
    return kept(work)


async def die(work: Work, times: int) -> Work:
    for _ in range(times):
        work = kept(work)
        await loops.count_resume(work)
    return work


@pytest.mark.parametrize("step", ["fetch", "start", "trial", "rb-start", "check", "rb-check"])
async def test_a_resume_that_dies_at_the_beginning_of_the_same_step_each_time_is_a_loop(
    tmp_path: Path, step: str
) -> None:
    work = await come_to(make_work(tmp_path, ""), step)
    for _ in range(machine.MOST_RESUMES):
        work = await die(work, 1)
        assert not loops.is_loop(work)
        work = await come_to(work, step)
    assert loops.is_loop(await die(work, 1))


async def test_a_way_back_that_begins_anew_each_time_and_comes_no_further_is_a_loop(tmp_path: Path) -> None:
    work = await come_to(make_work(tmp_path, ""), "start", "rb-stop", "rb-quarantine", "rb-restore")
    for _ in range(machine.MOST_RESUMES):
        work = await come_to(await die(work, 1), "rb-stop", "rb-quarantine", "rb-restore")
    assert loops.is_loop(await die(work, 1))


async def test_a_step_further_than_any_before_ends_the_row(tmp_path: Path) -> None:
    work = await die(await come_to(make_work(tmp_path, ""), "start"), machine.MOST_RESUMES)
    work = await come_to(work, "start", "trial")
    assert work.job.resumed == 0
    assert not loops.is_loop(await die(work, machine.MOST_RESUMES))


@pytest.mark.parametrize(("asked", "left"), [(True, 0), (False, 7)])
async def test_a_daemon_that_goes_down_as_it_is_asked_to_did_not_die_of_its_jobs(
    tmp_path: Path, asked: bool, left: int
) -> None:
    work = await die(await come_to(make_work(tmp_path, ""), "trial"), 7)
    jobs, begun = Jobs(Nobody(), parallel=1), asyncio.Event()

    async def recipe(work: Work) -> Result:
        work.plan = dataclasses.replace(work.plan, reason="not written yet")
        begun.set()
        await asyncio.sleep(60)
        return Result.DONE

    jobs.start(work, recipe)
    await asyncio.wait_for(begun.wait(), 20)
    await jobs.stop(asked=asked)
    assert (kept(work).job.resumed, kept(work).plan.reason, kept(work).job.step) == (left, "", "trial")
