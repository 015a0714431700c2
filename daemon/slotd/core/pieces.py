"""A new file as pieces: which of its bytes an older file holds already, and which have to be fetched.

What is said here is a guess, from what an index tells: only the digest of the whole proves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

GAP = 64 * 1024  # bytes in a row that cost less to fetch than to ask around: a request takes as long
MOST_RANGES = 512  # requests for one file
WORTH = 32  # what is here must be at least this part of the file


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes from `at` on in the new file. `source` is where they lie in the seed, None if they are fetched.

    `chunk` is what the bytes must hash to, by `Hasher`, where an index says so.
    """

    at: int
    length: int
    source: int | None = None
    chunk: bytes = b""

    @property
    def end(self) -> int:
        return self.at + self.length


Hasher = Callable[[bytes], bytes]


def sha512_256(content: bytes) -> bytes:
    return hashlib.new("sha512_256", content).digest()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def arrange(pieces: Sequence[Piece], total: int) -> tuple[Piece, ...]:
    """The pieces to go by: whole from 0 to `total`, with few and long ones to be fetched. Empty if it is not worth it.

    `pieces` are in order and without gaps. Raises `ValueError` if they are not.
    """
    _require_whole(pieces, total)
    gap = GAP
    found = _merged(pieces)
    while True:
        arranged = tuple(_merged(_without_short(found, gap, total)))
        if sum(piece.source is None for piece in arranged) <= MOST_RANGES:
            break
        gap *= 2
    here = sum(piece.length for piece in arranged if piece.source is not None)
    return arranged if here * WORTH >= total and here >= GAP else ()


def _require_whole(pieces: Sequence[Piece], total: int) -> None:
    at = 0
    for piece in pieces:
        if piece.at != at or piece.length <= 0 or (piece.source is not None and piece.source < 0):
            raise ValueError("its parts overlap, or leave something out")
        at = piece.end
    if at != total:
        raise ValueError("it is about a file of another size")


def _merged(pieces: Sequence[Piece] | Iterator[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece; those with a digest of their own stay."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.source is None and piece.source is None:
            found[-1] = Piece(last.at, last.length + piece.length)
        elif (
            last is not None
            and last.source is not None
            and piece.source == last.source + last.length
            and not (last.chunk or piece.chunk)
        ):
            found[-1] = Piece(last.at, last.length + piece.length, last.source)
        else:
            found.append(piece)
    return found


def _without_short(pieces: Sequence[Piece], gap: int, total: int) -> Iterator[Piece]:
    """Runs of what is here that are shorter than `gap` are fetched with what is around them."""
    run: list[Piece] = []
    for piece in pieces:
        if piece.source is not None:
            run.append(piece)
            continue
        yield from _run(run, gap, total)
        run = []
        yield piece
    yield from _run(run, gap, total)


def _run(run: Sequence[Piece], gap: int, total: int) -> Iterator[Piece]:
    if not run:
        return
    is_at_an_end = run[0].at == 0 or run[-1].end == total  # nothing to be fetched on one side
    length = run[-1].end - run[0].at
    if length >= (gap // 2 if is_at_an_end else gap):
        yield from run
    else:
        yield Piece(run[0].at, length)
