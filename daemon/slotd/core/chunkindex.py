"""A chunk index (`.caibx`) as casync and desync write it: how a file falls into chunks, and their digests.

All numbers are 64 bits, little endian: a header (48, its mark, flags, the least, mean and largest chunk), a table
(all ones, its mark), for each chunk where it ends and its digest, and a tail (0, 0, 48, the table's length, a mark).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from slotd.core.pieces import Hasher, Piece, sha256, sha512_256

SUFFIX: Final = ".caibx"
MOST_CHUNKS: Final = 250_000  # what is known of each takes memory, some hundred bytes
CHUNK_BYTES: Final = 16 * 1024**2  # the largest that is taken into memory

_HEAD = struct.Struct("<8Q")
_ITEM = struct.Struct("<Q32s")
_TAIL = struct.Struct("<5Q")
_INDEX_MARK, _TABLE_MARK, _TAIL_MARK = 0x96824D9C7B129FF9, 0xE75B9E112F17417D, 0x4B4F050E5549ECD1
_SHA512_256 = 0x2000000000000000


@dataclass(frozen=True, slots=True)
class Chunks:
    """`items` are (where it begins, its length, its digest), in order."""

    items: tuple[tuple[int, int, bytes], ...]
    hasher: Hasher

    @property
    def total(self) -> int:
        return self.items[-1][0] + self.items[-1][1] if self.items else 0


def read(content: bytes) -> Chunks:
    """Raises `ValueError` for what is no such index, or one that lies."""
    count, rest = divmod(len(content) - _HEAD.size - _TAIL.size, _ITEM.size)
    if count < 0 or rest or count > MOST_CHUNKS:
        raise ValueError("it is no chunk index")
    size, mark, flags, least, mean, most, unknown, table = _HEAD.unpack_from(content)
    tail = _TAIL.unpack_from(content, len(content) - _TAIL.size)
    if (size, mark, unknown, table) != (48, _INDEX_MARK, 2**64 - 1, _TABLE_MARK):
        raise ValueError("it is no chunk index")
    if tail != (0, 0, 48, len(content) - 48, _TAIL_MARK) or not 0 < least <= mean <= most <= CHUNK_BYTES:
        raise ValueError("it is damaged")
    items: list[tuple[int, int, bytes]] = []
    at = 0
    for number in range(count):
        end, digest = _ITEM.unpack_from(content, _HEAD.size + number * _ITEM.size)
        if not 0 < end - at <= most:
            raise ValueError("its chunks overlap, or are larger than it says")
        items.append((at, end - at, digest))
        at = end
    return Chunks(tuple(items), sha512_256 if flags & _SHA512_256 else sha256)


def compare(new: Chunks, old: Chunks) -> list[Piece]:
    """The new file as pieces. Each that is taken from the old one is to be checked by its digest."""
    known = {digest: (at, length) for at, length, digest in old.items} if new.hasher is old.hasher else {}
    pieces = []
    for at, length, digest in new.items:
        source = known.get(digest)
        if source is not None and source[1] == length:
            pieces.append(Piece(at, length, source[0], digest))
        else:
            pieces.append(Piece(at, length))
    return pieces
