"""A store that was damaged is set aside, and a new one serves; one that is only unreadable now is never given up."""

from __future__ import annotations

import random
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.crash import sweep
from tests.crash.shims import built
from tests.system.image import REPOSITORY
from tests.system.small_disk import SHUTDOWN

from slotd.errors import Failed
from slotd.model import AppRecord, Job, JobKind, JobState, Slot, SlotName, SlotState
from slotd.store import Store, StoreError, StoreFull, open_store


def filled(path: Path) -> Path:
    """A database with some weight, as an orderly end leaves it."""
    store = Store(path)
    for number in range(60):
        store.save(AppRecord(f"app{number}", held=True, hold_reason="because " * 20))
        store.save(Slot(f"app{number}", SlotName.A, SlotState.GOOD, "1.0", "sha256:00"))
        job = store.new_job(f"app{number}", JobKind.UPDATE, now=1.0, correlation="c", plan={"a": "x" * 300})
        store.save(Job(job.id, job.app, job.kind, JobState.RUNNING, step="stage"))
    store.close()
    return path


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def garbage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x00\xff" * 50)


def garbage_inside(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(2048))


def column_gone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE slots DROP COLUMN digest")


def table_gone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE trials")


def state_that_is_none(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE slots SET state = 'gooe' WHERE app = 'app7'")


def job_in_no_state(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE jobs SET state = 'runnjng' WHERE id = 7")


DAMAGE: list[Callable[[Path], None]] = [
    cut, garbage_header, garbage_inside, column_gone, table_gone, state_that_is_none, job_in_no_state,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: str(damage.__name__))
def test_what_is_damaged_is_set_aside_whole_and_a_new_store_serves(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = filled(tmp_path / "state.db")
    damage(path)
    wrong = path.read_bytes()
    store, aside = open_store(path, now=5.0)
    assert aside is not None
    assert aside.name.startswith("state.db.broken.")
    assert aside.read_bytes() == wrong
    assert store.is_new
    store.change_app("x", approved="2.0")
    store.close()
    assert Store(path).app("x").approved == "2.0"


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: str(damage.__name__))
def test_beside_a_daemon_that_may_be_at_work_on_it_a_damaged_store_stays_where_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = filled(tmp_path / "state.db")
    damage(path)
    wrong = path.read_bytes()
    with pytest.raises(Failed, match="it is damaged") as told:
        open_store(path, now=5.0, alone=False)
    assert "systemctl restart slotd" in told.value.hint
    assert path.read_bytes() == wrong
    assert not list(tmp_path.glob("*.broken*"))


def test_bits_that_flip_anywhere_are_found_or_harm_nothing(tmp_path: Path) -> None:
    """Opened and read whole, or set aside: never an error that keeps the daemon from starting."""
    path = filled(tmp_path / "state.db")
    good = path.read_bytes()
    chance = random.Random(20260)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 1, 8))):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        try:
            store, _ = open_store(path, now=5.0)
        except Failed as error:
            if "newer slotd" not in str(error):
                raise
            continue
        try:
            store.unfinished_jobs(), store.trials(), store.jobs(), store.events("", 100)
            [(store.app(f"app{n}"), store.slots(f"app{n}"), store.backups(f"app{n}")) for n in range(60)]
        except (StoreError, ValueError) as error:
            pytest.fail(f"it was opened, and then: {error!r}")
        finally:
            store.close()
            for part in tmp_path.glob("state.db*"):
                if part != path:
                    part.unlink()


@pytest.mark.parametrize("what", ["gone", "garbage", "cut"])
@pytest.mark.parametrize("part", ["-wal", "-shm"])
def test_without_its_log_a_store_is_as_of_its_last_checkpoint_and_serves(tmp_path: Path, part: str, what: str) -> None:
    path = filled(tmp_path / "state.db")
    program = (
        "import os, sys; from pathlib import Path; from slotd.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.change_app('app1', approved='2.0'); os._exit(0)"
    )
    import slotd

    environment = {"PYTHONPATH": str(Path(slotd.__file__).parents[1])}
    subprocess.run(["/usr/bin/python3", "-c", program, path], env=environment, check=True)
    beside = path.with_name(path.name + part)
    assert beside.exists()
    if what == "gone":
        beside.unlink()
    elif what == "garbage":
        beside.write_bytes(random.Random(1).randbytes(beside.stat().st_size))
    else:
        beside.write_bytes(beside.read_bytes()[:100])
    store, aside = open_store(path, now=5.0)
    assert aside is None
    assert store.app("app1").approved in (("2.0",) if part == "-shm" else ("", "2.0"))
    assert store.app("app2").held
    store.change_app("app3", approved="3.0")
    assert store.app("app3").approved == "3.0"


def test_a_newer_store_is_refused_in_clear_words_and_not_set_aside(tmp_path: Path) -> None:
    path = filled(tmp_path / "state.db")
    with path.open("r+b") as file:
        file.seek(60)
        file.write(struct.pack(">I", 99))
    before = path.read_bytes()
    with pytest.raises(Failed, match="a newer slotd wrote it") as told:
        open_store(path, now=5.0)
    assert "Install that slotd again" in told.value.hint
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.broken*"))


# -- a disk of eight megabytes -----------------------------------------------------------------------------------


@contextmanager
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    image, at = tmp_path / "image", tmp_path / "disk"
    at.mkdir()
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-e", "remount-ro", image], check=True)
    line = ["losetup", "--find", "--show", image]
    loop = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", "-t", "ext4", loop, at], check=True)
        try:
            yield at, loop
        finally:
            subprocess.run(["umount", "--lazy", at], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def fill(at: Path, _loop: str) -> None:
    for size in (65536, 512):
        with (at / f"filler{size}").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def fail(at: Path, _loop: str) -> None:
    subprocess.run(["/usr/bin/python3", "-c", SHUTDOWN, at], check=True)


def make_read_only(_at: Path, loop: str) -> None:
    Path(f"/sys/fs/ext4/{loop.removeprefix('/dev/')}/trigger_fs_error").write_text("1")


def write_until_it_fails(store: Store) -> StoreError:
    with pytest.raises(StoreError) as told:
        for number in range(20_000):
            store.save(AppRecord(f"more{number}", hold_reason="x" * 2000))
    return told.value


@pytest.mark.parametrize(
    ("trouble", "name"), [(fill, "NoSpace"), (make_read_only, "Failed"), (fail, "Failed")],
    ids=["full", "read-only", "failing"],
)  # fmt: skip
def test_a_disk_in_trouble_is_told_with_the_place_and_never_taken_for_damage(
    tmp_path: Path, trouble: Callable[[Path, str], None], name: str
) -> None:
    with small_disk(tmp_path) as (at, loop):
        path = filled(at / "state.db")
        store = Store(path)
        trouble(at, loop)
        error = write_until_it_fails(store)
        assert error.name == name
        assert isinstance(error, StoreFull) == (name == "NoSpace")
        assert f"cannot use the state in {path}" in error.message
        assert error.hint
        if trouble is fill:
            assert "KiB are left" in error.message
            assert store.app("app1").held  # what is there is still read
            for filler in at.glob("filler*"):
                filler.unlink()
            store.change_app("app1", approved="2.0")
            assert store.app("app1").approved == "2.0"
        store.close() if trouble is fill else None
        if trouble is not fill:
            with pytest.raises((Failed, OSError)):
                open_store(path, now=5.0)
        assert not list(at.glob("*.broken*")) if trouble is not fail else True


OPENING = """
import sys, time
from pathlib import Path
from slotd.errors import SlotdError
from slotd.store import open_store
path = Path(sys.argv[1]) / "state.db"
(path.parent / "arm").touch()
try:
    store, aside = open_store(path, now=time.time())
    print("aside" if aside else store.app("app7").hold_reason)
except (OSError, SlotdError) as error:
    print("refused", error)
"""


def opened_with(shim: Path, disk: Path, *, fails: int) -> tuple[str, int]:
    """What became of opening the state when look number `fails` at its disk failed, and how often it was looked."""
    log = disk / "log"
    log.unlink(missing_ok=True)
    environment = sweep.environment(number=fails, fault="read", shim=str(shim), room=str(disk), disk=str(disk))
    environment["PYTHONPATH"] = str(REPOSITORY / "daemon")
    done = subprocess.run(
        ["/usr/bin/python3", "-c", OPENING, str(disk)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), log.read_text().count("\n")


def test_a_disk_that_fails_for_a_moment_while_the_state_is_opened_loses_nothing() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as room:  # a disk apart from that of the interpreter
        disk, shim = Path(room), built(sweep.SHIM)
        path = disk / "state.db"
        writer = Store(filled(path))
        writer.change_app("app7", hold_reason="said last")  # and in the log alone: nobody ends in good order
        kept = {each.name: each.read_bytes() for each in disk.iterdir() if each.is_file()}
        assert kept["state.db-wal"]
        said, looks = opened_with(shim, disk, fails=0)
        assert said == "said last"
        assert looks > 50
        outcomes = []
        for number in sorted({*range(1, looks, 7), *range(looks - 20, looks + 1)}):
            for name, content in kept.items():
                (disk / name).write_bytes(content)
            outcomes.append(opened_with(shim, disk, fails=number)[0])
        assert not [said for said in outcomes if said != "said last" and not said.startswith("refused")]
        assert outcomes.count("said last") > len(outcomes) / 2
        writer.close()
