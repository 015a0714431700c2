"""Callers that know nothing of each other, inside the machine: `stress.py SEED ROUNDS APP:PORT…`, a line a call.

What is called is drawn from the seed; how the calls of the four callers meet is not.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

CALLERS = 4
CALL_S = 300.0  # slotctl itself gives up sooner; who is still there then hangs
# What every so many-th version does.
BEHAVIOURS = {2: "crash-at-start", 4: "damage-data", 9: "red-after 1", 11: "crash-after 1"}
EVERY = 12
# How often each kind of call is drawn, of 43.
WEIGHTS = {
    "update": 14,
    "rollback": 4,
    "cancel": 2,
    "backup": 3,
    "write": 6,
    "hold": 1,
    "unhold": 6,
    "reload": 2,
    "kill": 5,
}
# The steps in which the daemon is killed: of late ones many are over in a moment.
STEPS = (
    "preserve", "stop", "snapshot", "switch", "start", "trial", "commit", "cleanup",
    "rb-stop", "rb-quarantine", "rb-restore", "rb-switch", "rb-start", "rb-verify",
)  # fmt: skip
PATIENCE_S = 8.0  # for a job to come to such a step; then it is killed wherever it is
WRITES = 6  # of one call
STATE = "/var/lib/slotd/state.db"
ENDED = "('done', 'failed', 'cancelled')"

Call = tuple[str, list[str]]


def behaviour(version: str) -> str:
    """What a release does; a version is that of one update alone, so that data tell which job they are of."""
    major, _, number = version.partition(".")
    return BEHAVIOURS.get(int(number) % EVERY, "well") if major == "2" else "well"


def draw_all(seed: int, rounds: int, apps: list[str]) -> list[Call]:
    """Kinds of calls with their command lines, or what else each kind needs."""
    chance, drawn = random.Random(seed), dict.fromkeys(apps, 0)
    calls = []
    for number in range(rounds):
        app = chance.choice(apps)
        (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        drawn[app] += kind == "update"
        line = {
            "update": ["slotctl", "update", app, "--force", "--version", f"2.{drawn[app]}"],
            "rollback": ["slotctl", "rollback", app, f"--data={chance.choice(('keep', 'restore'))}"],
            "cancel": [app],
            "hold": ["slotctl", "hold", app, "stress"],
            "unhold": ["slotctl", "unhold", app],
            "reload": ["systemctl", "reload", "slotd"],
            "kill": [str(chance.uniform(0, 0.02)), *chance.sample(STEPS, 4)],
            "backup": ["slotctl", "backup", app],
            "write": [app, str(number)],
        }
        calls.append((kind, line[kind]))
    return calls


def act(call: Call, ports: dict[str, str]) -> dict[str, object]:
    kind, line = call
    began = time.monotonic()
    more: dict[str, object] = {}
    try:
        if kind == "write":
            more["app"], more["taken"] = line[0], write(ports[line[0]], line[1])
            said, status = f"{len(more['taken'])} of {WRITES} were taken", "0" if more["taken"] else "2"
        elif kind == "kill":
            more["step"] = kill(line[1:], float(line[0]))
            said, status = f"killed in {more['step']}", "0"
        else:
            if kind == "cancel":
                line = ["slotctl", "cancel", job_of(line[0])]
            done = run(line)
            said, status = done.stdout + done.stderr, str(done.returncode)
    except subprocess.TimeoutExpired as late:
        said, status = f"{(late.stdout or b'')!r}{(late.stderr or b'')!r}", "hung"
    took_s = round(time.monotonic() - began, 1)
    return {"kind": kind, "line": " ".join(line), "status": status, "said": said[-2000:], "took_s": took_s, **more}


def write(port: str, name: str) -> list[tuple[str, float]]:
    """Records that the app has taken, and when it had."""
    taken = []
    for number in range(WRITES):
        text = f"written {name}-{number}"
        with suppress(OSError, http.client.HTTPException):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=text.encode(), method="POST")
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 201:
                    taken.append((text, time.time()))
        time.sleep(0.15)
    return taken


def kill(wanted: list[str], pause_s: float) -> str:
    """SIGKILL for the daemon as soon as a job is in one of the steps, or when none comes to one; those of the jobs that
    ran then.
    """
    deadline = time.monotonic() + PATIENCE_S
    query = f"SELECT step FROM jobs WHERE state NOT IN {ENDED} AND kind != 'check'"
    db = sqlite3.connect(f"file:{STATE}?mode=ro", uri=True, timeout=1)
    while time.monotonic() < deadline:
        daemon = main_pid()
        while time.monotonic() < deadline and os.path.exists(f"/proc/{daemon}"):
            if set(wanted) & set(steps(db, query)):
                time.sleep(pause_s)
                try:
                    os.kill(daemon, signal.SIGKILL)
                except ProcessLookupError:  # another caller's kill was first
                    break
                return ", ".join(steps(db, query))
            time.sleep(0.001)
    run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "slotd"])
    return ", ".join(steps(db, query))


def main_pid() -> int:
    while True:
        pid = int(run(["systemctl", "show", "--property=MainPID", "--value", "slotd"]).stdout or 0)
        if pid:
            return pid
        run(["systemctl", "start", "slotd"])


def steps(db: sqlite3.Connection, query: str) -> list[str]:
    try:
        return [row[0] or "none" for row in db.execute(query)]
    except sqlite3.OperationalError:  # locked for the moment in which a killed one's log is read
        return []


def job_of(app: str) -> str:
    """The number of the job that runs on an app; that of one long over if none does, or if it cannot be known now."""
    shown = run(["slotctl", "--json", "jobs"])
    jobs = json.loads(shown.stdout) if shown.returncode == 0 else []
    return next((str(job["id"]) for job in jobs if job["app"] == app), "1")


def run(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=CALL_S)


def main() -> None:
    seed, rounds, *named = sys.argv[1:]
    ports = dict(each.split(":") for each in named)
    calls = draw_all(int(seed), int(rounds), list(ports))
    with ThreadPoolExecutor(CALLERS) as callers:
        for ended in callers.map(lambda call: act(call, ports), calls):
            print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
