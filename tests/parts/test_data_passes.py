"""What a backup costs, told by what it does: what is read, written and shared, and when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trees import DAEMON, call, look, mounted

from slotd import errors
from slotd.data import DataSpec
from slotd.data.index import Seen, write_lists
from slotd.data.tree import TreeStore

LARGE = 8 << 20


def never() -> bool:
    return False


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Forty small files and a large one, all older than the passes need to be sure of them."""
    top = tmp_path / "live"
    for number in range(40):
        path = top / f"d{number % 4}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}")
    (top / "large").write_bytes(os.urandom(LARGE))
    os.sync()
    time.sleep(2.1)
    return top


def sealed(store: TreeStore, spec: DataSpec, dest: Path, base: Path | None = None) -> Path:
    store.hot(spec, dest, base, never)
    store.cold(spec, dest)
    store.seal(dest, {})
    return dest


def change_large(live: Path, at: int = LARGE // 2) -> None:
    with open(live / "large", "r+b") as file:
        file.seek(at)
        file.write(b"changed")


def opened(log: Path, top: Path) -> set[str]:
    """The names below `top` that a traced program opened for reading what is in them."""
    names = set()
    for line in log.read_text().splitlines():
        if "openat(" in line and "O_PATH" not in line and "O_DIRECTORY" not in line:
            name = line.split('"')[1]
            if name.startswith("/proc/self/fd/") or "/" not in name:
                names.add(name)
    return names & {at.name for at in top.rglob("*") if at.is_file()}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_changes_in_a_directory_that_does_not_is_saved_with_the_app_stopped(tmp_path: Path, kind: str) -> None:
    """On every file system, also where a directory does not count its names: no subvolume, long unchanged."""
    with mounted(kind, tmp_path / "disk") as disk:
        live, dest = disk / "live", disk / "backup"
        (live / "deep" / "er").mkdir(parents=True)
        for path in (live / "deep" / "one", live / "deep" / "er" / "two"):
            path.write_text("before")
        time.sleep(2.5)
        store, spec = TreeStore(), DataSpec((live,))
        store.hot(spec, dest, None, never)
        for path in (live / "deep" / "one", live / "deep" / "er" / "two"):
            path.write_text("during")
        store.cold(spec, dest)
        store.seal(dest, {})
        assert look(dest / "data/0") == look(live)
        assert store.verify(dest) == []
        time.sleep(2.5)
        (live / "deep" / "er" / "two").write_text("after")
        store.hot(spec, disk / "next", dest, never)
        (live / "deep" / "one").write_text("at last")
        TreeStore().cold(spec, disk / "next")
        store.seal(disk / "next", {})
        assert look(disk / "next/data/0") == look(live)
        assert store.verify(disk / "next") == []


def test_a_directory_that_nobody_may_write_to_keeps_its_mode(tmp_path: Path) -> None:
    live, dest = tmp_path / "live", tmp_path / "backup"
    (live / "shut").mkdir(parents=True)
    (live / "shut" / "file").write_text("before")
    os.link(live / "shut" / "file", live / "shut" / "again")
    (live / "shut").chmod(0o555)
    time.sleep(2.5)
    store, spec = TreeStore(), DataSpec((live,))
    store.hot(spec, dest, None, never)
    (live / "shut" / "file").write_text("during")
    store.cold(spec, dest)
    store.seal(dest, {})
    assert look(dest / "data/0") == look(live)
    assert store.verify(dest) == []


def test_an_entry_that_was_never_read_is_not_written_down(tmp_path: Path) -> None:
    with pytest.raises(errors.Failed, match="has no line"):
        write_lists(tmp_path / "index", tmp_path / "manifest", 0, [Seen("s", "1:2:3:4", "d 0755 x"), Seen("", "", "")])
    assert not list(tmp_path.iterdir())


def test_with_the_app_stopped_nothing_is_opened_that_did_not_change(live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    assert call("hot", spec, tmp_path / "backup").returncode == 0
    (live / "d1" / "f1").write_text("changed")
    log = tmp_path / "log"
    trace = ("strace", "-f", "-e", "trace=openat", "-o", str(log))
    assert call("cold", spec, tmp_path / "backup", prefix=trace).returncode == 0
    assert opened(log, live) == {"f1"}
    assert call("seal", spec, tmp_path / "backup", prefix=trace).returncode == 0
    assert opened(log, live) == set()
    assert look(tmp_path / "backup/data/0") == look(live)
    assert TreeStore().verify(tmp_path / "backup") == []


def test_a_second_backup_opens_only_what_changed_since_the_first(live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    sealed(TreeStore(), spec, tmp_path / "one")
    (live / "d2" / "f2").write_text("changed")
    log = tmp_path / "log"
    trace = ("strace", "-f", "-e", "trace=openat", "-o", str(log))
    assert call("hot", spec, tmp_path / "two", base=tmp_path / "one", prefix=trace).returncode == 0
    assert opened(log, live) == {"f2"}
    assert look(tmp_path / "two/data/0") == look(live)


def test_of_a_large_file_that_changed_after_the_hot_pass_only_the_change_is_written(live: Path, shm: Path) -> None:
    """On a file system that cannot share blocks, where the copy is compared and mended."""
    spec, store = DataSpec((live,)), TreeStore()
    store.hot(spec, shm / "backup", None, never)
    inode = (shm / "backup/data/0/large").stat().st_ino
    change_large(live)
    stats = store.cold(spec, shm / "backup")
    assert 0 < stats.copied_bytes <= 64 << 10
    assert (shm / "backup/data/0/large").stat().st_ino == inode
    assert look(shm / "backup/data/0") == look(live)
    with open(live / "large", "r+b") as file:
        file.truncate(LARGE - 5000)
    store.cold(spec, shm / "backup")
    with open(live / "large", "ab") as file:
        file.write(b"longer" * 3000)
    store.cold(spec, shm / "backup")
    store.seal(shm / "backup", {})
    assert look(shm / "backup/data/0") == look(live)


def test_a_large_file_that_another_backup_has_too_is_never_mended_in_place(live: Path, shm: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    sealed(store, spec, shm / "one")
    before = look(shm / "one/data")
    store.hot(spec, shm / "two", shm / "one", never)
    assert (shm / "two/data/0/large").stat().st_ino == (shm / "one/data/0/large").stat().st_ino
    change_large(live)
    store.cold(spec, shm / "two")
    store.seal(shm / "two", {})
    assert look(shm / "one/data") == before
    assert store.verify(shm / "one") == []
    assert look(shm / "two/data/0") == look(live)


def test_rot_in_a_large_file_that_changed_while_the_app_was_stopped_is_found_once_it_runs_again(
    live: Path, shm: Path
) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    store.hot(spec, shm / "backup", None, never)
    change_large(live)
    store.cold(spec, shm / "backup")
    store.seal(shm / "backup", {})
    store.complete(shm / "backup")
    store.complete(shm / "backup")
    assert store.verify(shm / "backup") == []
    path = shm / "backup/data/0/large"
    found = path.stat()
    with open(path, "r+b") as file:
        file.write(b"rot")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert store.verify(shm / "backup") == ["data/0/large differs in contents"]


def test_what_a_kill_left_of_the_digests_goes_with_their_next_writing(live: Path, shm: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    dest = sealed(store, spec, shm / "backup")
    program = f"from slotd.data.tree import TreeStore; TreeStore().complete(__import__('pathlib').Path({str(dest)!r}))"
    killer = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=rename,renameat,renameat2:signal=KILL:when=1"]
    environment = os.environ | {"PYTHONPATH": str(DAEMON), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*killer, sys.executable, "-c", program], env=environment, check=False)
    assert list(dest.glob(".digests.*.new"))
    store.complete(dest)
    assert (dest / "digests").exists()
    assert not list(dest.glob(".digests.*.new"))
    assert store.verify(dest) == []


def test_digests_that_were_left_for_later_are_taken_by_the_next_backup(live: Path, shm: Path) -> None:
    spec, store = DataSpec((live,)), TreeStore()
    store.hot(spec, shm / "one", None, never)
    change_large(live)
    os.sync()
    time.sleep(2.1)
    store.cold(spec, shm / "one")
    store.seal(shm / "one", {})
    assert " - - 0/large\n" in (shm / "one/manifest").read_text()
    sealed(store, spec, shm / "two", shm / "one")
    assert " - - 0/large\n" not in (shm / "two/manifest").read_text()
    assert (shm / "one/data/0/large").stat().st_ino == (shm / "two/data/0/large").stat().st_ino
    assert store.verify(shm / "one") == store.verify(shm / "two") == []


def test_a_cold_pass_after_a_killed_one_trusts_nothing_that_it_did_not_see(live: Path, tmp_path: Path) -> None:
    """The app moved a directory away, the pass that saw that was killed, the directory came back as it was."""
    spec, store = DataSpec((live,)), TreeStore()
    store.hot(spec, tmp_path / "backup", None, never)
    (live / "d3").rename(tmp_path / "d3")
    done = call("cold", spec, tmp_path / "backup", failpoint="data.pass.index=kill")
    assert done.returncode != 0
    (tmp_path / "d3").rename(live / "d3")
    store.cold(spec, tmp_path / "backup")
    store.seal(tmp_path / "backup", {})
    assert look(tmp_path / "backup/data/0") == look(live)


def test_a_copy_from_before_a_restart_of_the_host_is_not_sealed(live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    store = TreeStore()
    store.hot(spec, tmp_path / "backup", None, never)
    store.cold(spec, tmp_path / "backup")
    index = tmp_path / "backup/index"
    head, _, rest = index.read_text().partition("\n")
    name, _boot, size = head.split(" ")
    index.write_text(f"{name} another-boot {size}\n{rest}")
    with pytest.raises(Exception, match="the host was restarted since its last copy"):
        store.seal(tmp_path / "backup", {})
    assert not store.is_sealed(tmp_path / "backup")


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_where_blocks_can_be_shared_large_files_take_no_room(kind: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path / "disk") as disk:
        live = disk / "live"
        live.mkdir()
        (live / "large").write_bytes(os.urandom(64 << 20))
        os.sync()
        time.sleep(2.1)
        spec, store = DataSpec((live,)), TreeStore()
        before = _used(disk)
        sealed(store, spec, disk / "one")
        change_large(live)
        sealed(store, spec, disk / "two", disk / "one")
        then = look(live)
        (live / "large").write_bytes(b"ruined")
        store.restore(spec, disk / "one", disk / "aside-1")
        store.restore(spec, disk / "two", disk / "aside-2")
        assert look(live) == then
        assert _used(disk) - before < 16 << 20
        assert store.verify(disk / "one") == store.verify(disk / "two") == []


def _used(disk: Path) -> int:
    os.sync()
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


WRITER = """
import os, random, shutil, sys
top, dice = sys.argv[1], random.Random(5)
print("up", flush=True)
while True:
    path = f"{top}/w{dice.randrange(30)}"
    try:
        match dice.randrange(6):
            case 0: open(path, "wb").write(dice.randbytes(dice.randrange(200_000)))
            case 1: os.unlink(path)
            case 2: os.truncate(path, dice.randrange(300_000))
            case 3: os.mkdir(path); open(path + "/in", "w").write("in")
            case 4: shutil.rmtree(path)
            case 5: os.symlink("elsewhere", path)
    except OSError:
        pass
"""


def test_a_writer_that_never_stops_does_not_keep_a_backup_from_being_right(live: Path, tmp_path: Path) -> None:
    """Files vanish, grow, shrink and change their type in the hot pass; what counts is what the stop left."""
    spec, store = DataSpec((live,)), TreeStore()
    base = None
    for number in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(live)], stdout=subprocess.PIPE) as app:
            assert app.stdout
            app.stdout.readline()
            store.hot(spec, tmp_path / str(number), base, never)
            app.kill()
        store.cold(spec, tmp_path / str(number))
        store.seal(tmp_path / str(number), {})
        assert look(tmp_path / str(number) / "data/0") == look(live)
        assert store.verify(tmp_path / str(number)) == []
        base = tmp_path / str(number)


@pytest.fixture
def shm() -> Iterator[Path]:
    path = Path("/dev/shm") / f"slotd-passes-{os.getpid()}"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)
