"""Running jobs: a second cancellation, one that comes too late, and errors that no step caught."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slotd.core.schema import App
from slotd.errors import TooLate
from slotd.host.paths import Paths
from slotd.model import Job, JobKind, JobState, Result
from slotd.recipes.context import Clock, Host, Work
from slotd.service.jobs import CHECKS_AT_ONCE, Jobs
from slotd.store import Store


class Nobody:
    def __init__(self) -> None:
        self.ended, self.forgotten = asyncio.Event(), asyncio.Event()

    def job_new(self, job: Job) -> None: ...

    def job_changed(self, job: Job) -> None: ...

    def job_forgotten(self, job_id: int) -> None:
        self.forgotten.set()

    async def job_ended(self, work: Work, details: Mapping[str, Any]) -> None:
        self.ended.set()


def make_work(tmp_path: Path, step: str) -> Work:
    return work_on(make_host(tmp_path), "x", JobKind.UPDATE, step)


def make_host(tmp_path: Path) -> Host:
    host: Any = Host.__new__(Host)
    host.store, host.clock = Store(tmp_path / "state.db"), Clock()
    host.paths, host.user_mode = Paths(state=tmp_path), False
    return host  # type: ignore[no-any-return]


def work_on(host: Host, app: str, kind: JobKind, step: str = "") -> Work:
    job = host.store.new_job(app, kind, now=1.0, correlation="", plan={})
    nothing: Any = None
    return Work(host, App(name=app), Job(job.id, app, kind, JobState.RUNNING, step), nothing, nothing, lambda _: None)


async def test_a_second_cancellation_does_not_cut_the_undo_short(tmp_path: Path) -> None:
    told, undone, begun = Nobody(), [], asyncio.Event()
    jobs, work = Jobs(told, parallel=1), make_work(tmp_path, "preserve")

    async def recipe(work: Work) -> Result:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            await asyncio.sleep(0.1)
            undone.append(True)
            await work.finish(Result.CANCELLED)
        return Result.CANCELLED

    jobs.start(work, recipe)
    await asyncio.wait_for(begun.wait(), 5)
    jobs.cancel(work.job)
    await asyncio.sleep(0.01)
    jobs.cancel(work.job)
    await asyncio.wait_for(told.ended.wait(), 5)
    assert undone == [True]
    await jobs.stop()


async def test_a_job_is_cancelled_before_its_first_step(tmp_path: Path) -> None:
    told, work = Nobody(), make_work(tmp_path, "")
    jobs = Jobs(told, parallel=1)

    async def recipe(work: Work) -> Result:
        await asyncio.sleep(60)
        return Result.FAILED

    jobs.start(work, recipe)
    jobs.cancel(work.job)
    await asyncio.wait_for(told.ended.wait(), 5)
    assert work.job.result is Result.CANCELLED
    assert jobs.running() == 0


async def test_what_has_ended_is_not_cancelled(tmp_path: Path) -> None:
    told, written = Nobody(), asyncio.Event()
    jobs, work = Jobs(told, parallel=1), make_work(tmp_path, "fetch")

    async def recipe(work: Work) -> Result:
        await work.finish(Result.DONE)
        written.set()
        await asyncio.sleep(0.1)  # what is still told once the end is written
        return Result.DONE

    jobs.start(work, recipe)
    await asyncio.wait_for(written.wait(), 5)
    with pytest.raises(TooLate):
        jobs.cancel(work.job)
    await asyncio.wait_for(told.ended.wait(), 5)
    assert work.host.store.job(work.job.id).result is Result.DONE


async def test_a_daemon_that_goes_down_undoes_nothing_a_second_time(tmp_path: Path) -> None:
    told, began = Nobody(), []
    jobs, work = Jobs(told, parallel=1), make_work(tmp_path, "fetch")
    working, undoing = asyncio.Event(), asyncio.Event()

    async def recipe(work: Work) -> Result:
        working.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            began.append(work.is_to_stop())
            undoing.set()
            await asyncio.sleep(60)
        return Result.CANCELLED

    jobs.start(work, recipe)
    await asyncio.wait_for(working.wait(), 5)
    jobs.cancel(work.job)
    await asyncio.wait_for(undoing.wait(), 5)
    await asyncio.wait_for(jobs.stop(), 5)
    assert began == [True]
    assert not work.job.is_finished, "the next daemon goes on with it"


async def test_an_update_that_waits_for_a_veto_keeps_no_other_from_working(tmp_path: Path) -> None:
    jobs = Jobs(Nobody(), parallel=1)
    host = make_host(tmp_path)
    first, second = work_on(host, "x", JobKind.UPDATE), work_on(host, "y", JobKind.UPDATE)
    veto, worked, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def waits(work: Work) -> Result:
        async with work.room.lent():
            await veto.wait()
        await work.finish(Result.DONE)
        ended.set()
        return Result.DONE

    async def works(work: Work) -> Result:
        worked.set()
        await work.finish(Result.DONE)
        return Result.DONE

    for work, recipe in ((first, waits), (second, works)):
        jobs.reserve(work.job.app)
        jobs.start(work, recipe)
    await asyncio.wait_for(worked.wait(), 5)
    veto.set()
    await asyncio.wait_for(ended.wait(), 5)
    await jobs.stop()


async def test_what_is_being_undone_can_no_longer_be_cancelled(tmp_path: Path) -> None:
    jobs, work = Jobs(Nobody(), parallel=1), make_work(tmp_path, "preserve")

    async def recipe(work: Work) -> Result:
        await asyncio.sleep(60)
        return Result.FAILED

    jobs.start(work, recipe)
    work.too_late = True
    with pytest.raises(TooLate):
        jobs.cancel(work.job)
    await jobs.stop()


@pytest.mark.parametrize(("step", "retried"), [("switch", True), ("rb-restore", True), ("fetch", False)])
async def test_an_error_that_escapes_with_the_app_stopped_is_taken_up_as_after_a_crash(
    tmp_path: Path, step: str, retried: bool
) -> None:
    told, calls = Nobody(), []

    async def recipe(_work: Work) -> Result:
        raise OSError(28, "database or disk is full")

    async def resume(work: Work) -> Result:
        calls.append(work.job.step)
        if len(calls) == 1:
            raise OSError(28, "database or disk is full")
        await work.finish(Result.ROLLED_BACK)
        return Result.ROLLED_BACK

    jobs, work = Jobs(told, parallel=1, resume=resume, retry_s=0.01), make_work(tmp_path, step)
    jobs.start(work, recipe)
    await asyncio.wait_for(told.ended.wait(), 5)
    assert calls == ([step, step] if retried else [])
    assert work.job.result is (Result.ROLLED_BACK if retried else Result.FAILED)
    await jobs.stop()


async def test_a_finished_job_is_kept_for_a_while_and_then_forgotten(tmp_path: Path) -> None:
    told, work = Nobody(), make_work(tmp_path, "fetch")
    jobs = Jobs(told, parallel=1, finished_s=0.05)

    async def recipe(work: Work) -> Result:
        await work.finish(Result.UP_TO_DATE)
        return Result.UP_TO_DATE

    jobs.start(work, recipe)
    await asyncio.wait_for(told.ended.wait(), 5)
    assert [job.id for job in jobs.known()] == [work.job.id]
    await asyncio.wait_for(told.forgotten.wait(), 5)
    assert jobs.known() == []
    with pytest.raises(TooLate, match="it has ended as up-to-date"):
        jobs.cancel(work.job)
    await jobs.stop()


async def test_of_many_checks_some_run_at_a_time_and_one_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    told, host = Nobody(), make_host(tmp_path)
    jobs = Jobs(told, parallel=1)
    may_end, at_once, all_in = asyncio.Event(), [0, 0], asyncio.Event()

    async def recipe(work: Work) -> Result:
        at_once[0] += 1
        at_once[1] = max(at_once)
        if at_once[0] == CHECKS_AT_ONCE:
            all_in.set()
        await may_end.wait()
        at_once[0] -= 1
        await work.finish(Result.UP_TO_DATE)
        return Result.UP_TO_DATE

    works = [work_on(host, f"app{number}", JobKind.CHECK) for number in range(3 * CHECKS_AT_ONCE)]
    for work in works:
        jobs.start(work, recipe)
    await asyncio.wait_for(all_in.wait(), 30)
    jobs.cancel(works[-1].job)
    await asyncio.wait_for(told.ended.wait(), 30)
    assert works[-1].job.result is Result.CANCELLED
    may_end.set()
    async with asyncio.timeout(30):
        while jobs.running():
            told.ended.clear()
            await told.ended.wait()
    assert at_once[1] == CHECKS_AT_ONCE
    assert {work.job.result for work in works[:-1]} == {Result.UP_TO_DATE}
    await jobs.stop()
