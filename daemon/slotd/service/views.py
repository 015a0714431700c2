"""What the bus shows of an app, put together from its definition, its record, its slots and its running job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slotd.core import machine, policy
from slotd.core.schema import App
from slotd.model import (
    AppRecord,
    AppState,
    AppView,
    Backup,
    Job,
    JobKind,
    JobState,
    Mode,
    Result,
    Slot,
    SlotName,
    SlotState,
    Trial,
)

QUIET = (JobKind.BACKUP, JobKind.VERIFY)  # they change nothing of the app


def view(
    name: str,
    app: App | None,
    record: AppRecord,
    *,
    active: SlotName | None,
    slots: Mapping[SlotName, Slot],
    trial: Trial | None,
    job: Job | None,
    last: Job | None,
    backups: Sequence[Backup],
    problems: Sequence[str] = (),
) -> AppView:
    """`job`: the mutating job that runs now; `last`: the newest finished one; `active`: what the disk says."""
    current = slots.get(active) if active else None
    other = slots.get(active.other) if active else None
    has_previous = other is not None and other.state in (SlotState.GOOD, SlotState.WHOLE)
    mode = policy.effective_mode(app, record) if app else record.mode or Mode.APPROVE
    return AppView(
        name=name,
        description=app.description if app else "",
        engine=app.slots.engine if app else "",
        units=app.service.units if app else (),
        state=state(app, record, current, trial, job, last, mode),
        version=current.version if current else "",
        slot=active.value if active else "",
        previous_version=other.version if other and has_previous else "",
        previous_slot=other.name.value if other and has_previous else "",
        available=record.available,
        approved=record.approved,
        mode=mode,
        held=record.held,
        hold_reason=record.hold_reason,
        last_check=record.last_check,
        last_error="\n".join(problems) or record.last_error,
        trial=trial,
        backups=tuple(backups),
        problems=tuple(problems),
    )


def state(
    app: App | None,
    record: AppRecord,
    current: Slot | None,
    trial: Trial | None,
    job: Job | None,
    last: Job | None,
    mode: Mode,
) -> AppState:
    """One word, the most urgent first."""
    if job is not None:
        if machine.is_rollback_step(job.step) or job.kind is JobKind.ROLLBACK:
            return AppState.ROLLING_BACK
        if job.step == "trial" and trial is not None:
            return AppState.TRIAL
        if job.state in (JobState.RUNNING, JobState.WAITING) and job.kind not in QUIET:
            return AppState.UPDATING
    if app is None:
        return AppState.MISCONFIGURED
    if trial is not None and job is None:
        return AppState.TRIAL
    if last is not None and last.result is Result.ROLLBACK_FAILED and record.held:
        return AppState.FAILED
    if record.held:
        return AppState.HELD
    if current is None:
        return AppState.ABSENT
    if record.available and record.available != current.version:
        if mode is Mode.APPROVE and record.approved != record.available:
            return AppState.AWAITING_APPROVAL
        return AppState.UPDATE_AVAILABLE
    return AppState.IDLE
