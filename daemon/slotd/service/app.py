"""`org.slotd1.App`, one object for each app at `/org/slotd1/app/<escaped name>`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slotd.host.bus import Call
from slotd.model import AppView, Trial
from slotd.service.api import Core
from slotd.service.interface import Answer, Interface, Method, Property, app_path, seconds, variant
from slotd.service.look import INSPECT_BACKUP, backup_of, inspect_backup
from slotd.service.polkit import Authority
from slotd.service.verbs import BY_NAME, HISTORY_LIMIT, HISTORY_ROWS_OUT, OPTIONS, VERBS, do, history, options_of

INTERFACE = Interface(
    "org.slotd1.App",
    methods=(
        *(verb.method(with_app=False) for verb in VERBS),
        INSPECT_BACKUP,
        Method("History", (HISTORY_LIMIT, OPTIONS), (HISTORY_ROWS_OUT,), is_read=True),
    ),
    properties=(
        Property("Name", "s", emits="const"),
        Property("Description", "s"),
        Property("Engine", "s"),
        Property("Units", "as"),
        Property("State", "s"),
        Property("Version", "s"),
        Property("Slot", "s"),
        Property("PreviousVersion", "s"),
        Property("PreviousSlot", "s"),
        Property("AvailableVersion", "s"),
        Property("ApprovedVersion", "s"),
        Property("Mode", "s"),
        Property("Held", "b"),
        Property("HoldReason", "s"),
        Property("LastCheck", "t"),
        Property("LastError", "s"),
        Property("Trial", "a{sv}"),
        Property("Backups", "aa{sv}"),
    ),
)


class AppNode:
    """One app, as the bus sees it. `now` gives seconds since the epoch."""

    interface = INTERFACE

    def __init__(self, core: Core, authority: Authority, name: str, now: Callable[[], float]) -> None:
        self.path = app_path(name)
        self.name = name
        self._core = core
        self._authority = authority
        self._now = now
        self._deadline: tuple[tuple[int, float], float] = ((0, 0.0), 0.0)

    def values(self) -> Mapping[str, Any]:
        """See `Node.values`."""
        app = self._core.app(self.name)
        return {
            "Name": app.name,
            "Description": app.description,
            "Engine": app.engine,
            "Units": list(app.units),
            "State": app.state.value,
            "Version": app.version,
            "Slot": app.slot,
            "PreviousVersion": app.previous_version,
            "PreviousSlot": app.previous_slot,
            "AvailableVersion": app.available,
            "ApprovedVersion": app.approved,
            "Mode": app.mode.value,
            "Held": app.held,
            "HoldReason": app.hold_reason,
            "LastCheck": seconds(app.last_check),
            "LastError": _last_error(app),
            "Trial": self._trial(app.trial) if app.trial else {},
            "Backups": [backup_of(backup) for backup in app.backups],
        }

    def call(self, method: Method, call: Call) -> Answer:
        """See `Node.call`."""
        if method.name == "History":
            options_of(call.body[1], {}, "History")
            return history(self._core, self.name, call.body[0])
        if method.name == INSPECT_BACKUP.name:
            return inspect_backup(self._core, self._authority, call, self.name)
        return do(self._core, self._authority, call, BY_NAME[method.name], self.name, call.body[:-1])

    def _trial(self, trial: Trial) -> dict[str, Any]:
        # What is left is told as a point in time, reckoned once for each amount: it must not jitter, neither with every
        # read, nor by the second that rounding makes.
        (job, remaining_s), deadline = self._deadline
        if (trial.job, trial.remaining_s) != (job, remaining_s):
            reckoned = self._now() + trial.remaining_s
            if trial.job != job or not abs(reckoned - deadline) <= 1:
                deadline = reckoned
            self._deadline = ((trial.job, trial.remaining_s), deadline)
        return {
            "version": variant(trial.version),
            "attempts_left": variant(trial.attempts_left),
            "deadline": variant(seconds(self._deadline[1])),
            "deadline_usec": variant(seconds(self._deadline[1] * 1e6)),
        }


def _last_error(app: AppView) -> str:
    """A definition that cannot be used says so here, all of its problems."""
    return app.last_error or "\n".join(app.problems)
