"""The table of failpoints and the calls in the code are the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from slotd import worker
from slotd.host import failpoint
from slotd.recipes import backup, rollback, update

PACKAGE = Path(failpoint.__file__).parents[1]
NAMED_BY_STEP = {"*:begin", "*:end", "*:undo", "*:undone", "worker-*:begin", "worker-*:end"}


def name_of(argument: ast.expr) -> str:
    """The name that a call gives, `*` for what is put in."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "*" for part in argument.values)
    assert isinstance(argument, ast.Constant), ast.unparse(argument)
    return str(argument.value)


def calls() -> dict[str, str]:
    """Each failpoint that the code calls, with the place."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == Path(failpoint.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(r"(failpoint\.)?(hit|reach)", function):
                assert isinstance(node, ast.Call)
                found[name_of(node.args[0])] = f"{path.relative_to(PACKAGE)}:{node.lineno}"
    return found


def test_every_failpoint_in_the_code_is_in_the_table_and_every_entry_is_in_the_code() -> None:
    called = calls()
    missing = {name: place for name, place in called.items() if name not in failpoint.INNER}
    assert set(missing) == NAMED_BY_STEP, f"give these a line in slotd.host.failpoint.INNER: {missing}"
    assert set(failpoint.INNER) - set(called) == set(), "the code calls these no more"


def test_steps_that_have_an_undo_have_failpoints_around_it_and_workers_at_their_ends() -> None:
    steps = (*update.STEPS, *rollback.STEPS, *backup.BACKUP_STEPS)
    assert {step.name for step in steps if step.undo} == set(failpoint.UNDONE)
    assert set(worker.VERBS) == set(failpoint.WORKERS)
    assert {"stage:undo", "stage:undone", "worker-fetch:end", "check:begin"} <= set(failpoint.points())


def test_a_step_with_more_than_one_effect_has_failpoints_between_them() -> None:
    single = {"delay", "check", "rb-verify"}  # one effect, or none
    inner = {name.partition(":")[0] for name in failpoint.INNER}
    assert {step.name for step in (*update.STEPS, *rollback.STEPS, *backup.BACKUP_STEPS)} - single <= inner


def test_how_often_and_from_when_on_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTD_FAILPOINTS_CUT", "/")
    armed = failpoint.parse("a=kill, b=eio*3,c=cut+5,d=hang*2+4,")
    assert armed == {
        "a": failpoint.Armed("kill", 1, 1),
        "b": failpoint.Armed("eio", 3, 1),
        "c": failpoint.Armed("cut", 1, 5),
        "d": failpoint.Armed("hang", 2, 4),
    }


@pytest.mark.parametrize("text", ["a", "a=explode", "=kill", "a=kill*x", "a=kill+", "a=kill+2*3", "a=cut"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="failpoint"):
        failpoint.parse(text)
