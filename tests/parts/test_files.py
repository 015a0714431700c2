"""The door to files: what is promised of each call, tried on a real file system."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.trees import DAEMON

from slotd import errors
from slotd.host import copy, failpoint, files


def test_a_file_is_replaced_whole_and_gets_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    path.write_text("old")
    files.write_atomic(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["metrics.prom"]


def test_a_write_that_fails_names_the_place_and_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(errors.Failed, match=r"cannot write .*/missing/x: No such file"):
        files.write_atomic(tmp_path / "missing" / "x", b"")


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(errors.NoSpace, match="cannot write the log: No space left on device") as caught:
        with files.explaining("cannot write the log"), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert "Free some space" in caught.value.hint


def test_a_link_is_switched_in_one_act_also_over_a_half_made_one(tmp_path: Path) -> None:
    link = tmp_path / "current"
    files.switch_symlink(link, "a")
    os.symlink("nonsense", tmp_path / ".current.new")  # what a killed switch leaves
    files.switch_symlink(link, "b")
    assert os.readlink(link) == "b"
    assert os.listdir(tmp_path) == ["current"]


def test_a_directory_is_never_replaced_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(errors.Failed, match=r"cannot point .*current at b"):
        files.switch_symlink(tmp_path / "current", "b")


def test_reading_has_a_bound_and_wants_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read_bounded(path, 5) == b"12345"
    with pytest.raises(errors.Failed, match="larger than 4 bytes"):
        files.read_bounded(path, 4)
    with pytest.raises(FileNotFoundError):
        files.read_bounded(tmp_path / "y", 4)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.Failed, match="not a regular file"):
        files.read_bounded(tmp_path / "fifo", 4)


def test_a_small_file_is_read_with_little_memory_whatever_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"12345")
    script = (
        "import resource, sys; from pathlib import Path; from slotd.host import files;"
        "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20));"
        "sys.stdout.buffer.write(files.read_bounded(Path(sys.argv[1]), 2 << 30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={"PYTHONPATH": str(DAEMON)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"12345"), done.stderr.decode()


def test_removal_takes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "x").write_text("x")
    os.symlink(outside, tree / "link")
    (tree / "closed").chmod(0)
    files.remove_tree(tree)
    files.remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"
    os.symlink(outside, tree)
    files.remove_tree(tree)
    assert (outside / "kept").exists()
    assert not tree.is_symlink()


def test_removal_copes_with_a_tree_deeper_than_any_path(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in ["deep", *["d" * 50] * 1500]:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    files.remove_tree(tmp_path / "deep")
    assert os.listdir(tmp_path) == []


def test_removal_stops_before_a_mounted_file_system(tmp_path: Path) -> None:
    (tmp_path / "tree" / "mnt").mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path; from slotd.host import files\n"
        "try: files.remove_tree(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            'mount -t tmpfs none "$1/mnt" && touch "$1/mnt/kept" && "$2" -c "$3" "$1" && ls "$1/mnt"',
            "sh",
            str(tmp_path / "tree"),
            sys.executable,
            program,
        ],
        env=os.environ | {"PYTHONPATH": str(DAEMON)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Failed cannot remove" in done.stdout
    assert "is a mount point" in done.stdout
    assert "kept" in done.stdout


def test_size_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    os.link(tmp_path / "a", tmp_path / "b")
    os.symlink("/etc", tmp_path / "link")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "c").write_bytes(b"y" * 11)
    assert files.tree_size(tmp_path) == 111
    assert files.tree_size(tmp_path / "nothing") == 0
    assert files.tree_size(tmp_path / "a") == 100


def test_free_space_of_a_place_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    assert files.free_bytes(tmp_path / "x" / "y") > 0


def test_a_writer_is_seen_by_descriptor_and_by_mapping(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(b"x" * 4096)
    with files.opened(path, os.O_RDONLY) as fd:
        assert files.has_writers(fd) is False
        with open(path, "r+b") as writer:
            assert files.has_writers(fd) is True
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
            mapped = libc.mmap(None, 4096, 3, 1, writer.fileno(), 0)
        assert files.has_writers(fd) is True
        libc.munmap(ctypes.c_void_p(mapped), 4096)
        assert files.has_writers(fd) is False


def test_a_rename_refuses_to_replace(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with files.opened(tmp_path, files.DIRECTORY) as fd:
        with pytest.raises(FileExistsError):
            files.rename_new("a", "b", src_dir_fd=fd, dst_dir_fd=fd)
        files.rename_new("a", "c", src_dir_fd=fd, dst_dir_fd=fd)
    assert (tmp_path / "b").read_text() == "b"
    assert (tmp_path / "c").read_text() == "a"


def test_a_copy_keeps_holes(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"island")
    with (
        files.opened(tmp_path / "sparse", os.O_RDONLY) as src,
        files.opened(tmp_path / "copy", os.O_RDWR | os.O_CREAT) as dst,
    ):
        copy.copy_file(src, dst)
        assert files.hash_fd(src) == files.hash_fd(dst)
        assert os.fstat(dst).st_blocks * 512 < 1 << 20


def test_a_copy_between_file_systems_is_whole(tmp_path: Path) -> None:
    source = Path("/dev/shm") / f"slotd-test-{os.getpid()}"
    source.write_bytes(os.urandom(3 << 20))
    try:
        with (
            files.opened(source, os.O_RDONLY) as src,
            files.opened(tmp_path / "copy", os.O_RDWR | os.O_CREAT) as dst,
        ):
            copy.copy_file(src, dst)
            assert files.hash_fd(src) == files.hash_fd(dst)
    finally:
        source.unlink()


def test_a_name_that_became_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with files.opened(tmp_path, files.DIRECTORY) as fd, pytest.raises(FileNotFoundError):
        copy.open_regular(fd, "x")


def test_names_in_messages_hold_no_control_characters() -> None:
    assert files.shown(os.fsdecode(b"a\nMESSAGE=x\xff")) == "a\ufffdMESSAGE=x\ufffd"


# -- failpoints ------------------------------------------------------------------------------------------------------


def _run(program: str, points: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(DAEMON), "SLOTD_FAILPOINTS": points}
    if directory:
        environment["SLOTD_FAILPOINTS_DIR"] = str(directory)
    program = f"from slotd.host.failpoint import hit\n{program}"
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)


def test_a_failpoint_kills_at_the_hit_that_was_asked_for() -> None:
    done = _run("for n in range(3): print(n, flush=True); hit('stop:begin')", "other=kill,stop:begin=kill*2")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]


def test_a_failpoint_fires_once_across_restarts_when_told_where_to_remember(tmp_path: Path) -> None:
    assert _run("hit('switch:end')", "switch:end=kill", tmp_path).returncode == -signal.SIGKILL
    assert _run("hit('switch:end')", "switch:end=kill", tmp_path).returncode == 0


def test_a_failpoint_that_hangs_goes_on_when_its_file_says_so_and_the_event_loop_ran_meanwhile(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from slotd.host.failpoint import reach
fired = pathlib.Path({str(tmp_path / "trial:begin")!r})
async def main():
    step = asyncio.create_task(reach("trial:begin"))
    async with asyncio.timeout(20):
        while not fired.exists():
            await asyncio.sleep(0.01)
        assert not step.done()
        fired.write_text("go")
        await step
asyncio.run(main())
"""
    done = _run(program, "trial:begin=hang", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_failpoint_that_stalls_holds_up_the_event_loop_until_it_goes_on(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, threading, time
from slotd.host.failpoint import reach
fired = pathlib.Path({str(tmp_path / "trial:begin")!r})
def let_go():
    while not fired.exists():
        time.sleep(0.01)
    fired.write_text("go")
async def main():
    others = []
    asyncio.get_running_loop().call_soon(others.append, "ran")
    threading.Thread(target=let_go).start()
    await reach("trial:begin")
    print(others)
    await asyncio.sleep(0)
    print(others)
asyncio.run(main())
"""
    done = _run(program, "trial:begin=stall", tmp_path)
    assert done.stdout.splitlines() == ["[]", "['ran']"], done.stderr


def test_a_failpoint_can_be_a_full_disk() -> None:
    done = _run("hit('x')", "x=enospc")
    assert "No space left on device" in done.stderr


def test_a_failpoint_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="is not name=action"):
        failpoint.parse("stop:begin=explode")
