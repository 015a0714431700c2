"""Retention: what may be removed, and above all what may not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slotd.core.retention import expired
from slotd.model import Backup

DAY = 86400.0
NOW = 1_750_000_000.0


def backup(
    number: int, age_days: float, *, kind: str = "backup", reason: str = "update", sealed: bool = True
) -> Backup:
    return Backup(
        id=f"{kind}-{number}",
        app="astrbot",
        kind=kind,
        version="1.0",
        reason=reason,
        created_at=NOW - age_days * DAY,
        path=f"/var/lib/slotd/backups/astrbot/{number}",
        sealed=sealed,
        job=number,
    )


def ids(backups: list[Backup]) -> list[str]:
    return [each.id for each in backups]


def test_old_backups_expire_oldest_first_and_young_ones_stay() -> None:
    backups = [backup(1, 40), backup(2, 20), backup(3, 5), backup(4, 1)]
    gone = expired(backups, retention_s=14 * DAY, keep=1, now=NOW, protected=set())
    assert ids(gone) == ["backup-1", "backup-2"]


def test_a_retention_of_zero_leaves_the_newest() -> None:
    backups = [backup(1, 3), backup(2, 2), backup(3, 0)]
    assert ids(expired(backups, retention_s=0, keep=0, now=NOW, protected=set())) == ["backup-1", "backup-2"]


def test_never_fewer_than_keep_are_left() -> None:
    backups = [backup(number, 100 - number) for number in range(1, 6)]
    gone = expired(backups, retention_s=DAY, keep=3, now=NOW, protected=set())
    assert ids(gone) == ["backup-1", "backup-2"]


def test_an_infinite_retention_removes_nothing() -> None:
    backups = [backup(1, 9000), backup(2, 1)]
    assert expired(backups, retention_s=float("inf"), keep=1, now=NOW, protected=set()) == []


def test_what_a_person_made_and_what_is_in_use_are_never_removed() -> None:
    backups = [backup(1, 90, reason="manual"), backup(2, 80), backup(3, 70), backup(4, 1)]
    gone = expired(backups, retention_s=0, keep=1, now=NOW, protected={"backup-2"})
    assert ids(gone) == ["backup-3"]


def test_a_manual_backup_does_not_take_the_place_of_the_newest_automatic_one() -> None:
    backups = [backup(1, 50), backup(2, 1, reason="manual")]
    assert expired(backups, retention_s=0, keep=1, now=NOW, protected=set()) == []


def test_backups_and_quarantine_are_counted_apart() -> None:
    backups = [backup(1, 60, kind="quarantine"), backup(2, 50, kind="quarantine"), backup(3, 40)]
    gone = expired(backups, retention_s=DAY, keep=1, now=NOW, protected=set())
    assert ids(gone) == ["quarantine-1"]


def test_a_half_made_copy_goes_after_a_day_but_never_a_half_made_quarantine() -> None:
    backups = [
        backup(1, 3, sealed=False),
        backup(2, 3, kind="quarantine", sealed=False),
        backup(3, 0.1, sealed=False),
        backup(4, 0),
    ]
    assert ids(expired(backups, retention_s=0, keep=1, now=NOW, protected=set())) == ["backup-1"]


def test_a_half_made_copy_is_never_taken_for_the_newest() -> None:
    backups = [backup(1, 30), backup(2, 29, sealed=False)]
    assert "backup-1" not in ids(expired(backups, retention_s=0, keep=1, now=NOW, protected=set()))


def test_a_clock_that_jumped_back_makes_nothing_old() -> None:
    backups = [backup(1, 2), replace(backup(2, 0), created_at=3600.0), backup(3, 0)]
    assert expired(backups, retention_s=14 * DAY, keep=1, now=NOW, protected=set()) == []
    assert expired(backups, retention_s=14 * DAY, keep=1, now=7200.0, protected=set()) == []


def test_a_copy_dated_in_the_future_is_not_kept_for_ever_and_hides_no_newer_one() -> None:
    ahead = replace(backup(1, 0), created_at=NOW + 9000 * DAY)
    backups = [ahead, backup(2, 30), backup(3, 20)]
    gone = ids(expired(backups, retention_s=DAY, keep=1, now=NOW, protected=set()))
    assert "backup-3" not in gone
    assert "backup-2" in gone


copies = st.lists(
    st.builds(
        backup,
        st.integers(0, 20),
        st.floats(-10_000, 20_000),
        kind=st.sampled_from(["backup", "quarantine"]),
        reason=st.sampled_from(["update", "manual", "rollback"]),
        sealed=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


@given(copies, st.floats(0, 1e7), st.integers(0, 4), st.floats(0, 2 * NOW))
def test_the_newest_of_each_kind_always_survives(
    backups: list[Backup], retention_s: float, keep: int, now: float
) -> None:
    gone = set(ids(expired(backups, retention_s=retention_s, keep=keep, now=now, protected=set())))
    for kind in ("backup", "quarantine"):
        sealed = [each for each in backups if each.kind == kind and each.sealed]
        if not sealed:
            continue
        assert max(sealed, key=lambda each: (each.created_at, each.job)).id not in gone
        assert max(sealed, key=lambda each: each.job).id not in gone or all(each.job == 0 for each in sealed)
        assert len([each for each in sealed if each.id not in gone]) >= min(len(sealed), max(1, keep))


@given(copies, st.floats(0, 1e7), st.sets(st.sampled_from([f"backup-{n}" for n in range(20)])))
def test_protected_and_manual_copies_are_never_named(
    backups: list[Backup], retention_s: float, protected: set[str]
) -> None:
    gone = expired(backups, retention_s=retention_s, keep=1, now=NOW, protected=protected)
    assert not protected & set(ids(gone))
    assert all(each.reason != "manual" or not each.sealed for each in gone)


@given(copies, st.integers(1, 200), st.sets(st.sampled_from([f"backup-{n}" for n in range(20)])))
def test_a_bound_of_bytes_is_kept_unless_only_what_must_stay_is_left(
    backups: list[Backup], most_bytes: int, protected: set[str]
) -> None:
    sized = [replace(each, bytes=10 * (1 + number % 5)) for number, each in enumerate(backups)]
    rules = {"retention_s": 1e9, "keep": 1, "now": NOW, "protected": protected}
    gone = expired(sized, **rules, most_bytes=most_bytes)  # type: ignore[arg-type]
    left = [each for each in sized if each not in gone and each.sealed and each.reason != "manual"]
    must_stay = expired([replace(each) for each in left], **rules | {"retention_s": 0})  # type: ignore[arg-type]
    assert sum(each.bytes for each in left) <= most_bytes or must_stay == []
    for kind in ("backup", "quarantine"):
        assert any(each.kind == kind for each in left) or all(
            each.kind != kind or not each.sealed or each.reason == "manual" for each in sized
        )


def test_what_is_over_the_bound_goes_oldest_first_whatever_its_kind() -> None:
    kinds = ["backup", "quarantine", "backup", "quarantine", "backup", "quarantine"]
    backups = [replace(backup(n, 10 - n, kind=kind), bytes=100) for n, kind in enumerate(kinds, 1)]
    gone = expired(backups, retention_s=14 * DAY, keep=1, now=NOW, protected=set(), most_bytes=350)
    assert ids(gone) == ["backup-1", "quarantine-2", "backup-3"]
    shared = {each.id: 10 for each in backups}
    assert ids(expired(backups, retention_s=14 * DAY, keep=1, now=NOW, protected=set(), most_bytes=350)) != []
    assert (
        expired(backups, retention_s=14 * DAY, keep=1, now=NOW, protected=set(), most_bytes=350, disk_bytes=shared)
        == []
    )


def test_ten_thousand_updates_leave_a_bounded_disk_the_newest_and_what_was_made_by_hand() -> None:
    """An update every twenty minutes, every seventh rolled back, a backup by hand now and then, a jumping clock."""
    kept: list[Backup] = []
    by_hand: set[str] = set()
    most_bytes, most_seen = 20 * 1000, 0
    for number in range(1, 10_001):
        now = NOW + number * 1200 - (40 * DAY if number % 1000 == 500 else 0)
        made = [replace(backup(number, 0), created_at=now, bytes=400 + number % 300)]
        if number % 7 == 0:
            made.append(replace(backup(number, 0, kind="quarantine"), created_at=now, bytes=500))
        if number % 997 == 0:
            made.append(replace(backup(number, 0, reason="manual"), id=f"hand-{number}", created_at=now, bytes=400))
            by_hand.add(f"hand-{number}")
        kept += made
        gone = expired(kept, retention_s=2 * DAY, keep=2, now=now, protected=set(), most_bytes=most_bytes)
        lost = set(ids(gone))
        kept = [each for each in kept if each.id not in lost]
        assert made[0] in kept
        automatic = sum(each.bytes for each in kept if each.reason != "manual")
        most_seen = max(most_seen, automatic)
        assert automatic <= most_bytes
    assert by_hand <= set(ids(kept))
    assert len(kept) - len(by_hand) <= 2 * 2 * 72
    assert most_seen > most_bytes // 2  # the bound was reached, and not by removing everything
    aside = [each for each in kept if each.kind == "quarantine"]
    assert max(each.job for each in aside) == 9996
