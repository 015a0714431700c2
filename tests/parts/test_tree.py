"""A slot's tree on its way into root's hands, its manifest, and the links that a definition puts in."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slotd.errors import Failed, Misconfigured, VerificationFailed
from slotd.host import tree

APP_UID, APP_GID = 23456, 23457


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def own(slot: Path, **changes: Any) -> tree.TreeSize:
    asked = {"uid": 0, "gid": 0, "max_size": 10**7, "max_files": 1000, "path_depth": 32, **changes}
    with opened(slot) as fd:
        before = len(os.listdir("/proc/self/fd"))
        try:
            return tree.check_and_own(fd, **asked)
        finally:
            assert len(os.listdir("/proc/self/fd")) == before, "descriptors were left open"


def manifest(slot: Path) -> str:
    with opened(slot) as fd:
        return tree.manifest(fd, str(slot)).decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """A tree as an unpack worker leaves it: of a user of its own, with modes of all kinds."""
    assert os.geteuid() == 0, "giving files to others takes root"
    made = tmp_path / "a"
    (made / "bin").mkdir(parents=True)
    (made / "bin/app").write_text("#!/bin/sh\n")
    (made / "bin/app").chmod(0o777)
    (made / "bin/app2").hardlink_to(made / "bin/app")
    (made / "secret").write_text("s")
    (made / "secret").chmod(0o600)
    (made / "closed").mkdir(mode=0o700)
    (made / "closed/empty").touch(mode=0o066)
    (made / "link").symlink_to("bin/app")
    give(made, APP_UID, APP_GID)
    made.chmod(0o700)
    return made


def give(path: Path, uid: int, gid: int) -> None:
    subprocess.run(["chown", "-R", "--no-dereference", f"{uid}:{gid}", path], check=True)


def test_a_tree_is_given_to_root_and_nobody_else_may_write(slot: Path) -> None:
    size = own(slot, gid=APP_GID)
    assert size == tree.TreeSize(files=7, bytes=11)
    for path in [slot, *slot.rglob("*")]:
        assert (path.lstat().st_uid, path.lstat().st_gid) == (0, APP_GID), path
        assert path.is_symlink() or not mode(path) & 0o022, path
    assert mode(slot) == 0o750
    assert mode(slot / "bin/app") == 0o755
    assert mode(slot / "closed") == 0o750
    assert os.readlink(slot / "link") == "bin/app"


def test_what_only_its_owner_could_read_the_group_may_read_and_others_still_not(slot: Path) -> None:
    own(slot, gid=APP_GID)
    assert mode(slot / "secret") == 0o640
    assert mode(slot / "closed/empty") == 0o644


def test_owning_twice_changes_nothing(slot: Path) -> None:
    own(slot)
    before = manifest(slot)
    own(slot)
    assert manifest(slot) == before


def test_a_tree_can_be_given_to_the_apps_user(slot: Path) -> None:
    own(slot, uid=APP_UID, gid=APP_GID, writable=True)
    assert (slot / "bin").stat().st_uid == APP_UID
    assert mode(slot / "secret") & 0o200


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


def test_links_that_a_definition_or_a_virtual_environment_needs_are_allowed(slot: Path) -> None:
    (slot / "storage").symlink_to("/var/lib/app/storage")
    (slot / "venv/bin").mkdir(parents=True)
    (slot / "venv/bin/python3").symlink_to("/usr/bin/python3")
    (slot / "venv/lib64").symlink_to("lib")
    (slot / "venv/bin/tool").symlink_to(f"{slot}/bin/app")
    allowed = {"storage": "/var/lib/app/storage"}
    own(slot, allowed_links=allowed, system_links=True, slot_path=str(slot))
    with pytest.raises(VerificationFailed, match="python3"):
        own(slot, allowed_links=allowed, slot_path=str(slot))
    with pytest.raises(VerificationFailed, match="storage"):
        own(slot, allowed_links={"storage": "/elsewhere"}, system_links=True, slot_path=str(slot))


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


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"max_files": 6}, "more than 6 files"),
        ({"max_size": 10}, "more than 10 bytes"),
        ({"path_depth": 0}, "deeper than 0"),
    ],
)
def test_a_tree_that_is_too_much_is_refused_and_the_bound_is_named(
    slot: Path, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(VerificationFailed, match=words) as caught:
        own(slot, **changes)
    assert not caught.value.forged


def test_a_sparse_giant_counts_with_its_whole_length(slot: Path) -> None:
    os.truncate(slot / "secret", 2**40)
    with pytest.raises(VerificationFailed, match="bytes"):
        own(slot)


def test_a_very_deep_tree_is_refused_or_walked_but_does_not_break_the_walk(slot: Path) -> None:
    fd = os.open(slot, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(VerificationFailed, match="deeper than 32"):
        own(slot)
    own(slot, path_depth=10_000)
    assert len(manifest(slot).splitlines()) == 907
    subprocess.run(["rm", "-rf", slot / "d"], check=True)


# ── manifest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_names_type_mode_digest_and_path_in_order(slot: Path) -> None:
    own(slot)
    lines = manifest(slot).splitlines()
    assert lines[0] == 'd 0755 - "bin"'
    assert lines[1].startswith("f 0755 ")
    assert lines[1].endswith(' "bin/app"')
    assert 'l 0777 "bin/app" "link"' in lines
    assert [line.rpartition(' "')[2] for line in lines] == sorted(line.rpartition(' "')[2] for line in lines)


def test_the_same_program_in_both_slots_has_the_same_manifest_wherever_it_names_its_slot(tmp_path: Path) -> None:
    for name in ("a", "b"):
        slot = tmp_path / name
        (slot / "bin").mkdir(parents=True)
        (slot / "bin/pip").write_text(f"#!{slot}/bin/python\n")
        (slot / "bin/abs").symlink_to(f"{slot}/bin/pip")
        # The path lies across the border of two reads.
        (slot / "big").write_bytes(b"x" * (tree.READ_BYTES - 5) + os.fsencode(slot) + b"y" * tree.READ_BYTES)
        (slot / "__pycache__").mkdir()
        (slot / "__pycache__/m.pyc").write_text(f"derived in {slot} at {time.time_ns()}")
        (slot / ".slotd").mkdir()
        (slot / ".slotd/slot.json").write_text(name)
        info = slot / "app-1.dist-info"
        info.mkdir()
        lines = ["app.py,sha256=same,10", f"../bin/pip,sha256={name * 8},5", f"x/__pycache__/{name}.pyc,,"]
        (info / "RECORD").write_text("\n".join(lines if name == "a" else lines[::-1]))
    assert manifest(tmp_path / "a") == manifest(tmp_path / "b")


def _change_content(slot: Path) -> None:
    (slot / "secret").write_text("t")


def _change_mode(slot: Path) -> None:
    (slot / "bin/app").chmod(0o644)


def _change_link(slot: Path) -> None:
    (slot / "link").unlink()
    (slot / "link").symlink_to("bin/app2")


def _add_directory(slot: Path) -> None:
    (slot / "new").mkdir()


def _rename(slot: Path) -> None:
    (slot / "secret").rename(slot / "secrets")


def _link_for_file(slot: Path) -> None:
    (slot / "secret").unlink()
    (slot / "secret").symlink_to("bin/app")


@pytest.mark.parametrize(
    "change", [_change_content, _change_mode, _change_link, _add_directory, _rename, _link_for_file]
)
def test_a_manifest_shows_every_change(slot: Path, change: Callable[[Path], None]) -> None:
    before = manifest(slot)
    change(slot)
    assert manifest(slot) != before


def test_a_name_with_a_newline_cannot_pretend_to_be_two_entries(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / 'a"\nd 0755 - "b').mkdir()
    (two / "a").mkdir()
    (two / "b").mkdir()
    assert len(manifest(one).splitlines()) == 1
    assert manifest(one) != manifest(two)


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────


def put_links(slot: Path, links: dict[str, str]) -> dict[str, str]:
    with opened(slot) as fd:
        return tree.copy_links(fd, links)


def test_links_are_put_in_with_the_directories_above_them(slot: Path) -> None:
    made = put_links(slot, {"./server//storage": "/var/lib/app/storage"})
    assert made == {"server/storage": "/var/lib/app/storage"}
    assert os.readlink(slot / "server/storage") == "/var/lib/app/storage"
    own(slot, allowed_links=made)


def test_what_the_release_ships_in_a_links_place_is_kept_beside_it(slot: Path) -> None:
    (slot / "storage").mkdir()
    (slot / "storage/default.db").write_text("shipped")
    for _ in range(2):  # once more changes nothing
        put_links(slot, {"storage": "/data", "link": "/data/link"})
        assert os.readlink(slot / "storage") == "/data"
        assert (slot / "storage.shipped/default.db").read_text() == "shipped"
        assert os.readlink(slot / "link.shipped") == "bin/app"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", ".", ".slotd/x"])
def test_a_link_cannot_be_put_outside_the_slot(slot: Path, path: str) -> None:
    with pytest.raises(Misconfigured):
        put_links(slot, {path: "/data"})
    assert not os.path.lexists(slot.parent / "x")


def test_a_link_is_not_put_through_another_link_or_a_file(slot: Path) -> None:
    (slot / "out").symlink_to("..")
    for path in ("out/x", "secret/x"):
        with pytest.raises(Failed, match="is not a directory there"):
            put_links(slot, {path: "/data"})
    assert not os.path.lexists(slot.parent / "x")


def test_a_release_that_ships_both_names_is_told(slot: Path) -> None:
    (slot / "storage").mkdir()
    (slot / "storage.shipped").mkdir()
    with pytest.raises(Failed, match="ships both"):
        put_links(slot, {"storage": "/data"})
