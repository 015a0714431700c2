"""Callers who ask for what is not there, send the wrong thing, may not, come second, or leave in the middle."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.hostile import APP, HostilePublisher, assert_says, refused, untouched
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

MANAGER = "org.slotd1 /org/slotd1 org.slotd1.Manager"
ARTIFACT = "/files/notes-*.tar.gz"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="2s")
        app.install("1.0")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> Iterator[HostilePublisher]:
    assert isinstance(notes.publisher, HostilePublisher)
    yield notes.publisher
    notes.publisher.server.behave()


def call(notes: Notes, target: str, *words: str, user: str | None = None) -> tuple[int, str]:
    """busctl's exit status and what it printed."""
    done = notes.machine.run(["busctl", "--json=short", "call", *target.split(), *words], user=user, check=False)
    return done.returncode, done.stdout + done.stderr


def jobs(notes: Notes) -> list[int]:
    """The numbers of all jobs there ever were."""
    rows = json.loads(call(notes, MANAGER, "ListJobs", "a{sv}", "1", "all", "b", "true")[1])["data"][0]
    return [row[0] for row in rows]


# ── wrong questions ─────────────────────────────────────────────────────────────────────────────────────────────────

CALLS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "an unknown option": (MANAGER, "Update sa{sv} notes 1 farce b true", ('no option "farce"', "force b", "now b")),
    "an option of a wrong type": (MANAGER, "Update sa{sv} notes 1 force s yes", ('"force" must be a boolean (b)',)),
    "an unknown option to the app": (APP, "Update a{sv} 1 nah b true", ('no option "nah"', "version s")),
    "no options": (MANAGER, "Update s notes", ('Update takes "sa{sv}", not "s"',)),
    "a number for a name": (MANAGER, "Update ia{sv} 3 0", ('Update takes "sa{sv}", not "ia{sv}"',)),
    "latest for a version": (MANAGER, "Update sa{sv} notes 1 version s latest", ("not a version", "Name one")),
    "an app that is not there": (MANAGER, "Update sa{sv} nots 0", ("an app named 'nots'", "slotctl list")),
    "a path for a name": (MANAGER, "Check sa{sv} ../../etc 0", ("an app named '../../etc'", "slotctl list")),
    "no name": (MANAGER, "Check sa{sv} '' 0", ("an app named ''", "slotctl list")),
    "a mode that is none": (MANAGER, "SetMode ssa{sv} notes yolo 0", ('the mode to "yolo"', "manual, approve, auto")),
    "what is not available": (MANAGER, "Approve ssa{sv} notes 9.9 0", ("cannot approve notes 9.9", "slotctl check")),
    "a fate for the data that is none": (MANAGER, "Rollback sa{sv} notes 1 data s burn", ('"burn"', "keep, restore")),
    "a backup by a path": (MANAGER, "Restore ssa{sv} notes ../../../etc 0", ("'../../../etc'", "slotctl backups")),
    "a reason that moves the cursor": (MANAGER, r"Hold ssa{sv} notes '\x1b[2J' 0", ("cannot be printed",)),
    "a job that is not there": (MANAGER, "GetJob t 999999", ("cannot find job 999999", "slotctl jobs")),
    "to cancel what has ended": ("org.slotd1 /org/slotd1/job/1 org.slotd1.Job", "Cancel", ("cancel job 1", "ended")),
}


@pytest.mark.parametrize("question", CALLS)
def test_the_bus_answers_at_once_and_nothing_is_done_who_asks_for(notes: Notes, question: str) -> None:
    target, line, says = CALLS[question]
    words = [word.strip("'").replace(r"\x1b", "\x1b") for word in line.split(" ")]
    before = jobs(notes)
    with untouched(notes):
        began = time.monotonic()
        status, answer = call(notes, target, *words)
        took_s = time.monotonic() - began
    assert (status, jobs(notes)) == (1, before)
    assert_says(answer, *says)
    assert took_s < 5


def test_a_name_too_long_is_not_repeated_whole(notes: Notes) -> None:
    with untouched(notes):
        status, answer = call(notes, MANAGER, "Update", "sa{sv}", "x" * 5000, "0")
    assert status == 1
    assert_says(answer, "5000 characters, more than 1024")
    assert len(answer) < 500


WORDS: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "an app that is not there": (("update", "nots"), 1, ("an app named 'nots'", "notes")),
    "no app": (("update",), 2, ("name an app, or --all",)),
    "latest for a version": (
        ("update", "notes", "--version=latest"),
        2,
        ("that is not a version", "Name one"),
    ),
    "a version that is not there": (("update", "notes", "--version=9.9"), 1, ("its source does not offer it", "1.0")),
    "a mode that is none": (("mode", "notes", "yolo"), 2, ("unknown mode 'yolo'", "manual", "approve", "auto")),
    "a command that is none": (("updaet", "notes"), 2, ("unknown command 'updaet'", "Did you mean update?")),
    "an option that is none": (("update", "notes", "--farce"), 2, ("unknown option --farce", "--force")),
    "a job that is not there": (("cancel", "99999"), 1, ("cannot find job 99999", "slotctl jobs")),
    "a backup that is not there": (("restore", "notes", "none"), 1, ("cannot find backup 'none'", "slotctl backups")),
    "a way back that is not there": (("rollback", "notes", "--data=keep"), 1, ("no version to go back to",)),
}


@pytest.mark.parametrize("question", WORDS)
def test_slotctl_says_what_to_do_to_who_asks_for(notes: Notes, question: str) -> None:
    command, status, says = WORDS[question]
    refused(notes, *command, says=says, status=status)


# ── who may not ─────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = (
    ("check", "notes"), ("update", "notes"), ("update", "--all"), ("rollback", "notes", "--data=keep"),
    ("approve", "notes", "1.0"), ("hold", "notes"), ("unhold", "notes"), ("mode", "notes", "auto"),
    ("backup", "notes"), ("enable", "notes"),
)  # fmt: skip


def test_a_user_may_look_and_not_touch(notes: Notes) -> None:
    before = jobs(notes)
    with untouched(notes):
        for command in CHANGES:
            done = notes.machine.run(["slotctl", *command], user="alice", check=False)
            assert done.returncode == 5, (command, done.stdout, done.stderr)
            assert_says(done.stderr, "cannot ", "root")
        status, answer = call(notes, MANAGER, "ReportFailure", "sa{sv}", "notes.service", "0", user="alice")
        assert status == 1
        assert_says(answer, "Access denied")
        status, answer = call(notes, MANAGER, "Reload", user="alice")
        assert status == 1
        assert_says(answer, "not authorised for org.slotd1.reload", "on a terminal", "or as root")
        for command in (["list"], ["status", "notes"], ["history", "notes"], ["jobs"], ["backups", "notes"]):
            notes.machine.run(["slotctl", *command], user="alice")
    assert jobs(notes) == before


def test_a_user_who_leaves_before_the_answer_gets_nothing_done(notes: Notes) -> None:
    before = jobs(notes)
    hold = f"busctl --expect-reply=false call {MANAGER} Hold ssa{{sv}} notes gone 0"
    update = f"busctl --expect-reply=false call {MANAGER} Update sa{{sv}} notes 0"
    with untouched(notes):
        notes.machine.run(f"for i in $(seq 20); do {hold} & {update} & done; wait", user="alice", check=False)
        notes.slotctl("status", "notes")  # answered after all of them
        time.sleep(1)
    assert jobs(notes) == before
    assert notes.json("status", "notes")["held"] is False


# ── who comes second, and who leaves ────────────────────────────────────────────────────────────────────────────────


def start(notes: Notes, *command: str) -> int:
    """A job that runs on by itself. Gives its number."""
    printed = notes.slotctl("--no-wait", *command)
    return int(printed.partition("as job ")[2].partition(";")[0])


def wait_ended(notes: Notes, job: int) -> str:
    """The result of a job, when it has one."""
    prop = f"busctl get-property org.slotd1 /org/slotd1/job/{job} org.slotd1.Job"
    notes.machine.wait_for(f"{prop} State | grep -qE 'done|failed|cancelled'", timeout_s=60)
    return notes.machine.run(f"{prop} Result").stdout.split('"')[1]


def test_a_second_caller_is_told_so_at_once_and_the_first_goes_on(notes: Notes, publisher: HostilePublisher) -> None:
    publisher.publish_next()
    publisher.server.misbehave("slow-start", ARTIFACT, seconds=60)
    with untouched(notes):
        job = start(notes, "update", "notes")
        notes.machine.wait_for("slotctl jobs | grep -q fetch", timeout_s=20)
        for command in (("update", "notes"), ("backup", "notes"), ("rollback", "notes", "--data=keep")):
            began = time.monotonic()
            printed = notes.slotctl(*command, status=6)
            assert time.monotonic() - began < 5
            assert_says(printed, f"update (job {job}, step fetch) is running", "slotctl follow notes")
        status = notes.json("status", "notes")
        assert (status["state"], status["version"]) == ("updating", "1.0")
        assert_says(notes.slotctl("jobs"), str(job), "fetch")
        notes.slotctl("cancel", str(job))
        assert wait_ended(notes, job) == "cancelled"


def test_a_caller_who_is_killed_leaves_his_job_running(notes: Notes, publisher: HostilePublisher) -> None:
    before = notes.state()
    version = publisher.publish_next()
    caller = notes.machine.popen(["slotctl", "update", "notes"])
    notes.machine.wait_for("slotctl jobs | grep -q trial", timeout_s=30)
    notes.machine.run("pkill -KILL -x slotctl")
    caller.communicate(timeout=20)
    assert wait_ended(notes, jobs(notes)[-1]) == "updated"
    after = notes.state()
    assert (after["version"], after["digest"]) == (version, before["digest"])


def test_a_caller_who_presses_ctrl_c_is_told_how_to_follow(notes: Notes, publisher: HostilePublisher) -> None:
    version = publisher.publish_next()
    caller = notes.machine.popen(["slotctl", "update", "notes"])
    notes.machine.wait_for("slotctl jobs | grep -q trial", timeout_s=30)
    notes.machine.run("pkill -INT -x slotctl")
    printed, _ = caller.communicate(timeout=20)
    assert caller.returncode == 130
    assert_says(printed, f"{version} stays on trial", "slotctl follow")
    assert wait_ended(notes, jobs(notes)[-1]) == "updated"
    assert notes.state()["version"] == version
