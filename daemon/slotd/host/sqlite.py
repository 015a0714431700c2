"""What SQLite itself does with a foreign database - a backup, a check - done by a program that has no more rights than
the database's owner."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slotd.host import files
from slotd.host.sandbox import quote

BACKUP_S = 3600.0
CHECK_S = 900.0
QUICK_FROM = 1 << 30  # bytes of a database from which on only its pages are checked, not its indexes against its tables
CAP_SETUID = 7
_PROGRAM_S = 30.0  # what a program may take besides its work
_SHUT = (
    "PrivateNetwork=yes",
    "PrivateDevices=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service",
    "Nice=5",
)
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache")
_INSIDE = "/database"  # where the unit of a check has the directory
LOOK_S = 0.5
_NOT_LOADED = 5  # what `systemctl stop` ends with
_STOPS, _STOP_S, _PAUSE_S = 10, 30.0, 0.3
SAID = 300
HEARD = 64 << 10  # bytes that a program may say: it runs as a stranger


@dataclass(frozen=True, slots=True)
class Sound:
    """What SQLite says of a database. `verdict`: `ok`, `damaged` or `unknown`; `said`: why, in its words."""

    verdict: str
    said: str = ""


def backup(source: Path, target: Path, *, uid: int, gid: int, most: int, cancelled: Callable[[], bool]) -> str:
    """Copy the database `source`, which may be in use, to `target` (made anew) as user `uid`; it gets no
    larger than `most` bytes.

    Gives why it could not, in words, or "" when it did. `cancelled` ends it early. Raises OSError for `target`.
    """
    target.unlink(missing_ok=True)
    made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    line = [str(Path(__file__).with_name("sqlite_copy.py")), str(source)]
    try:
        if uid == 0 or not _needs_unit():
            line += [str(target), str(uid), str(gid), str(most)]
            status, _, said = run(line, None, BACKUP_S, cancelled)
        else:  # the target is its output
            properties = [f"ReadWritePaths={quote(f'-{source.parent}')}", "ProtectSystem=strict", "PrivateTmp=yes"]
            line += ["-", str(uid), str(gid), str(most)]
            unit = _Unit(f"User={uid}", f"Group={gid}", *properties)
            status, _, said = run(line, unit, BACKUP_S, cancelled, output=made)
    finally:
        os.close(made)
    if status == 0:
        return ""
    text = files.shown(said.strip().rpartition("\n")[2])[:SAID]
    return f"SQLite says {text!r}" if text else f"SQLite's copy ended with status {status}"


def reads_in_place() -> bool:
    """Whether `check` can read a database where it lies, in directories that are closed to its owner."""
    return _needs_unit() or os.geteuid() != 0


def check(database: Path, *, uid: int, gid: int, in_place: bool, most_s: float, cancelled: Callable[[], bool]) -> Sound:
    """Whether a database is sound; it is read as user `uid`, who is not root, for at most `most_s` seconds.

    `in_place`: it has neither a log nor a journal, and nothing is written; else its directory is a copy of these and
    nothing else, and that user's own. Nobody else may be able to change what is at that path.
    """
    unit = None
    where, name = database.parent, database.name
    if _needs_unit():
        bind = _pair(database, f"{_INSIDE}/{name}") if in_place else _pair(where, _INSIDE)
        binds = [f"BindReadOnlyPaths=-{quote(each)}" for each in (*_SYSTEM, str(Path(__file__).parent))]
        binds.append(f"{'BindReadOnlyPaths' if in_place else 'BindPaths'}={bind}")
        unit = _Unit(f"User={uid}", f"Group={gid}", "TemporaryFileSystem=/:ro", *binds)
        where = Path(_INSIDE)
    is_quick = database.stat().st_size >= QUICK_FROM
    line = [str(Path(__file__).with_name("sqlite_check.py")), str(where), name, str(uid), str(gid)]
    line += ["1" if is_quick else "0", "1" if in_place else "0", f"{most_s:.1f}"]
    status, out, said = run(line, unit, most_s + _PROGRAM_S, cancelled)
    verdict, _, why = out.partition("\n")
    if status != 0 or verdict not in ("ok", "damaged", "unknown"):
        why = files.shown((out + said).strip().rpartition("\n")[2])
        return Sound("unknown", why[:SAID] or f"its check ended with status {status}")
    return Sound(verdict, files.shown(why)[:SAID])


def _pair(source: Path, target: str) -> str:
    """A bind mount. Quoted one by one: the colon between them is the only one that is not a part of a path."""
    return f"{quote(str(source))}:{quote(target)}"


class _Unit:
    """The program as a unit of its own: a daemon that cannot become another user has systemd start it as that user."""

    def __init__(self, *properties: str) -> None:
        self.name = f"slotd-worker-sqlite-{os.getpid()}-{uuid.uuid4().hex[:12]}.service"
        self.properties = (*properties, *_SHUT)

    def argv(self, runtime_s: float) -> list[str]:
        line = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={self.name}"]
        line.append(f"--property=RuntimeMaxSec={runtime_s:.0f}")
        return [*line, *(f"--property={each}" for each in self.properties), "--"]


def run(
    line: Sequence[str], unit: _Unit | None, most_s: float, cancelled: Callable[[], bool], output: int | None = None
) -> tuple[int, str, str]:
    """Run a program of ours, `line`: its status, and what it said on standard output (else it goes to `output`) and on
    standard error."""
    argv = [*(unit.argv(most_s) if unit else []), sys.executable, "-I", *line]
    out = subprocess.PIPE if output is None else output
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, cwd="/") as child:
        is_over, told, said = _listen(child, time.monotonic() + most_s, cancelled)
        if not is_over:
            if unit:
                _stop(unit, child)
            child.kill()
    return child.returncode, told.decode("utf-8", "replace"), said.decode("utf-8", "replace")


def _stop(unit: _Unit, child: subprocess.Popen[bytes]) -> None:
    """systemd may not have read yet that the unit is to be started: then it is not loaded, and is asked for again."""
    stop = ["systemctl", "--quiet", "stop", unit.name]
    for _ in range(_STOPS):
        with suppress(subprocess.TimeoutExpired):
            if subprocess.run(stop, stdin=subprocess.DEVNULL, check=False, timeout=_STOP_S).returncode != _NOT_LOADED:
                return
        child.terminate()  # systemd-run must not get to ask for it any more
        time.sleep(_PAUSE_S)


def _listen(
    child: subprocess.Popen[bytes], deadline: float, cancelled: Callable[[], bool]
) -> tuple[bool, bytes, bytes]:
    """Whether it came to its end by itself, and what it said. Who took its end of a pipe can neither keep us here nor
    fill our memory.
    """
    heard = [(stream.fileno() if stream else -1, bytearray()) for stream in (child.stdout, child.stderr)]
    by_fd = {fd: text for fd, text in heard if fd >= 0}
    with selectors.DefaultSelector() as selector:
        for fd in by_fd:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while True:
            was_over = child.poll() is not None
            found = selector.select(0 if was_over else LOOK_S) if selector.get_map() else []
            for key, _ in found:
                if piece := os.read(key.fd, HEARD):
                    by_fd[key.fd].extend(piece)
                else:
                    selector.unregister(key.fd)
            if sum(map(len, by_fd.values())) > HEARD:
                return False, b"", b"it says too much"
            if was_over and not found:
                return True, bytes(heard[0][1]), bytes(heard[1][1])
            if cancelled() or time.monotonic() > deadline:  # it can only be asked, not waited for
                return False, b"", b""
            if not selector.get_map():
                with suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_S)


def _needs_unit() -> bool:
    return os.geteuid() == 0 and not _may_change_user()


def _may_change_user() -> bool:
    """Whether this process may shut itself in and become another user."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SETUID & 1)
    return False
