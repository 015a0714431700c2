"""Time spans and sizes: what systemd writes is read, what makes no sense is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core.schema import INFINITE_S
from slotd.core.timespan import format_size, format_span, parse_size, parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("14d", 14 * 86400),
        ("0", 0),
        ("90", 90),
        (" 2 h ", 7200),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("3us", 0.000003),
        ("3 µs", 0.000003),
        ("2w", 14 * 86400),
        ("1M", 2_629_800),
        ("1m", 60),
        ("1y", 31_557_600),
        ("infinity", INFINITE_S),
        (7, 7),
        (0.25, 0.25),
        (0, 0),
    ],
)
def test_a_span_is_read_as_systemd_reads_it(text: str | int | float, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "-1s",
        "nan",
        "inf",
        "1h 30",
        "1 2",
        "ten",
        "5 parsecs",
        "1..5s",
        "٣s",
        "s",
        "9" * 90,
        "9999999y",
        "1e3",
    ],
)
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_span(text)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1, -0.1, 10**400, True])
def test_what_is_no_number_of_seconds_is_refused(number: float) -> None:
    with pytest.raises(ValueError):
        parse_span(number)


@given(st.integers(min_value=0, max_value=10**15))
def test_what_is_written_is_read_back_to_the_microsecond(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_span(format_span(seconds)) == seconds


@given(st.text(max_size=30) | st.from_regex(r"([0-9.]{1,6} ?(us|ms|s|min|h|d|w|M|y|x)? ?){1,4}", fullmatch=True))
def test_any_text_gives_a_span_or_a_reason(text: str) -> None:
    with suppress(ValueError):
        assert parse_span(text) >= 0


def test_spans_are_written_as_a_person_would() -> None:
    assert format_span(0) == "0"
    assert format_span(5400) == "1h 30min"
    assert format_span(14 * 86400) == "14d"
    assert format_span(INFINITE_S) == "infinity"


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 * 1024**3), ("200M", 200 * 1024**2), ("1.5GiB", 1536 * 1024**2), ("512", 512), (7, 7)]
)
def test_a_size_is_read_to_the_base_of_1024(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "4X", "G", "1 2", "nan", "9" * 60 + "P", -1, True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_a_written_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size
