"""One sentence for how a job ended, and its exit code."""

from __future__ import annotations

from slotd.cli.out import DONE, FAILED, NOTHING, ROLLED_BACK, code_of
from slotd.cli.tables import escape
from slotd.cli.views import App, Job
from slotd.core.words import about_it, duration

_NOTHING = "nothing is installed, and its source offers nothing to install"


def exit_code(job: Job) -> int:
    """0 done, 3 nothing was changed, 4 the new version was rolled back, else by the error."""
    if job.result in ("updated", "done"):
        return DONE
    if job.result in ("unchanged", "up-to-date"):
        return DONE if job.kind == "check" else NOTHING
    if job.result == "rolled-back":
        return DONE if job.kind == "rollback" else ROLLED_BACK
    if job.state == "done" and not job.result:
        return DONE
    return code_of(job.error_name) if job.error_name else FAILED


def summary(job: Job, app: App | None = None) -> tuple[str, str]:
    """A sentence and what to do next (or nothing). `app` as it is after the job, where known. Escaped."""
    name, new, old = escape(job.app), escape(job.version), escape(job.previous_version)
    took = f" in {duration(job.took_s)}" if job.took_s else ""
    why = about_it(_why(job), new) if new else _why(job)
    if job.kind == "import" and job.state != "refused":
        return _imported(job)
    if job.state == "refused" or job.error_name in ("NothingToDo", "BadOption"):
        return f"{name}: {why}", escape(job.error_hint)
    if job.result == "updated":
        change = f"updated {old} → {new}" if old and old != new else f"installed {new}"
        return f"{name}: {change}{took}", ""
    if job.result == "unchanged":
        return f"{name}: {new} is the same, file for file, as what is installed; nothing was touched", ""
    if job.result == "up-to-date" and job.kind != "check":
        have = escape(app.version) if app else old or new
        passed_over = "\n".join(escape(line) for line in job.notes)
        if app is not None and not have:
            return f"{name}: {_NOTHING}", passed_over
        if have and passed_over:
            return f"{name}: {have} stays: nothing newer may be installed", passed_over
        return f"{name}: {have or 'it'} is up to date; nothing to do", passed_over
    if job.result == "rolled-back":
        return _rolled_back(job, took, why)
    if job.result == "rollback-failed":
        return (
            f"{name}: the rollback failed: {why}",
            f"{escape(job.error_hint)} See `slotctl status {name}` and `slotctl history {name}`.".strip(),
        )
    if job.state == "cancelled" or job.result == "cancelled":
        return f"{name}: {escape(job.kind)} cancelled; the app was not touched", ""
    if job.state == "failed" or job.result == "failed":
        return f"{name}: {escape(job.kind)} failed: {why}", escape(job.error_hint)
    if job.kind == "check":
        return _checked(job, app)
    if job.kind == "backup":
        newest = next((b for b in app.backups if b.kind != "quarantine"), None) if app else None
        which = f" {escape(newest.id)}" if newest else ""
        return f"{name}: backup{which} made{took}", ""
    if job.kind == "adopt":
        care = f"`slotctl enable {name}` ties its units to slotd at boot and on failure."
        return f"{name}: adopted as {new}{took}; its units start it from slot a now", care
    if job.kind == "release":
        return f"{name}: given back{took}; its units start {new} from where it was", ""
    if job.kind == "verify":
        return f"{name}: read again{took}, every file holds what was saved", "\n".join(escape(n) for n in job.notes)
    if job.kind == "restore":
        kept = "the data it replaced was set aside, see `slotctl backups " + name + "`"
        return f"{name}: data restored{took}; {kept}", ""
    return f"{name}: {escape(job.kind)} done{took}", ""


def _imported(job: Job) -> tuple[str, str]:
    """How the import of a bundle ended, which is of no app in particular."""
    notes = "\n".join(escape(line) for line in job.notes)
    if job.state == "cancelled":
        return "The import was cancelled; nothing was changed.", ""
    if job.state == "failed":
        return f"The bundle was not imported: {_why(job)}", escape(job.error_hint)
    return ("The bundle was imported." if job.result == "done" else "The bundle holds nothing new."), notes


def _why(job: Job) -> str:
    return escape(job.error_message or job.error_name or "no reason was given")


def _rolled_back(job: Job, took: str, why: str) -> tuple[str, str]:
    name, new, old = escape(job.app), escape(job.version), escape(job.previous_version)
    if job.kind == "rollback":
        change = f" {old} → {new}" if old and new else f" to {new or old}" if new or old else ""
        return f"{name}: rolled back{change}{took}", ""
    back = f"rolled back to {old}" if old else "removed again"
    hint = escape(job.error_hint)
    return f"{name}: {new} failed and was {back}{took}: {why}", hint or f"See `slotctl history {name}`."


def _checked(job: Job, app: App | None) -> tuple[str, str]:
    name = escape(job.app)
    if app is None:
        return f"{name}: checked", ""
    have, offer = escape(app.version), escape(app.available)
    if not offer or app.available == app.version:
        passed_over = "\n".join(escape(line) for line in job.notes)
        state = f"{have} is up to date" if not passed_over else f"{have} stays: nothing newer may be installed"
        return f"{name}: {state if have else _NOTHING}", passed_over
    with_what = f" ({have} is installed)" if have else " (nothing is installed)"
    if app.state == "awaiting-approval":
        return (
            f"{name}: {offer} is available{with_what} and awaits approval",
            f"Approve it with `slotctl approve {name} {offer}`, or install it now with `slotctl update {name}`.",
        )
    if app.held:
        return f"{name}: {offer} is available{with_what}; the app is held", f"`slotctl unhold {name}` lifts the hold."
    by_itself = "`slotd-apply.timer` installs it, or " if app.mode == "auto" and have else ""
    if app.approved and app.approved == app.available and app.mode == "approve":
        by_itself = "It is approved: `slotd-apply.timer` installs it, or "
    return (
        f"{name}: {offer} is available{with_what}",
        f"{by_itself}`slotctl update {name}`{' does now' if by_itself else ' installs it'}.",
    )
