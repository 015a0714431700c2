"""The whole story with `busctl` alone, and what an unprivileged user may not do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

MANAGER = "org.slotd1 /org/slotd1 org.slotd1.Manager"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s")
        app.install("1.0")
        yield app


def call(notes: Notes, member: str, *words: str, user: str | None = None, check: bool = True) -> str:
    line = ["busctl", "--json=short", "call", *MANAGER.split(), member, *words]
    done = notes.machine.run(line, user=user, check=check)
    return done.stdout + done.stderr


def wait_removed(monitor: object, job: str) -> dict[str, object]:
    deadline = time.monotonic() + 60
    for line in monitor.stdout:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        if '"JobRemoved"' not in line:
            continue
        message = json.loads(line)
        data = message["payload"]["data"]
        if data[1] == job:
            return {"app": data[2], "result": data[3]}
    raise AssertionError("busctl monitor ended")


def test_check_update_and_rollback_with_busctl_alone(notes: Notes) -> None:
    notes.publisher.publish("1.1")
    machine = notes.machine
    monitor = machine.popen(["busctl", "--json=short", "monitor", "org.slotd1"])
    try:
        time.sleep(0.5)
        job = json.loads(call(notes, "Check", "sa{sv}", "notes", "0"))["data"][0]
        assert wait_removed(monitor, job) == {"app": "notes", "result": "done"}
        app = "org.slotd1 /org/slotd1/app/notes org.slotd1.App"
        found = machine.run(f"busctl get-property {app} AvailableVersion Version State").stdout
        assert found.splitlines() == ['s "1.1"', 's "1.0"', 's "awaiting-approval"']

        job = json.loads(call(notes, "Update", "sa{sv}", "notes", "0"))["data"][0]
        assert wait_removed(monitor, job) == {"app": "notes", "result": "updated"}
        assert notes.wait_state()["version"] == "1.1"

        refused = call(notes, "Rollback", "sa{sv}", "notes", "0", check=False)
        assert "restore" in refused
        assert "keep" in refused
        job = json.loads(call(notes, "Rollback", "sa{sv}", "notes", "1", "data", "s", "keep"))["data"][0]
        assert wait_removed(monitor, job) == {"app": "notes", "result": "rolled-back"}
        assert notes.wait_state()["version"] == "1.0"
    finally:
        monitor.kill()
        monitor.wait()


@pytest.mark.parametrize(
    ("member", "action", "words"),
    [
        ("Update", "update", ("sa{sv}", "notes", "0")),
        ("Rollback", "rollback", ("sa{sv}", "notes", "1", "data", "s", "keep")),
        ("Hold", "hold", ("ssa{sv}", "notes", "because", "0")),
        ("SetMode", "set-mode", ("ssa{sv}", "notes", "auto", "0")),
        ("Approve", "approve", ("ssa{sv}", "notes", "1.1", "0")),
        ("Backup", "backup", ("sa{sv}", "notes", "0")),
    ],
)
def test_an_unprivileged_user_may_look_but_not_touch(
    notes: Notes, member: str, action: str, words: tuple[str, ...]
) -> None:
    before = notes.json("status", "notes")
    refused = call(notes, member, *words, user="alice", check=False)
    assert f"not authorised for org.slotd1.{action}: it needs a password" in refused
    assert "notes" in call(notes, "ListApps", user="alice")
    assert notes.json("status", "notes") == before


def test_an_unknown_option_is_an_error_that_names_the_allowed_ones(notes: Notes) -> None:
    refused = call(notes, "Update", "sa{sv}", "notes", "1", "farce", "b", "true", check=False)
    assert "farce" in refused
    assert "force" in refused


def test_status_answers_in_the_middle_of_a_job_and_a_second_job_disturbs_nothing(notes: Notes) -> None:
    notes.publisher.publish("1.3")
    job = json.loads(call(notes, "Update", "sa{sv}", "notes", "0"))["data"][0]
    refused = call(notes, "Update", "sa{sv}", "notes", "0", check=False)
    assert "another job" in refused
    assert notes.json("status", "notes")["state"] in ("updating", "trial")
    number = job.rpartition("/")[2]
    notes.machine.wait_for(
        f"busctl get-property org.slotd1 /org/slotd1/job/{number} org.slotd1.Job State | grep -q done", timeout_s=60
    )
    assert notes.wait_state()["version"] == "1.3"
