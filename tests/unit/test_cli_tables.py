"""What slotctl prints, without a bus: escaping, times, widths, colours."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.cli.tables import Cell, Look, cells, clip, escape, iso, look_at, relative, table
from slotd.core.words import duration, size

PLAIN = Look()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def terminal(encoding: str = "utf-8") -> Terminal:
    return Terminal(io.BytesIO(), encoding=encoding)


@given(st.text())
def test_nothing_from_the_bus_can_write_on_the_terminal(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    assert escape("a\x1b[31mred\nb") == "a\\x1b[31mred\\nb"
    assert escape("safe\u202eexe.txt") == "safe\\u202eexe.txt"
    assert escape("über → 日本") == "über → 日本"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0.4 s"),
        (12.2, "12 s"),
        (65, "1 min 5 s"),
        (600, "10 min"),
        (7207, "2 h"),
        (183600, "2 days 3 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (None, "never"),
        (999.5, "just now"),
        (958, "42 s ago"),
        (820, "3 min ago"),
        (1540, "in 9 min"),
        (1000 - 2 * 86400, "2 days ago"),
    ],
)
def test_times_are_told_relative_to_now(at: float | None, words: str) -> None:
    assert relative(at, 1000) == words


def test_json_times_are_iso_8601_in_utc() -> None:
    assert iso(1785751384.25) == "2026-08-03T10:03:04.250Z"
    assert iso(None) is None


def test_sizes_are_short() -> None:
    assert [size(n) for n in (0, 512, 1536, 12 * 1024**2, 1400 * 1024**2)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "12 MiB",
        "1.4 GiB",
    ]


def test_columns_line_up_and_colours_do_not_shift_them() -> None:
    rows = [("notes", Cell("idle", "green"), "x"), ("a", Cell("awaiting-approval", "yellow"), "y")]
    plain = table(("NAME", "STATE", "END"), rows, PLAIN)
    assert plain == ["NAME   STATE              END", "notes  idle               x", "a      awaiting-approval  y"]
    painted = table(("NAME", "STATE", "END"), rows, Look(colour=True))
    assert "\x1b[32midle\x1b[0m" in painted[1]
    assert [line.replace("\x1b[0m", "").split("m")[-1] != "" for line in painted]


def test_wide_characters_take_two_columns() -> None:
    lines = table(("NAME", "X"), [("日本", "1"), ("abcd", "2")], PLAIN)
    assert [cells(line) for line in lines] == [7, 7, 7]


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80)), max_size=5))
def test_a_table_fits_the_terminal(rows: list[tuple[str, str, str]]) -> None:
    assert all(cells(line) <= 40 for line in table(("NAME", "STATE", "MESSAGE"), rows, Look(width=40)))


def test_long_text_ends_in_an_ellipsis_on_a_terminal_and_is_whole_in_a_pipe() -> None:
    long = "x" * 200
    assert table(("A",), [(long,)], Look(width=40))[1] == "x" * 39 + "…"
    assert table(("A",), [(long,)], Look(width=None))[1] == long


@given(st.text(), st.integers(0, 30))
def test_clipped_text_is_never_wider_than_asked(text: str, width: int) -> None:
    assert cells(clip(text, width)) <= max(width, 0)


def test_colours_need_a_terminal_and_nobody_who_objects() -> None:
    here = {"TERM": "xterm"}
    assert look_at(terminal(), no_color=False, environment=here).colour
    assert not look_at(terminal(), no_color=True, environment=here).colour
    assert not look_at(terminal(), no_color=False, environment=here | {"NO_COLOR": "1"}).colour
    assert not look_at(terminal(), no_color=False, environment={"TERM": "dumb"}).colour
    assert not look_at(io.StringIO(), no_color=False, environment=here).colour


def test_a_terminal_without_unicode_gets_ascii() -> None:
    look = look_at(terminal("latin-1"), no_color=False, environment={"TERM": "xterm"})
    assert (look.ellipsis, look.bullet) == ("...", "*")


def test_what_people_have_to_type_again_is_never_cut() -> None:
    head = ("ID", "KIND", "VERSION", "MADE", "SIZE", "REASON")
    row = ("20260803T120304Z-12-quarantine", "quarantine", "1.2.3-alpine20260803", "5 min ago", "12 MiB", "rollback")
    line = table(head, [row], Look(width=60))[1]
    assert line.startswith(f"{row[0]}  ")
    assert row[2] in line
    assert "quarantine  " not in line.removeprefix(row[0]), "the others give way"
