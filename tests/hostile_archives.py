"""Archives made byte by byte: honest ones, and every trick that no honest tool would write."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REG, HARD, SYM, CHAR, BLOCK, DIR, FIFO, CONT = b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"


def member(
    name: bytes | str,
    data: bytes = b"",
    *,
    kind: bytes = REG,
    link: bytes | str = b"",
    mode: int = 0o644,
    size: int | None = None,
    mtime: int = 1_700_000_000,
    prefix: bytes = b"",
) -> bytes:
    """One ustar member. `size` is what the header claims, whatever `data` is."""
    name, link = _bytes(name), _bytes(link)
    count = len(data) if size is None else size
    head = name.ljust(100, b"\0")[:100]
    head += b"%07o\0" % mode + b"%07o\0" % 0 + b"%07o\0" % 0
    head += b"%011o\0" % count if count < 8**11 else b"\x80" + count.to_bytes(11, "big")
    head += b"%011o\0" % mtime + b" " * 8 + kind + link.ljust(100, b"\0")[:100]
    head += b"ustar\x0000" + b"root".ljust(32, b"\0") * 2 + b"%07o\0" % 8 + b"%07o\0" % 1
    head = (head + prefix.ljust(155, b"\0")).ljust(512, b"\0")
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + data + b"\0" * (-len(data) % 512)


def pax(member_: bytes, **records: bytes | str) -> bytes:
    """A member with a pax header in front: `path`, `linkpath`, `size`, `GNU_sparse_…` (for `GNU.sparse.…`)."""
    text = b""
    for key, value in records.items():
        body = b" " + key.replace("GNU_sparse_", "GNU.sparse.").encode() + b"=" + _bytes(value) + b"\n"
        count = len(body) + 1
        while len(str(count)) + len(body) != count:
            count += 1
        text += str(count).encode() + body
    return member("PaxHeaders/x", text, kind=b"x") + member_


def gnu_long(name: bytes, member_: bytes, *, kind: bytes = b"L") -> bytes:
    """A member whose name (`L`) or link target (`K`) comes in GNU's own long form."""
    return member("././@LongLink", name + b"\0", kind=kind) + member_


def tar(*members: bytes) -> bytes:
    return b"".join(members) + b"\0" * 1024


def directory(name: bytes | str, mode: int = 0o755) -> bytes:
    return member(name, kind=DIR, mode=mode)


def symlink(name: bytes | str, target: bytes | str) -> bytes:
    return member(name, kind=SYM, link=target, mode=0o777)


def hard_link(name: bytes | str, target: bytes | str) -> bytes:
    return member(name, kind=HARD, link=target)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstd,
}


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file of a zip. `mode` is the whole Unix mode, with its kind; what is None is told truthfully."""

    name: bytes
    data: bytes = b""
    mode: int = 0o100644
    flags: int = 0x800
    claimed_size: int | None = None
    local_name: bytes | None = None
    crc: int | None = None


def zip_file(*entries: ZipEntry) -> bytes:
    body, central = b"", b""
    for entry in entries:
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(entry.data) + packer.flush()
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.claimed_size is None else entry.claimed_size
        local = entry.name if entry.local_name is None else entry.local_name
        middle = struct.pack("<HHHHIII", entry.flags, 8, 0x6C20, 0x5765, crc, len(packed), size)
        offset = len(body)
        body += b"PK\x03\x04" + struct.pack("<H", 20) + middle + struct.pack("<HH", len(local), 0) + local + packed
        central += b"PK\x01\x02" + struct.pack("<HH", 0x0314, 20) + middle
        central += struct.pack("<HHHHHII", len(entry.name), 0, 0, 0, 0, entry.mode << 16, offset) + entry.name
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(central), len(body), 0)
    return body + central + b"PK\x05\x06" + end


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


MIB = 1024**2
_DEEP = "/".join(["d"] * 80)

# name → archive that must be refused as forged. `evil` is what they would like to write beside the slot.
FORGED_TARS: dict[str, Sequence[bytes]] = {
    "a name that climbs out": [member("../evil", b"x")],
    "a name that climbs out from inside": [member("a/b/../../../evil", b"x")],
    "a name that climbs and comes back": [member("a/../../slot/evil", b"x")],
    "a name that is only dots": [member("..", b"x")],
    "an absolute name": [member("/tmp/evil", b"x")],
    "an absolute name after dots": [member("//evil", b"x")],
    "an absolute directory": [directory("/evil")],
    "a climbing name in a pax header": [pax(member("good", b"x"), path="../evil")],
    "an absolute name in a pax header": [pax(member("good", b"x"), path="/tmp/evil")],
    "a climbing name in GNU's long form": [gnu_long(b"a/" * 60 + b"../" * 61 + b"evil", member("good", b"x"))],
    "a climbing name in ustar's prefix": [member("evil", b"x", prefix=b"..")],
    "a name with a newline": [member("a\nb", b"x")],
    "a name with an escape sequence": [member("a\x1b[2Jb", b"x")],
    "a name with a right-to-left override": [pax(member("g", b"x"), path="photo\u202egnp.sh")],
    "a name that is not UTF-8": [member(b"caf\xe9", b"x")],
    "a name with a part of 256 bytes": [pax(member("g", b"x"), path="n" * 256)],
    "a file in the place of the top": [member(".", b"x")],
    "a symlink in the place of the top": [symlink(".", "evil")],
    "a link to the root": [symlink("a", "/")],
    "a link to an absolute path": [symlink("a", "/etc/passwd")],
    "a link that climbs out": [symlink("a", "../evil")],
    "a link that climbs out from deep inside": [symlink("a/b/c", "../../../evil")],
    "a link that climbs out by its pax header": [pax(symlink("a", "good"), linkpath="../evil")],
    "a link that climbs out through another link": [
        directory("s"), directory("p/q"), symlink("p/q/r", "../../s"), symlink("z", "p/q/r/../../evil"),
    ],
    "a link that climbs out through a link that comes later": [
        symlink("z", "p/q/r/../../evil"), directory("p/q"), symlink("p/q/r", "../../s"), directory("s"),
    ],
    "a link that climbs out through what does not exist": [symlink("z", "gone/../../evil")],
    "a link with no target": [symlink("a", "")],
    "a link whose target has control characters": [symlink("a", "b\nc")],
    "a file through a link out": [symlink("a", ".."), member("a/evil", b"x")],
    "a file through a link inside": [directory("d"), symlink("a", "d"), member("a/evil", b"x")],
    "a directory through a link": [symlink("a", ".."), directory("a/evil")],
    "a link through a link": [symlink("a", ".."), symlink("a/evil", "b")],
    "a hard link through a link": [member("f", b"x"), symlink("a", ".."), hard_link("a/evil", "f")],
    "a file over a link": [symlink("a", "b"), member("a", b"x")],
    "a link over a file": [member("a", b"x"), symlink("a", "b")],
    "a link over a directory": [directory("a"), symlink("a", ".."), member("a/evil", b"x")],
    "a directory over a link": [symlink("a", ".."), directory("a"), member("a/evil", b"x")],
    "a file over a directory": [directory("a"), member("a", b"x")],
    "a directory over a file": [member("a", b"x"), directory("a")],
    "a file below a file": [member("a", b"x"), member("a/b", b"x")],
    "a hard link to a file outside": [hard_link("a", "../victim")],
    "a hard link to an absolute file": [hard_link("a", "/etc/passwd")],
    "a hard link to what comes later": [hard_link("a", "b"), member("b", b"x")],
    "a hard link to a link": [symlink("l", "f"), member("f", b"x"), hard_link("a", "l")],
    "a hard link to a directory": [directory("d"), hard_link("a", "d")],
    "a hard link to itself": [member("a", b"x"), hard_link("a", "a")],
    "a hard link to the top": [hard_link("a", ".")],
    "a hard link out by its pax header": [member("b", b"x"), pax(hard_link("a", "b"), linkpath="../victim")],
    "a character device": [member("null", kind=CHAR, mode=0o666)],
    "a block device": [member("disk", kind=BLOCK, mode=0o666)],
    "a fifo": [member("pipe", kind=FIFO)],
    "a set-user-id program": [member("su", b"x", mode=0o4755)],
    "a set-group-id program": [member("su", b"x", mode=0o2755)],
    "a set-user-id program by a hard link's mode": [
        member("a", b"x"), member("b", kind=HARD, link="a", mode=0o4755),
    ],
    "slotd's own record": [member(".slotd/slot.json", b"{}"), member("x", b"x")],
    "slotd's own record as a link": [symlink(".slotd", "x"), member("x", b"x")],
    "slotd's own record below a single top": [member("top/.slotd/slot.json", b"{}"), member("top/x", b"x")],
}  # fmt: skip

FORGED_ZIPS: dict[str, Sequence[ZipEntry]] = {
    "a name that climbs out": [ZipEntry(b"../evil", b"x")],
    "an absolute name": [ZipEntry(b"/tmp/evil", b"x")],
    "a Windows name that climbs out": [ZipEntry(b"..\\evil", b"x")],
    "a link that climbs out": [ZipEntry(b"a", b"../evil", mode=0o120777)],
    "a link to an absolute path": [ZipEntry(b"a", b"/etc/passwd", mode=0o120777)],
    "a file through a link": [ZipEntry(b"a", b"..", mode=0o120777), ZipEntry(b"a/evil", b"x")],
    "a device": [ZipEntry(b"null", mode=0o020666)],
    "a set-user-id program": [ZipEntry(b"su", b"x", mode=0o104755)],
    "a name that is not UTF-8": [ZipEntry(b"caf\xe9", b"x", flags=0)],
    "the same name as file and directory": [ZipEntry(b"a", b"x"), ZipEntry(b"a/b", b"x")],
    "a name with a NUL": [ZipEntry(b"../evil\0good", b"x")],
}

# What libarchive reads in a way that does no harm: a local header's name, a file in place of a fifo.
HARMLESS_ZIPS: dict[str, Sequence[ZipEntry]] = {
    "a climbing name only in the central directory": [ZipEntry(b"../evil", b"x", local_name=b"good")],
    "a fifo": [ZipEntry(b"pipe", mode=0o010644)],
}


def _spoil(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# name → archive that holds too much, or cannot be read: refused, but nobody forged it.
TOO_MUCH: dict[str, bytes] = {
    "a bomb of zeros": COMPRESS["gz"](tar(member("zeros", bytes(64 * MIB)))),
    "many files that are too much together": tar(*(member(f"f{n}", bytes(MIB)) for n in range(20))),
    "a header that claims an exabyte": tar(member("big", b"x", size=2**60)),
    "a sparse file of a terabyte": tar(
        pax(
            member("GNUSparseFile.0/big", b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)),
            GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_name="big", GNU_sparse_realsize=str(2**40),
        )
    ),
    "too many files": tar(*(member(f"f{n}") for n in range(1001))),
    "too many directories in one name": tar(*(member(f"{n}/" + "d/" * 40 + "f") for n in range(30))),
    "one empty file again and again": tar(*(member("f") for _ in range(1001))),
    "the top again and again": tar(*(directory("./") for _ in range(1001))),
    "the same file a thousand times": tar(*(member("f", bytes(64 * 1024)) for _ in range(200))),
    "directories too deep": tar(member("/".join(["d"] * 40) + "/f", b"x")),
    "a name too long": tar(pax(member("g", b"x"), path="/".join(["n" * 100] * 50))),
    "a zip bomb": zip_file(ZipEntry(b"zeros", bytes(64 * MIB))),
    "a zip bomb that claims one byte": zip_file(ZipEntry(b"zeros", bytes(64 * MIB), claimed_size=1)),
    "a zip whose checksum is wrong": zip_file(ZipEntry(b"f", b"x" * 100, crc=1)),
    "an encrypted zip": zip_file(ZipEntry(b"f", b"x" * 100, flags=0x801)),
    "a file cut short": tar(member("f", bytes(10_000)))[:4000],
    "a header that is cut": tar(member("f", b"x"), member("g", b"x"))[:1200],
    "a gzip cut short": COMPRESS["gz"](tar(member("f", bytes(range(256)) * 4000)))[:-200],
    "an xz with a wrong checksum": _spoil(COMPRESS["xz"](tar(member("f", b"abc" * 10_000)))),
    "an xz cut short": COMPRESS["xz"](tar(member("f", bytes(range(256)) * 4000)))[:-200],
    "nothing": tar(),
}  # fmt: skip
