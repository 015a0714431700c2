"""What a program printed stands in a sentence of ours, and cannot pass for one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.cli.tables import clock, iso, moment, short_moment
from slotd.cli.views import when
from slotd.core.words import SAID_CHARS, last_words
from slotd.service.interface import seconds


def test_the_last_line_of_a_failed_command_is_quoted() -> None:
    assert last_words("one\n  cannot migrate: no such table\n\n") == "Its last words: “cannot migrate: no such table”."
    assert last_words(" \n") == ""


def test_of_an_error_with_its_stack_below_the_error_is_quoted() -> None:
    stack = (
        "    at Module.load (node:internal/modules/cjs/loader:1143)\n    at node:internal/main/run_main_module:28:49"
    )
    said = f"/srv/app.js:3\n    throw new Error()\n\nError: it wants Node.js 22\n{stack}\n\nNode.js v18.20.4\n"
    assert last_words(said) == "Its last words: “Error: it wants Node.js 22”."
    assert last_words(f"Error: no module {{\n{stack} {{\n}}\n") == "Its last words: “Error: no module {”."
    assert last_words("at home\n") == "Its last words: “at home”."


@given(st.text(max_size=2000))
def test_no_output_makes_a_second_line_or_moves_a_cursor(output: str) -> None:
    said = last_words(output)
    assert said.isprintable()
    assert len(said) <= SAID_CHARS + len("Its last words: “”.")


@pytest.mark.parametrize("at", [1e30, 2.0**64, math.inf, math.nan, -1e30, 253402300800.0, 1.0])
def test_a_time_out_of_all_bounds_is_printed_all_the_same(at: float) -> None:
    on_bus = {"at": seconds(at)}
    assert 0 <= on_bus["at"] < 2**64
    shown = when(on_bus, "at")
    assert shown is None or all((clock(shown), moment(shown), short_moment(shown, 0.0), iso(shown)))
