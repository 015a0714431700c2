"""What an HTTP answer means, as pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core.answer import Part, come_back, content_range, refusal, shown, too_late, validator

NOW = 1_769_860_800.0  # Sat, 31 Jan 2026 12:00:00 GMT
LATER = "Sat, 31 Jan 2026 12:10:00 GMT"
EARLIER = "Sat, 31 Jan 2026 11:00:00 GMT"


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown("https://me:word@host/path?token=x#y") == "https://host/path"
    assert shown("https://host/\x1b[31m") == "https://host/?[31m"
    assert len(shown("https://host/" + "x" * 1000)) == 200


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({}, 0.0),
        ({"retry-after": "30"}, NOW + 30),
        ({"retry-after": LATER}, NOW + 600),
        ({"retry-after": EARLIER}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "999999999"}, NOW + 86400),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 60)}, NOW + 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"}, NOW + 1),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": str(int(NOW) + 60)}, 0.0),
        ({"retry-after": "9", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 60)}, NOW + 9),
    ],
)
def test_when_to_come_back_is_read_from_the_headers(headers: dict[str, str], expected: float) -> None:
    assert come_back(403, headers, NOW) == expected


def test_too_many_requests_without_a_time_means_a_minute() -> None:
    assert come_back(429, {}, NOW) == NOW + 60
    error = refusal(429, {}, "https://h/x", NOW, had_credential=False)
    assert (
        error.message == "cannot read https://h/x: the server's limit of requests is used up until 12:01:00 UTC (429)"
    )


def test_a_refused_credential_is_told_apart_from_a_missing_one() -> None:
    assert "does not accept" in refusal(403, {}, "https://h/", NOW, had_credential=True).message
    assert "credential" in refusal(403, {}, "https://h/", NOW, had_credential=False).hint


@pytest.mark.parametrize(
    "text, expected",
    [
        ("bytes 0-9/10", Part(0, 9, 10)),
        ("bytes 5-9/*", Part(5, 9, None)),
        ("bytes */10", Part(None, None, 10)),
        ("bytes 9-5/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-9/10, bytes 0-9/10", None),
        ("bytes a-9/10", None),
        ("bytes ٣-9/10", None),
        ("", None),
    ],
)
def test_a_content_range_makes_sense_or_is_none(text: str, expected: Part | None) -> None:
    assert content_range({"content-range": text}) == expected


@given(st.text(max_size=40))
def test_no_content_range_is_an_accident(text: str) -> None:
    part = content_range({"content-range": text})
    assert part is None or part.first is None or part.first <= (part.last or 0)


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"etag": '"abc"'}, '"abc"'),
        ({"etag": 'W/"abc"'}, ""),
        ({"etag": 'W/"abc"', "last-modified": EARLIER, "date": LATER}, ""),
        ({"etag": '"a", "b"'}, ""),
        ({"etag": "abc"}, ""),
        ({"last-modified": EARLIER, "date": LATER}, EARLIER),
        ({"last-modified": LATER, "date": LATER}, ""),
        ({"last-modified": EARLIER}, ""),
        ({"last-modified": "never", "date": LATER}, ""),
        ({}, ""),
    ],
)
def test_only_a_strong_validator_may_join_two_parts(headers: dict[str, str], expected: str) -> None:
    assert validator(headers) == expected


@pytest.mark.parametrize(("deadline_s", "expected"), [(2.99999, "3 s"), (0.8, "0.8 s"), (3600.0, "3600 s")])
def test_a_deadline_is_told_as_a_person_would(deadline_s: float, expected: str) -> None:
    assert too_late("https://example.org/x", deadline_s).message.endswith(f"took longer than {expected}")
