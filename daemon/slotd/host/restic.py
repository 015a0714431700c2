"""The door to the program `restic`: deduplicated, encrypted copies in a repository.

The password reaches restic through its standard input: it is in no argument, no environment and no file that restic
is told of.
Where systemd and root are at hand, what reads the data of an app is a unit that sees those data and the repository and
nothing else: a link that the app puts into its data in that moment leads nowhere. systemd follows one that is put into
the place of the data themselves; so the unit first looks whether what it was given is what the caller holds open. From
then on the app cannot exchange it: it is a mount of the unit's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from slotd.errors import Cancelled, Failed, SlotdError
from slotd.host import files
from slotd.host.restic_why import Ended, failure, ssh_says
from slotd.host.sandbox import quote

LOOK_S: Final = 0.5
_STOP_S: Final = 10.0  # for a restic to end that was asked to
_LINGER_S: Final = 5.0  # for its outputs to end once it has
LONGEST_S: Final = 24 * 3600.0
UNREADABLE: Final = 3  # restic's status when it made a snapshot but could not read some of the files
# One that has just been killed is still there until somebody has asked for its status: a busy host takes its time.
_UNLOCK_AFTER_S: Final = (0.0, 0.5, 2.0)
# Apps may share a repository, and one of them tidies up: that is waited for while the app runs, and much less once not.
PATIENT_S: Final = (*_UNLOCK_AFTER_S, *[5.0] * 60)
HURRIED_S: Final = (*_UNLOCK_AFTER_S, *[5.0] * 3)
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_PYTHON: Final = "/usr/bin/python3"
_SYSTEM: Final = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/passwd", "/etc/group")
EXCHANGED: Final = 77  # the status of the look below
# Begins the unit: the paths, devices and inodes that it should see, then the program to become.
_LOOK: Final = f"""
import json, os, sys
for path, *wanted in json.loads(sys.argv[1]):
    try:
        fd = os.open("/", os.O_PATH)
        for name in path.split("/")[1:]:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
        seen = os.fstat(fd)
    except OSError:
        seen = None
    if seen is None or [seen.st_dev, seen.st_ino] != wanted:
        print(path, file=sys.stderr)
        sys.exit({EXCHANGED})
os.execv(sys.argv[2], sys.argv[2:])
"""
_SHUT: Final = (
    "TemporaryFileSystem=/:ro",
    "PrivateDevices=yes",
    "PrivateNetwork=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE",
    "RestrictNamespaces=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
    "KillSignal=SIGINT",
    "Nice=5",
)


@dataclass(frozen=True, slots=True)
class Shown:
    """Data that restic reads: their real path, and the entry there (device, inode), held open by the caller."""

    path: Path
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Restic:
    """One repository. `home` is a directory of our own for what restic must put aside; `secret` its password.

    `environment`: more variables for a repository at a service; `cache`: keep restic's own cache in `home`.
    `path`: where restic, and what it starts itself, like ssh, is found.
    """

    repository: str
    secret: bytes = field(repr=False)
    home: Path = Path("/var/tmp")
    cache: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = _PATH

    def run(
        self,
        *arguments: str,
        shown: Sequence[Shown] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        good: Sequence[int] = (0,),
        unlock_after: Sequence[float] = _UNLOCK_AFTER_S,
        into: Path | None = None,
    ) -> Ended:
        """Run one command. `shown`: the data that it reads, when it reads any; `good`: what status is no failure;
        `into`: a file for what may be too much to hold.

        Where a lock is in the way, those of the dead are removed first; `unlock_after` so many seconds, time and again.
        Raises `Failed` with restic's own word, `NoSpace`, `Cancelled`.
        """
        program = shutil.which("restic", path=self.path)
        if program is None:
            raise Failed("cannot use a restic repository: restic is not installed.", hint="`apt install restic`.")
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.home / "tmp"
        temporary.mkdir(mode=0o700, exist_ok=True)
        line = [program, "--repo", self.repository]
        line += ["--cache-dir", str(self.home / "cache")] if self.cache else ["--no-cache"]
        line += arguments
        own = {"PATH": self.path, "LC_ALL": "C.UTF-8", "TMPDIR": str(temporary), "RESTIC_PROGRESS_FPS": "0.02"}
        unit = ""
        if shown is not None and os.geteuid() == 0 and os.path.isdir("/run/systemd/system"):
            unit = f"slotd-worker-restic-{os.getpid()}-{uuid.uuid4().hex[:12]}.service"
            plain = (each.replace("$", "$$") for each in line)  # systemd would put variables in
            line = [*_as_unit(unit, own, shown, [Path(self.repository), temporary]), *plain]
        try:
            ended = self._wait(line, own, unit, cancelled, into)
        except Cancelled:
            # One that is interrupted while it makes its lock leaves it there.
            with suppress(SlotdError):
                self.run("unlock")
            raise
        if unit and ended.status == EXCHANGED:
            raise Failed(
                f"cannot back up {files.shown(ended.said.strip())}: it was exchanged for something else while it was"
                " being opened, and nothing of that was read.",
                hint="Somebody may want root to read what is not the app's: see who may write to its directory.",
            )
        if ended.status not in good:
            if unlock_after and ended.is_locked and arguments[0] != "unlock":
                time.sleep(unlock_after[0])
                if cancelled():
                    raise Cancelled(f"the copy to {files.shown(self.repository)} was cancelled.")
                self.run("unlock")  # of processes of this host that have died; what others hold stays
                left = unlock_after[1:]
                return self.run(*arguments, shown=shown, cancelled=cancelled, good=good, unlock_after=left, into=into)
            raise failure(self.repository, arguments[0], ended, self._ssh_says)
        return ended

    def _wait(
        self,
        line: Sequence[str],
        own: Mapping[str, str],
        unit: str,
        cancelled: Callable[[], bool],
        into: Path | None,
    ) -> Ended:
        deadline = time.monotonic() + LONGEST_S
        sent: bytes | None = self.secret + b"\n"
        out = b""
        with ExitStack() as stack:
            said_to = stack.enter_context(open(into, "wb")) if into else subprocess.PIPE
            child = stack.enter_context(
                subprocess.Popen(
                    line,
                    stdin=subprocess.PIPE,
                    stdout=said_to,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env={**os.environ, "PATH": _PATH} if unit else {**own, **self.environment},
                )
            )
            over = asked = 0.0  # since when
            while True:
                try:
                    out, said = child.communicate(sent, timeout=LOOK_S)  # `cancelled` can only be asked
                    break
                except subprocess.TimeoutExpired as slow:
                    sent, now = None, time.monotonic()
                    if child.poll() is not None:
                        over = over or now
                        if now - over > _LINGER_S:  # whoever else holds its outputs is not waited for
                            out, said = slow.output or b"", slow.stderr or b""
                            break
                    elif asked and now - asked > _STOP_S:
                        child.kill()
                    elif not asked and (cancelled() or now > deadline):
                        asked = now
                        self._end(child, unit)
        if cancelled() and child.returncode:
            raise Cancelled(f"the copy to {files.shown(self.repository)} was cancelled.")
        return Ended(child.returncode, (out or b"").decode("utf-8", "replace"), said.decode("utf-8", "replace"))

    def _ssh_says(self) -> str:
        return ssh_says(self.repository, self.path)

    def _end(self, child: subprocess.Popen[bytes], unit: str) -> None:
        if unit:
            with suppress(subprocess.TimeoutExpired):
                stop = ["systemctl", "--quiet", "stop", unit]
                subprocess.run(stop, stdin=subprocess.DEVNULL, check=False, timeout=_STOP_S)
        child.send_signal(signal.SIGINT)  # at which it takes its lock away; SIGTERM just ends it


def _as_unit(unit: str, environment: Mapping[str, str], shown: Sequence[Shown], written: Sequence[Path]) -> list[str]:
    # What lies in another is seen with it: mounted by itself, it would be put where a link in that other one says.
    read = [each.path for each in shown if not any(other.path in each.path.parents for other in shown)]
    properties = [*_SHUT, f"RuntimeMaxSec={LONGEST_S:.0f}"]
    properties += [f"BindReadOnlyPaths=-{_quoted(path)}" for path in (*map(Path, _SYSTEM), *read)]
    properties += [f"BindPaths={_quoted(path)}" for path in written]
    line = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={unit}"]
    line += [f"--property={each}" for each in properties]
    line += [f"--setenv={key}={value}" for key, value in environment.items()]
    wanted = json.dumps([(str(each.path), each.device, each.inode) for each in shown])
    look = (_PYTHON, "-I", "-S", "-c", _LOOK, wanted)
    return [*line, "--", *(each.replace("$", "$$") for each in look)]


def _quoted(path: Path) -> str:
    """A path as systemd reads it in a list of mounts: a colon would begin its target."""
    return quote(str(path)).replace(":", "\\:").replace("%", "%%")
