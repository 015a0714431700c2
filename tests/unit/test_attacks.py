"""The page about hostile cases knows all of them."""

from __future__ import annotations

import re

from tests import attacks


def test_the_page_names_every_file_that_has_hostile_cases() -> None:
    named = re.findall(r"`(tests/[^`]*/test_[^`]*)`", attacks.PAGE.read_text())
    assert set(named) == attacks.marked(), "run `python3 -m tests.attacks`"
