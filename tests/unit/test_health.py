"""When is a new version well, when ill, and what does it say of itself?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core import health
from slotd.core.health import UnitSeen, UnitStatus, Verdict, count_starts, describe_failure
from slotd.core.schema import Health

PROBE = Health(type="http", grace_s=60, failures=3)


def watch(probe: Health, *answers: tuple[float, bool]) -> health.Tracker:
    tracker = health.track(probe, now=0)
    for now, is_healthy in answers:
        tracker = health.observe(tracker, probe, is_healthy, "GET / gave 503" if not is_healthy else "ok", now)
    return tracker


def test_before_the_first_answer_nothing_is_known() -> None:
    assert health.verdict(watch(PROBE)) is Verdict.PENDING


def test_failures_while_it_starts_do_not_count() -> None:
    assert health.verdict(watch(PROBE, *[(float(t), False) for t in range(0, 59, 2)])) is Verdict.PENDING


def test_after_the_grace_time_they_do() -> None:
    early = [(float(t), False) for t in range(0, 60, 2)]
    assert health.verdict(watch(PROBE, *early, (60, False), (62, False))) is Verdict.PENDING
    assert health.verdict(watch(PROBE, *early, (60, False), (62, False), (64, False))) is Verdict.UNHEALTHY


def test_once_it_was_up_the_grace_time_is_over() -> None:
    assert health.verdict(watch(PROBE, (2, True), (4, False), (6, False), (8, False))) is Verdict.UNHEALTHY


def test_one_success_forgives_what_was_before() -> None:
    tracker = watch(PROBE, (2, True), (4, False), (6, False), (8, True), (10, False), (12, False))
    assert health.verdict(tracker) is Verdict.PENDING
    assert health.verdict(watch(PROBE, (2, True), (4, False), (6, True))) is Verdict.HEALTHY


def test_without_grace_the_first_failures_count() -> None:
    impatient = Health(type="tcp", grace_s=0, failures=1)
    assert health.verdict(watch(impatient, (0, False))) is Verdict.UNHEALTHY


def test_all_probes_must_be_green_and_one_red_is_enough() -> None:
    green, pending = watch(PROBE, (1, True)), watch(PROBE, (1, False))
    red = watch(PROBE, (1, True), (2, False), (3, False), (4, False))
    assert health.combined([green, green]) is Verdict.HEALTHY
    assert health.combined([green, pending]) is Verdict.PENDING
    assert health.combined([green, pending, red]) is Verdict.UNHEALTHY
    assert health.combined([]) is Verdict.PENDING
    assert health.reason([green, pending, red]) == "GET / gave 503 (3 times in a row)"
    assert health.reason([green]) == ""


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_it_is_unhealthy_exactly_when_so_many_failed_in_a_row(answers: list[bool], limit: int) -> None:
    probe = Health(type="tcp", grace_s=0, failures=limit)
    tracker = watch(probe, *[(float(t), answer) for t, answer in enumerate(answers)])
    tail = answers[-limit:]
    assert (health.verdict(tracker) is Verdict.UNHEALTHY) == (len(tail) == limit and not any(tail))


@pytest.mark.parametrize(
    ("previous", "now_seen", "starts"),
    [
        (UnitSeen("one", 0), UnitSeen("one", 0), 0),
        (UnitSeen("one", 0), UnitSeen("two", 1), 1),  # it crashed
        (UnitSeen("one", 1), UnitSeen("five", 5), 4),  # it crashed four times between two looks
        (UnitSeen("one", 0), UnitSeen("two", 0), 0),  # restarted by hand
        (UnitSeen("one", 3), UnitSeen("two", 0), 0),  # restarted by hand: systemd set the counter back
        (UnitSeen("one", 3), UnitSeen("two", 2), 2),  # by hand, and it crashed twice since
        (UnitSeen("one", 1), UnitSeen("three", 1), 1),  # by hand, and it crashed once since
        (UnitSeen("one", 5), UnitSeen("two", 5), 1),  # it crashed, and someone was faster than systemd
        (UnitSeen("one", 5, "auto-restart"), UnitSeen("two", 5), 0),  # the same, seen while it waited
        (UnitSeen("one", 3), UnitSeen("one", 0), 0),  # reset-failed
        (UnitSeen("one", 0, "auto-restart"), UnitSeen("two", 1), 1),
        (UnitSeen("one", 1, "auto-restart"), UnitSeen("two", 1, "running"), 0),  # counted at the look before
        (UnitSeen("one", 2), UnitSeen("", 0), 0),  # stopped and unloaded
        (UnitSeen(), UnitSeen("one", 0), 0),  # the first start
    ],
)
def test_only_restarts_by_systemd_count_as_attempts(previous: UnitSeen, now_seen: UnitSeen, starts: int) -> None:
    assert count_starts(previous, now_seen) == starts


@given(st.text("ab", max_size=1), st.integers(0, 9), st.text("ab", max_size=1), st.integers(0, 9))
def test_the_count_of_starts_is_never_negative(id1: str, n1: int, id2: str, n2: int) -> None:
    assert count_starts(UnitSeen(id1, n1), UnitSeen(id2, n2)) >= 0


UNIT = "astrbot.service"


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (UnitStatus(UNIT, result="exit-code", exec_main_code=1, exec_main_status=1), "exited with status 1"),
        (
            UnitStatus(UNIT, result="exit-code", exec_main_code=1, exec_main_status=203),
            "could not be started: its program could not be executed (status 203)",
        ),
        (UnitStatus(UNIT, result="watchdog", exec_main_code=2, exec_main_status=6), "was killed by its watchdog"),
        (UnitStatus(UNIT, result="oom-kill", exec_main_code=2), "was killed by signal 9 (out of memory)"),
        (UnitStatus(UNIT, result="signal", exec_main_code=2, exec_main_status=9), "was killed by signal 9 (SIGKILL)"),
        (UnitStatus(UNIT, result="signal", exec_main_code=2, exec_main_status=15), "was killed by signal 15 (SIGTERM)"),
        (
            UnitStatus(UNIT, result="core-dump", exec_main_code=3, exec_main_status=11),
            "crashed with signal 11 (SIGSEGV) and left a core dump",
        ),
        (
            UnitStatus(UNIT, result="start-limit-hit", exec_main_code=1, exec_main_status=1),
            "hit the start limit: it was started too often in too short a time",
        ),
        (UnitStatus(UNIT, result="timeout"), "did not start or stop in time"),
        (
            UnitStatus(UNIT, result="protocol", exec_main_code=1),
            "ended before it said that it was ready, exited with status 0",
        ),
        (UnitStatus(UNIT, load_state="not-found"), "is not known to systemd"),
        (UnitStatus(UNIT, active_state="inactive"), "is not running"),
        (UnitStatus(UNIT, active_state="inactive", exec_main_code=1), "is not running: it exited with status 0"),
        (
            UnitStatus(UNIT, active_state="activating", sub_state="auto-restart", exec_main_code=1),
            "exited with status 0 and waits to be restarted",
        ),
        (UnitStatus(UNIT, active_state="activating", sub_state="start"), "is still starting"),
        (UnitStatus(UNIT, active_state="active", sub_state="running"), "is active (running)"),
        (UnitStatus(UNIT, result="something-new"), "failed (something-new)"),
    ],
)
def test_a_failed_unit_is_described_in_a_sentence(status: UnitStatus, sentence: str) -> None:
    assert describe_failure(status) == f"{UNIT} {sentence}"


def test_a_unit_between_two_crashes_is_not_up() -> None:
    assert not health.is_up(UnitStatus(UNIT, active_state="activating", sub_state="auto-restart"))
    assert health.is_up(UnitStatus(UNIT, active_state="active", sub_state="exited"))
    assert health.is_up(UnitStatus(UNIT, active_state="reloading"))
