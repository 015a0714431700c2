"""SQLite's own backup of a foreign database, made by a program that has no more rights than the database's owner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from slotd.host import files
from slotd.host.sandbox import quote

BACKUP_S = 3600.0
CAP_SETUID = 7
_SHUT = (
    f"RuntimeMaxSec={BACKUP_S:.0f}",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateNetwork=yes",
    "PrivateDevices=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service",
    "Nice=5",
)
LOOK_S = 0.5
SAID = 300


def backup(source: Path, target: Path, *, uid: int, gid: int, most: int, cancelled: Callable[[], bool]) -> str:
    """Copy the database `source`, which may be in use, to `target` (made anew) as user `uid`; it gets no
    larger than `most` bytes.

    Gives why it could not, in words, or "" when it did. `cancelled` ends it early. Raises OSError for `target`.
    """
    target.unlink(missing_ok=True)
    made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    program = Path(__file__).with_name("sqlite_copy.py")
    line = [sys.executable, "-I", str(program), str(source)]
    deadline = time.monotonic() + BACKUP_S
    unit = ""
    if os.geteuid() != 0 or uid == 0 or _may_change_user():
        argv, output = [*line, str(target), str(uid), str(gid), str(most)], None
    else:
        # The daemon itself cannot become another user: systemd starts the program as that user, the target its output.
        unit = f"slotd-worker-sqlite-{os.getpid()}-{uuid.uuid4().hex[:12]}.service"
        properties = [f"User={uid}", f"Group={gid}", f"ReadWritePaths={quote(f'-{source.parent}')}", *_SHUT]
        argv = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={unit}"]
        argv += [*(f"--property={each}" for each in properties), "--", *line, "-", str(uid), str(gid), str(most)]
        output = made
    try:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, cwd="/") as child:
            while True:
                try:
                    _, said = child.communicate(timeout=LOOK_S)  # `cancelled` can only be asked, not waited for
                    break
                except subprocess.TimeoutExpired:
                    if cancelled() or time.monotonic() > deadline:
                        if unit:
                            subprocess.run(
                                ["systemctl", "--quiet", "stop", unit], stdin=subprocess.DEVNULL, check=False
                            )
                        child.kill()
    finally:
        os.close(made)
    if child.returncode == 0:
        return ""
    text = files.shown(said.decode("utf-8", "replace").strip().rpartition("\n")[2])[:SAID]
    return f"SQLite says {text!r}" if text else f"SQLite's copy ended with status {child.returncode}"


def _may_change_user() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SETUID & 1)
    return False
