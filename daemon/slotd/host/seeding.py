"""A new file put together from an older one: what of it is here, by an index, and what has to be fetched.

The older file, its index and the server are all foreign: a lie costs a plain download, and is seen by the digest of
the whole at the latest.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slotd.core import chunkindex, zipindex
from slotd.core.pieces import Hasher, Piece, arrange

MOST_SPOILT = 16  # chunks of the older file that are not what they were, before it is left alone

# Why nothing, or no more, was taken from the older file.
NO_RANGES, CHANGED, ODD, DAMAGED, DIFFERENT, FAILED = "no-ranges", "changed", "odd", "damaged", "different", "failed"
REASONS = (NO_RANGES, CHANGED, ODD, DAMAGED, DIFFERENT, FAILED)


class Unfit(Exception):
    """The older file is of no use; `why` is one of `REASONS`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Seed:
    """An older file, open for reading, and where there are any the chunk indexes of both files, the older one first."""

    descriptor: int
    old_index: bytes = b""
    new_index: bytes = b""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from `at` on, of a file of `total`."""

    at: int
    total: int
    body: bytes


Look = Callable[[str, int], Part]  # a range as HTTP has it, the most bytes that it may be


class Assembly:
    """How the new file is put together, from its first byte to its last."""

    def __init__(self, seed: Seed, pieces: tuple[Piece, ...], hasher: Hasher | None, held: Part) -> None:
        self.total = held.total
        self._seed = seed.descriptor
        self._pieces = list(pieces)
        self._starts = [piece.at for piece in pieces]
        self._hasher, self._held = hasher, held
        self._spoilt = 0

    def held(self, at: int) -> bytes:
        """What is to be fetched from `at` on, and was when it was looked at before; mostly nothing."""
        return self._held.body[at - self._held.at : self.last(at) + 1 - self._held.at] if at >= self._held.at else b""

    def here(self, at: int, most: int) -> bytes:
        """Bytes from `at` on that the older file holds; empty if they are to be fetched. Raises `Unfit`."""
        number = bisect_right(self._starts, at) - 1
        piece = self._pieces[number]
        if piece.source is None:
            return b""
        if self._hasher is not None and piece.chunk:
            found = os.pread(self._seed, piece.length, piece.source)
            if len(found) == piece.length and self._hasher(found) == piece.chunk:
                return found[at - piece.at :]
            self._spoilt += 1
            if self._spoilt > MOST_SPOILT:
                raise Unfit(DAMAGED)
            self._pieces[number] = Piece(piece.at, piece.length)
            return b""
        past = at - piece.at
        found = os.pread(self._seed, min(most, piece.length - past), piece.source + past)
        if not found:
            raise Unfit(DAMAGED)
        return found

    def last(self, at: int) -> int:
        """The last byte of what is to be fetched from `at` on."""
        number = bisect_right(self._starts, at) - 1
        end = self._pieces[number].end
        return (min(end, self._held.at) if at < self._held.at else end) - 1


def open_seed(descriptors: Sequence[int], index_bytes: int) -> Seed:
    """The older file, and, if there are any, both indexes, each of at most `index_bytes`; a longer one is cut off."""
    seed, *indexes = descriptors
    return Seed(seed, *(os.pread(each, index_bytes, 0) for each in indexes))


def survey(seed: Seed, look: Look, total: int, index_bytes: int) -> Assembly:
    """Looks at the server's file, `total` bytes long (0: unknown), and says how it is put together. Raises `Unfit`."""
    try:
        if seed.new_index:
            return _by_chunks(seed, look)
        if os.pread(seed.descriptor, 4, 0) == zipindex.MAGIC:
            return _by_members(seed, look, total, index_bytes)
    except (ValueError, struct.error, OSError):
        pass
    raise Unfit(ODD)


def _by_chunks(seed: Seed, look: Look) -> Assembly:
    new, old = chunkindex.read(seed.new_index), chunkindex.read(seed.old_index)
    pieces = arrange(chunkindex.compare(new, old), new.total)
    first = look("0-0", 1)
    if first.total != new.total:
        raise ValueError("the index is of another file")
    if not pieces:
        raise Unfit(DIFFERENT)
    return Assembly(seed, pieces, new.hasher, Part(first.total, first.total, b""))


def _by_members(seed: Seed, look: Look, total: int, index_bytes: int) -> Assembly:
    size = os.fstat(seed.descriptor).st_size
    tail_at = max(0, size - zipindex.TAIL_BYTES)
    old_place = zipindex.find_directory(os.pread(seed.descriptor, zipindex.TAIL_BYTES, tail_at), size)
    if old_place.end - old_place.at > index_bytes:
        raise Unfit(ODD)
    old = zipindex.read_directory(os.pread(seed.descriptor, old_place.end - old_place.at, old_place.at), old_place)
    wanted = f"{max(0, total - zipindex.TAIL_BYTES)}-{total - 1}" if total else f"-{zipindex.TAIL_BYTES}"
    tail = look(wanted, zipindex.TAIL_BYTES)
    place = zipindex.find_directory(tail.body, tail.total)
    if place.end - place.at > index_bytes:
        raise Unfit(ODD)
    if place.at < tail.at:
        more = look(f"{place.at}-{tail.at - 1}", tail.at - place.at)
        tail = Part(place.at, tail.total, more.body + tail.body)
    new = zipindex.read_directory(tail.body[place.at - tail.at : place.end - tail.at], place)

    def local(at: int) -> bytes:
        return os.pread(seed.descriptor, zipindex.LOCAL.size, at)

    pieces = arrange(zipindex.compare(new, old, local, place, tail.total), tail.total)
    if not pieces:
        raise Unfit(DIFFERENT)
    return Assembly(seed, pieces, None, tail)
