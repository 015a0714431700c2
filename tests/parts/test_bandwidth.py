"""All downloads together keep the bandwidth: each is told its share, whenever another begins or ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from slotd.host.bandwidth import Bandwidth, reader


def test_those_that_run_share_it_evenly_and_the_last_has_all_of_it() -> None:
    whole = Bandwidth()
    with whole.share(1_000_000) as first:
        alone = reader(first)
        assert alone() == 1_000_000
        with whole.share(1_000_000) as second, whole.share(1_000_000) as third:
            shares = [reader(each)() for each in (first, second, third)]
            assert shares == [333_333] * 3
        assert alone() == 1_000_000


def test_no_limit_is_no_limit_for_any_number() -> None:
    whole = Bandwidth()
    with whole.share(0) as first, whole.share(0) as second:
        assert reader(first)() == reader(second)() == 0


def test_a_limit_is_never_divided_to_nothing_which_would_be_none() -> None:
    whole = Bandwidth()
    with whole.share(1) as first, whole.share(1):
        assert reader(first)() == 1


@pytest.mark.attack
def test_a_worker_can_neither_write_its_share_nor_open_it_anew_for_writing() -> None:
    with Bandwidth().share(1000) as share:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(share, bytes(8), 0)
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec 9<>/proc/self/fd/{share}"],
            pass_fds=[share], user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
        assert reader(share)() == 1000


@pytest.mark.attack
def test_a_share_that_is_no_number_limits_nothing(tmp_path: Path) -> None:
    with (tmp_path / "share").open("w+b") as file:
        assert reader(file.fileno())() == 0
