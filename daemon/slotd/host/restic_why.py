"""How a run of restic ended, and what a person can do about one that failed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from slotd.errors import Failed, NoSpace, SlotdError
from slotd.host import files

SAID: Final = 300
SSH_S: Final = 60.0
_SSH_NOISE: Final = ("@@@", "Warning: Permanently added", "** WARNING: connection is not using")
_KEYS_REFUSED: Final = (
    "request signature we calculated",
    "Access Key Id you provided",
    "Access Denied",
    "AccessDenied",
)
_SFTP: Final = re.compile(r"sftp:(?://(?:([^@/]+)@)?([^:/]+)(?::(\d+))?/|(?:([^@:]+)@)?([^:]+):)")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its status and the ends of what it said. `out` is standard output."""

    status: int
    out: str
    said: str

    @property
    def why(self) -> str:
        """The first line that says what was wrong."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith(("Fatal:", "unable to"))), lines[-1] if lines else "")
        return files.shown(told.removeprefix("Fatal: "))[:SAID] or f"it ended with status {self.status}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A list in JSON: the last line. Before it may be how the password came, and that a cache was made."""
        return json.loads((self.out.splitlines() or ["[]"])[-1]) or []

    @property
    def is_locked(self) -> bool:
        return "already locked" in self.said


def ssh_says(repository: str, path: str) -> str:
    """What ssh says of the way to an `sftp:` repository; restic does not always pass it on. Empty: nothing is wrong."""
    found = _SFTP.match(repository)
    if found is None:
        return ""
    user, host, port = found[1] or found[4], found[2] or found[5], found[3]
    line = ["ssh", "-o", "BatchMode=yes", *(["-p", port] if port else []), *(["-l", user] if user else [])]
    environment = {"PATH": path, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [*line, "-s", "--", host, "sftp"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SSH_S,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        return "ssh is not installed"
    except subprocess.TimeoutExpired:
        return f"it did not answer within {SSH_S:.0f} s"
    text = done.stderr.decode("utf-8", "replace") if done.returncode else ""
    return "\n".join(line for line in text.splitlines() if line.strip() and not line.startswith(_SSH_NOISE))


def failure(repository: str, verb: str, ended: Ended, ssh: Callable[[], str]) -> SlotdError:
    """The error for a run that failed. `ssh` tells what ssh says, and is only asked where that matters."""
    where, why = files.shown(repository), ended.why
    if "unable to start the sftp session" in ended.said:
        return _no_way(where, ssh() or why)
    if "SSH_FX_FAILURE" in ended.said:  # the protocol has no word for a full disk
        return Failed(
            f"cannot {verb} in the restic repository {where}: its host could not write, and SFTP does not tell why.",
            hint="Mostly the disk or the quota there is full: see `df`. It is tried again.",
        )
    if "no space left" in ended.said:
        return NoSpace(f"cannot {verb} in the restic repository {where}: its disk is full.", hint="Make room there.")
    if "wrong password" in ended.said:
        return Failed(
            f"cannot open the restic repository {where}: the password is not the one that it was made with.",
            hint="Mend the credential, and check it with `restic --repo … snapshots`.",
        )
    if ended.is_locked:
        return Failed(
            f"cannot {verb} in the restic repository {where}: another process has locked it: {why}",
            hint="Wait until that is done; `restic unlock` removes the lock of one that has died on another host.",
        )
    if any(word in ended.said for word in _KEYS_REFUSED):
        return Failed(
            f"cannot open the restic repository {where}: its service does not take the keys that it was shown: {why}",
            hint="Mend what the credential of push_environment says, like AWS_SECRET_ACCESS_KEY.",
        )
    if "dial tcp" in ended.said:
        return Failed(
            f"cannot reach the restic repository {where}: {why}",
            hint="Is its host up, and the network? Try again then.",
        )
    if "Is there a repository at" in ended.said or "config file does not exist" in ended.said:
        here = "Mount the disk that it is on, or mend `repository` under [backup]."
        there = "Make it with `restic init`, or mend `push` under [backup]."
        return Failed(
            f"cannot open the restic repository {where}: it is not there: {why}",
            hint=here if repository.startswith("/") else there,
        )
    return Failed(f"cannot {verb} in the restic repository {where}: {why}", hint="See what `restic check` says of it.")


def _no_way(where: str, said: str) -> Failed:
    """Why ssh did not get there, by what it says in the locale C."""
    cannot = f"cannot open the restic repository {where}:"
    if "IDENTIFICATION HAS CHANGED" in said:
        return Failed(
            f"{cannot} its host shows another key than the one that is known. Nothing was sent.",
            hint="Ask who runs it whether that is right; then `ssh-keygen -R HOST`, and `ssh HOST` once as root.",
        )
    if "Host key verification failed" in said or "authenticity of host" in said:
        return Failed(
            f"{cannot} its host is not known here yet.",
            hint="Log in there once as root with `ssh`, and compare the fingerprint that it shows.",
        )
    if "Permission denied" in said:
        return Failed(
            f"{cannot} its host does not let root's key in: {_last(said)}",
            hint="Put /root/.ssh/id_ed25519.pub (it must have no passphrase) into authorized_keys there.",
        )
    return Failed(f"{cannot} {_last(said)}", hint="Try the way there as root with `ssh`.")


def _last(said: str) -> str:
    return files.shown((said.strip().splitlines() or [""])[-1])[:SAID]
