"""What an honest artifact becomes in a slot."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.hostile_archives import (
    COMPRESS,
    ZipEntry,
    directory,
    gnu_long,
    hard_link,
    member,
    pax,
    symlink,
    tar,
    zip_file,
)

from slotd.engines.unpack import unpack
from slotd.errors import Failed, NoSpace, SlotdError, VerificationFailed

LIMITS = {"max_size": 10 * 1024**2, "max_files": 1000, "path_bytes": 4096, "path_depth": 32}
ELF = b"\x7fELF\x02\x01\x01" + bytes(100)


def put(slot: Path, name: str, data: bytes, **request: Any) -> dict[str, Any]:
    """Unpacks `data` into `slot` and gives what the worker would claim."""
    slot.mkdir(exist_ok=True)
    artifact = slot.parent / f"artifact-{name}"
    artifact.write_bytes(data)
    fds = [os.open(artifact, os.O_RDONLY), os.open(slot, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        asked = {"name": name, "kind": "auto", "strip": "auto", "limits": LIMITS, "target_name": name, **request}
        return unpack(asked, fds, lambda said: None)
    finally:
        for fd in fds:
            os.close(fd)


def tree(slot: Path) -> dict[str, str]:
    """Each path below the slot and what is there: a file's mode and text, a link's target, `/` for a directory."""
    found = {}
    for path in sorted(slot.rglob("*")):
        name = str(path.relative_to(slot))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "/"
        else:
            found[name] = f"{stat.S_IMODE(path.stat().st_mode):o} {path.read_text(errors='replace')}"
    return found


HONEST = tar(
    directory("app-1.0/"),
    directory("app-1.0/bin"),
    member("app-1.0/bin/app", b"#!/bin/sh\n", mode=0o755),
    member("app-1.0/README", b"hello", mode=0o600),
    symlink("app-1.0/app", "bin/app"),
    hard_link("app-1.0/bin/other", "app-1.0/bin/app"),
)
HONEST_TREE = {
    "README": "644 hello",
    "app": "-> bin/app",
    "bin": "/",
    "bin/app": "755 #!/bin/sh\n",
    "bin/other": "755 #!/bin/sh\n",
}


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_a_tar_is_unpacked_however_it_is_compressed(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix[1:]](HONEST) if suffix else HONEST
    claim = put(tmp_path / "slot", f"app-1.0.tar{suffix}", data)
    assert tree(tmp_path / "slot") == HONEST_TREE
    assert claim["kind"] == "tar"
    assert os.stat(tmp_path / "slot/bin/app").st_nlink == 2


def test_a_tar_is_known_by_its_content_when_its_name_says_nothing(tmp_path: Path) -> None:
    put(tmp_path / "slot", "download", COMPRESS["gz"](HONEST))
    assert tree(tmp_path / "slot") == HONEST_TREE


def test_a_zip_is_unpacked_with_modes_and_links(tmp_path: Path) -> None:
    data = zip_file(
        ZipEntry(b"app-1.0/", mode=0o040755),
        ZipEntry(b"app-1.0/bin/app", b"#!/bin/sh\n", mode=0o100755),
        ZipEntry(b"app-1.0/app", b"bin/app", mode=0o120777),
        ZipEntry("app-1.0/größe".encode(), b"x"),
    )
    claim = put(tmp_path / "slot", "app.zip", data)
    assert claim["kind"] == "zip"
    assert tree(tmp_path / "slot") == {
        "app": "-> bin/app",
        "bin": "/",
        "bin/app": "755 #!/bin/sh\n",
        "größe": "644 x",
    }


def test_a_zip_of_pythons_own_making_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/b.txt", "hello")
        made.writestr("c.txt", "there")
    put(tmp_path / "slot", "made.zip", path.read_bytes())
    assert {name for name, what in tree(tmp_path / "slot").items() if what != "/"} == {"a/b.txt", "c.txt"}


def test_what_gnu_tar_packs_comes_out_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/sparse").write_bytes(b"x")
    os.truncate(source / "d/sparse", 5 * 1024**2)
    (source / ("n" * 200)).write_text("long name")
    (source / "naïve").write_text("accents")
    (source / "d/up").symlink_to("../naïve")
    subprocess.run(["tar", "-C", source, "-cSf", tmp_path / "made.tar", "."], check=True)
    put(tmp_path / "slot", "made.tar", (tmp_path / "made.tar").read_bytes())
    subprocess.run(["diff", "-r", "--no-dereference", source, tmp_path / "slot"], check=True)
    made = os.stat(tmp_path / "slot/d/sparse")
    assert made.st_blocks * 512 < 1024**2, "the hole was filled"
    assert int(made.st_mtime) == int(os.stat(source / "d/sparse").st_mtime)


def test_names_in_pax_and_gnu_form_are_taken_as_they_are(tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "f" * 90
    data = tar(
        pax(member("short", b"1"), path="ünïcödé/" + long),
        gnu_long(b"gnu/" + long.encode(), member("short", b"2")),
        gnu_long(long.encode(), symlink("gnu/link", "short"), kind=b"K"),
    )
    put(tmp_path / "slot", "a.tar", data)
    found = tree(tmp_path / "slot")
    assert found["ünïcödé/" + long] == "644 1"
    assert found["gnu/" + long] == "644 2"
    assert found["gnu/link"] == f"-> {long}"


def test_a_single_top_directory_is_dropped_only_if_it_is_single(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.tar", tar(member("top/x", b"1")))
    put(tmp_path / "two", "a.tar", tar(member("top/x", b"1"), member("other/y", b"2")))
    put(tmp_path / "flat", "a.tar", tar(member("x", b"1")))
    put(tmp_path / "same", "a.tar", tar(member("top/top/top", b"1")))
    assert tree(tmp_path / "one") == {"x": "644 1"}
    assert set(tree(tmp_path / "two")) == {"top", "top/x", "other", "other/y"}
    assert tree(tmp_path / "flat") == {"x": "644 1"}
    assert tree(tmp_path / "same") == {"top": "/", "top/top": "644 1"}


def test_a_number_of_components_is_dropped_and_zero_keeps_all(tmp_path: Path) -> None:
    data = tar(member("a/b/c", b"1"), member("a/d", b"2"), hard_link("a/b/e", "a/b/c"))
    put(tmp_path / "none", "a.tar", data, strip=0)
    put(tmp_path / "two", "a.tar", data, strip=2)
    assert set(tree(tmp_path / "none")) == {"a", "a/b", "a/b/c", "a/b/e", "a/d"}
    assert tree(tmp_path / "two") == {"c": "644 1", "e": "644 1"}


def test_a_link_is_judged_by_where_it_ends_up_after_the_top_is_dropped(tmp_path: Path) -> None:
    data = tar(member("top/x", b"1"), symlink("top/l", "../top/x"))
    with pytest.raises(VerificationFailed, match="outside the slot"):
        put(tmp_path / "slot", "a.tar", data)
    put(tmp_path / "kept", "a.tar", data, strip=0)
    assert (tmp_path / "kept/top/l").read_text() == "1"


def test_links_that_go_up_and_down_inside_are_kept(tmp_path: Path) -> None:
    data = tar(
        member("lib/x/real.so.1", b"1"),
        symlink("lib/real.so", "x/real.so.1"),
        symlink("bin/y/l", "../../lib/x/../real.so"),
        symlink("self", "."),
        symlink("dangling", "lib/not-there-yet"),
    )
    put(tmp_path / "slot", "a.tar", data)
    assert (tmp_path / "slot/bin/y/l").read_text() == "1"
    assert os.readlink(tmp_path / "slot/dangling") == "lib/not-there-yet"


def test_the_later_of_two_files_of_one_name_counts(tmp_path: Path) -> None:
    put(tmp_path / "slot", "a.tar", tar(member("a", b"old"), hard_link("b", "a"), member("a", b"new"), directory("d")))
    assert tree(tmp_path / "slot") == {"a": "644 new", "b": "644 old", "d": "/"}


def test_directories_that_may_not_be_entered_are_filled_all_the_same(tmp_path: Path) -> None:
    put(tmp_path / "slot", "a.tar", tar(directory("d", mode=0), member("d/f", b"1", mode=0), member("e", b"2")))
    assert tree(tmp_path / "slot")["d/f"] == "644 1"


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2", "zst"])
def test_a_compressed_program_is_unpacked_under_its_name_and_may_be_executed(tmp_path: Path, suffix: str) -> None:
    claim = put(tmp_path / "slot", f"tool-linux-amd64.{suffix}", COMPRESS[suffix](ELF))
    assert claim["kind"] == "compressed"
    assert (tmp_path / "slot/tool-linux-amd64").read_bytes() == ELF
    assert os.access(tmp_path / "slot/tool-linux-amd64", os.X_OK)


def test_what_is_no_archive_is_put_in_as_it_is(tmp_path: Path) -> None:
    put(tmp_path / "slot", "tool", ELF, target_name="renamed")
    put(tmp_path / "slot", "run.sh", b"#!/bin/sh\n")
    put(tmp_path / "slot", "notes.txt", b"text")
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "slot").iterdir()} == {
        "renamed": 0o755,
        "run.sh": 0o755,
        "notes.txt": 0o644,
    }


def test_a_wheel_is_put_in_whole_and_so_is_anything_with_unpack_none(tmp_path: Path) -> None:
    data = zip_file(ZipEntry(b"pkg/__init__.py", b""))
    put(tmp_path / "slot", "pkg-1.0-py3-none-any.whl", data)
    put(tmp_path / "slot", "app.tar.gz", COMPRESS["gz"](HONEST), kind="none")
    assert sorted(p.name for p in (tmp_path / "slot").iterdir()) == ["app.tar.gz", "pkg-1.0-py3-none-any.whl"]
    assert (tmp_path / "slot/pkg-1.0-py3-none-any.whl").read_bytes() == data


def test_two_artifacts_share_a_slot_and_their_directories_become_one(tmp_path: Path) -> None:
    put(tmp_path / "slot", "a.tar", tar(member("bin/a", b"1"), member("lib/x/1", b"1")))
    put(tmp_path / "slot", "b.tar", tar(member("bin/b", b"2"), member("lib/x/2", b"2")))
    assert {n for n, w in tree(tmp_path / "slot").items() if w != "/"} == {"bin/a", "bin/b", "lib/x/1", "lib/x/2"}
    with pytest.raises(VerificationFailed, match="already there, from another artifact") as caught:
        put(tmp_path / "slot", "c.tar", tar(member("bin/b", b"3"), member("z", b"3")))
    assert not caught.value.forged
    assert (tmp_path / "slot/bin/b").read_text() == "2"


@pytest.mark.parametrize("name", ["app.tar.gz", "app.zip", "app.tar.zst", "app.gz"])
def test_a_page_of_html_in_the_place_of_an_archive_is_named_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(VerificationFailed, match="not what its name says") as caught:
        put(tmp_path / "slot", name, b"<!DOCTYPE html>Not found")
    assert not caught.value.forged


def test_progress_tells_how_much_of_the_artifact_was_read(tmp_path: Path) -> None:
    data = COMPRESS["gz"](tar(*(member(f"f{n}", os.urandom(5000)) for n in range(900))))
    (tmp_path / "slot").mkdir()
    artifact = tmp_path / "artifact"
    artifact.write_bytes(data)
    said: list[dict[str, Any]] = []
    with open(artifact, "rb") as file:
        slot = os.open(tmp_path / "slot", os.O_RDONLY)
        request = {"name": "a.tar.gz", "kind": "auto", "strip": 0, "limits": LIMITS}
        unpack(request, [file.fileno(), slot], said.append)
        os.close(slot)
    assert said
    assert all(0 <= one["bytes"] <= one["total"] == len(data) for one in said)


def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "mounting a small disk takes root"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        with pytest.raises(NoSpace, match="disk is full"):
            put_on(disk / "slot", tmp_path, tar(member("f", bytes(2 * 1024**2))))
    finally:
        subprocess.run(["umount", disk], check=True)


def put_on(slot: Path, elsewhere: Path, data: bytes) -> None:
    slot.mkdir()
    (elsewhere / "a.tar").write_bytes(data)
    fds = [os.open(elsewhere / "a.tar", os.O_RDONLY), os.open(slot, os.O_RDONLY)]
    try:
        unpack({"name": "a.tar", "kind": "auto", "strip": 0, "limits": LIMITS}, fds, lambda said: None)
    finally:
        for fd in fds:
            os.close(fd)


def test_a_slot_that_holds_a_half_unpacked_artifact_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "slot/.slotd-unpack").mkdir(parents=True)
    with pytest.raises(Failed):
        put(tmp_path / "slot", "a.tar", HONEST)


@pytest.mark.parametrize("target", ["../evil", "a/b", "..", ".slotd", "", "a\nb"])
def test_a_bare_file_cannot_be_put_anywhere_else_by_its_name(tmp_path: Path, target: str) -> None:
    with pytest.raises(SlotdError):
        put(tmp_path / "slot", "tool", ELF, target_name=target or "..")
    assert list((tmp_path / "slot").iterdir()) == []
