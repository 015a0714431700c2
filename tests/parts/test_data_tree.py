"""Backups and restores of file trees, as an administrator would check them: is everything back, is nothing lost."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trees import DAEMON, acl, call, digests, look

from slotd import errors
from slotd.data import DataSpec
from slotd.data.places import matcher
from slotd.data.tree import TreeStore

APP = 4321  # some user who is not root


def never() -> bool:
    return False


@pytest.fixture
def store() -> TreeStore:
    return TreeStore()


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Data with a bit of everything in them."""
    top = tmp_path / "var" / "app" / "data"
    (top / "notes").mkdir(parents=True)
    (top / "temp").mkdir()
    (top / "notes" / "one.txt").write_text("one")
    (top / "notes" / "two.txt").write_text("two")
    (top / "temp" / "cache").write_text("cache")
    (top / "with space\nand newline").write_bytes(b"odd")
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (top / "empty").mkdir()
    os.link(top / "notes" / "one.txt", top / "notes" / "same")
    os.symlink("one.txt", top / "notes" / "link")
    os.symlink("/nowhere", top / "dangling")
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o4750)
    with open(top / "sparse", "wb") as file:
        file.truncate(8 << 20)
    os.setxattr(top / "secret", "user.note", b"mine")
    os.setxattr(top / "notes", "system.posix_acl_default", acl(1000, 7))
    os.setxattr(top / "secret", "system.posix_acl_access", acl(1001, 4))
    os.setxattr(top / "tool", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    for at in [top, *top.rglob("*")]:
        if at.name != "tool":
            os.chown(at, APP, APP, follow_symlinks=False)
        os.utime(at, ns=(10**18 + 1, 10**18 + at.lstat().st_ino), follow_symlinks=False)
    return top


def back_up(store: TreeStore, spec: DataSpec, dest: Path, base: Path | None = None) -> None:
    store.hot(spec, dest, base, never)
    store.cold(spec, dest)
    store.seal(dest, {"version": "1.0"})


def damage(live: Path) -> None:
    """What a bad version does."""
    (live / "notes" / "one.txt").write_text("ruined")
    (live / "notes" / "two.txt").unlink()
    (live / "secret").unlink()
    (live / "secret").mkdir()
    (live / "new").write_text("written by the new version")
    (live / "temp" / "cache").write_text("newer cache")


def test_everything_is_back_after_a_restore_and_what_the_bad_version_wrote_is_kept(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    before = look(live)
    back_up(store, spec, tmp_path / "backup")
    damage(live)
    damaged = look(live)
    store.quarantine(spec, tmp_path / "aside")
    assert not live.exists()
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(live) == before
    assert look(tmp_path / "aside" / "data" / "0") == damaged
    assert store.verify(tmp_path / "backup") == []
    assert store.verify(tmp_path / "aside") == []
    assert not list(live.parent.glob(".*slotd*"))


def test_a_quarantine_can_be_restored_like_a_backup(store: TreeStore, live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "backup")
    damage(live)
    damaged = look(live)
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    store.restore(spec, tmp_path / "aside", tmp_path / "aside-2")
    assert look(live) == damaged


def test_a_restore_without_a_quarantine_makes_it_first(store: TreeStore, live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "backup")
    damage(live)
    damaged = look(live)
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(tmp_path / "aside" / "data" / "0") == damaged


def test_what_is_excluded_is_not_saved_and_comes_back_as_it_is_now(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,), exclude=("temp", "notes/*.txt", "not/there"))
    back_up(store, spec, tmp_path / "backup")
    assert not (tmp_path / "backup/data/0/temp").exists()
    assert not (tmp_path / "backup/data/0/notes/one.txt").exists()
    assert (tmp_path / "backup/data/0/notes/same").exists()
    (live / "temp" / "cache").write_text("newer cache")
    (live / "notes" / "three.txt").write_text("three")
    (live / "secret").unlink()
    notes = (live / "notes").stat()
    os.utime(live / "notes", ns=(notes.st_atime_ns, 10**18))
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert (live / "temp" / "cache").read_text() == "newer cache"
    assert (live / "notes" / "three.txt").read_text() == "three"
    assert (live / "secret").read_text() == "secret"
    assert store.verify(tmp_path / "aside") == []


def test_what_the_backup_left_out_comes_back_even_if_the_definition_no_longer_excludes_it(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    back_up(store, DataSpec((live,), exclude=("temp",)), tmp_path / "backup")
    store.restore(DataSpec((live,)), tmp_path / "backup", tmp_path / "aside")
    assert (live / "temp" / "cache").read_text() == "cache"


def test_a_place_that_the_backup_never_knew_is_left_with_its_data(store: TreeStore, live: Path, tmp_path: Path) -> None:
    back_up(store, DataSpec((live / "notes",)), tmp_path / "backup")
    store.restore(DataSpec((live / "empty", live / "notes", live / "secret")), tmp_path / "backup", tmp_path / "aside")
    assert (live / "secret").read_text() == "secret"
    assert (live / "empty").is_dir()


def test_a_place_that_did_not_exist_does_not_exist_after_the_restore(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live, live.parent / "later"))
    back_up(store, spec, tmp_path / "backup")
    (live.parent / "later").mkdir()
    (live.parent / "later" / "x").write_text("x")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert not (live.parent / "later").exists()
    assert digests(tmp_path / "aside") >= digests(tmp_path / "aside/data/1")
    assert (tmp_path / "aside/data/1/x").read_text() == "x"


def test_a_file_can_be_a_place_and_its_directory_is_made_again_if_it_went_away(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    live.parent.chmod(0o750)
    os.chown(live.parent, APP, APP)
    spec = DataSpec((live / "secret", live))
    before = look(live)
    back_up(store, spec, tmp_path / "backup")
    subprocess.run(["rm", "-rf", str(live.parent)], check=True)
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(live) == before
    assert (live.parent.stat().st_mode & 0o7777, live.parent.stat().st_uid) == (0o750, APP)


def test_the_cold_pass_copies_only_what_changed_since_the_hot_pass(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    _settle(live)
    first = store.hot(spec, tmp_path / "backup", None, never)
    assert first.copied_files == first.files - 1  # one file has two names
    (live / "notes" / "two.txt").write_text("TWO")
    (live / "secret").unlink()
    second = store.cold(spec, tmp_path / "backup")
    assert second.copied_files == 1
    store.seal(tmp_path / "backup", {})
    assert look(tmp_path / "backup/data/0") == look(live)


def test_a_change_that_leaves_size_and_time_as_they_were_is_not_missed(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    path = live / "notes" / "two.txt"
    _settle(live)
    store.hot(spec, tmp_path / "one", None, never)
    found = path.stat()
    path.write_text("2wo")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    store.cold(spec, tmp_path / "one")
    store.seal(tmp_path / "one", {})
    assert (tmp_path / "one/data/0/notes/two.txt").read_text() == "2wo"
    other = live / "other"
    other.write_text("owt")
    os.chown(other, APP, APP)
    other.chmod(path.stat().st_mode & 0o7777)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)
    back_up(store, spec, tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two/data/0/notes/two.txt").read_text() == "owt"


def test_a_write_through_a_mapping_after_the_hot_pass_is_not_missed(store: TreeStore, live: Path, shm: Path) -> None:
    """Such a write leaves no mark in the file's times as long as the page was dirty before.

    The backup is on another file system, so that putting it on disk does not clean the page as well.
    """
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'r+b') as file: m = mmap.mmap(file.fileno(), 4096)\n"
        "for line in sys.stdin: m[0:1] = line[0].encode(); print(flush=True)"
    )
    (live / "mapped").write_bytes(b"." * 4096)
    _settle(live)
    spec = DataSpec((live,))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(live / "mapped")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdin
        assert app.stdout
        for char, wait in (("a", 0), ("b", 1)):
            app.stdin.write(f"{char}\n")
            app.stdin.flush()
            app.stdout.readline()
            if not wait:
                store.hot(spec, shm / "backup", None, never)
        app.stdin.close()
    store.cold(spec, shm / "backup")
    assert (shm / "backup/data/0/mapped").read_bytes()[:1] == b"b"


def _settle(live: Path) -> None:
    """Let the data be old enough that an unchanged file is known as such."""
    newest = max(at.lstat().st_ctime for at in [live, *live.rglob("*")])
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def test_what_did_not_change_is_shared_with_the_backup_before(store: TreeStore, live: Path, tmp_path: Path) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "one")
    (live / "notes" / "two.txt").write_text("TWO")
    (live / "secret").chmod(0o640)
    before = look(tmp_path / "one" / "data")
    stats = store.hot(spec, tmp_path / "two", tmp_path / "one", never)
    store.cold(spec, tmp_path / "two")
    store.seal(tmp_path / "two", {})
    assert stats.copied_files == 2
    assert look(tmp_path / "two/data/0") == look(live)
    assert look(tmp_path / "one" / "data") == before
    shared = "data/0/sparse"
    assert (tmp_path / "one" / shared).stat().st_ino == (tmp_path / "two" / shared).stat().st_ino
    assert (live / "sparse").stat().st_ino != (tmp_path / "two" / shared).stat().st_ino
    store.remove(tmp_path / "one")
    assert store.verify(tmp_path / "two") == []
    assert not (tmp_path / "one").exists()


def test_files_that_were_one_and_are_two_now_are_not_made_one_by_the_backup(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "one")
    same = live / "notes" / "same"
    subprocess.run(["cp", "-a", str(same), str(same) + "2"], check=True)
    os.rename(str(same) + "2", same)
    back_up(store, spec, tmp_path / "two", tmp_path / "one")
    assert look(tmp_path / "two/data/0") == look(live)


def test_sockets_and_fifos_are_skipped_and_told(store: TreeStore, live: Path, tmp_path: Path) -> None:
    os.mkfifo(live / "pipe")
    os.chdir(live)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        stats = store.hot(DataSpec((live,)), tmp_path / "backup", None, never)
    os.chdir("/")
    assert [text.partition("/data/")[2] for text in stats.skipped] == ["pipe (a fifo)", "socket (a socket)"]
    assert not (tmp_path / "backup/data/0/pipe").exists()


def test_a_copy_is_no_backup_before_it_is_sealed_nor_after_it_was_tampered_with(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    dest = tmp_path / "backup"
    assert not store.is_sealed(dest)
    store.hot(spec, dest, None, never)
    assert not store.is_sealed(dest)
    with pytest.raises(errors.Failed, match="not a whole backup"):
        store.restore(spec, dest, tmp_path / "aside")
    assert live.exists()
    assert store.seal(dest, {"version": "1.0"}) > 0
    assert store.is_sealed(dest)
    assert store.header(dest) == {"version": "1.0"}
    assert oct(dest.stat().st_mode & 0o7777) == "0o700"
    store.hot(spec, dest, None, never)
    assert not store.is_sealed(dest)
    store.seal(dest, {})
    with open(dest / "manifest", "a") as manifest:
        manifest.write("f 0644 0 0 0 0 - - 0/more\n")
    assert not store.is_sealed(dest)


def test_verify_names_what_rotted(store: TreeStore, live: Path, tmp_path: Path) -> None:
    dest = tmp_path / "backup"
    back_up(store, DataSpec((live,)), dest)
    victim = dest / "data/0/notes/two.txt"
    found = victim.stat()
    victim.write_text("tw0")
    os.utime(victim, ns=(found.st_atime_ns, found.st_mtime_ns))
    (dest / "data/0/secret").unlink()
    (dest / "data/0/empty/extra").write_text("")
    os.utime(dest / "data/0/empty", ns=(0, 0))
    problems = store.verify(dest)
    assert "data/0/notes/two.txt differs in contents" in problems
    assert "data/0/secret is missing" in problems
    assert "data/0/empty/extra is not in the manifest" in problems


def test_a_cancelled_copy_stops_between_files_and_can_be_made_again(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    asked = iter([False] * 3)
    with pytest.raises(errors.Cancelled):
        store.hot(DataSpec((live,)), tmp_path / "backup", None, lambda: next(asked, True))
    with pytest.raises(errors.Failed, match="not finished"):
        store.seal(tmp_path / "backup", {})
    back_up(store, DataSpec((live,)), tmp_path / "backup")
    assert look(tmp_path / "backup/data/0") == look(live)
    store.remove(tmp_path / "backup")
    store.remove(tmp_path / "backup")
    assert sorted(os.listdir(tmp_path)) == ["var"]


def test_the_need_for_space_is_what_a_backup_takes_less_what_it_shares(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,), exclude=("temp",))
    (live / "big").write_bytes(os.urandom(5 << 20))
    (live / "temp" / "huge").write_bytes(os.urandom(9 << 20))
    assert 5 << 20 <= store.needs(spec, None) < 6 << 20
    back_up(store, spec, tmp_path / "one")
    assert store.needs(spec, tmp_path / "one") < 1 << 20
    assert store.needs(DataSpec((tmp_path / "nothing",)), None) == 0


def test_files_that_come_go_and_change_while_they_are_copied_do_not_fail_the_hot_pass(
    store: TreeStore, live: Path, tmp_path: Path
) -> None:
    program = (
        "import os, sys, itertools, shutil\n"
        "os.chdir(sys.argv[1])\n"
        "for n in itertools.count():\n"
        "    d = f'd{n % 7}'\n"
        "    os.makedirs(d, exist_ok=True)\n"
        "    open(f'{d}/f{n % 5}', 'ab').write(os.urandom(n % 9000))\n"
        "    if n % 3 == 0: shutil.rmtree(d)\n"
        "    if n % 11 == 0: os.symlink('/etc', 'swap') if not os.path.lexists('swap') else os.unlink('swap')\n"
        "    if n % 13 == 0:\n"
        "        open('t', 'wb').truncate(n)\n"
        "        os.rename('t', 'kept')\n"
    )
    spec = DataSpec((live,))
    with subprocess.Popen([sys.executable, "-c", program, str(live)]) as app:
        try:
            for _ in range(8):
                store.hot(spec, tmp_path / "backup", None, never)
            assert app.poll() is None, "the app ended early"
        finally:
            app.kill()
    store.cold(spec, tmp_path / "backup")
    store.seal(tmp_path / "backup", {})
    assert look(tmp_path / "backup/data/0") == look(live)
    assert store.verify(tmp_path / "backup") == []


@pytest.mark.parametrize("elsewhere", ["backups", "data"])
def test_other_file_systems_make_no_difference(
    store: TreeStore, live: Path, tmp_path: Path, shm: Path, elsewhere: str
) -> None:
    """Once the state is on another file system than the data, once the data are."""
    if elsewhere == "data":
        subprocess.run(["cp", "-a", str(live), str(shm / "data")], check=True)
        live, room = shm / "data", tmp_path
    else:
        room = shm
    spec = DataSpec((live,), exclude=("temp",))
    before = look(live)
    back_up(store, spec, room / "backup")
    damage(live)
    damaged = look(live)
    store.quarantine(spec, room / "aside")
    assert not live.exists()
    assert look(room / "aside/data/0") == damaged
    store.restore(spec, room / "backup", room / "aside")
    after = look(live)
    assert {k: v for k, v in after.items() if "temp" not in k} == {k: v for k, v in before.items() if "temp" not in k}
    assert (live / "temp/cache").read_text() == "newer cache"
    assert not [at for at in live.parent.iterdir() if "slotd" in at.name and at != shm]


@pytest.fixture
def shm() -> Iterator[Path]:
    path = Path("/dev/shm") / f"slotd-test-{os.getpid()}"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def test_mount_points_in_the_data_stay_mounted_and_what_is_on_them_is_restored(live: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own: the data are a mount, with another mount below."""
    program = """
import json, os, subprocess, sys
from pathlib import Path
from slotd.data import DataSpec
from slotd.data.tree import TreeStore
from tests.trees import look
live, room = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["cp", "-a", f"{live}/.", f"{room}/seed"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", str(live)], check=True)
subprocess.run(["cp", "-a", f"{room}/seed/.", str(live)], check=True)
(live / "sub" / "mnt").mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "none", str(live / "sub/mnt")], check=True)
(live / "sub/mnt/below").write_text("below")
(live / "sub/mnt/deep").mkdir()
(live / "sub/mnt/deep/x").write_text("x")
def seen():
    return {k: v for k, v in look(live).items()}
store, spec = TreeStore(), DataSpec((live,), exclude=("temp",))
before = seen()
store.hot(spec, room / "backup", None, lambda: False)
store.cold(spec, room / "backup")
store.seal(room / "backup", {})
(live / "sub/mnt/below").write_text("ruined")
(live / "sub/mnt/deep/x").unlink()
(live / "secret").unlink()
(live / "added").write_text("added")
damaged = seen()
store.quarantine(spec, room / "aside")
assert look(room / "aside/data/0").keys() == damaged.keys(), "quarantine"
assert sorted(os.listdir(live)) == ["sub"], os.listdir(live)
store.restore(spec, room / "backup", room / "aside")
after = seen()
assert after == before, set(after.items()) ^ set(before.items())
assert os.path.ismount(live) and os.path.ismount(live / "sub/mnt")
print("restored")
"""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", program, str(live), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{DAEMON}:{DAEMON.parent}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "restored\n", done.stderr


def test_a_full_disk_fails_the_backup_and_leaves_the_data_alone(live: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, with room for a tenth of the data."""
    (live / "big").write_bytes(os.urandom(10 << 20))
    before = look(live)
    room = tmp_path / "room"
    room.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$1" && shift && "$@"'
    done = call("hot", DataSpec((live,)), room / "backup", prefix=("unshare", "-m", "sh", "-c", mount, "sh", str(room)))
    assert "NoSpace: cannot save" in done.stderr
    assert "No space left on device. Free some space" in done.stderr
    assert look(live) == before


def test_patterns_mean_what_the_documentation_says() -> None:
    excluded = matcher(("temp", "*.tmp", "a/b", "**/node_modules", "logs/[!k]*", "x?z", "/lead/", "d.t"))
    for rel in ("temp", "x.tmp", "a/b", "node_modules", "p/q/node_modules", "logs/old", "xyz", "lead", "d.t"):
        assert excluded(rel), rel
    for rel in ("deep/temp", "d/x.tmp", "a", "a/b/c", "logs/kept", "x/z", "temporary", "dot", "not_node_modules"):
        assert not excluded(rel), rel


def test_the_manifest_can_be_read_line_by_line(store: TreeStore, live: Path, tmp_path: Path) -> None:
    back_up(store, DataSpec((live,)), tmp_path / "backup")
    lines = (tmp_path / "backup" / "manifest").read_text().splitlines()
    assert all(len(line.split(" ")) == 9 for line in lines)
    assert any(line.endswith(r" 0/with\x20space\x0aand\x20newline") for line in lines)
    header = json.loads((tmp_path / "backup" / "header.json").read_text())
    assert header["entries"] == len(lines) == len(look(live))
