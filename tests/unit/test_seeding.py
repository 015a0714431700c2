"""A new file put together from an older one is the new file, whatever both are; lies are refused or cost a download."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.alike import LATER, STAMP, archive, assemble, index_of, noise, versions

from slotd.core import chunkindex, zipindex
from slotd.core.pieces import GAP, MOST_RANGES, Piece, arrange
from slotd.host.seeding import DIFFERENT, ODD, Unfit

names = st.sampled_from([f"{folder}/{name}" for folder in ("app-1.0", "app-1.10", "lib") for name in "abcdef"])
contents = st.builds(lambda seed, size: noise(seed, size), st.integers(0, 5), st.sampled_from([0, 9, 70_000, 200_000]))
stamps = st.sampled_from([STAMP, LATER])
archives = st.builds(
    lambda files, stamp, stored: archive(files, stamp=stamp, stored=stored),
    st.dictionaries(names, contents, max_size=8), stamps, st.booleans(),
)  # fmt: skip


def outcome(old: bytes, new: bytes) -> bytes | str:
    try:
        return assemble(old, new)[0]
    except Unfit as unfit:
        return unfit.why


@settings(max_examples=100, deadline=None)
@given(archives, archives)
def test_any_two_archives_give_the_new_one_or_nothing(old: bytes, new: bytes) -> None:
    # Those without a member do not begin as others do.
    assert outcome(old, new) in (new, DIFFERENT, ODD)


def test_of_a_new_archive_only_what_changed_is_asked_for() -> None:
    old, new = versions()
    made, asked = assemble(archive(old), archive(new))
    assert made == archive(new)
    assert asked < 150_000 + 2 * GAP


def test_members_with_other_times_and_below_another_top_are_the_same_members() -> None:
    old, new = versions()
    before = archive({f"app-1.9/{name}": body for name, body in old.items()})
    after = archive({f"app-1.10/{name}": body for name, body in new.items()}, stamp=LATER)
    made, asked = assemble(before, after)
    assert made == after
    assert asked < 160_000 + 3 * GAP


def test_an_archive_with_64_bit_fields_is_read() -> None:
    def large(files: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for name, content in files.items():
                with made.open(zipfile.ZipInfo(name, STAMP), "w", force_zip64=True) as entry:
                    entry.write(content)
        return out.getvalue()

    old, new = (large(files) for files in versions())
    made, asked = assemble(old, new)
    assert made == new
    assert asked < len(new) // 2


def test_chunks_of_a_file_are_found_wherever_they_went(tmp_path: Path) -> None:
    old = noise(1, 3_000_000)
    new = noise(2, 1234) + old[:1_500_000] + noise(3, 5000) + old[1_500_000:]
    made, asked = assemble(old, new, (index_of(old, tmp_path), index_of(new, tmp_path)))
    assert made == new
    assert asked < 1_000_000


def test_a_damaged_chunk_of_the_older_file_is_asked_for(tmp_path: Path) -> None:
    old = noise(1, 3_000_000)
    new = old[:2_000_000] + noise(3, 5000) + old[2_000_000:]
    indexes = index_of(old, tmp_path), index_of(new, tmp_path)
    damaged = old[:1_000_000] + b"\xff" + old[1_000_001:]
    made, _ = assemble(damaged, new, indexes)
    assert made == new


def test_many_small_gaps_become_few_requests() -> None:
    pieces = [Piece(at, 100_000, at if at % 200_000 else None) for at in range(0, 1_000_000_000, 100_000)]
    found = arrange(pieces, 1_000_000_000)
    assert sum(piece.source is None for piece in found) <= MOST_RANGES


def _index(*chunks: tuple[int, bytes], most: int = 1000, tail: int | None = None) -> bytes:
    items = b"".join(struct.pack("<Q32s", end, digest) for end, digest in chunks)
    length = 16 + len(items) + 40 if tail is None else tail
    head = struct.pack("<8Q", 48, 0x96824D9C7B129FF9, 0x2000000000000000, 1, most, most, 2**64 - 1, 0xE75B9E112F17417D)
    return head + items + struct.pack("<5Q", 0, 0, 48, length, 0x4B4F050E5549ECD1)


ID = b"i" * 32


@pytest.mark.attack
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 64,
        _index((10, ID))[:-1],
        _index((10, ID), (10, ID)),  # empty
        _index((10, ID), (5, ID)),  # backwards
        _index((10, ID), (2**63, ID)),  # larger than any
        _index((2000, ID)),  # larger than it says
        _index((2**30, ID), most=2**40),  # more than is taken into memory
        _index((10, ID), tail=7),
        _index(*((end, ID) for end in range(1, chunkindex.MOST_CHUNKS + 2))),  # more than fit into memory
    ],
)
def test_a_chunk_index_that_lies_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is|chunks"):
        chunkindex.read(content)


def _lying(change: Callable[[bytearray, int, int], None]) -> bytes:
    """An archive of two members, changed: given its bytes, where its directory begins, and where its end record."""
    made = bytearray(archive({"a": noise(1, 100_000), "b": noise(2, 100_000)}))
    place = zipindex.find_directory(bytes(made), len(made))
    change(made, place.at, place.end)
    return bytes(made)


def _put(form: str, at: int, value: int) -> Callable[[bytearray, int, int], None]:
    def change(made: bytearray, directory: int, end: int) -> None:
        struct.pack_into(form, made, (directory if at < 46 else end - 46) + at, value)

    return change


@pytest.mark.attack
@pytest.mark.parametrize(
    "change",
    [
        _put("<L", 20, 2**32 - 2),  # packed larger than the archive
        _put("<L", 42, 60_000),  # the first member lies in the second
        _put("<L", 20, 2**32 - 1),  # 64 bits, that are not there
        _put("<H", 28, 60_000),  # a name beyond the directory
        _put("<H", 34, 3),  # on another disk
        _put("<H", 46 + 10, 9),  # more members than there are
        _put("<L", 46 + 12, 2**31),  # a directory larger than the archive
        _put("<L", 46 + 16, 2**31),  # or beyond it
    ],
)
def test_an_archive_whose_directory_lies_is_left_alone(change: Callable[[bytearray, int, int], None]) -> None:
    old = archive({"a": noise(1, 100_000), "b": noise(2, 100_000)})
    for older, newer in ((old, _lying(change)), (_lying(change), old)):
        with pytest.raises(Unfit, match="odd"):
            assemble(older, newer)


@pytest.mark.attack
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**16))
def test_an_end_that_is_damaged_anyhow_is_refused_or_gives_the_file(noisy: bytes, where: int) -> None:
    old, new = versions(4, 70_000)
    made = bytearray(archive(new))
    at = max(0, len(made) - 600) + where % 600
    made[at : at + len(noisy)] = noisy
    found = outcome(archive(old), bytes(made))
    assert found in (ODD, DIFFERENT) or len(found) == len(made)  # what is in it, the digest of the whole says
