"""Archives that attack: each is refused, and nothing is written beside the slot."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile_archives import (
    COMPRESS,
    DIR,
    FORGED_TARS,
    FORGED_ZIPS,
    HARD,
    HARMLESS_ZIPS,
    REG,
    SYM,
    TOO_MUCH,
    ZipEntry,
    member,
    pax,
    tar,
    zip_file,
)

from slotd.core.artifact import is_inside
from slotd.engines.unpack import unpack
from slotd.errors import SlotdError, VerificationFailed
from slotd.host.archive import Decompressor

pytestmark = pytest.mark.attack

LIMITS = {"max_size": 10 * 1024**2, "max_files": 1000, "path_bytes": 2000, "path_depth": 32}


class Ground:
    """A slot with neighbours that must stay as they are."""

    def __init__(self, path: Path) -> None:
        self.path, self.slot = path, path / "slot"
        self.slot.mkdir(parents=True)
        (path / "victim").write_text("precious")
        (path / "artifact").touch()
        self._around = self._look()

    def _look(self) -> dict[str, tuple[int, int, str]]:
        found = {}
        for name in os.listdir(self.path):
            at = os.lstat(self.path / name)
            if name not in ("slot", "artifact"):
                found[name] = (at.st_mode, at.st_nlink, (self.path / name).read_text())
        return found

    def unpack(self, name: str, data: bytes, strip: str | int = "auto") -> dict[str, Any]:
        (self.path / "artifact").write_bytes(data)
        fds = [os.open(self.path / "artifact", os.O_RDONLY), os.open(self.slot, os.O_RDONLY)]
        before = len(os.listdir("/proc/self/fd"))
        try:
            return unpack({"name": name, "kind": "auto", "strip": strip, "limits": LIMITS}, fds, lambda said: None)
        finally:
            assert len(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"
            for fd in fds:
                os.close(fd)

    def check_unharmed(self) -> None:
        """Nothing beside the slot has changed, and nothing in it is special or leads out."""
        assert self._look() == self._around
        for directory, names, files in os.walk(self.slot):
            for name in names + files:
                path = Path(directory, name)
                at = path.lstat()
                assert stat.S_IFMT(at.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
                if not stat.S_ISLNK(at.st_mode):
                    assert not at.st_mode & 0o7022

    def check_links_stay_inside(self) -> None:
        for directory, names, files in os.walk(self.slot):
            for name in names + files:
                path = Path(directory, name)
                if path.is_symlink():
                    real = os.path.realpath(path)
                    assert real == str(self.slot) or real.startswith(f"{self.slot}/"), f"{path} leads to {real}"


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.mark.parametrize("trick", FORGED_TARS)
def test_a_tar_is_refused_as_forged_for(ground: Ground, trick: str) -> None:
    with pytest.raises(VerificationFailed) as caught:
        ground.unpack("a.tar.gz", COMPRESS["gz"](tar(*FORGED_TARS[trick])))
    assert caught.value.forged
    assert str(caught.value).startswith("cannot unpack a.tar.gz: ")
    assert str(caught.value).isprintable()
    ground.check_unharmed()


@pytest.mark.parametrize("trick", FORGED_ZIPS)
def test_a_zip_is_refused_as_forged_for(ground: Ground, trick: str) -> None:
    with pytest.raises(VerificationFailed) as caught:
        ground.unpack("a.zip", zip_file(*FORGED_ZIPS[trick]))
    assert caught.value.forged
    ground.check_unharmed()


@pytest.mark.parametrize("trick", HARMLESS_ZIPS)
def test_a_zip_does_no_harm_with(ground: Ground, trick: str) -> None:
    ground.unpack("a.zip", zip_file(*HARMLESS_ZIPS[trick]))
    ground.check_unharmed()


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_an_archive_is_refused_but_nobody_is_blamed_for(ground: Ground, kind: str) -> None:
    data = TOO_MUCH[kind]
    name = "a.zip" if data.startswith(b"PK") else "a.tar.gz" if data.startswith(b"\x1f\x8b") else "a.tar"
    name = "a.tar.xz" if data.startswith(b"\xfd7zXZ") else name
    with pytest.raises(VerificationFailed) as caught:
        ground.unpack(name, data)
    assert not caught.value.forged
    ground.check_unharmed()
    used = subprocess.run(["du", "-s", "--bytes", ground.slot], capture_output=True, text=True, check=True).stdout
    assert int(used.split()[0]) <= LIMITS["max_size"] + 5 * 1024**2, "more than the bound was written"


def test_a_bomb_in_a_single_compressed_file_is_stopped_at_the_bound(ground: Ground) -> None:
    with pytest.raises(VerificationFailed, match="more than"):
        ground.unpack("tool.gz", COMPRESS["gz"](b"#" * 64 * 1024**2))
    assert os.stat(ground.slot / ".slotd-unpack/tool").st_size <= LIMITS["max_size"]


def test_a_bomb_behind_the_end_of_the_archive_is_not_followed(ground: Ground) -> None:
    ground.unpack("a.tar.gz", COMPRESS["gz"](tar(member("f", b"x")) + bytes(256 * 1024**2)))
    assert os.listdir(ground.slot) == ["f"]


def test_only_padding_is_read_behind_the_end_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(COMPRESS["gz"](os.urandom(8 * 1024**2)))
    with open(tmp_path / "bomb", "rb") as file:
        source = Decompressor(file.fileno())
        source.drain(1024**2)
        assert source.consumed < 6 * 1024**2
        source.close()


@pytest.mark.parametrize("trick", ["a character device", "a block device", "a fifo"])
def test_what_is_special_is_called_so(ground: Ground, trick: str) -> None:
    with pytest.raises(VerificationFailed, match="neither a file, a directory nor a link"):
        ground.unpack("a.tar", tar(*FORGED_TARS[trick]))


def test_a_slot_that_the_archive_finds_full_of_links_is_not_left_through_them(ground: Ground) -> None:
    (ground.slot / "d").symlink_to("..")
    with pytest.raises(SlotdError):
        ground.unpack("a.tar", tar(member("d/evil", b"x"), member("e", b"x")))
    ground.check_unharmed()


# ── whatever the names are ───────────────────────────────────────────────────────────────────────────────────────

PART = st.one_of(
    st.sampled_from(["a", "b", "c", "..", ".", "", "slot", "victim", ".slotd", "\n", "é", "\u202e"]),
    st.text(min_size=1, max_size=5),
)
NAME = st.builds(
    lambda lead, parts, tail: (lead + "/".join(parts) + tail).encode("utf-8", "surrogateescape"),
    st.sampled_from(["", "", "", "/", "./", "../", "//"]),
    st.lists(PART.map(lambda p: p.encode("utf-8", "ignore").decode()), min_size=1, max_size=5),
    st.sampled_from(["", "", "/", "/.", "/.."]),
)
MEMBER = st.tuples(
    st.sampled_from([REG, REG, SYM, SYM, HARD, DIR]), NAME, NAME, st.sampled_from([0o644, 0o755, 0o777, 0])
)
SMALL_NAME = st.builds("/".join, st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=5)).map(
    str.encode
)
SMALL_MEMBER = st.tuples(st.sampled_from([REG, SYM, SYM, HARD, DIR]), SMALL_NAME, SMALL_NAME, st.just(0o644))


def build(members: list[tuple[bytes, bytes, bytes, int]]) -> bytes:
    made = []
    for kind, name, link, mode in members:
        plain = member(b"x", b"data" if kind == REG else b"", kind=kind, link=b"y", mode=mode)
        clean = name.replace(b"\0", b"") or b"a", link.replace(b"\0", b"") or b"a"
        records = {"path": clean[0]} | ({"linkpath": clean[1]} if kind in (SYM, HARD) else {})
        made.append(pax(plain, **records))
    return tar(*made)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(MEMBER, SMALL_MEMBER), max_size=8), st.sampled_from(["auto", 0, 1]))
def test_no_archive_whatever_its_names_writes_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[bytes, bytes, bytes, int]], strip: str | int
) -> None:
    ground = Ground(tmp_path_factory.mktemp("ground"))
    try:
        ground.unpack("a.tar", build(members), strip)
        ground.check_links_stay_inside()
        assert not os.path.lexists(ground.slot / ".slotd")
    except VerificationFailed:
        pass
    ground.check_unharmed()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAME, st.sampled_from([0o100644, 0o120777, 0o040755]), NAME), max_size=6))
def test_no_zip_whatever_its_names_writes_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[bytes, int, bytes]]
) -> None:
    ground = Ground(tmp_path_factory.mktemp("ground"))
    try:
        ground.unpack("a.zip", zip_file(*(ZipEntry(name, data, mode) for name, mode, data in entries)))
        ground.check_links_stay_inside()
    except VerificationFailed:
        pass
    ground.check_unharmed()


@given(st.lists(st.sampled_from(["a", "b"]), max_size=4), SMALL_NAME)
def test_a_target_is_inside_only_if_the_file_system_would_say_so_too(directory: list[str], target: bytes) -> None:
    """Without links, where a target leads is what `normpath` says."""
    text = target.decode()
    at = os.path.normpath("/".join(["/slot", *directory, text]))
    steps = os.path.normpath("/".join([*directory, text]))
    if is_inside(directory, text, lambda parts: True):
        assert at == "/slot" or at.startswith("/slot/")
        assert not steps.startswith("..")
