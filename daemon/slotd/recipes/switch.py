"""`switch`, `migrate`, `start`, `commit`: the new version becomes the active one, on trial."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from slotd.core.health import UnitSeen, describe_failure, seen
from slotd.core.words import duration, last_words
from slotd.errors import Failed
from slotd.host import failpoint, holdback
from slotd.host.offloop import off_loop
from slotd.model import Blocked, Job, SlotState, Trial
from slotd.recipes import hooks
from slotd.recipes.context import Work
from slotd.recipes.copies import set_aside
from slotd.recipes.preserve import missing_data, new_copy_id, start_dependents, stop_all


async def point_current(work: Work) -> None:
    """The trial first, then the symlink: a host that comes up with the new link finds the trial that watches it."""
    plan, policy, store = work.plan, work.app.policy, work.host.store
    open_one = await off_loop(store.trial, work.app.name)
    if not plan.quarantine:
        # Named before there can be a way back: whoever takes it up sees on the disk that it was begun.
        await work.remember(quarantine=new_copy_id(work, "quarantine"))
    if open_one is None or open_one.job != work.job.id:
        trial = Trial(
            app=work.app.name,
            job=work.job.id,
            version=plan.version,
            digest=plan.digest,
            slot=work.new_slot,
            previous_version=plan.old_version,
            previous_slot=plan.old_slot,
            backup=plan.backup,
            attempts_left=policy.attempts,
            started_at=work.host.clock.now(),
            remaining_s=policy.trial_s,
            boot_id=work.host.boot_id,
        )
        await off_loop(store.save, trial)
    await failpoint.reach("switch:trial")
    await off_loop(work.engine.switch, work.new_slot)
    await failpoint.reach("switch:link")
    await stop_all(work)  # whatever was started meanwhile (a socket may) runs the old version
    await failpoint.reach("switch:stopped")
    how = f"switched {plan.old_version} → {plan.version}" if plan.old_version else f"installed {plan.version}"
    await work.tell("switched", f"{how} (slot {work.new_slot})")


async def close_trial(work: Work) -> None:
    """Undo of `switch` while the symlink still points at the old slot: a trial that never began is not left open."""
    await off_loop(work.engine.forget_switch)
    await off_loop(work.host.store.close_trial, work.app.name, work.job.id)


async def bring_its_data(work: Work) -> None:
    """A kept version comes with the data that it had. Those of now are in the backup of this job, too: an error or a
    crash in here rolls back to them.
    """
    backup = await off_loop(work.host.store.backup, work.app.name, work.plan.brings)
    await work.remember(present=work.plan.present or new_copy_id(work, "present"))
    await set_aside(work, work.plan.present, version=work.plan.old_version, reason="rollback")
    aside = work.host.copy_path("quarantine", work.app.name, work.plan.present)
    await off_loop(work.data.restore, work.data_spec, Path(backup.path), aside)
    told = (
        f"the data are those of backup {backup.id}; what {work.plan.old_version} wrote is kept as {work.plan.present}"
    )
    await work.tell("restored", told)


def _there(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


async def run_migrations(work: Work) -> None:
    """The app's own migrations, as its user, with its data; they may have no way down, so a failure rolls back."""
    slots = work.app.slots
    path = work.engine.path(work.new_slot)
    if slots.migrate or work.plan.brings:
        await stop_all(work)  # after a crash in `switch` the host may have started it already
    if work.plan.brings:
        await bring_its_data(work)
    await failpoint.reach("migrate:stopped")
    await hooks.forget(work, "migrate")
    for number, template in enumerate(slots.migrate):
        argv = hooks.expand(work, template)
        writable = [Path(p) for p in work.app.data.paths] + ([path] if slots.writable else [])
        done = await work.host.workers.command(
            argv,
            unit=work.unit(f"migrate{number}"),
            user=work.app.service.user or "root",
            cwd=path,
            writable=await off_loop(_there, writable),
            network=slots.network,
            timeout_s=work.host.settings.limits.prepare_s,
            environment={"SLOTD_APP": work.app.name, "SLOTD_VERSION": work.plan.version},
        )
        await hooks.keep(work, "migrate", argv, done)
        if done.status != 0:
            raise Failed(
                f"the migration `{shlex.join(argv)}` ended with status {done.status}. {last_words(done.output)}"
            )
        await failpoint.reach("migrate:ran")


async def start_on_trial(work: Work, *, ended: str = "") -> None:
    """Start the units; each try uses up one attempt, committed before it is made.

    `ended`: how the version ended that was on trial already, where it is started again.
    """
    why = ended
    while True:
        trial = await open_trial(work)
        if trial.attempts_left <= 0:
            raise Failed(f"{work.plan.version} did not start: {why or 'its attempts are spent'}")
        trial = dataclasses.replace(trial, attempts_left=trial.attempts_left - 1)
        await off_loop(work.host.store.save, trial)
        await failpoint.reach("start:counted")
        why = await _start(work)
        if not why:
            break
        await work.tell(
            "start-failed", f"{work.plan.version} did not start (attempts left: {trial.attempts_left}): {why}"
        )
    await start_dependents(work)
    await failpoint.reach("start:started")
    now = work.host.clock.now()
    await work.remember(started_at=now, seen=await look_at_units(work))
    await failpoint.reach("start:remembered")
    if ended:
        return  # that it is on trial was told when it began
    was_up = work.plan.stopped_at and not work.plan.resting
    down = now - work.plan.stopped_at if was_up else 0.0
    await work.tell(
        "trial-started",
        f"{work.plan.version} was started and is on trial for {duration(work.app.policy.trial_s)}"
        + (f"; the app was down for {down:.1f} s" if was_up else ""),
        downtime=f"{down:.3f}",
    )


async def _start(work: Work) -> str:
    """Start every unit. Gives why it failed, or nothing."""
    systemd = work.host.systemd
    for unit in work.app.service.units:
        await off_loop(holdback.let_start, work.host.paths, unit)
        await systemd.reset_failed(unit)
        result = await systemd.start(unit, timeout_s=work.app.service.start_timeout_s)
        status = await systemd.show(unit)
        if status.load_state == "not-found":
            return f"{unit} does not exist; install its unit file"
        if result == "timeout":
            await systemd.kill(unit)
            await systemd.stop(unit, timeout_s=work.app.service.start_timeout_s)
            return f"{unit} was not ready after {work.app.service.start_timeout_s:.0f} s"
        if result not in ("done", "skipped"):
            await systemd.stop(unit, timeout_s=work.app.service.start_timeout_s)  # no half-started restart loop
            return describe_failure(status) or f"the start job of {unit} ended as {result!r}"
    return ""


async def look_at_units(work: Work) -> dict[str, UnitSeen]:
    """What each unit looks like now, to count later starts from."""
    return {unit: seen(await work.host.systemd.show(unit)) for unit in work.app.service.units}


async def open_trial(work: Work) -> Trial:
    trial = await off_loop(work.host.store.trial, work.app.name)
    if trial is None or trial.job != work.job.id:
        raise Failed(f"cannot go on with the trial of {work.app.name}: it was closed by someone else")
    return trial


async def mark_good(work: Work) -> None:
    """One transaction: the trial is closed, the slot is good. From here on nothing is rolled back by itself."""

    def commit(job: Job) -> None:
        store = work.host.store
        with store.transaction():
            store.close_trial(job.app, job.id)
            slot = store.slots(job.app)[work.new_slot]
            store.save(dataclasses.replace(slot, state=SlotState.GOOD))
            record = store.app(job.app)
            done = record.available == work.plan.version
            store.change_app(
                job.app,
                available="" if done else record.available,
                approved="" if record.approved == work.plan.version else record.approved,
                last_error="",
            )
            store.unblock(job.app, work.plan.version)
            if work.plan.kept:  # else an automatic update would undo at once what a person asked for
                left = "an administrator went back from it"
                store.save(Blocked(job.app, work.plan.old_version, work.plan.old_digest, left, work.host.clock.now()))
            failpoint.hit("commit:closing")

    await off_loop(commit, work.job)
    try:
        await failpoint.reach("commit:closed")
    finally:  # the version is good, and nothing that fails from here on keeps that from being told
        old, new = work.plan.old_version, work.plan.version
        how = f"updated from {old} to {new}" if old else f"{new} was installed"
        await work.tell("updated", f"{how}; it passed its trial")
    for path in await off_loop(missing_data, work):
        await work.tell("warning", f"there is no {path}: nothing of it is saved or goes back (data.paths)")


async def close_passed_trial(work: Work) -> None:
    """`commit` only warns, so that nothing rolls back a version that is good; but its trial must not stay open.

    Raises what the store raises: then the job does not end yet either.
    """
    trial = await off_loop(work.host.store.trial, work.app.name)
    if trial is not None and trial.job == work.job.id and work.job.step in ("commit", "cleanup"):
        await mark_good(work)
