"""An app's user who tries to make root read, write or remove what is not theirs."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from tests.trees import look, mounted

from slotd import errors
from slotd.data import DataSpec
from slotd.data.index import NAMES_LIMIT
from slotd.data.tally import Tally
from slotd.data.tree import TreeStore

pytestmark = pytest.mark.attack

NOBODY = 65534
DROP = "import os, sys\nos.setresuid(65534, 65534, 65534)\nos.chdir(sys.argv[1])\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of the app's user, with data in it; and a secret outside that only root can read."""
    for at in (tmp_path, *tmp_path.parents):
        if at.stat().st_mode & 0o5 != 0o5:
            at.chmod(at.stat().st_mode | 0o755)
    top = tmp_path / "home"
    (top / "data" / "sub").mkdir(parents=True)
    (top / "data" / "sub" / "file").write_text("mine")
    for at in (top, *top.rglob("*")):
        os.chown(at, NOBODY, NOBODY)
    (tmp_path / "secret").mkdir(mode=0o700)
    (tmp_path / "secret" / "file").write_text("hunter2")
    return top


@contextmanager
def attack(program: str, *arguments: Path) -> Iterator[None]:
    """`program` runs as the app's user until the end of the block."""
    argv = [sys.executable, "-c", DROP + program, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
            assert process.poll() is None, "the attack ended early"
        finally:
            process.kill()


def never() -> bool:
    return False


def test_a_directory_swapped_for_a_link_never_brings_foreign_files_into_the_backup(home: Path, tmp_path: Path) -> None:
    program = (
        "os.symlink(sys.argv[2], 'link')\n"
        "os.symlink(sys.argv[2] + '/file', 'data/filelink')\n"
        "print(flush=True)\n"
        "while True:\n"
        "    os.rename('data/sub', 'dir'); os.rename('link', 'data/sub')\n"
        "    os.rename('data/sub', 'link'); os.rename('dir', 'data/sub')\n"
        "    os.rename('data/sub/file', 'f'); os.rename('data/filelink', 'data/sub/file')\n"
        "    os.rename('data/sub/file', 'data/filelink'); os.rename('f', 'data/sub/file')\n"
    )
    store = TreeStore()
    with attack(program, home, tmp_path / "secret"):
        for _ in range(150):
            store.hot(DataSpec((home / "data",)), tmp_path / "backup", None, never)
            for at in (tmp_path / "backup" / "data").rglob("*"):
                assert at.is_symlink() or not at.is_file() or at.read_text() == "mine"


def test_a_link_in_the_way_that_the_app_can_change_is_refused(home: Path, tmp_path: Path) -> None:
    (home / "way").symlink_to(tmp_path / "secret")
    with pytest.raises(errors.Failed, match="way on the way is a symbolic link"):
        TreeStore().hot(DataSpec((home / "way" / "file",)), tmp_path / "backup", None, never)
    (home / "end").symlink_to(tmp_path / "secret")
    with pytest.raises(errors.Failed, match="symbolic link that its owner can change") as caught:
        TreeStore().hot(DataSpec((home / "end",)), tmp_path / "backup", None, never)
    assert "[data] paths" in caught.value.hint


def test_a_link_that_root_made_is_followed_as_a_dynamic_user_needs_it(home: Path, tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    (lib / "private").mkdir(parents=True)
    home.rename(lib / "private" / "app")
    (lib / "app").symlink_to("private/app")
    store = TreeStore()
    spec = DataSpec((lib / "app",))
    before = look(lib / "private" / "app")
    store.hot(spec, tmp_path / "backup", None, never)
    store.seal(tmp_path / "backup", {})
    (lib / "private" / "app" / "data" / "sub" / "file").write_text("ruined")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(lib / "private" / "app") == before
    assert (lib / "app").is_symlink()


def test_data_that_the_app_replaced_by_a_link_are_restored_beside_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    store = TreeStore()
    spec = DataSpec((home / "data",))
    before = look(home / "data")
    store.hot(spec, tmp_path / "backup", None, never)
    store.seal(tmp_path / "backup", {})
    (home / "data").rename(home / "moved")
    (home / "data").symlink_to(tmp_path / "secret")
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    assert look(home / "data") == before
    assert (tmp_path / "secret" / "file").read_text() == "hunter2"
    assert (tmp_path / "aside/data/0").is_symlink()


def test_a_restore_under_attack_writes_nowhere_else_and_gives_nothing_away(home: Path, tmp_path: Path) -> None:
    store = TreeStore()
    spec = DataSpec((home / "data",), exclude=("sub/cache",))
    (home / "data" / "sub" / "cache").write_text("cache")
    store.hot(spec, tmp_path / "backup", None, never)
    store.seal(tmp_path / "backup", {})
    outside = look(tmp_path / "secret")
    program = (
        "print(flush=True)\n"
        "names = ['data', '.data.slotd-restore']\n"
        "while True:\n"
        "    for name in names:\n"
        "        for act in (lambda: os.rename(name, 'stolen'), lambda: os.symlink(sys.argv[2], name),\n"
        "                    lambda: os.unlink(name), lambda: os.mkdir(name), lambda: os.rename('stolen', name)):\n"
        "            try: act()\n"
        "            except OSError: pass\n"
    )
    with attack(program, home, tmp_path / "secret"):
        for n in range(40):
            with suppress(errors.SlotdError):  # an app may spoil its own restore, with a sentence
                store.restore(spec, tmp_path / "backup", tmp_path / f"aside-{n}")
    assert look(tmp_path / "secret") == outside
    assert store.verify(tmp_path / "backup") == []
    for at in home.rglob("*"):
        assert at.is_symlink() or not at.is_file() or at.read_text() in ("mine", "cache")


def test_a_tree_too_deep_to_copy_fails_with_a_sentence_and_can_be_set_aside_and_removed(
    home: Path, tmp_path: Path
) -> None:
    fd = os.open(home / "data", os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    store = TreeStore()
    with pytest.raises(errors.Failed, match="more than 150 directories deep"):
        store.hot(DataSpec((home / "data",)), tmp_path / "backup", None, never)
    store.remove(tmp_path / "backup")
    store.quarantine(DataSpec((home / "data",)), tmp_path / "aside")
    assert not (home / "data").exists()
    store.remove(tmp_path / "aside")
    assert not list(tmp_path.glob("*aside*"))


def test_a_device_or_fifo_in_place_of_a_file_is_never_opened(home: Path, tmp_path: Path) -> None:
    os.mkfifo(home / "data" / "fifo")
    os.mknod(home / "data" / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    stats = TreeStore().hot(DataSpec((home / "data",)), tmp_path / "backup", None, never)
    assert len(stats.skipped) == 2


LEASE = (
    "import fcntl, signal\n"
    "signal.signal(signal.SIGIO, lambda *_: None)\n"
    "fd = os.open('data/sub/file', os.O_RDWR)\n"
    "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
    "print(flush=True)\n"
    "while True:\n"
    "    signal.pause()\n"
)


def test_a_lease_that_nobody_gives_back_ends_a_backup_in_a_sentence(home: Path, tmp_path: Path) -> None:
    """Without that it would be waited for as long as the system says, 45 s, and once more for the next file."""
    with attack(LEASE, home), pytest.raises(errors.Failed, match=r"sub/file.*has a lease"):
        TreeStore().cold(DataSpec((home / "data",)), tmp_path / "backup")


def test_a_lease_that_is_given_back_when_it_is_asked_for_harms_nothing(home: Path, tmp_path: Path) -> None:
    polite = LEASE.replace("lambda *_: None", "lambda *_: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)")
    with attack(polite, home):
        TreeStore().cold(DataSpec((home / "data",)), tmp_path / "backup")
    assert (tmp_path / "backup/data/0/sub/file").read_text() == "mine"


def test_a_quarantine_begun_and_not_sealed_is_not_removed(home: Path, tmp_path: Path) -> None:
    store = TreeStore()
    store.quarantine(DataSpec((home / "data",)), tmp_path / "aside")
    (tmp_path / "aside" / "header.json").unlink()
    with pytest.raises(errors.Failed, match="may hold the only copy"):
        store.remove(tmp_path / "aside")
    assert (tmp_path / "aside/data/0/sub/file").read_text() == "mine"


def test_no_foreign_file_gets_a_second_name_in_data_whose_restore_is_swapped_for_a_link(home: Path) -> None:
    """Root may link any file; the app would have that one for ever: a setuid program of old, too."""
    store = TreeStore()
    live, victim = home / "data", home.parent / "victim"
    for number in range(400):
        (live / f"m{number}").write_text("mine")
    (live / "a").write_text("mine")
    os.link(live / "a", live / "z")
    victim.mkdir()
    (victim / "a").write_text("root's")
    store.hot(DataSpec((live,)), home.parent / "backup", None, never)
    store.seal(home.parent / "backup", {})
    program = (
        "print(flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        os.rename('.data.slotd-restore', 'stolen')\n"
        "        os.symlink(sys.argv[2], '.data.slotd-restore')\n"
        "    except OSError: pass\n"
    )
    with attack(program, home, victim), suppress(errors.SlotdError):
        for number in range(8):
            store.restore(DataSpec((live,)), home.parent / "backup", home.parent / f"aside-{number}")
    assert (home / "stolen").exists()
    assert (victim / "a").stat().st_nlink == 1


def test_names_that_cost_nothing_to_make_are_not_followed_until_the_memory_is_gone() -> None:
    """In a directory 140 names of 250 bytes deep the path of an empty file is written down as 140 kB."""
    tally = Tally(never, "copy")
    path = "n" * (1 << 20)
    for _ in range(NAMES_LIMIT >> 20):
        tally.met(path)
    with pytest.raises(errors.Failed, match="name it under `exclude`"):
        tally.met(path)


def test_attributes_that_cannot_be_listed_do_not_keep_data_from_being_set_aside(tmp_path: Path) -> None:
    """xfs takes more of them for a file than the kernel can list; whoever owns the file may set them."""
    with mounted("xfs", tmp_path / "disk", size=320 << 20) as disk:
        (disk / "live").mkdir()
        (disk / "live" / "file").write_text("mine")
        for number in range(400):
            os.setxattr(disk / "live" / "file", f"user.{'a' * 240}{number}", b"")
        TreeStore().quarantine(DataSpec((disk / "live",)), disk / "aside")
        assert TreeStore().is_sealed(disk / "aside")
        assert (disk / "aside/data/0/file").read_text() == "mine"
        assert not (disk / "live").exists()


def test_a_file_that_is_one_great_hole_is_saved_without_reading_it_to_its_end(home: Path, tmp_path: Path) -> None:
    """8 TiB of nothing, which take no room, would be hashed for hours."""
    with open(home / "data" / "hollow", "wb") as file:
        file.truncate(8 << 40)
        file.write(b"mine")
    store, spec = TreeStore(), DataSpec((home / "data",))
    store.hot(spec, tmp_path / "one", None, never)
    store.cold(spec, tmp_path / "one")
    store.seal(tmp_path / "one", {})
    store.complete(tmp_path / "one")
    assert store.verify(tmp_path / "one") == []
    store.hot(spec, tmp_path / "two", tmp_path / "one", never)
    store.cold(spec, tmp_path / "two")
    store.seal(tmp_path / "two", {})
    (home / "data" / "hollow").unlink()
    store.restore(spec, tmp_path / "two", tmp_path / "aside")
    with open(home / "data" / "hollow", "rb") as file:
        assert file.read(8) == b"mine\0\0\0\0"
        assert os.fstat(file.fileno()).st_size == 8 << 40


def test_a_cancelled_copy_does_not_first_hash_all_of_a_large_file(home: Path, tmp_path: Path) -> None:
    with open(home / "data" / "large", "wb") as file:
        file.truncate(48 << 30)
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 100

    with pytest.raises(errors.Cancelled):
        TreeStore().hot(DataSpec((home / "data",)), tmp_path / "backup", None, cancelled)
    assert len(asked) == 101


def test_a_small_database_that_says_it_is_large_does_not_fill_the_disk_of_its_backup(
    home: Path, tmp_path: Path
) -> None:
    """SQLite copies as many pages as a database says it has; holes cost whoever made them nothing."""
    database, pages = home / "data" / "x.db", (192 << 20) // 4096
    with closing(sqlite3.connect(database)) as made:
        made.execute("CREATE TABLE t(x)")
        made.commit()
    with open(database, "r+b") as file:
        file.truncate(pages * 4096)
        file.seek(24)
        changes = file.read(4)
        file.seek(28)
        file.write(pages.to_bytes(4, "big"))
        file.seek(92)
        file.write(changes)
    (home / "data" / "x.db-wal").write_bytes(b"in use")
    spec = DataSpec((home / "data",), sqlite=("x.db",))
    noted = TreeStore().hot(spec, tmp_path / "backup", None, never).notes
    assert any("copied as a plain file" in each for each in noted)
    assert (tmp_path / "backup/data/0/x.db").stat().st_blocks * 512 < 1 << 20
