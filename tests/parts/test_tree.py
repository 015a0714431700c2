"""A slot's tree on its way into root's hands, its manifest, and the links that a definition puts in."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.slot_trees import APP_GID, APP_UID, make_slot, mode, opened, own

from slotd.errors import Failed, Misconfigured, VerificationFailed
from slotd.host import tree


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    return make_slot(tmp_path)


def manifest(slot: Path) -> str:
    with opened(slot) as fd:
        return tree.manifest(fd, str(slot)).decode()


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


def test_what_is_adopted_is_read_by_nobody_who_could_not_read_it_before(slot: Path) -> None:
    """Of the app's own files the group may read what they alone could: that is how the app reads them now."""
    for name, uid, gid, bits in (
        ("roots", 0, 0, 0o600),
        ("its", APP_UID, APP_GID, 0o600),
        ("its groups", 0, APP_GID, 0o640),
        ("everybodys", 0, 0, 0o644),
        ("another groups", 0, 0, 0o640),
    ):
        (slot / name).write_text("x")
        os.chown(slot / name, uid, gid)
        (slot / name).chmod(bits)
    (slot / "roots directory").mkdir(mode=0o700)
    for _ in range(2):
        own(slot, gid=APP_GID, readers=frozenset({APP_UID}))
        found = {name: mode(slot / name) for name in ("roots", "its", "its groups", "everybodys", "another groups")}
        assert found == {
            "roots": 0o600,
            "its": 0o640,
            "its groups": 0o640,
            "everybodys": 0o644,
            "another groups": 0o600,
        }
        assert mode(slot / "roots directory") == 0o700


def test_what_is_adopted_into_a_slot_of_the_apps_own_gives_it_nothing_that_was_not_its(slot: Path) -> None:
    (slot / "roots").write_text("x")
    (slot / "roots").chmod(0o600)
    (slot / "its").write_text("x")
    os.chown(slot / "its", APP_UID, APP_GID)
    (slot / "its").chmod(0o600)
    own(slot, uid=APP_UID, gid=APP_GID, writable=True, readers=frozenset({APP_UID}))
    assert ((slot / "roots").stat().st_uid, mode(slot / "roots")) == (0, 0o600)
    assert ((slot / "its").stat().st_uid, mode(slot / "its")) == (APP_UID, 0o600)
    assert (slot / "bin/app").stat().st_uid == APP_UID


def test_owning_twice_changes_nothing(slot: Path) -> None:
    own(slot)
    before = manifest(slot)
    own(slot)
    assert manifest(slot) == before


def test_a_tree_can_be_given_to_the_apps_user(slot: Path) -> None:
    own(slot, uid=APP_UID, gid=APP_GID, writable=True)
    assert (slot / "bin").stat().st_uid == APP_UID
    assert mode(slot / "secret") & 0o200


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
