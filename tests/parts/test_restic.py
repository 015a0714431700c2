"""A restic repository as the store: what was saved comes back, and nothing in between counts as a backup."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.trees import DAEMON, look

from slotd import errors
from slotd.core.schema import BackupPolicy
from slotd.data import DataSpec, DataStore, make_data_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners can be given away by root only")

PROGRAM = """
import json, sys
from pathlib import Path
from slotd.core.schema import BackupPolicy
from slotd.data import DataSpec, make_data_store
call = json.loads(sys.argv[1])
store = make_data_store(BackupPolicy(store="restic"), Path(call["home"]))
spec, dest = DataSpec((Path(call["live"]),)), Path(call["dest"])
match call["verb"]:
    case "make":
        store.hot(spec, dest, None, lambda: False)
        store.cold(spec, dest)
        store.seal(dest, {"version": "1"})
    case "restore":
        store.restore(spec, Path(call["src"]), dest)
    case "remove":
        store.remove(dest)
"""


def never() -> bool:
    return False


def store_in(home: Path, **policy: str) -> DataStore:
    return make_data_store(BackupPolicy(store="restic", **policy), home)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state" / "restic" / "app"


@pytest.fixture
def store(home: Path) -> DataStore:
    return store_in(home)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """An app's data, in a directory whose name is full of what patterns are made of."""
    top = tmp_path / "srv" / "my [app]*" / "data"
    for name in ("notes/deep", "temp", "empty"):
        (top / name).mkdir(parents=True)
    for number in range(40):
        (top / "notes" / f"note {number}").write_text(f"note {number}\n" * 50)
    (top / "notes" / "deep" / "x.tmp").write_text("passing")
    (top / "temp" / "cache").write_text("cache")
    (top / os.fsdecode(b"latin \xe9\nline")).write_bytes(b"odd")
    os.link(top / "notes" / "note 1", top / "notes" / "the same")
    os.symlink("/nowhere", top / "dangling")
    with open(top / "sparse", "wb") as file:
        file.truncate(4 << 20)
    (top / "secret").write_text("secret")
    os.setxattr(top / "secret", "user.note", b"mine")
    for at in [top, *top.rglob("*")]:
        os.chown(at, 4711, 4712, follow_symlinks=False)
    (top / "secret").chmod(0o4640)
    os.utime(top / "secret", ns=(10**18 + 1, 10**18 + 12345))
    return top


def back_up(store: DataStore, spec: DataSpec, dest: Path, base: Path | None = None) -> None:
    store.hot(spec, dest, base, never)
    store.cold(spec, dest)
    store.seal(dest, {"version": "1"})


def call(verb: str, live: Path, home: Path, dest: Path, src: Path | None = None, failpoint: str = "") -> list[str]:
    """What starts one call in a process of its own."""
    os.environ["SLOTD_FAILPOINTS"] = failpoint
    request = {"verb": verb, "live": str(live), "home": str(home), "dest": str(dest), "src": str(src or "")}
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(DAEMON)!r})\n{PROGRAM}", json.dumps(request)]


@pytest.fixture(autouse=True)
def no_failpoints_after() -> object:
    yield
    os.environ.pop("SLOTD_FAILPOINTS", None)


def restic(home: Path, *arguments: str) -> str:
    """What the program itself says of the repository."""
    line = ["restic", "--no-cache", "--repo", str(home / "repository"), "--password-file", str(home / "password")]
    return subprocess.run([*line, *arguments], check=True, capture_output=True, text=True).stdout


def snapshots(home: Path) -> list[dict[str, object]]:
    return json.loads(restic(home, "snapshots", "--json")) or []


def test_what_was_saved_comes_back_byte_for_byte_through_quarantine(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,), exclude=("temp", "**/*.tmp"))
    before = {rel: seen for rel, seen in look(live).items() if "temp" not in rel and ".tmp" not in rel}
    back_up(store, spec, tmp_path / "one")
    assert store.is_sealed(tmp_path / "one")
    shutil.rmtree(live / "notes")
    (live / "secret").write_text("overwritten by the bad version")
    (live / "temp" / "cache").write_text("newer cache")
    store.restore(spec, tmp_path / "one", tmp_path / "aside")
    after = {rel: seen for rel, seen in look(live).items() if "temp" not in rel}
    assert after == before
    assert (live / "temp" / "cache").read_text() == "newer cache"
    assert (tmp_path / "aside" / "data" / "0" / "secret").read_text() == "overwritten by the bad version"


def test_what_was_brought_back_beside_to_be_looked_at_goes_again_and_the_backup_stays(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    """Else each backup that someone once looked into would take the room of all its data."""
    spec = DataSpec((live,))
    before = look(live)
    back_up(store, spec, tmp_path / "one")
    store.ready(tmp_path / "one")
    assert store.contents(tmp_path / "one")
    (tmp_path / "one" / "part-1").mkdir()  # of one who was killed
    store.complete(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_dir()) == ["data", "tmp"]
    (live / "secret").write_text("overwritten by the bad version")
    store.restore(spec, tmp_path / "one", tmp_path / "aside")
    assert look(live) == before


def test_a_snapshot_names_its_app_version_reason_and_id(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    spec = DataSpec((live,), labels=("app=notes", "version=1.2", "reason=update"))
    back_up(store, spec, tmp_path / "20260101T000000Z-7")
    tags = {"slotd", "id=20260101T000000Z-7", "app=notes", "version=1.2", "reason=update"}
    assert [set(each["tags"]) for each in snapshots(home)] == [tags | {"pass=hot"}, tags | {"pass=cold"}]


def test_a_copy_is_no_backup_before_it_is_sealed_and_none_when_its_snapshot_is_gone(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    spec, dest = DataSpec((live,)), tmp_path / "one"
    store.hot(spec, dest, None, never)
    assert not store.is_sealed(dest)
    store.cold(spec, dest)
    assert not store.is_sealed(dest)
    store.seal(dest, {})
    assert store.is_sealed(dest)
    assert store.verify(dest) == []
    restic(home, "forget", "--tag", "pass=cold", "--keep-tag", "none")
    for snapshot in snapshots(home):
        restic(home, "forget", str(snapshot["id"]))
    assert not store.is_sealed(dest)
    with pytest.raises(errors.Failed, match="not a whole backup"):
        store.ready(dest)


def test_the_cold_pass_reads_only_what_changed(store: DataStore, live: Path, tmp_path: Path, home: Path) -> None:
    spec, dest = DataSpec((live,)), tmp_path / "one"
    (live / "large").write_bytes(random.Random(1).randbytes(8 << 20))
    time.sleep(2.5)  # changes of the last moments are read again
    store.hot(spec, dest, None, never)
    (live / "notes" / "note 3").write_text("changed since")
    store.cold(spec, dest)
    store.seal(dest, {})
    hot, cold = snapshots(home)
    assert cold["parent"] == hot["id"]
    read = json.loads(restic(home, "diff", "--json", str(hot["id"]), str(cold["id"])).splitlines()[-1])
    assert read["changed_files"] == 1
    assert read["added"]["bytes"] < 100_000


def test_a_second_backup_takes_only_what_is_new(store: DataStore, live: Path, tmp_path: Path, home: Path) -> None:
    (live / "large").write_bytes(random.Random(2).randbytes(16 << 20))
    back_up(store, DataSpec((live,)), tmp_path / "one")
    first = size_of(home / "repository")
    with open(live / "large", "r+b") as file:
        file.seek(4 << 20)
        file.write(b"changed in place")
    back_up(store, DataSpec((live,)), tmp_path / "two", tmp_path / "one")
    assert first > 16 << 20
    assert size_of(home / "repository") - first < 6 << 20


def size_of(top: Path) -> int:
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


def test_a_write_through_a_mapping_between_the_passes_is_not_missed(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    spec, dest = DataSpec((live,)), tmp_path / "one"
    target = live / "mapped"
    target.write_bytes(b"a" * 8192)
    with open(target, "r+b") as file, mmap.mmap(file.fileno(), 8192) as view:
        view[0:1] = b"b"
        store.hot(spec, dest, None, never)
        view[1:5] = b"late"
        store.cold(spec, dest)
        store.seal(dest, {})
        store.restore(spec, dest, tmp_path / "aside")
        assert (live / "mapped").read_bytes()[:5] == b"blate"


def test_a_database_killed_in_a_transaction_comes_back_with_its_log(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    database = live / "app.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(database)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    spec, dest = DataSpec((live,), sqlite=("app.db",)), tmp_path / "one"
    with writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        store.hot(spec, dest, None, never)
        writer.kill()
    told = writer.returncode
    store.cold(spec, dest)
    store.seal(dest, {})
    expected = shutil.copytree(live, tmp_path / "as-left", symlinks=True)
    shutil.rmtree(live)
    store.restore(spec, dest, tmp_path / "aside")
    assert told == -signal.SIGKILL
    assert not (live / "app.db-shm").exists()
    rows = [
        sqlite3.connect(top / "app.db").execute("select count(*), sum(n) from t").fetchone() for top in (live, expected)
    ]
    assert rows[0] == rows[1]
    assert rows[0][0] > 0
    assert sqlite3.connect(database).execute("pragma integrity_check").fetchone() == ("ok",)


_WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=wal")
db.execute("create table t (n integer, filler blob)")
n = 0
while True:
    n += 1
    db.execute("insert into t values (?, randomblob(2000))", (n,))
    if n == 50:
        print("writing", flush=True)
"""


def test_two_places_and_one_that_is_not_there_come_back_as_they_were(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    settings, absent = tmp_path / "srv" / "settings.ini", tmp_path / "srv" / "later"
    settings.write_text("good")
    spec = DataSpec((live, settings, absent))
    back_up(store, spec, tmp_path / "one")
    settings.write_text("bad")
    absent.write_text("made by the bad version")
    store.restore(spec, tmp_path / "one", tmp_path / "aside")
    assert settings.read_text() == "good"
    assert not absent.exists()


def test_a_link_that_the_app_put_in_the_place_of_its_data_is_refused(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    shutil.rmtree(live)
    live.symlink_to("/etc")
    os.chown(live, 4711, 4711, follow_symlinks=False)
    with pytest.raises(errors.Failed, match="symbolic link"):
        store.hot(DataSpec((live,)), tmp_path / "one", None, never)


def test_removing_a_backup_forgets_its_snapshots_and_frees_the_room(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    (live / "large").write_bytes(random.Random(3).randbytes(8 << 20))
    back_up(store, DataSpec((live,)), tmp_path / "one")
    (live / "large").write_bytes(random.Random(4).randbytes(8 << 20))
    back_up(store, DataSpec((live,)), tmp_path / "two", tmp_path / "one")
    both = size_of(home / "repository")
    store.remove(tmp_path / "one")
    assert not (tmp_path / "one").exists()
    assert {tag for each in snapshots(home) for tag in each["tags"] if tag.startswith("id=")} == {"id=two"}
    assert size_of(home / "repository") < both - (6 << 20)
    assert store.verify(tmp_path / "two") == []


def test_a_definition_that_changed_its_store_still_finds_the_older_backups(
    store: DataStore, live: Path, tmp_path: Path
) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "in-restic")
    tree = make_data_store()
    back_up(tree, spec, tmp_path / "in-tree", tmp_path / "in-restic")
    for each in (tree, store):
        assert each.is_sealed(tmp_path / "in-restic")
        assert each.is_sealed(tmp_path / "in-tree")
    good = look(live)
    (live / "secret").write_text("bad")
    tree.restore(spec, tmp_path / "in-restic", tmp_path / "aside")
    assert look(live) == good


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_rotten_pack_is_found_and_nothing_is_touched_for_its_restore(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    spec = DataSpec((live,))
    (live / "large").write_bytes(random.Random(5).randbytes(2 << 20))
    back_up(store, spec, tmp_path / "one")
    for pack in (home / "repository" / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            raw = bytearray(pack.read_bytes())
            raw[len(raw) // 2] ^= 1
            pack.write_bytes(raw)
    now = look(live)
    assert store.verify(tmp_path / "one") != []
    with pytest.raises(errors.Failed):
        store.restore(spec, tmp_path / "one", tmp_path / "aside")
    assert look(live) == now
    assert not (tmp_path / "aside").exists()


def test_a_wrong_password_says_so_and_leaves_no_backup(
    live: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "credentials"
    given.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    store = store_in(home, credential="backup-password")
    with pytest.raises(errors.Failed, match="not given the credential 'backup-password'"):
        store.hot(DataSpec((live,)), tmp_path / "one", None, never)
    (given / "backup-password").write_text("right\n")
    back_up(store, DataSpec((live,)), tmp_path / "one")
    (given / "backup-password").write_text("wrong\n")
    with pytest.raises(errors.Failed, match="the password is not the one"):
        store.hot(DataSpec((live,)), tmp_path / "two", None, never)
    assert not store.is_sealed(tmp_path / "two")
    assert store.is_sealed(tmp_path / "one")


def test_the_password_is_in_no_argument_and_no_environment(live: Path, tmp_path: Path, home: Path) -> None:
    store = store_in(home)
    store.hot(DataSpec((live,)), tmp_path / "zero", None, never)
    secret = (home / "password").read_bytes().strip()
    assert (home / "password").stat().st_mode & 0o777 == 0o600
    trace = tmp_path / "trace"
    shutil.rmtree(tmp_path / "zero")
    subprocess.run(
        [
            "strace",
            "-f",
            "-v",
            "-s",
            "4096",
            "-e",
            "trace=execve",
            "-o",
            str(trace),
            *call("make", live, home, tmp_path / "one"),
        ],
        check=True,
    )
    said = trace.read_bytes()
    assert b"restic" in said
    assert secret not in said


def test_a_repository_that_is_not_mounted_is_not_made_anew(live: Path, tmp_path: Path, home: Path) -> None:
    disk = tmp_path / "disk" / "restic"
    store = store_in(home, repository=str(disk))
    back_up(store, DataSpec((live,)), tmp_path / "one")
    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    with pytest.raises(errors.Failed, match="it was there before, and is not now"):
        store.hot(DataSpec((live,)), tmp_path / "two", None, never)
    assert os.listdir(disk) == []
    assert not store.is_sealed(tmp_path / "one")
    with pytest.raises(errors.Failed, match="is not there"):
        store.remove(tmp_path / "one")
    disk.rmdir()
    (tmp_path / "unmounted").rename(disk)
    assert store.is_sealed(tmp_path / "one")


def test_the_lock_of_a_living_process_is_left_and_named_that_of_a_dead_one_goes(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "one")
    (live / "large").write_bytes(random.Random(6).randbytes(64 << 20))
    line = ["restic", "--no-cache", "-r", str(home / "repository"), "--password-file", str(home / "password")]
    other = subprocess.Popen([*line, "backup", "--quiet", "--stdin"], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: os.listdir(home / "repository" / "locks"))
        with pytest.raises(errors.Failed, match="another process has locked it"):
            store.remove(tmp_path / "one")
        assert len(os.listdir(home / "repository" / "locks")) == 1
    finally:
        other.kill()
        other.wait()
    assert len(os.listdir(home / "repository" / "locks")) == 1
    store.remove(tmp_path / "one")
    assert os.listdir(home / "repository" / "locks") == []
    assert snapshots(home) == []


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_fails_the_backup_and_harms_none_before(live: Path, tmp_path: Path, home: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)
    try:
        store = store_in(home, repository=str(disk / "restic"))
        back_up(store, DataSpec((live,)), tmp_path / "one")
        (live / "large").write_bytes(random.Random(7).randbytes(32 << 20))
        with pytest.raises(errors.NoSpace, match="its disk is full"):
            store.hot(DataSpec((live,)), tmp_path / "two", tmp_path / "one", never)
        assert not store.is_sealed(tmp_path / "two")
        assert store.verify(tmp_path / "one") == []
        store.remove(tmp_path / "two")
        (live / "large").unlink()
        back_up(store, DataSpec((live,)), tmp_path / "three", tmp_path / "one")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_cancelled_hot_pass_ends_and_leaves_no_lock(store: DataStore, live: Path, tmp_path: Path, home: Path) -> None:
    back_up(store, DataSpec((live,)), tmp_path / "one")
    (live / "large").write_bytes(random.Random(8).randbytes(128 << 20))
    with pytest.raises(errors.Cancelled):
        store.hot(DataSpec((live,)), tmp_path / "two", None, lambda: True)
    assert os.listdir(home / "repository" / "locks") == []


def test_killed_at_any_moment_a_backup_is_whole_or_not_there(
    store: DataStore, live: Path, tmp_path: Path, home: Path
) -> None:
    spec = DataSpec((live,))
    (live / "large").write_bytes(random.Random(9).randbytes(12 << 20))
    back_up(store, spec, tmp_path / "first")
    good = look(live)
    begun = time.monotonic()
    subprocess.run(call("make", live, home, tmp_path / "timed"), check=True)
    whole_s = time.monotonic() - begun
    chance = random.Random(10)
    kept = []
    for number in range(8):
        with open(live / "large", "r+b") as file:
            file.write(chance.randbytes(4 << 20))
        os.utime(live / "large", ns=(10**18, 10**18 + number))
        dest = tmp_path / f"killed-{number}"
        child = subprocess.Popen(call("make", live, home, dest), start_new_session=True)
        try:
            child.wait(timeout=chance.uniform(0.1, whole_s))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if store.is_sealed(dest):
            kept.append(dest)
            assert store.verify(dest) == []
        else:
            store.remove(dest)
    assert store.verify(tmp_path / "first") == []
    names = {tag for each in snapshots(home) for tag in each["tags"] if tag.startswith("id=")}
    assert names == {"id=first", "id=timed", *(f"id={dest.name}" for dest in kept)}
    store.restore(spec, tmp_path / "first", tmp_path / "aside")
    assert look(live) == good
    restic(home, "unlock")
    restic(home, "check", "--read-data")


@pytest.mark.parametrize("point", ["data.restic.restored", "data.restic.back", "data.restore.finish"])
def test_a_restore_killed_on_the_way_is_finished_by_the_next(
    store: DataStore, live: Path, tmp_path: Path, home: Path, point: str
) -> None:
    spec = DataSpec((live,))
    back_up(store, spec, tmp_path / "one")
    good = look(live)
    (live / "secret").write_text("bad")
    done = subprocess.run(call("restore", live, home, tmp_path / "aside", tmp_path / "one", f"{point}=kill"))
    assert done.returncode == -signal.SIGKILL
    store.restore(spec, tmp_path / "one", tmp_path / "aside")
    assert look(live) == good
    assert (tmp_path / "aside" / "data" / "0" / "secret").read_text() == "bad"


@pytest.mark.parametrize("point", ["data.restic.forgotten", "data.remove.begun"])
def test_a_removal_killed_on_the_way_is_finished_by_the_next(
    store: DataStore, live: Path, tmp_path: Path, home: Path, point: str
) -> None:
    back_up(store, DataSpec((live,)), tmp_path / "one")
    done = subprocess.run(call("remove", live, home, tmp_path / "one", failpoint=f"{point}=kill"))
    assert done.returncode == -signal.SIGKILL
    assert not store.is_sealed(tmp_path / "one")
    store.remove(tmp_path / "one")
    assert snapshots(home) == []
    assert not (tmp_path / "one").exists()
