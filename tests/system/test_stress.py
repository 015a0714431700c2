"""Callers in random order against one daemon with five apps, which is killed again and again.

`SLOTD_STRESS_ROUNDS` makes it longer, `SLOTD_STRESS_SEED` (new each time, and printed) draws the same calls again.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system import remembered, stress
from tests.system.container import Container, free_port
from tests.system.notes import DEFINITION, UNIT, Notes, Publisher

APPS = ("one", "two", "three", "four", "five")
ROUNDS = int(os.environ.get("SLOTD_STRESS_ROUNDS") or "80")
SEED = int(os.environ.get("SLOTD_STRESS_SEED") or str(random.randrange(10**9)))
TRIAL = "2s"
PRUNED = "five"  # whose copies do not last: for the others, nothing that was ever written is gone
SHOWN = 50  # after so many calls, how far it is is said
ENDINGS = {"0": "done", "1": "failed", "2": "refused", "3": "nothing to do", "4": "rolled back", "6": "busy"}


@pytest.fixture(scope="module")
def apps(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Notes]]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        found: dict[str, Notes] = {}
        wanted = {line[-1] for kind, line in stress.draw_all(SEED, ROUNDS, list(APPS)) if kind == "update"}
        container.run("useradd --system notes")
        container.write_file("/etc/slotd/keys.d/publisher.gpg", publisher.key.public())
        limit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=50ms\n"
        container.write_file("/etc/systemd/system/slotd.service.d/again.conf", limit)
        for name in APPS:
            port = free_port()
            unit = UNIT.format(port=port).replace("apps/notes/", f"apps/{name}/")
            unit = unit.replace(
                "[Service]\n",
                f"[Service]\nEnvironment=NOTES_DATA=/var/lib/{name}/data NOTES_LINEAGE=/var/lib/{name}/starts\n",
            )
            container.write_file(f"/etc/systemd/system/{name}.service", unit)
            text = DEFINITION.format(url=publisher.url, port=port, mode="manual", trial="300ms")
            text = text.replace("notes.service", f"{name}.service").replace("/var/lib/notes", f"/var/lib/{name}")
            retention = '\n[backup]\nretention = "0"\nkeep = 2\n' if name == PRUNED else ""
            container.write_file(f"/etc/slotd/apps.d/{name}.toml", text + retention)
            container.run(f"install -d -o notes -g notes /var/lib/{name}")
            found[name] = Notes(container, publisher, port=port)
        container.run("systemctl daemon-reload; systemctl restart slotd")
        publisher.publish("0.9")
        container.run(["slotctl", "update", *APPS])
        for app in found.values():
            for number in range(5):
                app.write(f"note {number}")
        publisher.publish("1.0")
        container.run(["slotctl", "update", *APPS])  # so that there is a version to go back to
        container.run(f"sed -i 's/300ms/{TRIAL}/' /etc/slotd/apps.d/*.toml; systemctl reload slotd")
        for version in sorted(wanted):
            publisher.publish(version, stress.behaviour(version))
        yield found


@pytest.mark.slow
def test_after_callers_in_random_order_every_app_is_one_whole_version_with_its_data(apps: dict[str, Notes]) -> None:
    print(f"\n{ROUNDS} calls by {stress.CALLERS} callers at a time, 5 apps, seed {SEED}")
    machine = next(iter(apps.values())).machine
    calls = call_all(machine, apps)
    machine.wait_for(
        "systemctl is-active --quiet slotd || systemctl start slotd; "
        "test \"$(busctl get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs)\" = 'u 0'",
        timeout_s=300,
    )
    known = remembered.read(machine)
    killed = machine.run("journalctl -q -u slotd -g 'code=killed, status=9' | wc -l").stdout.strip()
    print(summary(calls, known, killed))
    assert not [call for call in calls if "Traceback" in call["said"]]
    assert not [call for call in calls if call["status"] not in ENDINGS]
    assert not [call for call in calls if call["status"] != "0" and not call["said"].strip()]
    for name, app in apps.items():
        check_app(machine, name, app, known)
        check_data(machine, name, calls)
    places = "/var/lib/slotd /var/lib/one /var/lib/two /var/lib/three /var/lib/four /var/lib/five"
    assert machine.run(f"find {places} {remembered.LEFTOVERS}").stdout == ""
    assert machine.run("systemctl list-units --all --no-legend 'slotd-worker-*'").stdout == ""
    print(CHECKED)


def test_a_start_on_data_that_a_newer_version_had_is_found_unless_they_were_kept() -> None:
    def job(number: int, kind: str, previous: str, version: str, *, restore: bool = False) -> dict[str, Any]:
        return {"id": number, "kind": kind, "previous": previous, "version": version, "restore": restore}

    updates = [job(1, "update", "", "2.1"), job(2, "update", "2.1", "2.3")]
    good: list[tuple[str, list[str]]] = [("2.1", []), ("2.1", ["2.1"]), ("2.3", ["2.1"]), ("2.1", ["2.1"])]
    bad = [*good[:3], ("2.1", ["2.1", "2.3"])]
    check_lineage("one", updates, good)
    check_lineage("one", [*updates, job(3, "rollback", "2.3", "2.1")], bad)
    for jobs in (updates, [*updates, job(3, "rollback", "2.3", "2.1", restore=True)]):
        with pytest.raises(AssertionError, match=r"2\.1 was started on data that 2\.3 had had"):
            check_lineage("one", jobs, bad)


def call_all(machine: Container, apps: dict[str, Notes]) -> list[dict[str, Any]]:
    """Every call with how it ended."""
    machine.write_file("/root/stress.py", Path(stress.__file__).read_text())
    ports = [f"{name}:{app.port}" for name, app in apps.items()]
    began = time.monotonic()
    calls: list[dict[str, Any]] = []
    with machine.popen(["python3", "/root/stress.py", str(SEED), str(ROUNDS), *ports]) as callers:
        assert callers.stdout is not None
        for line in callers.stdout:
            assert line.startswith("{"), line + callers.stdout.read()
            calls.append(json.loads(line))
            if len(calls) % SHOWN == 0 or len(calls) == ROUNDS:
                print(f"{len(calls)} calls have ended after {time.monotonic() - began:.0f} s", flush=True)
    assert len(calls) == ROUNDS
    return calls


def check_app(machine: Container, name: str, app: Notes, known: dict[str, Any]) -> None:
    """The program that answers, its slot, its link, the store and the history: all say the same."""
    shown = app.json("status", name)
    reason = shown["hold_reason"] if shown["held"] else ""
    assert reason in ("", "stress"), f"{name} is held by slotd itself: {reason}"
    version = app.wait_state()["version"]
    assert stress.behaviour(version) == "well"
    link = machine.run(f"readlink /var/lib/slotd/apps/{name}/current").stdout.strip()
    slot = f"/var/lib/slotd/apps/{name}/{link}"
    assert machine.read_file(f"{slot}/VERSION") == version
    record = machine.read_file(f"{slot}/.slotd/slot.json")
    assert (shown["version"], shown["slot"]) == (version, link)
    remembered.check_app(name, version, link, record, remembered.copies_on_disk(machine, name), known)
    remembered.check_history(name, version, known)
    assert known["installed"][name] == version, "the jobs say otherwise"
    assert shown["state"] in ("idle", "update-available", "awaiting-approval", "held", "failed")


def check_data(machine: Container, name: str, calls: list[dict[str, Any]]) -> None:
    """The data are those of the version that runs, and nothing that was acknowledged is gone."""
    data = json.loads(machine.run(["python3", "-c", LOOK, name]).stdout)
    jobs = data["jobs"]
    taken = {text: at for call in calls if call.get("app") == name for text, at in call["taken"]}
    rows, files = set(data["rows"]), set(data["files"])
    assert files <= rows, f"{name}: files and database are of different times: {files - rows}"
    assert not (rows - files) & set(taken), f"{name}: files and database are of different times: {rows - files}"
    assert {f"note {number}" for number in range(5)} <= files
    if name != PRUNED:
        lost = set(taken) - files - set(data["kept"])
        assert not lost, f"{name}: acknowledged, and neither in the data nor in a copy: {sorted(lost)}"
    gone_back = max((job["finished_at"] for job in jobs if job["moves_data"]), default=0.0)
    lost = {text for text, at in taken.items() if at > gone_back} - files
    assert not lost, f"{name}: acknowledged after the last way back, and not in the data: {sorted(lost)}"
    check_lineage(name, jobs, data["starts"])


def check_lineage(name: str, jobs: list[dict[str, Any]], starts: list[tuple[str, list[str]]]) -> None:
    """No version ever ran on data that a newer one had had, unless somebody went back and kept them.

    `starts`: each start of the app in order, its version and the versions whose marks it found in the data.
    """
    born = {job["version"]: job["id"] for job in reversed(jobs) if job["kind"] == "update"}
    kept = {(job["previous"], job["version"]) for job in jobs if job["kind"] == "rollback" and not job["restore"]}
    assert starts
    accepted: set[str] = set()
    for version, seen in starts:
        if seen and (seen[-1], version) in kept:
            accepted.update(seen)
        newer = {each for each in seen if born[each] > born[version]} - accepted
        assert not newer, f"{name}: {version} was started on data that {', '.join(sorted(newer))} had had: {seen}"
        if stress.behaviour(version) != "well":
            assert version not in seen or seen[-1] == version


def summary(calls: list[dict[str, Any]], known: dict[str, Any], killed: str) -> str:
    """For a person: calls by their kind with how they ended, what became of the jobs, how often the daemon died."""
    lines = []
    for kind in stress.WEIGHTS:
        of_kind = [call for call in calls if call["kind"] == kind]
        ends = Counter(ENDINGS.get(call["status"], call["status"]) for call in of_kind)
        lines.append(f"{kind:9}{len(of_kind):5}  " + ", ".join(f"{count} {end}" for end, count in ends.most_common()))
    failed = Counter(pattern(call["said"]) for call in calls if call["status"] == "1")
    lines.append(f"the daemon was killed {killed} times; one job was taken up again at most {known['most']} times")
    where = ", ".join(f"{count} in {step or 'none'}" for step, count in known["interrupted"])
    hit = Counter(step for call in calls if call["kind"] == "kill" for step in str(call["step"]).split(", ") if step)
    lines.append("kills fell into these steps: " + ", ".join(f"{count} {step}" for step, count in hit.most_common()))
    lines.append(f"jobs were interrupted in these steps: {where}")
    lines.append("jobs: " + ", ".join(f"{count} {kind} {result}" for kind, result, count in known["results"]))
    lines += [f"{count:5} failed: {text}" for text, count in failed.most_common(15)]
    return "\n".join(lines)


def pattern(said: str) -> str:
    """The sentence of a refusal, without what is this call's alone."""
    lines = [line for line in said.splitlines() if re.search("cannot|failed|Failed|cancelled", line)]
    sentence = re.sub(r"^\d\d:\d\d:\d\d ", "", lines[-1] if lines else said.strip()[-100:])
    return re.sub(r"\d+(\.\d+)*", "N", re.sub(rf"\b({'|'.join(APPS)})\b", "APP", sentence))[:110]


CHECKED = """\
checked for each app: the version that answers is that of its slot, its link, the store, the last job and the history;
its data are its own, as the marks of the versions in them say; all that was acknowledged is in them or in a copy; its
copies are those of the store, all sealed; nothing half-made and no worker is left"""

LOOK = """
import json, sqlite3, sys
from pathlib import Path
at = Path("/var/lib") / sys.argv[1]
def texts(place):
    return sorted({path.read_text() for path in place.rglob("files/*.txt")})
copies = [path for kind in ("backups", "quarantine") for path in (Path("/var/lib/slotd") / kind / at.name).glob("*")]
db = sqlite3.connect(at / "data" / "notes.db")
jobs = []
for number, kind, result, version, previous, finished_at, plan in sqlite3.connect("/var/lib/slotd/state.db").execute(
    "SELECT id, kind, result, version, previous_version, finished_at, plan FROM jobs WHERE app = ? ORDER BY id",
    [at.name],
):
    restore = bool(json.loads(plan).get("restore"))
    is_back = kind == "rollback" or (kind == "update" and result != "updated")
    jobs.append({
        "id": number, "kind": kind, "version": version, "previous": previous, "restore": restore,
        "finished_at": finished_at, "moves_data": restore and is_back,
    })
print(json.dumps({
    "jobs": jobs,
    "rows": [row[0] for row in db.execute("SELECT text FROM notes")],
    "files": texts(at / "data"),
    "kept": sorted({text for copy in copies for text in texts(copy)}),
    "starts": [json.loads(line) for line in (at / "starts").read_text().splitlines()],
}))
"""
