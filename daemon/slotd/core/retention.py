"""Which backups and quarantines have had their time. Pure: records and `now` in, what may be removed out.

Rules, each for backups and for quarantine by itself, and for each app:
the newest is always kept; never fewer than `keep`; what a person made by hand is never pruned; what is protected (an
open trial, a running job) is not touched. What may go and is too old goes; then, as long as what is left of both kinds
takes more than `most_bytes`, the oldest that may. A clock that jumps cannot make the newest look old: the number of the
job that made a copy only grows, and counts too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from slotd.model import Backup

MANUAL = "manual"
"""The first word of a backup's `reason` when a person asked for it."""

HALF_MADE_S = 86400.0  # what no job sealed within a day is left over from a crash


def expired(
    backups: Sequence[Backup],
    *,
    retention_s: float,
    keep: int,
    now: float,
    protected: AbstractSet[str],
    most_bytes: int = 0,
    disk_bytes: Mapping[str, int] | None = None,
) -> list[Backup]:
    """What may be removed, oldest first. `retention_s` 0 keeps only what must be; `protected` are ids of backups.

    `most_bytes` of an app (0: no bound) is for what the rules may remove at all: copies made by hand do not count.
    `disk_bytes`: what each copy takes by itself, by its id, where that is known better than by its own `bytes`.
    """
    gone: list[Backup] = []
    for app in sorted({each.app for each in backups}):
        counted: list[Backup] = []
        movable: set[str] = set()
        for kind in sorted({each.kind for each in backups if each.app == app}):
            group = [each for each in backups if (each.app, each.kind) == (app, kind)]
            old = _expired_of(group, retention_s, max(1, keep), now, protected)
            lost = {each.id for each in old}
            gone += old
            left = [each for each in group if each.sealed and not is_manual(each) and each.id not in lost]
            counted += left
            movable |= {each.id for each in left} - _newest(left, max(1, keep)) - set(protected)
        if most_bytes:
            gone += _over(counted, movable, most_bytes, disk_bytes or {})
    return sorted(gone, key=_age)


def _age(backup: Backup) -> tuple[float, int, str]:
    return backup.created_at, backup.job, backup.id


def _over(
    counted: Sequence[Backup], movable: AbstractSet[str], most_bytes: int, disk_bytes: Mapping[str, int]
) -> list[Backup]:
    """The oldest that may go, as many as bring what is `counted` down to `most_bytes`."""
    total = sum(disk_bytes.get(each.id, each.bytes) for each in counted)
    gone = []
    for each in sorted((each for each in counted if each.id in movable), key=_age):
        if total <= most_bytes:
            break
        total -= disk_bytes.get(each.id, each.bytes)
        gone.append(each)
    return gone


def is_manual(backup: Backup) -> bool:
    return backup.reason.strip().lower().split(" ", 1)[0].rstrip(":,;") == MANUAL


def _expired_of(
    group: Sequence[Backup], retention_s: float, keep: int, now: float, protected: AbstractSet[str]
) -> list[Backup]:
    made = _made_at(group, now)
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


def _made_at(group: Sequence[Backup], now: float) -> dict[str, float]:
    """When each was made, set right by the jobs before and after it; where that leaves a doubt, the younger age.

    A clock that was behind dated it before copies that were there already; one that was ahead, after now.
    """
    made = {each.id: min(each.created_at, now) for each in group if not each.job}
    by_job = sorted((each for each in group if each.job), key=lambda each: each.job)
    before = 0.0
    for _, same in itertools.groupby(by_job, key=lambda each: each.job):
        copies = list(same)
        made |= {each.id: max(each.created_at, before) for each in copies if each.created_at <= now}
        before = max([before, *(each.created_at for each in copies if each.created_at <= now)])
    after: float | None = None
    for _, same in itertools.groupby(reversed(by_job), key=lambda each: each.job):
        copies = list(same)
        made |= {each.id: now if after is None else after for each in copies if each.created_at > now}
        dated = [each.created_at for each in copies if each.created_at <= now]
        after = max([*dated, *(() if after is None else (after,))], default=None)
    return made
