"""The steps of an update and of a rollback, and what a crash or an error in each of them means.

This table is the contract: the executor obeys it, recovery obeys it, the diagram in the manual is
printed from it, and a step that is not in it cannot run. The names are the API (bus property `Step`,
journal field `SLOTD_STEP`, failpoints).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from slotd.errors import Failed


class OnCrash(StrEnum):
    """What recovery does with a job whose last recorded intent is this step."""

    FORGET = "forget"  # nothing was touched: the job ends as failed
    REDO = "redo"  # the step is idempotent: do it again and go on
    UNDO = "undo"  # undo this step and all before it: the old version runs again
    ASK_LINK = "ask-link"  # the symlink is the truth: old = undo, new = go on
    ROLL_BACK = "roll-back"


class OnError(StrEnum):
    """What the executor does when the step fails."""

    UNDO = "undo"
    ROLL_BACK = "roll-back"
    REPORT = "report"  # the rollback itself failed: the app is held, and it is told where the backup lies
    WARN = "warn"  # the update stands; the failure is told


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `weight`: its share of the progress bar. `cancellable`: until here a person may change their mind."""

    name: str
    does: str
    crash: OnCrash
    error: OnError
    weight: int
    cancellable: bool = False


UPDATE: tuple[Rule, ...] = (
    Rule("resolve", "picks the release", OnCrash.FORGET, OnError.UNDO, 2, cancellable=True),
    Rule("delay", "waits for a veto", OnCrash.FORGET, OnError.UNDO, 1, cancellable=True),
    Rule("fetch", "downloads into the cache", OnCrash.REDO, OnError.UNDO, 25, cancellable=True),
    Rule("verify", "checks digests and signatures", OnCrash.REDO, OnError.UNDO, 5, cancellable=True),
    Rule("stage", "fills the inactive slot", OnCrash.REDO, OnError.UNDO, 20, cancellable=True),
    Rule("compare", "ends here if nothing differs", OnCrash.REDO, OnError.UNDO, 2, cancellable=True),
    Rule("preserve", "copies the data, app running", OnCrash.REDO, OnError.UNDO, 10, cancellable=True),
    Rule("stop", "stops the units", OnCrash.UNDO, OnError.UNDO, 2),
    Rule("snapshot", "brings the copy up to date and seals it", OnCrash.UNDO, OnError.UNDO, 5),
    Rule("switch", "writes the trial, then the symlink", OnCrash.ASK_LINK, OnError.ROLL_BACK, 1),
    Rule("migrate", "runs the app's migrations", OnCrash.ROLL_BACK, OnError.ROLL_BACK, 2),
    Rule("start", "starts the units", OnCrash.REDO, OnError.ROLL_BACK, 5),
    Rule("trial", "watches the new version", OnCrash.REDO, OnError.ROLL_BACK, 17),
    Rule("commit", "marks the version good", OnCrash.REDO, OnError.WARN, 1),
    Rule("cleanup", "prunes backups and cache", OnCrash.REDO, OnError.WARN, 2),
)

ROLLBACK: tuple[Rule, ...] = (
    Rule("rb-stop", "stops the units", OnCrash.REDO, OnError.REPORT, 10),
    Rule("rb-quarantine", "sets the present data aside", OnCrash.REDO, OnError.REPORT, 20),
    Rule("rb-restore", "brings the saved data back", OnCrash.REDO, OnError.REPORT, 30),
    Rule("rb-switch", "points current at the old slot", OnCrash.REDO, OnError.REPORT, 5),
    Rule("rb-start", "starts the old version", OnCrash.REDO, OnError.REPORT, 15),
    Rule("rb-verify", "asks its probes", OnCrash.REDO, OnError.REPORT, 20),
)

# The other kinds of job are one step each; they touch nothing that a crash could leave half-done for long.
SINGLE: tuple[Rule, ...] = (
    Rule("check", "asks the source what there is", OnCrash.FORGET, OnError.UNDO, 100, cancellable=True),
    Rule("backup", "copies the data and seals the copy", OnCrash.UNDO, OnError.UNDO, 100, cancellable=True),
    Rule("adopt", "copies what is installed, starts the copy", OnCrash.UNDO, OnError.UNDO, 100, cancellable=True),
    Rule("release", "starts what was installed before", OnCrash.UNDO, OnError.UNDO, 100),
    Rule("import", "takes the releases of a bundle in", OnCrash.UNDO, OnError.UNDO, 100, cancellable=True),
    Rule("read", "reads saved copies and compares them", OnCrash.FORGET, OnError.UNDO, 100, cancellable=True),
)

# First in what a person asks for, a restore or a rollback with its data: the app still runs, and nothing is changed.
CHECK_COPY = Rule("rb-check", "reads the copy, counts the room", OnCrash.REDO, OnError.UNDO, 30, cancellable=True)

RESTORE: tuple[Rule, ...] = (CHECK_COPY, *(rule for rule in ROLLBACK if rule.name != "rb-switch"))

RULES: dict[str, Rule] = {rule.name: rule for rule in (*UPDATE, *ROLLBACK, *SINGLE, CHECK_COPY)}

# A job that is resumed over and over and comes no further is a loop; it is held and told instead.
MOST_RESUMES = 20
_PLACES = {rule.name: place for place, rule in enumerate((*UPDATE, *SINGLE, CHECK_COPY, *ROLLBACK))}


def rule(step: str) -> Rule:
    """The row of a step. Raises `Failed` for a name that the table does not list."""
    try:
        return RULES[step]
    except KeyError:
        raise Failed(f"cannot run a step named {step!r}: the table does not list it") from None


def is_rollback_step(step: str) -> bool:
    return step.startswith("rb-")


def is_further(step: str, than: str) -> bool:
    """Whether a job in `step` has come further than to `than`, which may be empty. Every way back comes last."""
    return _PLACES.get(step, -1) > _PLACES.get(than, -1)


def may_cancel(step: str) -> bool:
    """Whether a job in `step` may still be cancelled; a job that has not begun (no step) may."""
    return not step or rule(step).cancellable


def may_block(step: str) -> bool:
    """Whether a failure in `step` tells against the version itself: it was on trial, or being taken back from one."""
    return (is_rollback_step(step) and step != CHECK_COPY.name) or step in ("migrate", "start", "trial")


def after_crash(step: str, *, link_is_new: bool) -> OnCrash:
    """What recovery does with a job that died in `step`. `link_is_new`: `current` points at the new slot already."""
    if not step:
        return OnCrash.FORGET
    action = rule(step).crash
    if action is OnCrash.ASK_LINK:
        return OnCrash.REDO if link_is_new else OnCrash.UNDO
    return action


def after_error(step: str, *, passed: bool) -> OnError:
    """What the executor does when `step` failed. `passed`: the version has passed its trial already.

    Then the failure is slotd's own, such as a disk that could not be written, and says nothing against the version.
    """
    return OnError.WARN if passed else rule(step).error


def progress(step: str, fraction: float, steps: tuple[Rule, ...]) -> int:
    """Whole per cent of a job that is `fraction` (0..1) through `step` of `steps`."""
    total = sum(r.weight for r in steps)
    done = 0
    for r in steps:
        if r.name == step:
            return min(99, int(100 * (done + r.weight * max(0.0, min(1.0, fraction))) / total))
        done += r.weight
    return 0


def diagram() -> str:
    """The machine as a Mermaid flowchart, for the manual."""
    lines = ["flowchart TD"]
    for r in (*UPDATE, *ROLLBACK):
        lines.append(f'    {r.name.replace("-", "_")}["{r.name}<br/><small>{r.does}</small>"]')
    lines.append(
        "    untouched([old version untouched])\n    good([new version good])\n    back([old version and its data])"
    )
    lines.append("    held([held: a person decides])")
    for table, end in ((UPDATE, "good"), (ROLLBACK, "back")):
        names = [r.name.replace("-", "_") for r in table]
        lines += [f"    {a} --> {b}" for a, b in zip(names, [*names[1:], end], strict=True)]
    for r in UPDATE:
        name = r.name.replace("-", "_")
        if r.error is OnError.UNDO:
            lines.append(f"    {name} -. error .-> untouched")
        elif r.error is OnError.ROLL_BACK:
            lines.append(f"    {name} -. error .-> rb_stop")
    lines += [f"    {r.name.replace('-', '_')} -. error .-> held" for r in ROLLBACK]
    lines.append("    compare -. nothing differs .-> untouched")
    return "\n".join(lines) + "\n"


def table() -> str:
    """The same as a Markdown table: step, what it does, what a crash and an error in it mean."""
    rows = ["| step | does | after a crash | on an error |", "|---|---|---|---|"]
    rows += [f"| `{r.name}` | {r.does} | {r.crash} | {r.error} |" for r in (*UPDATE, *ROLLBACK)]
    return "\n".join(rows) + "\n"
