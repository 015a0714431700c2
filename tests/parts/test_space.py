"""The room that is kept for a way back lies beside the data, in a directory that may be the app's."""

from __future__ import annotations

from pathlib import Path

import pytest

from slotd.errors import Failed
from slotd.recipes import space

NAME = ".slotd-reserve-notes"


def test_room_is_taken_and_given_back(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("what a crash left")
    space.take(tmp_path / NAME, 1 << 20)
    assert (tmp_path / NAME).stat().st_size == 1 << 20
    assert (tmp_path / NAME).stat().st_blocks * 512 >= 1 << 20
    space.free([tmp_path / NAME, tmp_path / "nothing"])
    assert list(tmp_path.iterdir()) == []


def test_room_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left|too large"):
        space.take(tmp_path / NAME, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_became_a_link_leads_to_nobody_elses_files(tmp_path: Path) -> None:
    home, foreign = tmp_path / "home", tmp_path / "foreign"
    home.mkdir()
    home.chmod(0o777)
    foreign.mkdir()
    (foreign / NAME).write_text("theirs")
    (home / "way").symlink_to(foreign)
    with pytest.raises(Failed, match="symbolic link"):
        space.take(home / "way" / NAME, 1 << 20)
    space.free([home / "way" / NAME])
    assert (foreign / NAME).read_text() == "theirs"
    assert [at.name for at in foreign.iterdir()] == [NAME]
