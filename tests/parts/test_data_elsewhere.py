"""A failing version whose data cannot be copied to another disk does not keep its app from going back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.trees import call, digests, look, mounted

from slotd.data import DataSpec, elsewhere
from slotd.data.layout import Layout
from slotd.data.tree import TreeStore
from slotd.errors import Failed

DEEP = 160


class World(NamedTuple):
    """The data on a disk of their own; the backup and the quarantine on that of slotd's state."""

    live: Path
    state: Path
    spec: DataSpec
    before: dict[str, tuple[object, ...]]

    @property
    def aside(self) -> Path:
        return self.state / "aside"

    @property
    def backup(self) -> Path:
        return self.state / "backup"

    def restore(self) -> None:
        TreeStore().restore(self.spec, self.backup, self.aside)


def never() -> bool:
    return False


@pytest.fixture(params=["below a mount point", "a mount point itself"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    state = tmp_path / "state"
    state.mkdir()
    with mounted("ext4", tmp_path, size=96 << 20) as disk, mounted("ext4", state, size=24 << 20) as own:
        (disk / "lost+found").rmdir()
        live = disk if request.param == "a mount point itself" else disk / "data"
        (live / "sub").mkdir(parents=True)
        (live / "sub/note").write_text("good")
        (live / "cache").mkdir()
        (live / "cache/page").write_text("cached")
        spec = DataSpec((live,), exclude=("cache",))
        store = TreeStore()
        store.hot(spec, own / "backup", None, never)
        store.cold(spec, own / "backup")
        store.seal(own / "backup", {})
        yield World(live, own, spec, look(live))


def nest(top: Path) -> None:
    """Directories deeper than anybody copies, and a file in the last."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bad", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


def too_deep(world: World) -> None:
    nest(world.live / "sub")


def too_much(world: World) -> None:
    (world.live / "sub/much").write_bytes(os.urandom(28 << 20))


def spoil(world: World) -> None:
    (world.live / "sub/note").write_text("ruined")
    (world.live / "sub/new").write_text("new")


@pytest.mark.parametrize("attack", [too_deep, too_much])
def test_what_cannot_be_copied_stays_beside_and_the_old_data_are_back(world: World, attack: object) -> None:
    assert callable(attack)
    spoil(world)
    attack(world)
    world.restore()
    holder = next(path for top in (world.live, world.live.parent) for path in top.glob(".slotd-aside-aside-*"))
    assert {k: v for k, v in look(world.live).items() if ".slotd" not in k and k != ""} == {
        k: v for k, v in world.before.items() if k != ""
    }
    kept = {at.read_text() for at in holder.rglob("n*") if at.is_file()}
    assert kept == {"ruined", "new"}
    listed = {entry.path for entry in TreeStore().contents(world.aside)}
    assert f"{world.live}/sub/new" in listed


def test_it_is_a_part_of_the_quarantine_until_that_is_removed(world: World) -> None:
    spoil(world)
    too_much(world)
    world.restore()
    store = TreeStore()
    assert store.verify(world.aside) == []
    store.remove(world.aside)
    assert not list(world.live.parent.rglob(".slotd*"))
    assert (world.live / "sub/note").read_text() == "good"


def test_the_next_backup_and_the_next_way_back_leave_it_alone(world: World) -> None:
    spoil(world)
    too_much(world)
    world.restore()
    store, second = TreeStore(), world.state / "second"
    assert store.needs(world.spec, None) < 1 << 20
    store.hot(world.spec, second, None, never)
    store.cold(world.spec, second)
    store.seal(second, {})
    assert not [entry.path for entry in store.contents(second) if ".slotd" in entry.path]
    assert store.changes(world.spec, second) == []
    spoil(world)
    store.restore(world.spec, second, world.state / "aside-2")
    assert (world.live / "sub/note").read_text() == "good"
    assert store.verify(world.aside) == []


def test_it_can_be_restored_itself(world: World) -> None:
    spoil(world)
    too_much(world)
    bad = digests(world.live)
    world.restore()
    TreeStore().restore(world.spec, world.aside, world.state / "aside-2")
    assert digests(world.live / "sub") | digests(world.live / "cache") == bad
    assert (world.live / "cache/page").read_text() == "cached"


def test_one_path_of_it_can_be_restored(world: World) -> None:
    spoil(world)
    too_deep(world)
    world.restore()
    store = TreeStore()
    spec = DataSpec(world.spec.paths, world.spec.exclude, parts=(world.live / "sub/new",))
    assert store.parts(world.spec, world.aside, ["sub/new"]) == spec.parts
    store.restore(spec, world.aside, world.state / "aside-2")
    assert (world.live / "sub/new").read_text() == "new"
    assert (world.live / "sub/note").read_text() == "good"


POINTS = (
    "data.quarantine.held",
    "data.quarantine.left",
    "data.restore.place",
    "data.restore.carry",
    "data.restore.finish",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_moment_of_it_loses_nothing_and_the_next_call_finishes(world: World, point: str) -> None:
    spoil(world)
    too_deep(world)
    bad = digests(world.live / "sub/note", world.live / "sub/new", world.live / "cache")
    for hit in range(1, 20):
        done = call("restore", world.spec, world.aside, src=world.backup, failpoint=f"{point}=kill*{hit}")
        assert bad <= digests(world.live.parent if world.live.name == "data" else world.live, world.aside)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            break
    assert hit > 1
    assert (world.live / "sub/note").read_text() == "good"
    assert not (world.live / "sub/new").exists()
    assert (world.live / "cache/page").read_text() == "cached"


def test_a_version_cannot_take_the_names_that_its_data_will_be_set_aside_by(world: World) -> None:
    spoil(world)
    too_much(world)
    for top in (world.live, world.live.parent):
        for kind in ("aside", "found"):
            (top / f".slotd-{kind}-aside").mkdir()
            os.chown(top / f".slotd-{kind}-aside", 65534, 65534)
    world.restore()
    assert (world.live / "sub/note").read_text() == "good"
    assert f"{world.live}/sub/new" in {entry.path for entry in TreeStore().contents(world.aside)}


def test_what_an_older_slotd_was_killed_in_the_middle_of_is_finished_by_its_names(world: World) -> None:
    spoil(world)
    too_deep(world)
    bad = digests(world.live / "sub/note", world.live / "sub/new")
    assert call("restore", world.spec, world.aside, src=world.backup, failpoint="data.quarantine.held=kill").returncode
    holder = next(path for top in (world.live, world.live.parent) for path in top.glob(".slotd-aside-aside-*"))
    holder.rename(holder.with_name(".slotd-aside-aside"))
    scope = json.loads((world.aside / "tree.json").read_text())
    del scope["secret"]
    (world.aside / "tree.json").write_text(json.dumps(scope))
    world.restore()
    assert bad <= digests(world.live.parent, world.aside)
    assert (world.live / "sub/note").read_text() == "good"
    assert TreeStore().verify(world.aside) == []
    TreeStore().remove(world.aside)
    assert not list(world.live.parent.rglob(".slotd*"))


def test_a_list_of_an_older_slotd_is_read_and_goes_on(world: World) -> None:
    spoil(world)
    too_deep(world)
    assert call("restore", world.spec, world.aside, src=world.backup, failpoint="data.quarantine.left=kill").returncode
    listed = world.aside / "elsewhere"
    key, path, holder, name, parent_inode, inode = json.loads(listed.read_text())
    old = {"path": path, "holder": holder, "name": name, "parent_inode": parent_inode, "inode": inode}
    listed.write_text(json.dumps({key: old}))
    layout = Layout(world.aside)
    assert [each.name for each in elsewhere.left(layout).values()] == [name]
    world.live.mkdir(exist_ok=True)
    nest(world.live)
    world.restore()
    assert f"{world.live}/sub/new" in {entry.path for entry in TreeStore().contents(world.aside)}
    assert elsewhere.left(layout)[key].inode == inode
    assert len(elsewhere.left(layout)) == 2
    TreeStore().remove(world.aside)
    assert not list(world.live.parent.rglob(".slotd*"))


def test_a_line_that_a_kill_cut_short_is_written_again(world: World) -> None:
    spoil(world)
    too_deep(world)
    assert call("restore", world.spec, world.aside, src=world.backup, failpoint="data.quarantine.left=kill").returncode
    listed = world.aside / "elsewhere"
    whole = listed.read_bytes()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        listed.write_bytes(whole[:end])
        assert elsewhere.left(Layout(world.aside)) == {}
    world.restore()
    assert listed.read_bytes().startswith(whole)
    assert f"{world.live}/sub/new" in {entry.path for entry in TreeStore().contents(world.aside)}


def test_a_disk_that_is_not_mounted_is_not_taken_for_one_without_it(world: World, tmp_path: Path) -> None:
    spoil(world)
    too_much(world)
    world.restore()
    disk = world.live if world.live.is_mount() else world.live.parent
    subprocess.run(["umount", str(disk)], check=True)
    try:
        with pytest.raises(Failed, match="is not what it was"):
            TreeStore().remove(world.aside)
        assert world.aside.exists()
    finally:
        subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(disk)], check=True)
    TreeStore().remove(world.aside)
    assert not list(disk.rglob(".slotd*"))
