"""Libraries that are loaded before the C library of the daemon, compiled when they are needed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.system.image import REPOSITORY


def built(source: Path) -> Path:
    """The library of a source file; made anew if that is newer. Lanes may ask at the same time."""
    library = REPOSITORY / "build" / f"{source.stem}.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        with tempfile.TemporaryDirectory(dir=library.parent) as room:
            made = Path(room) / library.name
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
            made.rename(library)
    return library
