"""What an app is in the middle of, in a file beside the database: were that lost, its app must not be started on half
of its data, nor a trial be forgotten. A file an app, JSON behind its own digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from slotd.core.plain import from_plain, to_plain
from slotd.errors import SlotdError
from slotd.host import files
from slotd.model import Job, JobKind, Trial

_log = logging.getLogger(__name__)

MOST_BYTES = 16 << 20
DIRECTORY = "underway"  # beside the database
SUFFIX = ".json"
_HARMLESS = (JobKind.CHECK, JobKind.VERIFY)


def write_down(
    directory: Path, app: str, jobs_of: Callable[[str], list[Job]], trial_of: Callable[[str], Trial | None]
) -> None:
    """Keep the newest of the app's unfinished jobs, with its trial; or that there is none. On disk when this returns.

    Never raises: the database has it all.
    """
    try:
        mutating = [job for job in jobs_of(app) if job.kind not in _HARMLESS]
        if not mutating:
            (directory / f"{app}{SUFFIX}").unlink(missing_ok=True)
            return
        directory.mkdir(mode=0o700, exist_ok=True)
        said = {"job": to_plain(mutating[-1]), "trial": to_plain(trial_of(app))}
        text = json.dumps(said, sort_keys=True).encode()
        files.write_atomic(directory / f"{app}{SUFFIX}", _digest(text) + b"\n" + text, 0o600)
    except Exception as error:
        _log.warning("%s: what is under way could not be written beside the database: %s", app, error)


def read(directory: Path) -> Iterator[tuple[str, Job | None, Trial | None]]:
    """Every app that something is under way with; no job where what says so is damaged, or cannot be read twice."""
    for path in sorted(directory.glob(f"[!.]*{SUFFIX}")):
        app = path.name.removesuffix(SUFFIX)
        job, trial = _read(path) or _read(path) or (None, None)
        yield app, job if job and job.app == app else None, trial


def _read(path: Path) -> tuple[Job, Trial | None] | None:
    with suppress(OSError, ValueError, TypeError, KeyError, SlotdError):
        digest, _, text = files.read_bounded(path, MOST_BYTES).partition(b"\n")
        said: dict[str, Any] = json.loads(text) if _digest(text) == digest else {}
        return from_plain(Job, said["job"]), from_plain(Trial, said["trial"]) if said["trial"] else None
    return None


def sweep(directory: Path, busy: set[str]) -> None:
    """Remove what a killed writer left, and what is no longer true. Only before anything is begun."""
    for path in directory.glob("*"):
        if path.name.startswith(".") or path.name.removesuffix(SUFFIX) not in busy:
            with suppress(OSError):
                path.unlink()


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()
