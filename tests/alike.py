"""Two versions of a release that have much in common: as ZIP archives, as one file with chunk indexes; put together."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from slotd.core.schema import Limits
from slotd.host import seeding

STAMP = (2024, 5, 6, 7, 8, 10)
LATER = (2025, 6, 7, 8, 9, 12)


def noise(seed: int, length: int) -> bytes:
    """Bytes that no packer makes smaller."""
    return random.Random(seed).randbytes(length)


def archive(files: Mapping[str, bytes], *, stamp: tuple[int, ...] = STAMP, stored: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, stamp[:6])  # type: ignore[arg-type]
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            made.writestr(entry, content)
    return out.getvalue()


def versions(members: int = 20, size: int = 100_000) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of two versions, of which one differs and one is new."""
    old = {f"lib/{number:03}.bin": noise(number, size) for number in range(members)}
    return old, old | {"lib/007.bin": noise(1007, size), "lib/new.bin": noise(1008, size // 2)}


def index_of(content: bytes, folder: Path) -> bytes:
    """The chunk index that casync makes of a file."""
    (folder / "blob").write_bytes(content)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        made = folder / "blob.caibx"
        subprocess.run(["casync", "make", f"--store={store}", made, folder / "blob"], check=True, capture_output=True)
        return made.read_bytes()


def held(content: bytes) -> int:
    """A descriptor of a file with such bytes, without a name."""
    descriptor = os.memfd_create("seed")
    os.write(descriptor, content)
    return descriptor


def assemble(old: bytes, new: bytes, indexes: tuple[bytes, bytes] = (b"", b"")) -> tuple[bytes, int]:
    """`new` as it is put together from `old` by an honest server, and how many of its bytes that had to give."""
    asked = 0

    def look(wanted: str, most: int) -> seeding.Part:
        nonlocal asked
        first, _, last = wanted.partition("-")
        at = int(first) if first else max(0, len(new) - int(last))
        body = new[at : int(last) + 1] if first else new[at:]
        assert len(body) <= most
        asked += len(body)
        return seeding.Part(at, len(new), body)

    seed = seeding.Seed(held(old), *indexes)
    try:
        found = seeding.survey(seed, look, 0, Limits().delta_index_bytes)
        made = b""
        while len(made) < found.total:
            known = found.here(len(made), 100_000) or found.held(len(made))
            if not known:
                known = new[len(made) : found.last(len(made)) + 1]
                asked += len(known)
            assert known
            made += known
        return made, asked
    finally:
        os.close(seed.descriptor)
