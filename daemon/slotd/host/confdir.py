"""Directories of configuration as systemd reads them, and files in them that nobody but root may change.

The file with the last word for a name is that of the last directory; an empty one, or a link to /dev/null, says that
there is none. Who may write such a file may run commands as root, so its owner and mode are looked at on the open
descriptor, before a byte of it is used.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slotd.core.validate import shown

FILE_LIMIT = 1024**2  # bytes of one file
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a fifo in the way must not hang us
_NULL = os.makedev(1, 3)
_PATH_SHOWN = 1000


class Unusable(Exception):
    """A file or directory that cannot be used; the text is a whole sentence that begins with its path."""


def written(path: Path) -> str:
    """A path for messages: names that are no UTF-8 or hold control characters are shown escaped."""
    return shown(str(path), _PATH_SHOWN)


def search(directories: Sequence[Path], suffix: str = ".toml") -> tuple[dict[str, Path], list[str]]:
    """File name -> path, a later directory wins. Also one sentence for each directory that cannot be read."""
    found: dict[str, Path] = {}
    problems: list[str] = []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f"{written(directory)}: cannot be read: {error.strerror}.")
            continue
        found |= {name: directory / name for name in names if name.endswith(suffix) and not name.startswith(".")}
    return found, problems


def read_toml(path: Path) -> dict[str, Any] | None:
    """What a file says, or None if it is masked. Raises `Unusable`, with line and column where there are some."""
    content = read_trusted(path)
    if content is None:
        return None
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Unusable(f"{written(path)}: is not UTF-8 text ({_place(content, error.start)}).") from None
    except RecursionError:
        raise Unusable(f"{written(path)}: is nested too deeply.") from None
    except ValueError as error:  # tomllib.TOMLDecodeError, and numbers too long for Python
        why = str(error).replace("at end of document", _place(content, len(content)))
        raise Unusable(f"{written(path)}: is not valid TOML: {shown(why, _PATH_SHOWN)}.") from None


def _place(content: bytes, position: int) -> str:
    """Counted as `tomllib` counts; the column in bytes, which differ from characters beyond ASCII only."""
    line = content.count(b"\n", 0, position) + 1
    column = position - content.rfind(b"\n", 0, position)
    return f"at line {line}, column {column}"


def read_trusted(path: Path) -> bytes | None:
    """The bytes of a regular file that only root, or the user we run as, can change; None if it is masked.

    Raises `Unusable`.
    """
    name = written(path)
    try:
        _check_place(path)
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise Unusable(f"{name}: cannot be read: {error.strerror}.") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"{name}: is not a regular file.")
        _check_owner(name, status, "file")
        if status.st_mode & 0o022:
            raise Unusable(
                f"{name}: others than its owner may write it (mode {stat.S_IMODE(status.st_mode):04o}); "
                f"run `chmod go-w {name}`."
            )
        return _read(descriptor, name) or None
    except OSError as error:
        raise Unusable(f"{name}: cannot be read: {error.strerror}.") from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, name: str) -> bytes:
    parts: list[bytes] = []
    left = FILE_LIMIT + 1
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise Unusable(f"{name}: is larger than {FILE_LIMIT // 1024} KiB.")
    return b"".join(parts)


def _check_place(path: Path) -> None:
    """Nobody else may put the file, or a link to it, into its directory; a sticky one guards what is in it."""
    directory = os.stat(path.parent)
    if directory.st_mode & 0o022 and not directory.st_mode & stat.S_ISVTX:
        place = written(path.parent)
        raise Unusable(f"{place}: others than its owner may write in this directory; run `chmod go-w {place}`.")
    if not directory.st_mode & stat.S_ISVTX:
        _check_owner(written(path.parent), directory, "directory")
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode):
        _check_owner(written(path), link, "link")


def _check_owner(name: str, status: os.stat_result, kind: str) -> None:
    trusted = {0, os.geteuid()}
    if status.st_uid not in trusted:
        owners = "root" if trusted == {0} else "root or the user who runs this"
        raise Unusable(f"{name}: the {kind} belongs to user id {status.st_uid}; it must belong to {owners}.")
