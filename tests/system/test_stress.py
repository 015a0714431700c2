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
ROUNDS = int(os.environ.get("SLOTD_STRESS_ROUNDS") or "200")
SEED = int(os.environ.get("SLOTD_STRESS_SEED") or str(random.randrange(10**9)))
SHOWN = 100  # after so many calls, how far it is is said
ENDINGS = {"0": "done", "1": "failed", "2": "refused", "3": "nothing to do", "4": "rolled back", "6": "busy"}


@pytest.fixture(scope="module")
def apps(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Notes]]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        found: dict[str, Notes] = {}
        container.run("useradd --system notes")
        container.write_file("/etc/slotd/keys.d/publisher.gpg", publisher.key.public())
        limit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=50ms\n"
        container.write_file("/etc/systemd/system/slotd.service.d/again.conf", limit)
        for name in APPS:
            port = free_port()
            unit = UNIT.format(port=port).replace("apps/notes/", f"apps/{name}/")
            unit = unit.replace("[Service]\n", f"[Service]\nEnvironment=NOTES_DATA=/var/lib/{name}/data\n")
            container.write_file(f"/etc/systemd/system/{name}.service", unit)
            text = DEFINITION.format(url=publisher.url, port=port, mode="manual", trial="300ms")
            text = text.replace("notes.service", f"{name}.service").replace("/var/lib/notes", f"/var/lib/{name}")
            container.write_file(f"/etc/slotd/apps.d/{name}.toml", text + '\n[backup]\nretention = "0"\nkeep = 2\n')
            container.run(f"install -d -o notes -g notes /var/lib/{name}")
            found[name] = Notes(container, publisher, port=port)
        container.run("systemctl daemon-reload; systemctl restart slotd")
        publisher.publish("0.9")
        container.run(["slotctl", "update", *APPS])
        for name, app in found.items():
            for number in range(5):
                app.write(f"note {number} of {name}")
        publisher.publish("1.0")
        container.run(["slotctl", "update", *APPS])  # so that there is a version to go back to
        for version in stress.VERSIONS:
            publisher.publish(version, stress.BEHAVIOURS.get(version, "well"))
        yield found


@pytest.mark.slow
def test_after_callers_in_random_order_every_app_is_one_whole_version_with_its_data(apps: dict[str, Notes]) -> None:
    print(f"\n{ROUNDS} calls by {stress.CALLERS} callers at a time, 5 apps, seed {SEED}")
    machine = next(iter(apps.values())).machine
    digests = {name: app.wait_state()["digest"] for name, app in apps.items()}
    assert len(set(digests.values())) == len(APPS)
    calls = call_all(machine)
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
        check_app(machine, name, app, known, digests[name])
    places = "/var/lib/slotd /var/lib/one /var/lib/two /var/lib/three /var/lib/four /var/lib/five"
    assert machine.run(f"find {places} {remembered.LEFTOVERS}").stdout == ""
    assert machine.run("systemctl list-units --all --no-legend 'slotd-worker-*'").stdout == ""
    print(CHECKED)


def call_all(machine: Container) -> list[dict[str, Any]]:
    """Every call with how it ended."""
    machine.write_file("/root/stress.py", Path(stress.__file__).read_text())
    began = time.monotonic()
    calls: list[dict[str, Any]] = []
    with machine.popen(["python3", "/root/stress.py", str(SEED), str(ROUNDS), *APPS]) as callers:
        assert callers.stdout is not None
        for line in callers.stdout:
            assert line.startswith("{"), line + callers.stdout.read()
            calls.append(json.loads(line))
            if len(calls) % SHOWN == 0 or len(calls) == ROUNDS:
                print(f"{len(calls)} calls have ended after {time.monotonic() - began:.0f} s", flush=True)
    assert len(calls) == ROUNDS
    return calls


def check_app(machine: Container, name: str, app: Notes, known: dict[str, Any], digest: str) -> None:
    """The program that answers, its slot, its link, the store, the history and the data: all say the same."""
    shown = app.json("status", name)
    reason = shown["hold_reason"] if shown["held"] else ""
    assert reason in ("", "stress"), f"{name} is held by slotd itself: {reason}"
    state = app.wait_state()
    version = state["version"]
    assert state["digest"] == digest, f"the data of {name} are not what they were"
    assert stress.BEHAVIOURS.get(version, "well") == "well"
    link = machine.run(f"readlink /var/lib/slotd/apps/{name}/current").stdout.strip()
    slot = f"/var/lib/slotd/apps/{name}/{link}"
    assert machine.read_file(f"{slot}/VERSION") == version
    record = machine.read_file(f"{slot}/.slotd/slot.json")
    assert (shown["version"], shown["slot"]) == (version, link)
    remembered.check_app(name, version, link, record, remembered.copies_on_disk(machine, name), known)
    remembered.check_history(name, version, known)
    assert known["installed"][name] == version, "the jobs say otherwise"
    assert shown["state"] in ("idle", "update-available", "awaiting-approval", "held", "failed")


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
its data are what they were; its copies are those of the store, all sealed; nothing half-made and no worker is left"""
