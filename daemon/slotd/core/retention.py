"""Which backups and quarantines have had their time. Pure: records and `now` in, what may be removed out.

Rules, each for backups and for quarantine by itself, and for each app:
the newest is always kept; never fewer than `keep`; what a person made by hand is never pruned; what is protected (an
open trial, a running job) is not touched. A clock that jumps cannot make the newest look old: the number of the job
that made a copy only grows, and counts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from slotd.model import Backup

MANUAL = "manual"
"""The first word of a backup's `reason` when a person asked for it."""

HALF_MADE_S = 86400.0  # what no job sealed within a day is left over from a crash


def expired(
    backups: Sequence[Backup], *, retention_s: float, keep: int, now: float, protected: AbstractSet[str]
) -> list[Backup]:
    """What may be removed, oldest first. `retention_s` 0 keeps only what must be; `protected` are ids of backups."""
    gone: list[Backup] = []
    for app, kind in sorted({(each.app, each.kind) for each in backups}):
        group = [each for each in backups if (each.app, each.kind) == (app, kind)]
        gone += _expired_of(group, retention_s, max(1, keep), now, protected)
    return sorted(gone, key=lambda each: (each.created_at, each.job, each.id))


def is_manual(backup: Backup) -> bool:
    return backup.reason.strip().lower().split(" ", 1)[0].rstrip(":,;") == MANUAL


def _expired_of(
    group: Sequence[Backup], retention_s: float, keep: int, now: float, protected: AbstractSet[str]
) -> list[Backup]:
    made = {each.id: _made_at(each, group, now) for each in group}
    prunable = [each for each in group if each.sealed and not is_manual(each)]
    kept = _newest(prunable, keep) | set(protected)
    gone = [each for each in prunable if each.id not in kept and now - made[each.id] >= retention_s]
    # A quarantine that was never sealed may hold the only copy of what was moved there: it stays.
    half_made = [
        each
        for each in group
        if not each.sealed
        and each.kind != "quarantine"
        and each.id not in protected
        and now - made[each.id] >= max(retention_s, HALF_MADE_S)
    ]
    return gone + half_made


def _newest(group: Sequence[Backup], keep: int) -> set[str]:
    """The newest by time and the newest by job: if a clock jumped the two differ, and both are kept."""
    by_time = sorted(group, key=lambda each: (each.created_at, each.job), reverse=True)[:keep]
    by_job = sorted((each for each in group if each.job > 0), key=lambda each: each.job, reverse=True)[:keep]
    return {each.id for each in (*by_time, *by_job)}


def _made_at(backup: Backup, group: Sequence[Backup], now: float) -> float:
    """When it was made, set right by the jobs before and after it; where that leaves a doubt, the younger age.

    A clock that was behind dated it before copies that were there already; one that was ahead, after now.
    """
    dated = [each for each in group if backup.job and each.job and each.created_at <= now]
    if backup.created_at > now:
        return max((each.created_at for each in dated if each.job > backup.job), default=now)
    return max([backup.created_at, *(each.created_at for each in dated if each.job < backup.job)])
