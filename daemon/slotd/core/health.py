"""What probes and units tell, put together: is the new version well, pending, or ill, and why.

Nothing here asks anything: the trial hands in what a probe or systemd answered and the time of it (`now`, from one
monotonic clock, in seconds).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from slotd.core.schema import Health

# systemd.exec(5), "Process exit codes": statuses that systemd itself sets, before the program ran
_SYSTEMD_STATUS = {
    200: "its working directory is missing",
    203: "its program could not be executed",
    209: "its standard output could not be set up",
    214: "its scheduling could not be set up",
    216: "its group does not exist",
    217: "its user does not exist",
    218: "its capabilities could not be set",
    226: "its sandbox could not be set up",
    233: "its runtime directory could not be made",
    238: "its state directory could not be made",
    239: "its cache directory could not be made",
    240: "its log directory could not be made",
    241: "its configuration directory could not be made",
    243: "its credentials could not be set up",
}

# signal(7): those that end programs, and are numbered alike on all of Debian's architectures but MIPS
_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}


class Verdict(StrEnum):
    HEALTHY = "healthy"
    PENDING = "pending"  # not yet green, or red too rarely to tell
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Tracker:
    """What is known of one probe since `since`, when its watch began. `last` None: not asked yet."""

    since: float
    limit: int = 3
    ever_healthy: bool = False
    last: bool | None = None
    failures: int = 0  # in a row, those in the grace time not among them
    detail: str = ""
    at: float = 0.0


def track(health: Health, now: float) -> Tracker:
    """The tracker of a probe whose watch begins now: at a start of the app, or when the daemon takes over a trial."""
    return Tracker(since=now, limit=max(1, health.failures), at=now)


def observe(tracker: Tracker, health: Health, outcome_healthy: bool, detail: str, now: float) -> Tracker:
    """The tracker after one answer. Before the first success, failures within `grace_s` do not count."""
    answered = replace(tracker, last=outcome_healthy, detail=detail, at=now, limit=max(1, health.failures))
    if outcome_healthy:
        return replace(answered, ever_healthy=True, failures=0)
    if not tracker.ever_healthy and now - tracker.since < health.grace_s:
        return replace(answered, failures=0)
    return replace(answered, failures=tracker.failures + 1)


def verdict(tracker: Tracker) -> Verdict:
    """`unhealthy` after `failures` failures in a row, `healthy` if the last answer was, else `pending`."""
    if tracker.failures >= tracker.limit:
        return Verdict.UNHEALTHY
    return Verdict.HEALTHY if tracker.last else Verdict.PENDING


def combined(trackers: Iterable[Tracker]) -> Verdict:
    """All must be green; one red one is enough. Of no probes at all nothing is known: `pending`, never `healthy`."""
    verdicts = [verdict(tracker) for tracker in trackers]
    if Verdict.UNHEALTHY in verdicts:
        return Verdict.UNHEALTHY
    if verdicts and all(each is Verdict.HEALTHY for each in verdicts):
        return Verdict.HEALTHY
    return Verdict.PENDING


def reason(trackers: Iterable[Tracker]) -> str:
    """Why it is not all green, in a few words; the worst first; empty if it is."""
    red = sorted(
        (t for t in trackers if verdict(t) is not Verdict.HEALTHY),
        key=lambda t: (verdict(t) is not Verdict.UNHEALTHY, -t.failures),
    )
    if not red:
        return ""
    worst = red[0]
    words = worst.detail or "not asked yet"
    return f"{words} ({worst.failures} times in a row)" if worst.failures > 1 else words


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """A unit as systemd shows it. The names are systemd's own; `invocation_id` is hex, empty if it never ran."""

    name: str
    load_state: str = "loaded"
    active_state: str = "inactive"
    sub_state: str = ""
    result: str = "success"
    invocation_id: str = ""
    n_restarts: int = 0
    exec_main_code: int = 0
    exec_main_status: int = 0
    exec_main_pid: int = 0
    status_text: str = ""


@dataclass(frozen=True, slots=True)
class UnitSeen:
    """What is remembered of a unit between two looks, to count the starts in between. Small enough to persist."""

    invocation_id: str = ""
    n_restarts: int = 0
    sub_state: str = ""


def seen(status: UnitStatus) -> UnitSeen:
    return UnitSeen(status.invocation_id, status.n_restarts, status.sub_state)


def count_starts(previous: UnitSeen, now_seen: UnitSeen) -> int:
    """How many times systemd itself started the unit again between two looks: every one is a crash, a hang or an exit.

    `NRestarts` counts systemd's own restarts (`Restart=`: exits, signals, watchdog) and no others. A start by hand
    (`systemctl restart`, or slotd's own) sets it back to 0 together with a new `InvocationID`, and is not a crash:
    then only what the counter shows since is counted. `reset-failed` sets it to 0 while the `InvocationID` stays: no
    start. A start by hand in the wait for a restart leaves the counter as it is. `Result` is of no use: every start,
    by whomever, sets it back to `success`.

    Never negative. A reboot is not seen here (both begin anew): boots are counted by boot id.
    """
    grown = now_seen.n_restarts - previous.n_restarts
    if grown > 0:
        return grown
    if now_seen.invocation_id in ("", previous.invocation_id):
        return 0
    if grown < 0:
        return now_seen.n_restarts
    # The same count, but another start. While it waits for a restart, the unit shows the old InvocationID, with the
    # restart counted already or, if someone was faster, never; else at least one crash hides behind a count above 0.
    return 0 if previous.sub_state.startswith("auto-restart") else min(1, now_seen.n_restarts)


def is_up(status: UnitStatus) -> bool:
    """Active, and not between two crashes (`auto-restart` shows as `activating`)."""
    return status.active_state in ("active", "reloading", "refreshing")


def describe_failure(status: UnitStatus) -> str:
    """Why a unit is not up, as a clause with the unit as its subject: "astrbot.service exited with status 1"."""
    return f"{status.name} {_what_happened(status)}"


def _what_happened(status: UnitStatus) -> str:
    if status.load_state == "not-found":
        return "is not known to systemd"
    if status.load_state == "masked":
        return "is masked"
    if status.load_state in ("bad-setting", "error"):
        return "has a unit file that systemd cannot use"
    match status.result:
        case "watchdog":
            return "was killed by its watchdog"
        case "oom-kill":
            return "was killed by signal 9 (out of memory)"
        case "start-limit-hit":
            return "hit the start limit: it was started too often in too short a time"
        case "timeout":
            return "did not start or stop in time"
        case "protocol":
            return "ended before it said that it was ready" + _ended(status, ", ")
        case "resources":
            return "could not be started: systemd was refused a resource"
        case "exec-condition":
            return "was skipped by its ExecCondition="
        case "success":
            return _not_failed(status)
        case other:
            return _ended(status) or f"failed ({other})"


def _ended(status: UnitStatus, lead: str = "") -> str:
    number = status.exec_main_status
    # si_code of waitid(2), as systemd gives it: 1 exited, 2 killed, 3 killed with a core dump
    match status.exec_main_code:
        case 1 if number in _SYSTEMD_STATUS:
            words = f"could not be started: {_SYSTEMD_STATUS[number]} (status {number})"
        case 1:
            words = f"exited with status {number}"
        case 2:
            words = f"was killed by signal {_signal(number)}"
        case 3:
            words = f"crashed with signal {_signal(number)} and left a core dump"
        case _:
            return ""
    return lead + words


def _signal(number: int) -> str:
    return f"{number} ({_SIGNALS[number]})" if number in _SIGNALS else str(number)


def _not_failed(status: UnitStatus) -> str:
    if status.sub_state.startswith("auto-restart"):
        return (_ended(status) or "ended") + " and waits to be restarted"
    match status.active_state:
        case "active" | "reloading" | "refreshing":
            return f"is active ({status.sub_state})" if status.sub_state else "is active"
        case "activating":
            return "is still starting" + (f": {status.status_text}" if status.status_text else "")
        case "deactivating":
            return "is stopping"
        case "inactive":
            return "is not running" + (_ended(status, ": it ") if status.exec_main_code else "")
        case other:
            return f"is {other or 'in an unknown state'}"
