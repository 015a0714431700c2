"""The table of steps: what it lists, and what it refuses."""

from __future__ import annotations

import pytest

from slotd.core import machine
from slotd.core.machine import OnCrash, OnError
from slotd.errors import Failed
from slotd.recipes import rollback, update


def test_the_recipes_have_the_steps_of_the_table_in_its_order() -> None:
    assert [step.name for step in update.STEPS] == [rule.name for rule in machine.UPDATE]
    assert [step.name for step in rollback.STEPS] == [rule.name for rule in machine.ROLLBACK]


def test_a_step_that_the_table_does_not_list_cannot_run() -> None:
    with pytest.raises(Failed, match="does not list it"):
        machine.rule("improvise")


def test_the_app_is_not_touched_by_anything_that_may_be_cancelled() -> None:
    names = [rule.name for rule in machine.UPDATE]
    assert all(machine.may_cancel(name) == (names.index(name) < names.index("stop")) for name in names)


def test_an_error_before_the_switch_undoes_and_one_after_it_rolls_back() -> None:
    names = [rule.name for rule in machine.UPDATE]
    for rule in machine.UPDATE:
        place = names.index(rule.name)
        if place < names.index("switch"):
            assert rule.error is OnError.UNDO
        elif place < names.index("commit"):
            assert rule.error is OnError.ROLL_BACK


def test_after_the_commit_nothing_rolls_back() -> None:
    for name in ("commit", "cleanup"):
        assert machine.rule(name).error is OnError.WARN
        assert machine.rule(name).crash is OnCrash.REDO


def test_a_crash_in_the_switch_is_decided_by_the_symlink_alone() -> None:
    assert machine.after_crash("switch", link_is_new=True) is OnCrash.REDO
    assert machine.after_crash("switch", link_is_new=False) is OnCrash.UNDO


@pytest.mark.parametrize("step", ["stop", "snapshot"])
def test_a_crash_with_the_app_stopped_starts_the_old_version(step: str) -> None:
    assert machine.after_crash(step, link_is_new=False) is OnCrash.UNDO


@pytest.mark.parametrize("step", [rule.name for rule in machine.ROLLBACK])
def test_a_crash_in_a_rollback_does_the_same_step_again(step: str) -> None:
    assert machine.after_crash(step, link_is_new=False) is OnCrash.REDO


def test_progress_never_falls_over_the_steps() -> None:
    seen = [
        machine.progress(rule.name, fraction, machine.UPDATE) for rule in machine.UPDATE for fraction in (0.0, 0.5, 1.0)
    ]
    assert seen == sorted(seen)
    assert seen[-1] <= 99


def test_the_diagram_names_every_step() -> None:
    text = machine.diagram()
    assert all(f'["{rule.name}<br/>' in text for rule in (*machine.UPDATE, *machine.ROLLBACK))


def test_a_job_that_does_its_steps_comes_further_with_each_and_a_way_back_is_further_than_any_way() -> None:
    for names in ([r.name for r in (*machine.UPDATE, *machine.ROLLBACK)], [r.name for r in machine.RESTORE]):
        for number, step in enumerate(names):
            assert machine.is_further(step, "")
            assert [machine.is_further(step, other) for other in names] == [n < number for n in range(len(names))]
