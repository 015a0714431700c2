"""Looks at one prefix of a disk, mounted at /var/lib, runs `slotd boot` on it, and looks again. Prints JSON.

`active`: the version that the link leads to before; `why`: what does not hold, or nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from slotd.store import Store

STATE = Path("/var/lib/slotd")
APP = STATE / "apps" / "notes"
DATA = Path("/var/lib/notes/data")
OLD, NEW = "1.0", "2.0"


def active() -> str:
    slot = os.readlink(APP / "current")
    return (APP / slot / "VERSION").read_text()


def ran(folder: Path) -> set[str]:
    """The versions that have written into these data."""
    return {path.name for path in (folder / "ran").iterdir()} if (folder / "ran").is_dir() else set()


def set_aside() -> set[str]:
    found: set[str] = set()
    for copy in (STATE / "quarantine" / "notes").glob("*/data/*"):
        found |= ran(copy)
    return found


def sealed_backups() -> int:
    return sum((copy / "header.json").exists() for copy in (STATE / "backups" / "notes").iterdir())


def judge(stretch: str) -> str:
    before = active()
    store = Store(STATE / "state.db")
    trial = store.trial("notes")
    store.close()
    if before == NEW and stretch == "switch" and (trial is None or trial.version != NEW):
        return "the link is the new one, and no trial watches it"
    if not sealed_backups():
        return "there is no sealed backup"
    if stretch == "rollback" and NEW not in ran(DATA) | set_aside():
        return "what the new version wrote is nowhere"
    done = subprocess.run([sys.executable, "-m", "slotd", "boot"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"`slotd boot` ended with {done.returncode}: {done.stderr}"
    after, wrote = active(), ran(DATA)
    if stretch == "rollback" and (after != OLD or NEW in wrote or NEW not in set_aside()):
        return f"after `slotd boot` {after} is active, on data of {wrote}, with {set_aside()} set aside"
    if OLD not in wrote:
        return f"the data of the old version are gone: {wrote}"
    return ""


if __name__ == "__main__":
    print(json.dumps({"active": active(), "why": judge(sys.argv[1])}))
