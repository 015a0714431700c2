"""What comes over the bus, as frozen values, and as the JSON that `--json` prints (snake_case, RFC 3339 UTC times).

Nothing is taken on trust: a property that is missing or of another type becomes its empty value, so that an older or a
newer daemon still gives a readable answer. States stay strings: a word that is not known here is shown as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotd.cli.tables import iso

FINISHED = ("done", "failed", "cancelled")


def text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def number(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key, 0)
    return int(value) if isinstance(value, (int, float)) else 0


END_OF_TIME = 253_402_214_400.0  # a day before the year 10000, which calendars do not know


def when(values: Mapping[str, Any], key: str, *, per_s: float = 1) -> float | None:
    """A time on the bus (since the epoch, 0 = never) as seconds, or None."""
    value = values.get(key, 0)
    return min(value / per_s, END_OF_TIME) if isinstance(value, (int, float)) and value > 0 else None


@dataclass(frozen=True, slots=True)
class Trial:
    """An open trial; `deadline` in seconds since the epoch."""

    version: str
    attempts_left: int
    deadline: float | None

    def json(self) -> dict[str, Any]:
        return {"version": self.version, "attempts_left": self.attempts_left, "deadline": iso(self.deadline)}


@dataclass(frozen=True, slots=True)
class Backup:
    """A saved copy. `kind` is `backup` or `quarantine`."""

    id: str
    kind: str
    version: str
    reason: str
    created: float | None
    bytes: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Backup:
        return cls(
            id=text(values, "id"),
            kind=text(values, "kind"),
            version=text(values, "version"),
            reason=text(values, "reason"),
            created=when(values, "created"),
            bytes=number(values, "bytes"),
        )

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "version": self.version,
            "reason": self.reason,
            "created": iso(self.created),
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class App:
    """All properties of `org.slotd1.App`."""

    name: str
    description: str
    engine: str
    units: tuple[str, ...]
    state: str
    version: str
    slot: str
    previous_version: str
    previous_slot: str
    available: str
    approved: str
    mode: str
    held: bool
    hold_reason: str
    last_check: float | None
    last_error: str
    trial: Trial | None
    backups: tuple[Backup, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> App:
        trial = values.get("Trial")
        units = values.get("Units")
        backups = values.get("Backups")
        saved = [Backup.of(b) for b in backups if isinstance(b, dict)] if isinstance(backups, list) else []
        return cls(
            name=text(values, "Name"),
            description=text(values, "Description"),
            engine=text(values, "Engine"),
            units=tuple(u for u in units if isinstance(u, str)) if isinstance(units, list) else (),
            state=text(values, "State"),
            version=text(values, "Version"),
            slot=text(values, "Slot"),
            previous_version=text(values, "PreviousVersion"),
            previous_slot=text(values, "PreviousSlot"),
            available=text(values, "AvailableVersion"),
            approved=text(values, "ApprovedVersion"),
            mode=text(values, "Mode"),
            held=bool(values.get("Held", False)),
            hold_reason=text(values, "HoldReason"),
            last_check=when(values, "LastCheck"),
            last_error=text(values, "LastError"),
            trial=trial_of(trial),
            backups=tuple(sorted(saved, key=lambda b: b.created or 0.0, reverse=True)),
        )

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "engine": self.engine,
            "units": list(self.units),
            "state": self.state,
            "version": self.version,
            "slot": self.slot,
            "previous_version": self.previous_version,
            "previous_slot": self.previous_slot,
            "available": self.available,
            "approved": self.approved,
            "mode": self.mode,
            "held": self.held,
            "hold_reason": self.hold_reason,
            "last_check": iso(self.last_check),
            "last_error": self.last_error,
            "trial": self.trial.json() if self.trial else None,
            "backups": [b.json() for b in self.backups],
        }


def trial_of(values: object) -> Trial | None:
    """The `Trial` property: an empty dictionary when there is none."""
    if not isinstance(values, dict) or not values:
        return None
    deadline = when(values, "deadline_usec", per_s=1e6) or when(values, "deadline")
    return Trial(text(values, "version"), number(values, "attempts_left"), deadline)


@dataclass(frozen=True, slots=True)
class Job:
    """All properties of `org.slotd1.Job`. `refused` is set for one that the daemon never started (id 0)."""

    id: int
    app: str
    kind: str
    state: str
    step: str = ""
    progress: int = 0
    result: str = ""
    error_name: str = ""
    error_message: str = ""
    error_hint: str = ""
    version: str = ""
    previous_version: str = ""
    started: float | None = None
    finished: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Job:
        error = values.get("Error")
        name, message = error if isinstance(error, list) and len(error) == 2 else ("", "")
        sentence, _, hint = str(message).partition("\n")
        return cls(
            id=number(values, "Id"),
            app=text(values, "App"),
            kind=text(values, "Kind"),
            state=text(values, "State"),
            step=text(values, "Step"),
            progress=min(max(number(values, "Progress"), 0), 100),
            result=text(values, "Result"),
            error_name=str(name).removeprefix("org.slotd1.Error."),
            error_message=sentence,
            error_hint=hint,
            version=text(values, "Version"),
            previous_version=text(values, "PreviousVersion"),
            started=when(values, "Started"),
            finished=when(values, "Finished"),
        )

    @property
    def whose(self) -> str:
        """What it works on, by name: an import is of no app."""
        return self.app or "bundle"

    @property
    def notes(self) -> list[str]:
        """What a job that ended without an error has to say, a line each."""
        return [line for line in (self.error_message, *self.error_hint.splitlines()) if line]

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def took_s(self) -> float | None:
        return self.finished - self.started if self.started and self.finished else None

    def json(self) -> dict[str, Any]:
        error = {"name": self.error_name, "message": self.error_message, "hint": self.error_hint}
        return {
            "id": self.id or None,
            "app": self.app,
            "kind": self.kind,
            "state": self.state,
            "step": self.step,
            "progress": self.progress,
            "result": self.result,
            "version": self.version,
            "previous_version": self.previous_version,
            "started": iso(self.started),
            "finished": iso(self.finished),
            "took_s": self.took_s,
            "error": error if self.error_message or self.error_name else None,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """One row of history."""

    id: int
    app: str
    at: float | None
    kind: str
    message: str
    job: int
    version: str
    step: str
    fields: Mapping[str, str]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Event:
        return cls(
            id=number(values, "id"),
            app=text(values, "app"),
            at=when(values, "at"),
            kind=text(values, "kind"),
            message=text(values, "message"),
            job=number(values, "job"),
            version=text(values, "version"),
            step=text(values, "step"),
            fields=_texts(values.get("fields")),
        )

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "app": self.app,
            "time": iso(self.at),
            "kind": self.kind,
            "message": self.message,
            "job": self.job or None,
            "version": self.version,
            "step": self.step,
            "fields": dict(self.fields),
        }


def _texts(values: object) -> Mapping[str, str]:
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, Mapping) else {}
