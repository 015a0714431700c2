"""Callers that know nothing of each other, inside the machine: `stress.py SEED ROUNDS APP…`, a line of JSON for a call.

What is called is drawn from the seed; how the calls of the four callers meet is not.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

CALLERS = 4
CALL_S = 300.0  # slotctl itself gives up sooner; who is still there then hangs
VERSIONS = [f"{major}.{minor}" for major in (2, 3) for minor in range(6)]
BEHAVIOURS = {"2.2": "crash-at-start", "2.4": "damage-data", "3.2": "crash-at-start", "3.4": "damage-data"}
# How often each kind of call is drawn, of 34.
WEIGHTS = {
    "update": 12,
    "rollback": 4,
    "cancel": 2,
    "backup": 3,
    "hold": 1,
    "unhold": 8,
    "reload": 2,
    "kill": 2,
}


def draw(chance: random.Random, apps: list[str]) -> tuple[str, list[str]]:
    """A kind of call, and its command line; for `cancel` only the app whose job it is."""
    app = chance.choice(apps)
    (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
    line = {
        "update": ["slotctl", "update", app, "--force", "--version", chance.choice(VERSIONS)],
        "rollback": ["slotctl", "rollback", app, f"--data={chance.choice(('keep', 'restore'))}"],
        "cancel": [app],
        "hold": ["slotctl", "hold", app, "stress"],
        "unhold": ["slotctl", "unhold", app],
        "reload": ["systemctl", "reload", "slotd"],
        "kill": ["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "slotd"],
        "backup": ["slotctl", "backup", app],
    }
    return kind, line[kind]


def act(call: tuple[str, list[str]]) -> dict[str, object]:
    kind, line = call
    began = time.monotonic()
    try:
        if kind == "cancel":
            line = ["slotctl", "cancel", job_of(line[0])]
        done = run(line)
        said, status = done.stdout + done.stderr, str(done.returncode)
    except subprocess.TimeoutExpired as late:
        said, status = f"{(late.stdout or b'')!r}{(late.stderr or b'')!r}", "hung"
    took_s = time.monotonic() - began
    return {"kind": kind, "line": " ".join(line), "status": status, "said": said[-2000:], "took_s": round(took_s, 1)}


def job_of(app: str) -> str:
    """The number of the job that runs on an app; that of one long over if none does, or if it cannot be known now."""
    shown = run(["slotctl", "--json", "jobs"])
    jobs = json.loads(shown.stdout) if shown.returncode == 0 else []
    return next((str(job["id"]) for job in jobs if job["app"] == app), "1")


def run(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=CALL_S)


def main() -> None:
    seed, rounds, *apps = sys.argv[1:]
    chance = random.Random(int(seed))
    calls = [draw(chance, apps) for _ in range(int(rounds))]
    with ThreadPoolExecutor(CALLERS) as callers:
        for ended in callers.map(act, calls):
            print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
