"""The bytes that are installed: a release as real ones are, the same for everyone and every time.

Many small files of text (code, templates, JSON), some large ones of which half does not compress (libraries, models,
packed assets), a few links. About 1.6 bytes unpacked for each byte of the archive.
"""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

from tests.bench.ledger import REPOSITORY

CACHE = REPOSITORY / "build" / "bench-payload"
MIB = 1024**2
POOL = 32 * MIB
LARGE_BYTES = 24 * MIB
BLOCK = 4096


def release(megabytes: int, version: str = "1.0") -> Path:
    """A `tar.zst` of about so many MiB, made once; versions differ in some files."""
    path = CACHE / f"payload-{megabytes}-{version}.tar.zst"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as out:
            packer = subprocess.Popen(["zstd", "-q", "-3", "-T0", "-c"], stdin=subprocess.PIPE, stdout=out)
            assert packer.stdin is not None
            _write_tar(packer.stdin, megabytes, version)
            packer.stdin.close()
            assert packer.wait() == 0, "zstd failed"
        unfinished.rename(path)
    return path


def _write_tar(out: io.BufferedIOBase | object, megabytes: int, version: str) -> None:
    chance = random.Random(f"slotd {megabytes}")
    text = _text(chance)
    top = f"app-{version}"
    with tarfile.open(fileobj=out, mode="w|", bufsize=MIB) as tar:  # type: ignore[call-overload]
        _add(tar, f"{top}/VERSION", version.encode())
        for number in range(23 * megabytes):  # 24,000 files for a GiB
            size = min(int(chance.expovariate(1 / 6000)) + 64, 64 * 1024)
            start = chance.randrange(POOL - size)
            head = f"# {number} of {version if number % 50 == 0 else 'all'}\n".encode()
            _add(
                tar,
                f"{top}/lib/pkg{number % 97:02}/mod{number // 97 % 40:02}/file{number}.py",
                head + text[start : start + size],
            )
        for number in range(max(1, round(megabytes * MIB * 1.44 / LARGE_BYTES))):
            _add(tar, f"{top}/assets/blob{number:03}.bin", _blob(chance, text))
        for number in range(200):
            link = tarfile.TarInfo(f"{top}/bin/tool{number}")
            link.type, link.linkname = tarfile.SYMTYPE, f"../lib/pkg{number % 97:02}/mod00/file{number % 97}.py"
            tar.addfile(link)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_700_000_000
    tar.addfile(entry, io.BytesIO(content))


def _text(chance: random.Random) -> bytes:
    """Words, more of the frequent ones, as in code."""
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz_", k=chance.randint(2, 11))) for _ in range(8000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    piece = " ".join(chance.choices(words, weights, k=POOL // 7)).encode()
    while len(piece) < POOL:
        piece += piece
    return piece[:POOL]


def _blob(chance: random.Random, text: bytes) -> bytes:
    noise = memoryview(chance.randbytes(LARGE_BYTES // 2))
    parts = []
    for start in range(0, LARGE_BYTES // 2, BLOCK):
        where = chance.randrange(POOL - BLOCK)
        parts += [noise[start : start + BLOCK], text[where : where + BLOCK]]
    return b"".join(parts)
