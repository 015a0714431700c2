"""What a ZIP archive's central directory says (PKWARE APPNOTE 4.3-4.5): which members two archives have in common.

Wheels are such archives. Only plain ones are understood: on one disk, with nothing before the first member.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from slotd.core.pieces import Piece

TAIL_BYTES: Final = 65_557 + 76  # the longest end record, with what a large archive has before it
MOST_MEMBERS: Final = 100_000  # what is known of each takes memory, some hundred bytes
MAGIC: Final = b"PK\x03\x04"
LOCAL: Final = struct.Struct("<4s5H3L2H")

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_SMALL, _LARGE = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Place:
    """Where the central directory lies, and how many members it names."""

    at: int
    end: int
    count: int


@dataclass(frozen=True, slots=True)
class Member:
    """One member: all of it lies in `at` to `end`. `content` is the same for the same packed bytes, `record` for the
    same in all that is said of it.
    """

    at: int
    end: int
    name: bytes
    content: tuple[int, ...]
    record: bytes


def find_directory(tail: bytes, total: int) -> Place:
    """From the archive's last bytes, at most `TAIL_BYTES`. Raises `ValueError` for what is no plain archive."""
    start = total - len(tail)
    at = len(tail) - _END.size
    while at >= 0:
        at = tail.rfind(b"PK\x05\x06", 0, at + 4)
        if at < 0:
            break
        if at + _END.size <= len(tail):
            _, disk, first, here, count, size, offset, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                end = start + at
                if _SMALL in (disk, first, here, count) or _LARGE in (size, offset):
                    disk, first, here, count, size, offset, end = _large(tail, at, start)
                if disk or first or here != count or offset + size != end:
                    break
                return Place(offset, end, count)
        at -= 1
    raise ValueError("it is no plain ZIP archive")


def _large(tail: bytes, at: int, start: int) -> tuple[int, int, int, int, int, int, int]:
    locator = at - _LOCATOR.size
    if locator >= 0:
        sign, disk, place, disks = _LOCATOR.unpack_from(tail, locator)
        inside = place - start
        if (sign, disk) == (b"PK\x06\x07", 0) and disks <= 1 and 0 <= inside <= locator - _END64.size:
            found = _END64.unpack_from(tail, inside)
            if found[0] == b"PK\x06\x06" and inside + 12 + found[1] == locator:
                return (*found[4:], place)
    raise ValueError("it is no plain ZIP archive")


def read_directory(directory: bytes, place: Place) -> list[Member]:
    """The members, in the order in which they lie in the archive. Raises `ValueError` for a directory that lies."""
    if place.count > MOST_MEMBERS:
        raise ValueError("it has too many members")
    found: list[tuple[int, int, bytes, tuple[int, ...], bytes]] = []
    at = 0
    while at < len(directory) and len(found) <= place.count:
        if len(directory) - at < _CENTRAL.size:
            raise ValueError("its directory is cut off")
        fields = _CENTRAL.unpack_from(directory, at)
        sign, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, disk, *_, offset = fields
        end = at + _CENTRAL.size + named + extra + comment
        if sign != b"PK\x01\x02" or end > len(directory) or disk not in (0, _SMALL):
            raise ValueError("its directory is damaged")
        name = directory[at + _CENTRAL.size : at + _CENTRAL.size + named]
        more = directory[at + _CENTRAL.size + named : at + _CENTRAL.size + named + extra]
        size, packed, offset = _widened(more, size, packed, offset)
        # All but where it lies.
        record = directory[at + 4 : at + 34] + directory[at + 36 : at + 42] + directory[at + 46 : end]
        found.append((offset, packed, name, (crc, packed, size, method, flags), record))
        at = end
    if len(found) != place.count:
        raise ValueError("its directory names another number of members than it says")
    found.sort(key=lambda each: each[0])
    return list(_members(found, place.at))


def _widened(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """What is too large for its field is in a field of its own."""
    if _LARGE not in (size, packed, offset):
        return size, packed, offset
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            values = [size, packed, offset]
            for which, value in enumerate(values):
                if value == _LARGE:
                    if len(body) < 8:
                        break
                    values[which] = int.from_bytes(body[:8], "little")
                    body = body[8:]
            else:
                return values[0], values[1], values[2]
        at += 4 + length
    raise ValueError("its directory is damaged")


def _members(found: list[tuple[int, int, bytes, tuple[int, ...], bytes]], last: int) -> Iterator[Member]:
    if found and found[0][0] != 0:
        raise ValueError("something lies before its first member")
    for number, (offset, packed, name, content, record) in enumerate(found):
        end = found[number + 1][0] if number + 1 < len(found) else last
        if offset + LOCAL.size + packed > end:
            raise ValueError("its members overlap")
        yield Member(offset, end, name, content, record)


def compare(
    new: list[Member], old: list[Member], local: Callable[[int], bytes], place: Place, total: int
) -> list[Piece]:
    """The new archive as pieces. `local` gives the `LOCAL.size` bytes at a place of the old one.

    A member whose packed bytes are the same, under another name or with another time, differs in what stands before
    them: that alone is fetched.
    """
    same = {(member.name, member.content): member for member in old}
    alike = {member.content: member for member in old}
    pieces: list[Piece] = []
    for member in new:
        before = same.get((member.name, member.content)) or alike.get(member.content)
        pieces += _of(member, before, local)
    if total > place.at:
        pieces.append(Piece(place.at, total - place.at))
    return pieces


def _of(member: Member, before: Member | None, local: Callable[[int], bytes]) -> Iterator[Piece]:
    length = member.end - member.at
    if before is not None:
        grown = len(member.name) - len(before.name)
        fields = LOCAL.unpack(local(before.at))
        head = LOCAL.size + fields[9] + fields[10]
        is_fitting = length == before.end - before.at + grown and before.at + head < before.end
        if is_fitting and member.record == before.record:
            yield Piece(member.at, length, before.at)
            return
        if is_fitting and fields[0] == MAGIC and fields[9] == len(before.name) and length > head + grown:
            yield Piece(member.at, head + grown)
            yield Piece(member.at + head + grown, length - head - grown, before.at + head)
            return
    yield Piece(member.at, length)
