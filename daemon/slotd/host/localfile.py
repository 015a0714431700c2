"""A release file of this host, copied as if it were downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from slotd.core.answer import shown
from slotd.errors import SourceFailed
from slotd.host.download import Downloaded, Progress
from slotd.host.partfile import PIECE, PartFile
from slotd.host.plainfile import open_plain


def copy(path: Path, fd: int, limit_bytes: int, progress: Progress, expected_size: int = 0) -> Downloaded:
    """As `download`, from a file of this host. No part of `path` may be a symbolic link: it is one as the directory
    source resolved it, and what changed since then is a trap.
    """
    target = PartFile(fd, shown(str(path)))
    target.restart()
    with open_plain(path) as source:
        before = os.fstat(source)
        if before.st_size > limit_bytes or (expected_size and before.st_size != expected_size):
            limit = f"expected {expected_size}" if expected_size else f"more than {limit_bytes}"
            raise SourceFailed(f"cannot copy {path}: it has {before.st_size} bytes, {limit}")
        while piece := os.read(source, PIECE):
            target.append(piece)
            if target.size > before.st_size:
                break
            progress({"bytes": target.size, "total": before.st_size, "state": {}})
        after = os.fstat(source)
    if target.size != before.st_size or (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
        raise SourceFailed(f"cannot copy {path}: it is being written to", hint="Try again once it is complete.")
    return Downloaded(target.size, target.hexdigest(), {})
