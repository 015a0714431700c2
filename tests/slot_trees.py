"""Trees as workers leave them, and how root takes them over."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slotd.host import tree

APP_UID, APP_GID = 23456, 23457


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def own(slot: Path, **changes: Any) -> tree.TreeSize:
    asked = {"uid": 0, "gid": 0, "max_size": 10**7, "max_files": 1000, "path_depth": 32, **changes}
    with opened(slot) as fd:
        before = len(os.listdir("/proc/self/fd"))
        try:
            return tree.check_and_own(fd, **asked)
        finally:
            assert len(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def give(path: Path, uid: int, gid: int) -> None:
    subprocess.run(["chown", "-R", "--no-dereference", f"{uid}:{gid}", path], check=True)


def make_slot(tmp_path: Path) -> Path:
    """A tree as an unpack worker leaves it: of a user of its own, with modes of all kinds."""
    assert os.geteuid() == 0, "giving files to others takes root"
    made = tmp_path / "a"
    (made / "bin").mkdir(parents=True)
    (made / "bin/app").write_text("#!/bin/sh\n")
    (made / "bin/app").chmod(0o777)
    (made / "bin/app2").hardlink_to(made / "bin/app")
    (made / "secret").write_text("s")
    (made / "secret").chmod(0o600)
    (made / "closed").mkdir(mode=0o700)
    (made / "closed/empty").touch(mode=0o066)
    (made / "link").symlink_to("bin/app")
    give(made, APP_UID, APP_GID)
    made.chmod(0o700)
    return made
