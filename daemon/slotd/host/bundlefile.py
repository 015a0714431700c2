"""Bundles on the disk: written once, and read with every byte held against what the manifest says has to be there.

A file that is read here must be nobody else's to change. What is wrong with it is a `VerificationFailed`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slotd.core import bundle
from slotd.core.bundle import BLOCK, MANIFEST, SIGNATURE, Manifest, Part, header, padded, refused
from slotd.core.schema import Limits
from slotd.host import files

_PIECE = 1024**2


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in front of the files. `end`: where the signature's blocks end."""

    manifest: bytes
    signature: bytes
    end: int


def examine(descriptor: int) -> tuple[Head, Manifest]:
    """What stands in front, and the manifest in it, if every byte of the file is where that says. Whose it is, and
    whether the files are what they are called, is not known yet.
    """
    head = _read_head(descriptor)
    manifest = bundle.read(head.manifest)
    _require_layout(descriptor, head, manifest)
    return head, manifest


def _read_head(descriptor: int) -> Head:
    """Manifest and signature as they lie there; of neither is anything known yet."""
    at, manifest = _entry(descriptor, 0, MANIFEST, bundle.MANIFEST_BYTES)
    at, signature = _entry(descriptor, at, SIGNATURE, Limits().signature_bytes)
    return Head(manifest, signature, at)


def _entry(descriptor: int, at: int, name: str, most: int) -> tuple[int, bytes]:
    """Where the entry's blocks end, and its content."""
    size = bundle.size_in(_exactly(descriptor, BLOCK, at), name, most)
    block = _exactly(descriptor, padded(size), at + BLOCK)
    if block[size:].strip(b"\0"):
        raise refused(f"there is something behind its {name}")
    return at + BLOCK + padded(size), block[:size]


def _require_layout(descriptor: int, head: Head, manifest: Manifest) -> None:
    """All that is not a file's own bytes: headers, padding, the end, and that nothing follows."""
    size = os.fstat(descriptor).st_size
    if size != head.end + manifest.size:
        raise refused(f"it has {size} bytes, and its manifest accounts for {head.end + manifest.size}")
    for part in manifest.parts:
        begin = head.end + part.offset
        if _exactly(descriptor, BLOCK, begin - BLOCK) != header(part.sha256, part.size):
            raise refused(f"its entry {part.sha256} is not where it has to be, or not as it has to be")
        end = begin + part.size
        if _exactly(descriptor, padded(part.size) - part.size, end).strip(b"\0"):
            raise refused(f"there is something behind its {part.sha256}")
    if _exactly(descriptor, len(bundle.TAIL), size - len(bundle.TAIL)) != bundle.TAIL:
        raise refused("there is something behind its last file")


def require_content(
    descriptor: int, head: Head, part: Part, name: str, take: Callable[[bytes], None] = lambda _: None
) -> None:
    """Read one file's bytes, giving them to `take`, and hold them against its digest. `name`: what it is called."""
    digest = hashlib.sha256()
    for piece in _pieces(descriptor, head.end + part.offset, part.size):
        digest.update(piece)
        take(piece)
    if digest.hexdigest() != part.sha256:
        raise refused(f"its file {name} is not the one that was put in")


def take_out(descriptor: int, head: Head, part: Part, name: str, target: Path) -> None:
    """Write one file's bytes to `target`, where nothing may be yet; on disk when it returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with files.explaining(f"cannot store {name}"), files.opened(target, flags, mode=0o644) as out:
        os.fchmod(out, 0o644)  # what may be opened by who has the descriptor, in a directory that is root's alone
        require_content(descriptor, head, part, name, lambda piece: files.write_all(out, piece))
        os.fsync(out)


def write(target: int, manifest: Manifest, signed: bytes, signature: bytes, sources: Mapping[str, Path]) -> str:
    """Write a whole bundle into an empty file; its SHA-256. `sources`: digest -> file with these bytes."""
    digest = hashlib.sha256()

    def put(piece: bytes) -> None:
        digest.update(piece)
        files.write_all(target, piece)

    for name, content in ((MANIFEST, signed), (SIGNATURE, signature)):
        put(header(name, len(content)) + content + bytes(-len(content) % BLOCK))
    for part in manifest.parts:
        put(header(part.sha256, part.size))
        with files.opened(sources[part.sha256], os.O_RDONLY) as source:
            for piece in _pieces(source, 0, part.size):
                put(piece)
        put(bytes(-part.size % BLOCK))
    put(bundle.TAIL)
    return digest.hexdigest()


def _pieces(descriptor: int, at: int, size: int) -> Iterator[bytes]:
    end = at + size
    while at < end:
        piece = os.pread(descriptor, min(_PIECE, end - at), at)
        if not piece:
            raise refused("it ends before its last file does")
        yield piece
        at += len(piece)


def _exactly(descriptor: int, count: int, at: int) -> bytes:
    return b"".join(_pieces(descriptor, at, count))
