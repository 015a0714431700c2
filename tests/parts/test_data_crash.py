"""Every call killed at every point inside it, then called again: nothing is lost, and the promise holds in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.trees import call, clear, digests, is_on_btrfs, look, make_place, mounted

from slotd.data import DataSpec
from slotd.data.tree import TreeStore

POINTS = {
    "hot": ("data.snapshot.tried", "data.pass.entry", "data.pass.copied", "data.pass.index", "data.pass.synced"),
    "cold": (
        "data.snapshot.take",
        "data.snapshot.taken",
        "data.pass.entry",
        "data.pass.copied",
        "data.pass.index",
        "data.pass.synced",
    ),
    "seal": ("data.seal.manifest", "data.seal.header"),
    "complete": ("data.snapshot.opened", "data.snapshot.walked"),
    "quarantine": (
        "data.quarantine.rename",
        "data.quarantine.renamed",
        "data.quarantine.held",
        "data.copytree.entry",
        "data.quarantine.copied",
        "data.quarantine.seal",
    ),
    "restore": (
        "data.restore.snapshot",
        "data.copytree.entry",
        "data.restore.exchange",
        "data.restore.built",
        "data.restore.place",
        "data.restore.placed",
        "data.restore.carry",
        "data.restore.carried",
        "data.restore.finish",
    ),
    "remove": ("data.remove.begun",),
}
MOST_HITS = 60


@dataclass
class World:
    """An app with a backup, whose data a bad version has damaged since."""

    room: Path
    home: Path
    store: TreeStore
    spec: DataSpec
    good: dict[str, tuple[Any, ...]]
    bad: dict[str, tuple[Any, ...]]
    good_digests: set[str]
    bad_digests: set[str]

    @property
    def live(self) -> Path:
        return self.home / "data"

    def everything(self) -> set[str]:
        return digests(self.home, self.room)


def build(home: Path, room: Path) -> World:
    for path in (home, room):
        clear(path)
        path.mkdir(parents=True)
    live = home / "data"
    make_place(live)
    (live / "sub").mkdir(parents=True)
    (live / "temp").mkdir()
    for name in ("one", "sub/two", "sub/three", "temp/cache"):
        (live / name).write_text(f"good {name}")
        os.utime(live / name, ns=(10**18, 10**18))
    os.link(live / "one", live / "sub" / "same")
    (home / "settings").write_text("good settings")
    spec = DataSpec((live, home / "settings"), exclude=("temp",))
    store = TreeStore()
    good = look(home)
    good_digests = digests(live / "one", live / "sub", home / "settings")
    store.hot(spec, room / "backup", None, lambda: False)
    store.cold(spec, room / "backup")
    store.seal(room / "backup", {})
    (live / "one").write_text("bad one")
    (live / "sub" / "two").unlink()
    (live / "sub" / "four").write_text("bad four")
    (live / "temp" / "cache").write_text("bad cache")
    (home / "settings").write_text("bad settings")
    return World(room, home, store, spec, good, look(home), good_digests, digests(home))


def check_restored(world: World, *, may_be_left: bool = False) -> None:
    """The good data are back, the excluded ones are the newest, the bad ones are in the quarantine; with `may_be_left`
    what could not be copied there is beside the data."""
    kept = world.room / "aside" / "data"
    left = next(world.home.glob(".slotd-aside-aside-*"), world.home / "nothing is left beside")
    bad_data = left / "data" if may_be_left and (left / "data").exists() else kept / "0"
    bad_settings = left / "settings" if may_be_left and (left / "settings").exists() else kept / "1"
    after = {
        rel: seen for rel, seen in look(world.home).items() if not (may_be_left and rel.startswith(f"/{left.name}"))
    }
    expected = {rel: seen for rel, seen in world.good.items() if rel and "temp" not in rel}
    assert {rel: seen for rel, seen in after.items() if rel and "temp" not in rel} == expected
    assert (world.live / "temp" / "cache").read_text() == "bad cache"
    assert world.bad_digests <= world.everything()
    assert world.store.verify(world.room / "backup") == []
    assert world.store.is_sealed(world.room / "aside")
    assert list(world.room.glob("aside/**/.*.new")) == []  # of its own files, half-written by who was killed
    aside = look(bad_data)
    assert aside["/one"][5] == world.bad["/data/one"][5]
    assert "/sub/two" not in aside
    assert bad_settings.read_text() == "bad settings"
    assert sorted({*os.listdir(world.home)} - ({left.name} if may_be_left else set())) == ["data", "settings"]


@pytest.fixture(params=["one file system", "two file systems", "btrfs"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Where the data and the copies are. On btrfs the data are a subvolume, and their copies snapshots."""
    if request.param == "btrfs":
        with mounted("btrfs", tmp_path / "disk") as mount:
            yield mount / "home", mount / "room"
        return
    other = Path("/dev/shm") / f"slotd-crash-{os.getpid()}"
    yield tmp_path / "home", (tmp_path / "room" if request.param == "one file system" else other / "room")
    shutil.rmtree(other, ignore_errors=True)


def kill_everywhere(verb: str, attempt: Callable[[str], bool]) -> int:
    """`attempt`, which says whether it was killed, at every point of `verb` and every hit of it; how often it was."""
    killed = 0
    for point in POINTS[verb]:
        for hit in range(1, MOST_HITS):
            if not attempt(f"{point}=kill*{hit}"):
                break
            killed += 1
    return killed


def was_killed(verb: str, world: World, dest: Path, failpoint: str, src: Path | None = None) -> bool:
    done = call(verb, world.spec, dest, src=src, failpoint=failpoint)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def test_a_backup_killed_anywhere_leaves_the_data_alone_and_is_made_by_calling_again(
    places: tuple[Path, Path],
) -> None:
    def attempt(verb: str, point: str) -> bool:
        world = build(*places)
        dest = world.room / "new"
        if verb != "hot":
            world.store.hot(world.spec, dest, world.room / "backup", lambda: False)
            (world.live / "sub" / "five").write_text("written after the hot pass")
        if verb == "seal":
            world.store.cold(world.spec, dest)
        now = look(world.home)
        reached = was_killed(verb, world, dest, point)
        assert look(world.home) == now
        if reached:
            assert not world.store.is_sealed(dest)
        for again in ("hot", "cold", "seal")[("hot", "cold", "seal").index(verb) :]:
            done = call(again, world.spec, dest)
            assert done.returncode == 0, done.stderr
        assert world.store.verify(dest) == []
        copied = look(dest / "data" / "0")
        expected = {rel: seen for rel, seen in look(world.live).items() if "temp" not in rel}
        assert copied == expected
        assert world.store.verify(world.room / "backup") == []
        return reached

    killed = sum(kill_everywhere(verb, partial(attempt, verb)) for verb in ("hot", "cold", "seal"))
    assert killed > (12 if is_on_btrfs(places[0]) else 20)  # a snapshot is one moment, not one for each file


def test_a_backup_whose_completion_is_killed_is_whole_all_the_same_and_completed_by_calling_again(
    places: tuple[Path, Path],
) -> None:
    def attempt(point: str) -> bool:
        world = build(*places)
        backup = world.room / "backup"
        reached = was_killed("complete", world, backup, point)
        assert world.store.is_sealed(backup), point
        done = call("complete", world.spec, backup)
        assert done.returncode == 0, done.stderr
        assert world.store.verify(backup) == []
        assert "/temp" not in look(backup / "data" / "0")
        done = call("restore", world.spec, world.room / "aside", src=backup)
        assert done.returncode == 0, done.stderr
        check_restored(world)
        return reached

    kill_everywhere("complete", attempt)


def test_setting_aside_killed_anywhere_loses_no_file_and_goes_on(places: tuple[Path, Path]) -> None:
    def attempt(point: str) -> bool:
        world = build(*places)
        aside = world.room / "aside"
        reached = was_killed("quarantine", world, aside, point)
        assert world.bad_digests <= world.everything(), point
        assert world.store.is_sealed(aside) is not reached
        done = call("quarantine", world.spec, aside)
        assert done.returncode == 0, done.stderr
        assert os.listdir(world.home) == []
        kept = {rel.removeprefix("/data") for rel in world.bad if rel.startswith("/data")}
        assert look(aside / "data" / "0").keys() == kept
        assert digests(aside / "data") == world.bad_digests
        return reached

    assert kill_everywhere("quarantine", attempt) >= 5


def test_a_restore_killed_anywhere_is_finished_by_calling_again(places: tuple[Path, Path]) -> None:
    def attempt(point: str) -> bool:
        world = build(*places)
        backup, aside = world.room / "backup", world.room / "aside"
        world.store.quarantine(world.spec, aside)
        reached = was_killed("restore", world, aside, point, backup)
        assert world.bad_digests | world.good_digests <= world.everything(), point
        done = call("restore", world.spec, aside, src=backup)
        assert done.returncode == 0, done.stderr
        check_restored(world)
        done = call("restore", world.spec, aside, src=backup)
        assert done.returncode == 0, done.stderr
        check_restored(world)
        return reached

    assert kill_everywhere("restore", attempt) >= 10


def test_a_rollback_killed_again_and_again_still_comes_to_its_end(places: tuple[Path, Path]) -> None:
    """The host that crashes in a loop: each attempt dies somewhere, the last one does not."""
    dice = random.Random(20)
    every = POINTS["quarantine"] + POINTS["restore"]
    for _ in range(12):
        world = build(*places)
        backup, aside = world.room / "backup", world.room / "aside"
        for _ in range(6):
            point = f"{dice.choice(every)}=kill*{dice.randint(1, 6)}"
            was_killed("restore", world, aside, point, backup)
            assert world.bad_digests | world.good_digests <= world.everything(), point
            if dice.random() < 0.3 and not world.live.exists():
                world.live.mkdir()  # systemd-tmpfiles at a boot in between
        done = call("restore", world.spec, aside, src=backup)
        assert done.returncode == 0, done.stderr
        check_restored(world)


def test_a_restore_given_up_for_another_backup_takes_along_what_it_had_brought_back(
    places: tuple[Path, Path],
) -> None:
    world = build(*places)
    aside = world.room / "aside"
    world.store.hot(world.spec, world.room / "second", None, lambda: False)
    world.store.cold(world.spec, world.room / "second")
    world.store.seal(world.room / "second", {})
    assert was_killed("restore", world, aside, "data.restore.finish=kill", world.room / "second")
    assert (world.live / "temp" / "cache").exists()
    done = call("restore", world.spec, aside, src=world.room / "backup")
    assert done.returncode == 0, done.stderr
    check_restored(world)


def test_what_an_unexpected_start_wrote_in_the_middle_of_a_rollback_is_kept(places: tuple[Path, Path]) -> None:
    world = build(*places)
    aside = world.room / "aside"
    world.store.quarantine(world.spec, aside)
    world.live.mkdir()
    (world.live / "surprise").write_text("surprise")
    assert was_killed("restore", world, aside, "data.restore.built=kill", world.room / "backup")
    world.live.mkdir(exist_ok=True)
    (world.live / "another").write_text("another")
    done = call("restore", world.spec, aside, src=world.room / "backup")
    assert done.returncode == 0, done.stderr
    check_restored(world)
    kept = {at.name: at.read_text() for at in (aside / "found").rglob("*") if at.is_file()}
    assert kept == {"surprise": "surprise", "another": "another"}


@pytest.mark.parametrize("action", ["eio", "enospc"])
def test_a_disk_that_fails_in_a_rollback_is_told_in_a_sentence_and_loses_nothing(
    places: tuple[Path, Path], action: str
) -> None:
    for point in (*POINTS["quarantine"], *POINTS["restore"]):
        world = build(*places)
        backup, aside = world.room / "backup", world.room / "aside"
        done = call("restore", world.spec, aside, src=backup, failpoint=f"{point}={action}")
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith("slotd.errors."), done.stderr
            assert "cannot" in last
        assert world.bad_digests | world.good_digests <= world.everything(), point
        done = call("restore", world.spec, aside, src=backup)
        assert done.returncode == 0, done.stderr
        check_restored(world, may_be_left=True)


def test_a_removal_killed_midway_leaves_no_half_backup_and_is_finished_later(places: tuple[Path, Path]) -> None:
    world = build(*places)
    backup = world.room / "backup"
    assert was_killed("remove", world, backup, "data.remove.begun=kill")
    assert not backup.exists()
    done = call("remove", world.spec, backup)
    assert done.returncode == 0, done.stderr
    assert os.listdir(world.room) == []


@pytest.mark.slow
@pytest.mark.parametrize("system_calls", ["rename,renameat,renameat2", "unlink,unlinkat,rmdir", "syncfs"])
def test_a_rollback_killed_at_every_system_call_that_matters_loses_nothing(
    places: tuple[Path, Path], system_calls: str
) -> None:
    """As the failpoints, but between any two of them: the kernel kills the process as it enters the call."""
    for count in range(1, MOST_HITS):
        world = build(*places)
        backup, aside = world.room / "backup", world.room / "aside"
        inject = ("-e", f"trace={system_calls}", "-e", f"inject={system_calls}:signal=KILL:when={count}")
        done = call("restore", world.spec, aside, src=backup, prefix=("strace", "-f", "-o", "/dev/null", *inject))
        assert world.bad_digests | world.good_digests <= world.everything(), count
        again = call("restore", world.spec, aside, src=backup)
        assert again.returncode == 0, again.stderr
        check_restored(world)
        if done.returncode == 0:
            break
    assert count >= 5
