"""The door to programs that look at a file: by full path, on descriptors, in an empty environment, within bounds."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from slotd.core.schema import Limits
from slotd.errors import Failed, VerificationFailed

_PATH = "/usr/bin:/bin"
_MAX_OUTPUT = 4 * 1024**2


@contextmanager
def memory(data: bytes = b"") -> Iterator[int]:
    """A private file without a name, at its start. The program opens it as `path(fd)`."""
    fd = os.memfd_create("slotd", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def content(fd: int) -> bytes:
    """What a program wrote into such a file."""
    size = os.fstat(fd).st_size
    if size > _MAX_OUTPUT:
        raise VerificationFailed(f"cannot use what the program says: {size} bytes are more than it can need")
    return os.pread(fd, size, 0) if size else b""


def run(argv: Sequence[str], *, package: str, stdin: int | None = None, stdout: int, fds: Sequence[int]) -> int:
    """The exit status. What it writes to stderr is for people: it goes to the worker's, and is never parsed."""
    program = shutil.which(argv[0], path=_PATH)
    if program is None:
        raise Failed(f"cannot verify: {argv[0]} is not installed", hint=f"Install the package {package}.")
    try:
        return subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            pass_fds=fds,
            env={"LC_ALL": "C", "PATH": _PATH},
            cwd="/",
            timeout=Limits().verify_s,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise VerificationFailed(f"cannot verify: {argv[0]} did not end within {Limits().verify_s:.0f} s") from None
