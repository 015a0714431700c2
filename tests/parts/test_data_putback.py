"""A restore that cannot be finished is undone: the data are those from before it, file for file, without new room."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from tests.parts.test_data_keep import back_up, damage, fill
from tests.trees import call, look, make_place, mounted

from slotd.data import DataSpec
from slotd.data.tree import TreeStore
from slotd.errors import Failed

STOPS = ("data.copytree.entry", "data.restore.built", "data.restore.place", "data.restore.carry", "data.restore.finish")
POINTS = ("data.putback.unmake", "data.putback.move", "data.putback.moved", "data.restore.carry")
MOST_HITS = 60


def present(top: Path) -> dict[str, tuple[Any, ...]]:
    """The data with all that can be seen of them, and which file each is."""
    files = [*(top / "live").rglob("*"), top / "live", top / "settings"]
    return (
        look(top / "live") | {"settings": look(top / "settings")[""]} | {str(at): (at.stat().st_ino,) for at in files}
    )


def check_put_back(top: Path, before: dict[str, tuple[Any, ...]]) -> None:
    assert present(top) == before
    assert sorted(at.name for at in top.iterdir()) == ["backup", "live", "settings"]
    assert TreeStore().verify(top / "backup") == []
    shared = {at.stat().st_ino for at in (top / "backup").rglob("*")} & {
        at.stat().st_ino for at in top.glob("live/**/*")
    }
    assert not shared


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    spec = fill(tmp_path)
    back_up(spec, tmp_path / "backup")
    damage(tmp_path)
    return spec


@pytest.mark.parametrize("point", STOPS)
def test_wherever_a_restore_ends_for_want_of_room_the_data_from_before_it_are_put_back(
    tmp_path: Path, spec: DataSpec, point: str
) -> None:
    before = present(tmp_path)
    for hit in range(1, MOST_HITS):
        done = call("restore", spec, tmp_path / "aside", src=tmp_path / "backup", failpoint=f"{point}=enospc*{hit}")
        TreeStore().put_back(spec, tmp_path / "backup", tmp_path / "aside")
        check_put_back(tmp_path, before)  # also of one that had come to its end
        if done.returncode == 0:
            break
        assert "No space left" in done.stderr
    assert 1 < hit < MOST_HITS - 1


@pytest.mark.parametrize("stop", ["data.copytree.entry=enospc*12", "data.restore.finish=enospc"])
def test_putting_back_may_be_killed_anywhere_and_is_done_by_the_next_call(
    tmp_path: Path, spec: DataSpec, stop: str
) -> None:
    before, killed = present(tmp_path), 0
    backup, aside = tmp_path / "backup", tmp_path / "aside"
    for point in POINTS:
        for hit in range(1, MOST_HITS):
            assert "No space left" in call("restore", spec, aside, src=backup, failpoint=stop).stderr
            done = call("put_back", spec, aside, src=backup, failpoint=f"{point}=kill*{hit}")
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            TreeStore().put_back(spec, backup, aside)
            check_put_back(tmp_path, before)
            if done.returncode == 0:
                break
            killed += 1
    assert killed >= 5


def test_what_turned_up_at_the_place_meanwhile_is_kept_as_all_that_is_left_of_the_quarantine(
    tmp_path: Path, spec: DataSpec
) -> None:
    before = present(tmp_path)
    backup, aside = tmp_path / "backup", tmp_path / "aside"
    call("restore", spec, aside, src=backup, failpoint="data.copytree.entry=enospc*3")
    (tmp_path / "live").mkdir()
    (tmp_path / "live/stray").write_text("written by who was started meanwhile")
    TreeStore().put_back(spec, backup, aside)
    assert present(tmp_path) == before
    assert [at.read_text() for at in aside.rglob("stray")] == ["written by who was started meanwhile"]
    assert TreeStore().verify(aside) == []


@pytest.mark.parametrize("state", ["", "state"], ids=["copies beside", "copies in another subvolume"])
@pytest.mark.parametrize("point", ["data.restore.snapshot", "data.restore.place", "data.restore.placed"])
def test_data_that_are_a_subvolume_are_put_back_as_the_one_that_they_were(
    tmp_path: Path, point: str, state: str
) -> None:
    with mounted("btrfs", tmp_path / "disk") as home:
        live, backup, aside = home / "srv" / "live", home / state / "backup", home / state / "aside"
        make_place(live)
        if state:
            make_place(home / state)
        spec = DataSpec((live,), exclude=("temp",))
        for name in ("notes", "temp"):
            (live / name).write_text(f"good {name}")
        back_up(spec, backup)
        (live / "notes").write_text("newer notes")
        before, number = look(live), live.stat().st_dev
        done = call("restore", spec, aside, src=backup, failpoint=f"{point}=enospc")
        assert "No space left" in done.stderr
        TreeStore().put_back(spec, backup, aside)
        assert look(live) == before
        assert live.stat().st_dev == number
        assert [at.name for at in live.parent.iterdir()] == ["live"]
        assert not aside.exists()
        assert TreeStore().verify(backup) == []


def test_where_a_rename_does_not_reach_nothing_is_moved(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path / "disk") as home:
        spec = fill(home)
        back_up(spec, tmp_path / "backup")
        damage(home)
        call("restore", spec, tmp_path / "aside", src=tmp_path / "backup", failpoint="data.copytree.entry=enospc*30")
        there = look(tmp_path / "aside")
        with pytest.raises(Failed, match="another file system"):
            TreeStore().put_back(spec, tmp_path / "backup", tmp_path / "aside")
        assert look(tmp_path / "aside") == there
