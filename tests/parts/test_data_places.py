"""Data whose file system is not there are not mistaken for data that are empty."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.trees import DAEMON, call, let_in, look, mounted

from slotd import errors
from slotd.data import DataSpec
from slotd.data.mounts import require_mounted
from slotd.data.tree import TreeStore
from slotd.host.mounts import unit_of


def never() -> bool:
    return False


def declare(root: Path, name: str, text: str) -> Path:
    path = root / "etc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@contextmanager
def away(disk: Path) -> Iterator[None]:
    """Without the file system, until the end of the block."""
    subprocess.run(["umount", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "loop", str(disk.parent / "image"), str(disk)], check=True)


def test_data_on_a_file_system_that_is_not_mounted_are_not_touched(tmp_path: Path) -> None:
    """As at boot, when the disk is `nofail` or far away: what was restored would be hidden by it later."""
    disk = tmp_path / "a disk" / "mount"
    escaped = str(disk).replace(" ", "\\040")
    lines = f"# LABEL=x {tmp_path}/data ext4 defaults 0 2\nLABEL=y {escaped} ext4 defaults,nofail 0 2\n"
    declare(tmp_path, "fstab", lines)
    inside, outside = DataSpec((disk / "data",)), DataSpec((tmp_path / "data",))
    with mounted("ext4", tmp_path / "a disk", size=16 << 20):
        require_mounted(inside, root=tmp_path)
    with pytest.raises(errors.Failed, match="is not mounted"):
        require_mounted(inside, root=tmp_path)
    require_mounted(outside, root=tmp_path)
    declare(tmp_path, "fstab", f"LABEL=y {escaped} ext4 noauto 0 2\n")
    require_mounted(inside, root=tmp_path)


def test_a_disk_within_the_data_counts_unless_it_is_excluded(tmp_path: Path) -> None:
    live = tmp_path / "live"
    (live / "media" / "films").mkdir(parents=True)
    declare(tmp_path, "fstab", f"LABEL=y {live}/media/films ext4 nofail 0 2\n")
    with pytest.raises(errors.Failed, match="media/films is not mounted"):
        require_mounted(DataSpec((live,)), root=tmp_path)
    for pattern in ("media/films", "media", "*"):
        require_mounted(DataSpec((live,), (pattern,)), root=tmp_path)


def test_a_mount_that_only_a_unit_names_counts_and_one_that_is_masked_does_not(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "mount"
    spec = DataSpec((disk,))
    unit = declare(tmp_path, f"systemd/system/{unit_of(disk)}", f"[Mount]\nWhat=/dev/x\nWhere={disk}\n")
    with mounted("ext4", tmp_path / "disk", size=16 << 20):
        require_mounted(spec, root=tmp_path)
    with pytest.raises(errors.Failed, match="is not mounted") as caught:
        require_mounted(spec, root=tmp_path)
    assert str(unit) in caught.value.hint
    unit.unlink()
    unit.symlink_to("/dev/null")
    require_mounted(spec, root=tmp_path)


@pytest.mark.parametrize("target", ["data", "deep/er/data"])
def test_the_link_to_a_disk_that_is_not_mounted_counts_too(tmp_path: Path, target: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "app").symlink_to(disk / target)
    declare(tmp_path, "fstab", f"LABEL=y {disk} ext4 nofail 0 2\n")
    with pytest.raises(errors.Failed, match="is not mounted"):
        require_mounted(DataSpec((tmp_path / "app",)), root=tmp_path)


@pytest.mark.parametrize("target", ["data", "deep/er/data"])
def test_a_version_cannot_stop_its_way_back_by_a_link_to_a_disk_that_is_not_there(tmp_path: Path, target: str) -> None:
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    home.mkdir()
    (home / "data").symlink_to(disk / target)
    os.chown(home, 65534, 65534)
    os.chown(home / "data", 65534, 65534, follow_symlinks=False)
    declare(tmp_path, "fstab", f"LABEL=y {disk} ext4 nofail 0 2\n")
    require_mounted(DataSpec((home / "data",)), root=tmp_path)


@pytest.mark.parametrize("inner", ["", "data"])
def test_a_disk_that_nothing_declares_is_missed_by_what_was_saved_from_it(tmp_path: Path, inner: str) -> None:
    store, one, two = TreeStore(), tmp_path / "one", tmp_path / "two"
    with mounted("ext4", tmp_path / "disk", size=16 << 20) as disk:
        live = disk / inner
        live.mkdir(exist_ok=True)
        (live / "note").write_text("note")
        spec, before = DataSpec((live,)), look(live)
        store.hot(spec, one, None, never)
        store.cold(spec, one)
        store.seal(one, {})
        store.hot(spec, two, one, never)
        with away(disk):
            for act in (
                lambda: store.cold(spec, two),
                lambda: store.hot(spec, tmp_path / "three", one, never),
                lambda: store.ready(one),
                lambda: require_mounted(spec, one),
            ):
                with pytest.raises(errors.Failed, match="which is not mounted, and nothing is there"):
                    act()
        assert look(live) == before
        store.cold(spec, two)
        store.seal(two, {})
        assert [entry.path for entry in store.contents(two) if entry.kind == "file"] == [str(live / "note")]


def test_data_that_were_moved_off_their_disk_on_purpose_are_saved_and_restored_where_they_are(tmp_path: Path) -> None:
    store = TreeStore()
    with mounted("ext4", tmp_path / "disk", size=16 << 20) as disk:
        (disk / "note").write_text("note")
        spec = DataSpec((disk,))
        store.cold(spec, tmp_path / "one")
        store.seal(tmp_path / "one", {})
        with away(disk):
            (disk / "note").write_text("moved")
            store.hot(spec, tmp_path / "two", tmp_path / "one", never)
            store.restore(spec, tmp_path / "one", tmp_path / "aside")
            assert (disk / "note").read_text() == "note"
            (disk / "note").unlink()


def test_a_way_back_killed_after_the_rename_goes_on_where_the_data_had_left_the_disk_of_the_backup(
    tmp_path: Path,
) -> None:
    store = TreeStore()
    with mounted("ext4", tmp_path / "disk", size=16 << 20) as disk:
        live = disk / "data"
        live.mkdir()
        (live / "note").write_text("note")
        spec = DataSpec((live,))
        store.cold(spec, tmp_path / "one")
        store.seal(tmp_path / "one", {})
        with away(disk):
            live.mkdir()
            (live / "note").write_text("moved")
            store.ready(tmp_path / "one", tmp_path / "aside")
            killed = call("quarantine", spec, tmp_path / "aside", failpoint="data.quarantine.renamed=kill")
            assert killed.returncode == -signal.SIGKILL
            assert not live.exists()
            store.ready(tmp_path / "one", tmp_path / "aside")
            store.restore(spec, tmp_path / "one", tmp_path / "aside")
            assert (live / "note").read_text() == "note"
            shutil.rmtree(live)


def test_a_disk_that_went_while_its_data_were_set_aside_is_missed(tmp_path: Path) -> None:
    store = TreeStore()
    with mounted("ext4", tmp_path / "disk", size=16 << 20) as disk:
        (disk / "note").write_text("note")
        spec = DataSpec((disk,))
        store.cold(spec, tmp_path / "one")
        store.seal(tmp_path / "one", {})
        killed = call("quarantine", spec, tmp_path / "aside", failpoint="data.quarantine.rename=kill")
        assert killed.returncode == -signal.SIGKILL
        with away(disk), pytest.raises(errors.Failed, match="which is not mounted, and nothing is there"):
            store.ready(tmp_path / "one", tmp_path / "aside")
        store.ready(tmp_path / "one", tmp_path / "aside")


AS_A_USER = """
import os, sys, pathlib
from slotd.data import DataSpec
from slotd.data.mounts import require_mounted
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for _ in range(2):
    require_mounted(DataSpec((pathlib.Path("/srv/data"),)), root=pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("closed", ["etc/fstab", "etc/systemd/system/a.mount", "etc/systemd/system", "etc/systemd"])
def test_what_a_user_may_not_read_says_nothing_and_stops_nothing(tmp_path: Path, closed: str) -> None:
    declare(tmp_path, "fstab", "LABEL=y /srv/elsewhere ext4 nofail 0 2\n")
    declare(tmp_path, "systemd/system/a.mount", "[Mount]\nWhat=/dev/x\nWhere=/srv/elsewhere\n")
    let_in(tmp_path)
    (tmp_path / closed).chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", AS_A_USER, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(DAEMON)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("may not read") == 1


def test_the_name_of_a_mounts_unit_is_systemds_own() -> None:
    for path in ("/srv/data", "/", "/srv/a b/c-d", "/.hidden/x", "/srv/\u00fc"):
        said = subprocess.run(
            ["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True, check=True
        )
        assert unit_of(Path(path)) == said.stdout.strip()
