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
from slotd.model import Job, JobKind
from slotd.recipes import dumps, standing
from slotd.recipes.context import Plan

_log = logging.getLogger(__name__)

TOLD = (
    "{app} is not started yet: not all that slotd keeps of it could be read, and its job {job} was in the middle of"
    " changing the app (step {step}). slotd goes on with it once it can; `journalctl -u slotd-boot -u slotd` says what"
    " is wrong."
)
UNKNOWN = (
    "{app} is not started yet: what slotd was in the middle of with it cannot be read, so its data may be half changed."
    " `journalctl -u slotd-boot -u slotd` says what is wrong. If slotd does not start the app once it can read its"
    " state again: `slotctl unhold {app}`, and start its units."
)

_BACK = ("rb-stop", "rb-quarantine", "rb-restore", "rb-switch")


def hold_back_unfinished(paths: Paths) -> list[str]:
    """Hold back the apps that are half changed; gives their names. What cannot be read of one hinders no other."""
    hold_back_again(paths)
    try:
        found = list(underway.read(paths.state / underway.DIRECTORY))
    except OSError as error:
        _log.error("what is under way cannot be known: %s", error)
        return []
    return [app for app, job, _ in found if hold_back_if_half(paths, app, job)]


def hold_back_again(paths: Paths) -> None:
    """What had to stay down before this boot."""
    try:
        holdback.hold_back(paths, *holdback.held_over_boots(paths))
    except OSError as error:
        _log.error("what is to stay down cannot be known: %s", error)


def hold_back_if_half(paths: Paths, app: str, job: Job | None) -> bool:
    """Whether the app was held back, as its job, or what nobody can read of it, may have left it half changed."""
    try:
        if not (units := _units(paths, app, job)):
            return False
        holdback.hold_back(paths, *units)
    except (OSError, SlotdError, ValueError, TypeError) as error:
        _log.error("%s: %s", app, error)
        return False
    told = TOLD.format(app=app, job=job.id, step=job.step) if job else UNKNOWN.format(app=app)
    journal.send(BY_NAME["warning"], told, fields={"SLOTD_APP": app}, units=units)
    return True


def _is_half_done(paths: Paths, job: Job, plan: Plan) -> bool:
    """Whether its data, or the link, may be those of neither version: no version may be started on them."""
    step = job.step
    if step == "rb-start":
        return not dumps.have_come_back(plan)
    if step == "migrate" or (step == "switch" and (plan.definition.slots.migrate or plan.brings)):
        return True
    if job.kind is JobKind.UPDATE and step in ("switch", "start", "trial"):
        return _was_set_aside(paths, job, plan)  # a way back of which a full disk kept no word
    return step in _BACK


def _was_set_aside(paths: Paths, job: Job, plan: Plan) -> bool:
    try:
        return standing.is_set_aside(paths, job.app, plan)
    except SlotdError as error:
        _log.error("%s: %s", job.app, error)
        return True


def _units(paths: Paths, app: str, job: Job | None) -> tuple[str, ...]:
    """Those to hold back: none if nothing is half done. What a damaged record was of, nobody knows: its app's are."""
    if job is not None:
        try:
            plan = from_plain(Plan, job.plan)
        except (SlotdError, ValueError, TypeError) as error:
            _log.error("%s: the plan of job %s cannot be read: %s", app, job.id, error)
            if job.step not in ("switch", "migrate", *_BACK, "rb-start"):
                return ()
        else:
            return tuple(plan.definition.service.units) if _is_half_done(paths, job, plan) else ()
    if (known := definitions.load(paths).apps.get(app)) is None:
        raise NoSuchApp(f"cannot hold back {app}: nothing that can be read says which units it has.")
    return tuple(known.service.units)
