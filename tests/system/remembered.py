"""What slotd remembers of a machine, read from its store with the daemon's back turned, beside what lies on its disk.

Two suites ask it: the callers in random order and the crash matrix.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.system.container import Container

# Names of what is only there while something is made; of a daemon that has settled there is none.
LEFTOVERS = (
    "-name unfinished -o -name '*.unfinished' -o -name '.current*' -o -name 'current?*' -o -name '*.part' "
    "-o -name '*.new' -o -name '*.tmp' -o -name '.slotd-*' -o -path '*/reserve/*'"
)
# A line for each copy of an app's data that lies there: its path, and 0 if it is sealed.
COPIES = """\
for c in /var/lib/slotd/backups/{name}/* /var/lib/slotd/quarantine/{name}/*; do
    test -d "$c" || continue; test -e "$c/header.json"; echo "$c" $?
done
"""
# A program for the machine's own Python, which prints JSON.
READ = """
import json, sqlite3
db = sqlite3.connect("/var/lib/slotd/state.db")
ended = "('done', 'failed', 'cancelled')"
installed, told, copies, ends, steps = {}, {}, {}, {}, {}
for app, kind, result, version, previous in db.execute(
    f"SELECT app, kind, result, version, previous_version FROM jobs WHERE state IN {ended} ORDER BY finished_at"
):
    if result == "updated":
        installed[app] = version
    elif result == "rolled-back":
        installed[app] = version if kind == "rollback" else previous
for app, message in db.execute("SELECT app, message FROM events WHERE kind IN ('updated', 'rolled-back') ORDER BY id"):
    told[app] = message.partition(":")[0].rpartition("to ")[2]
for app, path, sealed in db.execute("SELECT app, path, sealed FROM backups ORDER BY path"):
    copies.setdefault(app, []).append(path if sealed else f"{path}, not sealed")
for job, kind in db.execute("SELECT job, kind FROM events WHERE kind IN "
                            "('updated', 'rolled-back', 'update-failed', 'cancelled', 'rollback-failed') ORDER BY id"):
    ends.setdefault(job, []).append(kind)
for job, step, began in db.execute("SELECT job, step, began_at FROM steps ORDER BY began_at, rowid"):
    steps.setdefault(job, []).append([step, began])
print(json.dumps({
    "unfinished": db.execute(f"SELECT id, step FROM jobs WHERE state NOT IN {ended}").fetchall(),
    "trials": db.execute("SELECT app FROM trials").fetchall(),
    "slots": {f"{app}/{name}": [version, state] for app, name, version, state in db.execute(
        "SELECT app, name, version, state FROM slots")},
    "installed": installed,
    "told": told,
    "copies": copies,
    "jobs": dict(db.execute("SELECT id, result FROM jobs")),
    "ends": ends,
    "rebuilt": bool(db.execute("SELECT 1 FROM events WHERE message LIKE 'the state was lost%'").fetchall()),
    "steps": steps,
    "most": db.execute("SELECT max(resumed) FROM jobs").fetchone()[0],
    "interrupted": db.execute(
        "SELECT step, count(*) FROM events WHERE kind = 'job-resumed' GROUP BY 1 ORDER BY 2 DESC").fetchall(),
    "results": db.execute("SELECT kind, result, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 3 DESC").fetchall(),
}))
"""


def read(machine: Container) -> dict[str, Any]:
    """All that the store says, as `READ` gives it."""
    found: dict[str, Any] = json.loads(machine.run(["python3", "-c", READ]).stdout)
    return found


def copies_on_disk(machine: Container, name: str) -> str:
    """What `COPIES` prints of one app."""
    return machine.run(COPIES.format(name=name)).stdout


def check_app(name: str, version: str, link: str, record: str, copies: str, known: dict[str, Any]) -> None:
    """The slot that is active, its own `record`, the store, the history and the copies on disk: all say the same.

    `link`: where `current` leads to; `record`: that slot's slot.json; `copies`: what `COPIES` prints.
    """
    assert json.loads(record)["version"] == version, f"the record of slot {link} says {record}, {version} answers"
    slot = known["slots"].get(f"{name}/{link}")
    assert slot == [version, "good"], f"the store says of slot {link}: {slot}"
    assert known["unfinished"] == [], f"jobs without an end: {known['unfinished']}"
    assert known["trials"] == [], f"trials without an end: {known['trials']}"
    lying = [line.rpartition(" ")[::2] for line in copies.splitlines()]
    assert not [path for path, status in lying if status != "0"], f"copies that are not sealed:\n{copies}"
    on_disk, stored = sorted(path for path, _ in lying), known["copies"].get(name, [])
    assert stored == on_disk, f"the store knows the copies {stored}, on disk are {on_disk}"


def check_history(name: str, version: str, known: dict[str, Any]) -> None:
    """The last that the history tells of what is installed is what is installed."""
    if known["rebuilt"] and name not in known["told"]:
        return  # what was told before is lost with the state
    told = known["told"].get(name, "nothing")
    assert re.search(rf"\b{re.escape(version)}\b", told), f"{version} runs, the history says: {told}"
