"""A boot at which the state cannot be read: what is known without it. Blocking.

The files of what is under way lie beside the database (`slotd.host.underway`). An app that was in the middle of a
change of its data is not started on what is half there; the daemon lets it start once it has gone on.
"""

from __future__ import annotations

import logging

from slotd.core.events import BY_NAME
from slotd.core.plain import from_plain
from slotd.errors import NoSuchApp, SlotdError
from slotd.host import definitions, holdback, journal, underway
from slotd.host.paths import Paths
from slotd.model import Job
from slotd.recipes import dumps
from slotd.recipes.context import Plan

_log = logging.getLogger(__name__)

TOLD = (
    "{app} is not started yet: slotd's state cannot be read, and its job {job} was in the middle of changing the app"
    " (step {step}). slotd goes on with it once it can; `journalctl -u slotd-boot -u slotd` says what is wrong."
)


def hold_back_unfinished(paths: Paths) -> list[str]:
    """Hold back the apps that are half changed; gives their names. What cannot be read of one hinders no other."""
    held = []
    try:
        found = list(underway.read(paths.state / underway.DIRECTORY))
    except OSError as error:
        _log.error("what is under way cannot be known: %s", error)
        return []
    for app, job, _ in found:
        try:
            if not (units := _units(paths, app, job)):
                continue
            holdback.hold_back(paths.runtime, *units)
        except (OSError, SlotdError, ValueError, TypeError) as error:
            _log.error("%s: %s", app, error)
            continue
        held.append(app)
        told = TOLD.format(app=app, job=job.id if job else "?", step=job.step if job else "unknown")
        journal.send(BY_NAME["warning"], told, fields={"SLOTD_APP": app}, units=units)
    return held


def _is_half_done(step: str, plan: Plan) -> bool:
    """Whether its data, or the link, may be those of neither version: no version may be started on them."""
    if step == "switch":
        return bool(plan.definition.slots.migrate or plan.brings)
    if step == "rb-start":
        return not dumps.have_come_back(plan)
    return step in ("migrate", "rb-quarantine", "rb-restore", "rb-switch")


def _units(paths: Paths, app: str, job: Job | None) -> tuple[str, ...]:
    """Those to hold back: none if nothing is half done. What a damaged record was of, nobody knows: its app's are."""
    if job is not None:
        plan = from_plain(Plan, job.plan)
        return tuple(plan.definition.service.units) if _is_half_done(job.step, plan) else ()
    if (known := definitions.load(paths).apps.get(app)) is None:
        raise NoSuchApp(f"cannot hold back {app}: nothing that can be read says which units it has.")
    return tuple(known.service.units)
