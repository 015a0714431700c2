"""Single files and directories that come back from a backup: nothing else changes, and a kill is no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.trees import call, look

from slotd.data import DataSpec
from slotd.data.tree import TreeStore
from slotd.errors import Failed, NoSuchBackup

POINTS = ("copytree.entry", "restore.built", "restore.place", "restore.placed", "restore.finish")


class World:
    """Data with a backup, changed since in more than one place."""

    def __init__(self, room: Path) -> None:
        self.store = TreeStore()
        self.live, self.backup, self.aside = room / "live", room / "backup", room / "aside"
        (self.live / "notes" / "deep").mkdir(parents=True)
        (self.live / "temp").mkdir()
        for name in ("one", "two", "notes/three", "notes/deep/four", "temp/cache", "notes/tëst\nline"):
            (self.live / name).write_text(f"old {name}")
        os.chmod(self.live / "notes/deep", 0o2750)
        self.spec = DataSpec((self.live,), exclude=("temp",), sqlite=("base.db",))
        self.store.hot(self.spec, self.backup, None, lambda: False)
        self.store.cold(self.spec, self.backup)
        self.store.seal(self.backup, {})
        for name in ("one", "notes/three"):
            (self.live / name).write_text("new")
        (self.live / "notes/five").write_text("came later")
        (self.live / "temp/cache").write_text("new cache")

    def part(self, *names: str) -> DataSpec:
        parts = self.store.parts(self.spec, self.backup, names)
        return DataSpec(self.spec.paths, self.spec.exclude, self.spec.sqlite, (), parts)

    def bring_back(self, *names: str) -> None:
        spec = self.part(*names)
        self.store.quarantine(spec, self.aside)
        self.store.restore(spec, self.backup, self.aside)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_one_file_comes_back_and_all_else_is_untouched(world: World) -> None:
    def others() -> dict[str, object]:
        return {name: seen for name, seen in look(world.live).items() if name not in ("", "/one")}

    before = others()
    world.bring_back("one")
    assert (world.live / "one").read_text() == "old one"
    assert others() == before
    assert [entry.path for entry in world.store.contents(world.aside)] == [str(world.live / "one")]


def test_a_directory_is_what_it_was_and_what_came_later_is_kept_aside(world: World) -> None:
    world.bring_back("notes")
    assert (world.live / "notes/three").read_text() == "old notes/three"
    assert not (world.live / "notes/five").exists()
    assert any(entry.path.endswith("notes/five") for entry in world.store.contents(world.aside))
    assert (world.live / "one").read_text() == "new"
    assert (world.live / "temp/cache").read_text() == "new cache"


def test_directories_on_the_way_that_are_gone_are_made_as_they_were(world: World) -> None:
    mode = os.stat(world.live / "notes/deep").st_mode
    os.rename(world.live / "notes", world.live / "moved")
    world.bring_back(str(world.live / "notes/deep/four"))
    assert (world.live / "notes/deep/four").read_text() == "old notes/deep/four"
    assert os.stat(world.live / "notes/deep").st_mode == mode
    assert sorted(os.listdir(world.live / "notes")) == ["deep"]


def test_a_name_that_is_no_plain_text_is_taken_as_it_is_shown(world: World) -> None:
    (world.live / "notes/tëst\nline").unlink()
    world.bring_back("notes/tëst\\x0aline")
    assert (world.live / "notes/tëst\nline").read_text() == "old notes/tëst\nline"


@pytest.mark.parametrize("name", ["nothing", "../backup", "/etc/passwd", "temp/cache", "notes/five", ""])
def test_what_the_backup_does_not_hold_is_refused(world: World, name: str) -> None:
    with pytest.raises(NoSuchBackup, match="holds nothing of that name"):
        world.part(name)


def test_a_link_that_the_app_put_on_the_way_leads_nowhere(world: World, tmp_path: Path) -> None:
    os.rename(world.live / "notes", world.live / "real")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", world.live / "notes")
    os.chmod(world.live, 0o777)
    with pytest.raises(Failed, match="symbolic link"):
        world.bring_back("notes/deep/four")
    assert list((tmp_path / "elsewhere" / "deep").iterdir()) == []


def test_what_a_restore_of_parts_set_aside_brings_back_those_parts(world: World, tmp_path: Path) -> None:
    world.bring_back("one")
    assert world.store.parts(world.spec, world.aside, ()) == (world.live / "one",)
    spec = DataSpec(world.spec.paths, world.spec.exclude, world.spec.sqlite, (), (world.live / "one",))
    world.store.quarantine(spec, tmp_path / "again")
    world.store.restore(spec, world.aside, tmp_path / "again")
    assert (world.live / "one").read_text() == "new"
    assert (world.live / "notes/five").read_text() == "came later"


def test_the_log_of_a_database_goes_with_it(world: World) -> None:
    (world.live / "base.db").write_text("later")
    (world.live / "base.db-wal").write_text("its log")
    (world.live / "one.db-wal").write_text("another's log")
    backup = world.backup.with_name("second")
    (world.live / "base.db-wal").rename(world.live / "kept")
    world.store.cold(world.spec, backup)
    world.store.seal(backup, {})
    (world.live / "kept").rename(world.live / "base.db-wal")
    parts = world.store.parts(world.spec, backup, ["base.db"])
    spec = DataSpec(world.spec.paths, world.spec.exclude, world.spec.sqlite, (), parts)
    world.store.quarantine(spec, world.aside)
    world.store.restore(spec, backup, world.aside)
    assert not (world.live / "base.db-wal").exists()
    assert (world.live / "one.db-wal").exists()


@pytest.mark.parametrize("point", POINTS)
def test_a_restore_of_parts_killed_anywhere_is_finished_by_calling_again(world: World, point: str) -> None:
    spec = world.part("notes/deep", "one")
    (world.live / "notes/deep/four").write_text("new")
    world.store.quarantine(spec, world.aside)
    killed = call("restore", spec, world.aside, src=world.backup, failpoint=f"data.{point}=kill")
    assert killed.returncode == -9
    for _ in range(2):
        done = call("restore", spec, world.aside, src=world.backup)
        assert done.returncode == 0, done.stderr
    assert (world.live / "one").read_text() == "old one"
    assert (world.live / "notes/deep/four").read_text() == "old notes/deep/four"
    assert (world.live / "notes/five").read_text() == "came later"
    assert [entry.path for entry in world.store.contents(world.aside) if entry.path.endswith("four")]


def test_what_has_changed_is_told_without_what_is_excluded(world: World) -> None:
    (world.live / "two").unlink()
    told = {
        (change.how, os.path.relpath(change.entry.path, world.live))
        for change in world.store.changes(world.spec, world.backup)
        if change.entry.kind == "file"
    }
    assert told == {("changed", "one"), ("changed", "notes/three"), ("removed", "two"), ("added", "notes/five")}
