"""Trees that attack whoever takes them over."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.slot_trees import APP_GID, APP_UID, give, make_slot, mode, own

from slotd.errors import VerificationFailed

pytestmark = pytest.mark.attack


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    return make_slot(tmp_path)


def _set_id(slot: Path) -> None:
    (slot / "bin/app").chmod(0o4755)


def _set_gid(slot: Path) -> None:
    (slot / "secret").chmod(0o2755)


def _fifo(slot: Path) -> None:
    os.mkfifo(slot / "closed/pipe")


def _socket(slot: Path) -> None:
    with contextlib.chdir(slot), socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")


def _device(slot: Path) -> None:
    os.mknod(slot / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _hard_link_in(slot: Path) -> None:
    (slot.parent / "victim").write_text("precious")
    (slot / "got").hardlink_to(slot.parent / "victim")


def _hard_link_out(slot: Path) -> None:
    (slot.parent / "kept").hardlink_to(slot / "secret")


def _link(target: str, at: str = "l") -> Callable[[Path], None]:
    return lambda slot: (slot / at).symlink_to(target)


def _through(slot: Path) -> None:
    """Two links, each of which stays inside, that lead out together."""
    (slot / "p/q").mkdir(parents=True)
    (slot / "p/q/r").symlink_to("../../bin")
    (slot / "z").symlink_to("p/q/r/../../victim")


FORGED = {
    "a set-user-id program": _set_id,
    "a set-group-id program": _set_gid,
    "a fifo": _fifo,
    "a socket": _socket,
    "a device": _device,
    "a hard link to a file outside": _hard_link_in,
    "a hard link from outside": _hard_link_out,
    "an absolute link": _link("/etc/passwd"),
    "a link to the root": _link("/"),
    "a link that climbs out": _link("../victim"),
    "a link that climbs out from inside": _link("../../victim", "bin/l"),
    "a link that climbs out by links": _through,
    "a link that climbs out through what is missing": _link("gone/../../victim"),
    "an absolute link to a neighbour of the slot": _link("{slot}b/x"),
    "an absolute link that leaves the slot again": _link("{slot}/../b/x"),
    "an absolute link that leaves /usr again": _link("/usr/../etc/shadow"),
    "an absolute link to etc": _link("/etc/shadow"),
}


@pytest.mark.parametrize("trick", FORGED)
def test_a_tree_is_refused_as_forged_with(slot: Path, trick: str) -> None:
    FORGED[trick](slot)
    for link in [slot / "l", slot / "bin/l"]:
        if link.is_symlink() and "{slot}" in os.readlink(link):
            target = os.readlink(link).format(slot=slot)
            link.unlink()
            link.symlink_to(target)
    with pytest.raises(VerificationFailed) as caught:
        own(slot, system_links=True, slot_path=str(slot))
    assert caught.value.forged


def test_a_file_of_somebody_else_that_is_linked_in_keeps_its_owner_and_mode(slot: Path) -> None:
    victim = slot.parent / "victim"
    victim.write_text("precious")
    victim.chmod(0o666)
    os.chown(victim, 1234, 1234)
    (slot / "got").hardlink_to(victim)
    with pytest.raises(VerificationFailed):
        own(slot)
    assert (victim.stat().st_uid, mode(victim)) == (1234, 0o666)


def test_a_file_that_somebody_has_open_for_writing_is_refused(slot: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys; f = open(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()",
         str(slot / "secret")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None
    writer.stdout.readline()
    try:
        with pytest.raises(VerificationFailed, match="still open for writing"):
            own(slot)
    finally:
        writer.communicate(b"")
    own(slot)


def test_another_file_system_inside_is_refused(slot: Path) -> None:
    (slot / "mount").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", slot / "mount"], check=True)
    try:
        with pytest.raises(VerificationFailed, match="another file system"):
            own(slot)
    finally:
        subprocess.run(["umount", slot / "mount"], check=True)


def test_a_swarm_that_swaps_files_and_links_never_makes_root_touch_what_is_outside(slot: Path) -> None:
    """The tree's writer keeps replacing names while root takes over; what lies outside must not change hands."""
    victim = slot.parent / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    for path in (victim, victim / "file"):
        os.chown(path, 1234, 1234)
    swap = """
import os, sys
os.chdir(sys.argv[1]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
print(flush=True)
n = 0
while True:
    for i in range(20):
        for name, target in ((f"d{i}", "../victim"), (f"f{i}", "../victim/file")):
            try:
                os.symlink(target, name + ".new"); os.rename(name, name + ".old"); os.rename(name + ".new", name)
                os.rename(name, name + ".new"); os.rename(name + ".old", name); os.unlink(name + ".new")
            except OSError:
                if not os.access(".", os.W_OK):
                    sys.exit()
"""
    for _ in range(10):
        give(slot, APP_UID, APP_GID)
        slot.chmod(0o755)
        for name in [n for n in os.listdir(slot) if n.endswith((".old", ".new"))]:
            subprocess.run(["rm", "-rf", slot / name], check=True)
        for i in range(20):
            for path in (slot / f"d{i}", slot / f"f{i}"):
                subprocess.run(["rm", "-rf", path], check=True)
            (slot / f"d{i}").mkdir()
            (slot / f"f{i}").touch()
        give(slot, APP_UID, APP_GID)
        swarm = subprocess.Popen(
            [sys.executable, "-c", swap, str(slot), str(APP_UID), str(APP_GID)], stdout=subprocess.PIPE
        )
        assert swarm.stdout is not None
        swarm.stdout.readline()
        time.sleep(0.01)
        try:
            with contextlib.suppress(VerificationFailed, OSError):
                own(slot, max_files=10_000)
        finally:
            swarm.kill()
            swarm.communicate()
        for path in (victim, victim / "file"):
            assert path.stat().st_uid == 1234
