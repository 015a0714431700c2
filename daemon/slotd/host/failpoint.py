"""Places where a test may break the program on purpose; nothing at all in production. docs/failpoints.md says how.

`$SLOTD_FAILPOINTS` is `name=action[,name=action…]`, read once at import; `points` names them all. `name=kill*3` acts
at the third hit in a process only, `name=kill*3+5` at the third and the four after it. With `$SLOTD_FAILPOINTS_DIR` a
file there is made for each time one fires, and so many times are counted across restarts; a `hang` or a
`stall` ends when its file holds a word: whoever waits for the file does what it has to do meanwhile, and lets go.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from slotd.core import machine
from slotd.host.offloop import off_loop

ACTIONS: Final = ("kill", "eio", "enospc", "hang", "stall", "cut")
SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, linux/fs.h
NO_FLUSH: Final = 2  # what the journal has not written yet is lost, as with the power
LOOK_S: Final = 0.01  # how often one that hangs looks whether it may go on

WORKERS: Final = ("list", "lists", "fetch", "small", "collect", "judge", "verify", "unpack", "copy")
UNDONE: Final = ("stage", "preserve", "stop", "switch", "backup")

# Inside of steps: after which effect each one comes. What comes next has not happened.
INNER: Final[Mapping[str, str]] = {
    "resolve:kept": "one more of the TUF metadata that were accepted is on disk",
    "resolve:chosen": "the release is in the job's row",
    "delay:told": "the waiting was told",
    "fetch:cache": "the cache is private, and pruned",
    "fetch:opened": "the partial file is there",
    "fetch:downloaded": "the worker has ended",
    "fetch:measured": "the partial file is whole, and on disk",
    "fetch:renamed": "it has its digest as its name; the directory is not on disk yet",
    "fetch:known": "all files are in the cache; the job's row does not say so yet",
    "verify:rejected": "what is not accepted is out of the cache; it is not blocked yet",
    "verify:accepted": "all checks have passed; the job's row does not say so yet",
    "stage:recorded": "the store calls the slot half-built",
    "stage:emptied": "the slot is empty",
    "stage:unpacked": "the archive is unpacked, still in the worker's hands",
    "stage:settled": "the tree is root's",
    "stage:prepared": "the prepare commands have ended well",
    "stage:manifest": "the slot's manifest is written, and the tree is on disk",
    "stage:record": "the slot's own record is written",
    "stage:finished": "all of it is on disk; the store does not call the slot whole yet",
    "stage:forgotten": "undo: the store calls the slot empty; its tree is there",
    "compare:blocked": "nothing differs, and the job's row says so; the slot is not emptied yet",
    "preserve:remembered": "the job's row names the backup",
    "preserve:recorded": "the backup has a row",
    "preserve:cleared": "what a crash left of it is gone",
    "preserve:copied": "the hot copy is made",
    "preserve:dropped": "undo: the copy is gone; its row is there",
    "stop:remembered": "the job's row names who else is stopped",
    "stop:dated": "the job's row says that the app is stopped; it is not yet",
    "stop:stopped": "the app is down; it is not told yet",
    "snapshot:copied": "the cold copy is made",
    "snapshot:hooked": "the commands after the backup have ended well",
    "snapshot:sealed": "the backup is sealed; its row does not say so",
    "snapshot:saved": "its row says so",
    "switch:trial": "the trial is open; the link is the old one",
    "switch:synced": "the new slot is on disk; the link is the old one",
    "switch:made": "the new link lies beside the old one",
    "switch:renamed": "the link is the new one; its directory is not on disk yet",
    "switch:link": "the link is the new one, on disk",
    "switch:stopped": "whatever was started meanwhile is down again",
    "migrate:stopped": "the app is down",
    "migrate:ran": "one migration has ended well",
    "start:counted": "an attempt is used up; the app is not started yet",
    "start:started": "the app is up; the job's row does not say so yet",
    "start:remembered": "the job's row says so; it is not told yet",
    "trial:looked": "the units were looked at; what was down is started again, or left to who stopped it",
    "trial:counted": "an attempt is used up by a restart",
    "trial:judged": "a person's word is in the job's row",
    "trial:saved": "the time that is left is saved",
    "trial:passed": "the time is over, and all is green",
    "commit:closing": "in the transaction that closes the trial, before its end",
    "commit:closed": "the trial is closed; it is not told yet",
    "cleanup:removed": "an expired copy is gone; its row is there",
    "cleanup:copies": "expired copies are gone; the cache is as it was",
    "cleanup:cache": "the cache is pruned; the history is as it was",
    "rb-begin:remembered": "the job's row says why, and names the quarantine",
    "adopt:copied": "the copy is in the slot, without a record",
    "adopt:switched": "the slot is whole, and `current` points at it; the units do not use it yet",
    "adopt:written": "the drop-ins are there, and loaded; the app was not restarted",
    "adopt:healthy": "the app runs from the slot; the store does not know",
    "release:exchanged": "the present version lies in the app's own directory",
    "release:removed": "the drop-ins are gone; systemd does not know yet",
    "release:healthy": "the app runs from its own directory; the slots are as they were",
    "release:unlinked": "`current` is gone; the slots are full",
    "rb-stop:remembered": "the job's row names who else is stopped",
    "rb-quarantine:recorded": "the quarantine has a row",
    "rb-quarantine:aside": "the data are set aside; the row does not say so yet",
    "rb-restore:restored": "the data are back; it is not told yet",
    "rb-switch:link": "the link is the old one, on disk",
    "rb-start:dumped": "what a boot left in the database is dumped over the old dump, and the job's row says so",
    "rb-start:brought": "the old files, with the old dump, have come back once more",
    "rb-start:loaded": "the old dump is loaded; the app is not started yet",
    "rb-end:closing": "in the transaction that closes the trial and blocks the version, before its end",
    "rb-end:closed": "the trial is closed, the version blocked",
    "rb-end:emptied": "where nothing was before, nothing is",
    "give-up:remembered": "the job's row says that it gives up; nothing is undone yet",
    "give-up:undone": "all is undone; it is not told yet",
    "hold:begin": "the app is about to be held",
    "hold:held": "the app is held; it is not told yet",
    "finish:begin": "the job's end is not in its row yet",
    "finish:end": "the job's end is in its row; nobody is told yet",
    "backup:copied": "the hot copy of a backup by hand is made",
    "backup:dated": "the job's row says that the app is stopped; it is not yet",
    "backup:stopped": "the app is down for a backup by hand",
    "backup:started": "the app runs again",
    "import:scratch": "the place for a bundle is there, and empty",
    "import:copied": "the bundle is copied and its digest is in the job's row",
    "import:signed": "its signer may sign bundles for its apps",
    "import:taken-out": "its files are what its manifest says, and lie beside it",
    "import:proven": "its releases are what their publishers signed; nothing of them is offered yet",
    "import:linked": "one more file of a release is in its app's cache",
    "import:recorded": "a release is in its app's cache; it is not offered yet",
    "resume:begin": "a job that was interrupted is taken up",
    "resume:counted": "its row says how often that was",
    "boot:begin": "`slotd boot` has found a job that is not finished",
    "boot:counted": "this boot is counted; it is not told yet",
    "boot:back": "the way back is begun; nothing is moved yet",
    "boot:data": "data and link are the old ones; the job's row does not say so yet",
    "boot:end": "the job is as the daemon will find it",
    "recover:begin": "`slotd recover` has found a job that is not finished",
    "recover:end": "it is settled",
    "rebuild:aside": "a damaged store is set aside; there is no new one yet",
    "rebuild:slot": "a slot is in the store again, from its own record",
    "rebuild:backup": "a copy is in the store again, from its own header",
    "data.pass.index": "data: a hot or cold pass has seen all; about to write what it saw",
    "data.pass.entry": "data: one more entry is about to be copied",
    "data.pass.copied": "data: one more file is copied",
    "data.pass.synced": "data: a pass has written its lists; about to mark it as come to its end",
    "data.snapshot.tried": "data: that a snapshot can be made was tried, with the app running; it is not removed yet",
    "data.snapshot.take": "data: about to make the snapshot of a place",
    "data.snapshot.taken": "data: it is made",
    "data.snapshot.opened": "data: a snapshot is writable, for what is no part of the copy to be taken out of it",
    "data.snapshot.walked": "data: about to write down what a snapshot holds",
    "data.copytree.entry": "data: one more entry of a tree is about to be copied",
    "data.seal.manifest": "data: about to seal a copy",
    "data.seal.header": "data: about to write the header that makes the copy whole",
    "data.remove.begun": "data: a copy that is to be removed is no whole one any more",
    "data.quarantine.rename": "data: about to rename one path of the data away",
    "data.quarantine.renamed": "data: it is away",
    "data.quarantine.held": "data: what lies on another file system is held beside its place",
    "data.quarantine.copied": "data: what lies on another file system is copied",
    "data.quarantine.left": "data: what could not be copied from another file system is left beside its place",
    "data.quarantine.seal": "data: about to seal the quarantine",
    "data.restic.looked": "data: restic's places were looked at; what reads them is not started yet",
    "data.restic.hot": "data: the hot snapshot is in the restic repository",
    "data.restic.cold": "data: the cold snapshot is in it",
    "data.restic.seal": "data: about to write down that the snapshot is a backup",
    "data.restic.restored": "data: a snapshot is brought back beside, not yet a copy to restore from",
    "data.restic.pushed": "push: the second copy is there, not yet written down",
    "data.restic.brought": "push: a second copy is back and whole, about to put it into its place",
    "data.restic.back": "data: a snapshot is restored",
    "data.restic.forgotten": "data: the snapshots are forgotten, the backup's directory is still there",
    "data.restore.exchange": "data: about to give back a file that did not change",
    "data.restore.snapshot": "data: what comes back is a writable snapshot of the copy, beside its place",
    "data.restore.built": "data: what comes back is whole, beside its place",
    "data.restore.place": "data: about to put it into its place",
    "data.restore.placed": "data: it is in its place",
    "data.restore.carry": "data: about to carry over what the definition excludes",
    "data.restore.carried": "data: it is carried over",
    "data.putback.unmake": "data: what a restore has built goes, when it could not be finished",
    "data.putback.move": "data: about to move what was set aside back to its place",
    "data.putback.moved": "data: all of it is back",
    "data.restore.finish": "data: about to remove what the restore leaves behind",
}


def points() -> dict[str, str]:
    """Every failpoint there is: name, and what has happened when it is hit."""
    found: dict[str, str] = {}
    for rule in (*machine.UPDATE, *machine.ROLLBACK, *machine.SINGLE):
        own = {name: said for name, said in INNER.items() if name.partition(":")[0] == rule.name}
        found[f"{rule.name}:begin"] = "the intent is on disk; nothing else is done"
        found |= own
        found[f"{rule.name}:end"] = "all is done; the row of the step does not say so yet"
        if rule.name in UNDONE:
            found[f"{rule.name}:undo"] = "about to be undone"
            found[f"{rule.name}:undone"] = "is undone"
    for verb in WORKERS:
        found[f"worker-{verb}:begin"] = "in the worker: its request has come"
        found[f"worker-{verb}:end"] = "in the worker: its work is done; the daemon does not know yet"
    return found | {name: said for name, said in INNER.items() if name not in found}


def table() -> str:
    """The same as a Markdown table, for the manual."""
    rows = ["| failpoint | when |", "|---|---|"]
    return "\n".join(rows + [f"| `{name}` | {said} |" for name, said in points().items()]) + "\n"


@dataclass(frozen=True, slots=True)
class Armed:
    """What is to happen at a failpoint: from hit `at` of a process on, `times` times."""

    action: str
    at: int = 1
    times: int = 1


def parse(text: str) -> dict[str, Armed]:
    """What `$SLOTD_FAILPOINTS` says. Raises ValueError for anything else than `name=action[*N][+M]`."""
    armed: dict[str, Armed] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, rest = item.partition("=")
        rest, plus, times = rest.partition("+")
        action, star, at = rest.partition("*")
        numbers = (not star or at.isdigit()) and (not plus or times.isdigit())
        if not (name and equals and action in ACTIONS and numbers):
            raise ValueError(
                f"failpoint {item!r} is not name=action, name=action*N or name=action*N+M with one of"
                f" {', '.join(ACTIONS)}"
            )
        if action == "cut" and (name.startswith("worker-") or not os.environ.get("SLOTD_FAILPOINTS_CUT")):
            raise ValueError(f"failpoint {item!r} needs SLOTD_FAILPOINTS_CUT, a path, and is not for workers")
        armed[name] = Armed(action, int(at) if star else 1, int(times) if plus else 1)
    return armed


_ARMED: Mapping[str, Armed] = parse(os.environ.get("SLOTD_FAILPOINTS", ""))
_FIRED_DIR = os.environ.get("SLOTD_FAILPOINTS_DIR", "")
_hits: Counter[str] = Counter()
_lock = threading.Lock()


def hit(name: str) -> None:
    """Do what `$SLOTD_FAILPOINTS` asks for at `name`; otherwise nothing. Raises OSError for `eio` and `enospc`."""
    if name not in _ARMED:
        return
    action, mark = _due(name)
    if action in ("hang", "stall"):
        while not (mark and os.stat(mark).st_size):
            time.sleep(LOOK_S)
    elif action:
        _act(name, action)


async def reach(name: str) -> None:
    """`hit` beside the event loop: while a step hangs, the daemon still answers. Only a `stall` is in the loop."""
    if name in _ARMED and _ARMED[name].action == "stall":
        hit(name)
    elif name in _ARMED:
        await off_loop(hit, name)


def hand_out(verb: str) -> dict[str, str]:
    """The environment by which a worker does at its own failpoints what was asked for; counted here, once for each."""
    if not _ARMED:
        return {}
    due = {name: _due(name)[0] for name in (f"worker-{verb}:begin", f"worker-{verb}:end") if name in _ARMED}
    text = ",".join(f"{name}={action}" for name, action in due.items() if action)
    return {"SLOTD_FAILPOINTS": text, "SLOTD_FAILPOINTS_DIR": ""}


def _due(name: str) -> tuple[str, str]:
    """The action, if this is a hit at which it is to happen, and the file that says so."""
    armed = _ARMED[name]
    with _lock:
        _hits[name] += 1
        fired = _hits[name] - armed.at
        if fired < 0 or (fired >= armed.times and not _FIRED_DIR):
            return "", ""
        if not _FIRED_DIR:
            return armed.action, ""
        mark = _mark(name, armed.times)
        return (armed.action, mark) if mark else ("", "")


def _mark(name: str, times: int) -> str:
    """One more file for one more time: `NAME`, `NAME.2`, … Empty if there are as many as there may be."""
    for number in range(1, times + 1):
        path = os.path.join(_FIRED_DIR, name.replace("/", "_") + (f".{number}" if number > 1 else ""))
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue
        return path
    return ""


def _act(name: str, action: str) -> NoReturn:
    if action == "cut":
        _cut(os.environ["SLOTD_FAILPOINTS_CUT"])
    if action in ("kill", "cut"):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)  # it comes at once
    number = errno.EIO if action == "eio" else errno.ENOSPC
    raise OSError(number, os.strerror(number), f"failpoint {name}")


def _cut(path: str) -> None:
    """The power of the file system of `path` goes: nothing that is not on disk ever will be. Needs CAP_SYS_ADMIN."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
