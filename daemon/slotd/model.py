"""The words: what slotd talks about, as frozen values. No rule and no side effect lives here.

Times are seconds since the epoch (float, UTC), sizes are bytes, digests are `sha256:<hex>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    MANUAL = "manual"
    APPROVE = "approve"
    AUTO = "auto"


class AppState(StrEnum):
    ABSENT = "absent"
    IDLE = "idle"
    UPDATE_AVAILABLE = "update-available"
    AWAITING_APPROVAL = "awaiting-approval"
    UPDATING = "updating"
    TRIAL = "trial"
    ROLLING_BACK = "rolling-back"
    HELD = "held"
    FAILED = "failed"
    MISCONFIGURED = "misconfigured"


class JobKind(StrEnum):
    CHECK = "check"
    UPDATE = "update"
    ROLLBACK = "rollback"
    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    ADOPT = "adopt"
    RELEASE = "release"
    IMPORT = "import"


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Result(StrEnum):
    """How a job ended. `done` is for jobs that change no version: check, backup, restore."""

    NONE = ""
    DONE = "done"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    UP_TO_DATE = "up-to-date"
    ROLLED_BACK = "rolled-back"
    ROLLBACK_FAILED = "rollback-failed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SlotName(StrEnum):
    A = "a"
    B = "b"

    @property
    def other(self) -> SlotName:
        return SlotName.B if self is SlotName.A else SlotName.A


class SlotState(StrEnum):
    EMPTY = "empty"
    STAGING = "staging"  # half-built: never trusted, never switched to
    WHOLE = "whole"  # its record is committed; not yet proven
    GOOD = "good"  # passed a trial
    BAD = "bad"  # failed one


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a release at its source. `digest` is what the source itself says, or empty; `size` 0 = unknown."""

    name: str
    url: str
    size: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """One version of an app at a source. `published` 0 = unknown.

    `oldest`: from this version on one may not go back to an older one than that, as its publisher says; or empty.
    """

    version: str
    tag: str
    published: float = 0.0
    notes: str = ""
    yanked: bool = False
    assets: tuple[Asset, ...] = ()
    oldest: str = ""

    def asset(self, name: str) -> Asset | None:
        return next((a for a in self.assets if a.name == name), None)


@dataclass(frozen=True, slots=True)
class Slot:
    """What the store knows of one slot."""

    app: str
    name: SlotName
    state: SlotState = SlotState.EMPTY
    version: str = ""
    digest: str = ""
    manifest: str = ""
    installed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """An open trial. `remaining_s` is the watched time that is left; it does not run while the host is off."""

    app: str
    job: int
    version: str
    digest: str
    slot: SlotName
    previous_version: str
    previous_slot: SlotName | None
    backup: str
    attempts_left: int
    started_at: float
    remaining_s: float
    boots: int = 0
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """A saved copy of an app's data. `kind`: `backup`, or `quarantine` for what a failed version wrote."""

    id: str
    app: str
    kind: str
    version: str
    reason: str
    created_at: float
    path: str
    bytes: int = 0
    sealed: bool = False
    job: int = 0


@dataclass(frozen=True, slots=True)
class Blocked:
    """A version that is not tried again by itself (promise 6); `digest` empty blocks it whatever its digest."""

    app: str
    version: str
    digest: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class AppRecord:
    """What is state, not configuration: set over D-Bus or learned, kept in the store."""

    app: str
    mode: Mode | None = None
    held: bool = False
    hold_reason: str = ""
    approved: str = ""
    available: str = ""
    last_check: float = 0.0
    last_error: str = ""
    source_state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One operation on one app. `plan` is the job's own durable memory, JSON; see recipes."""

    id: int
    app: str
    kind: JobKind
    state: JobState = JobState.WAITING
    step: str = ""
    progress: int = 0
    result: Result = Result.NONE
    error_name: str = ""
    error_message: str = ""
    version: str = ""
    previous_version: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0
    correlation: str = ""
    resumed: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of an app's history, a sentence in `message`."""

    id: int
    app: str
    at: float
    kind: str
    message: str
    job: int = 0
    version: str = ""
    step: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppView:
    """Everything a person can ask of an app, at one moment: what the bus and `slotctl` show."""

    name: str
    description: str = ""
    engine: str = "directory"
    units: tuple[str, ...] = ()
    state: AppState = AppState.ABSENT
    version: str = ""
    slot: str = ""
    previous_version: str = ""
    previous_slot: str = ""
    available: str = ""
    approved: str = ""
    mode: Mode = Mode.APPROVE
    held: bool = False
    hold_reason: str = ""
    last_check: float = 0.0
    last_error: str = ""
    trial: Trial | None = None
    backups: tuple[Backup, ...] = ()
    problems: tuple[str, ...] = ()
