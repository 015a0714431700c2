"""The clients that the manual shows, in C and in Python with Gio, as they stand."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from collections.abc import Callable

import pytest
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import PYTHON, REPOSITORY, World

EXAMPLES = REPOSITORY / "docs" / "examples"
Follow = Callable[..., str]
MINOR = itertools.count(1)


@pytest.fixture(scope="module")
def installed(world: World, notes: Notes) -> Notes:
    notes.publish("1.0")
    world.slotctl("update", "notes")
    return notes


@pytest.fixture(scope="module", params=["c", "py"])
def follow(request: pytest.FixtureRequest, world: World) -> Follow:
    """The client, built as its first lines say: words -> what it prints."""
    where = world.make(world.root / "clients")
    source = EXAMPLES / f"follow.{request.param}"
    if request.param == "c":
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "libsystemd"], check=True, capture_output=True, text=True
        ).stdout
        program = [str(where / "follow")]
        strict = ("-Wall", "-Wextra", "-Werror", "-O2")
        subprocess.run(["gcc", *strict, "-o", program[0], str(source), *shlex.split(flags)], check=True)
    else:
        program = [PYTHON, str(world.write(where / source.name, source.read_bytes()))]

    def run(*words: str, status: int = 0) -> str:
        return world.run(*program, "--user", *words, status=status)

    return run


def test_the_apps_are_listed_with_version_and_state(installed: Notes, follow: Follow) -> None:
    assert follow() == f"notes {installed.version} idle\n"


def test_an_update_is_followed_step_by_step_to_its_result(installed: Notes, follow: Follow) -> None:
    newer = f"1.{next(MINOR)}"
    installed.publish(newer)
    lines = follow("notes").splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("step ")]
    assert steps[-3:] == ["trial", "commit", "cleanup"]
    progress = [int(line.split()[1]) for line in lines if line.startswith("progress ")]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert lines[-1] == "result updated"
    assert installed.version == newer
    assert follow("notes").splitlines()[-1] == "result up-to-date"


def test_a_release_that_fails_ends_the_program_with_its_own_status(installed: Notes, follow: Follow) -> None:
    before = installed.version
    installed.publish(f"1.{next(MINOR)}", "crash-at-start")
    assert follow("notes", status=4).splitlines()[-1] == "result rolled-back"
    assert installed.version == before


def test_the_end_of_a_job_is_not_missed_when_the_daemon_is_killed_meanwhile(
    world: World, installed: Notes, follow: Follow
) -> None:
    installed.publish(f"1.{next(MINOR)}")
    world.fail_at("trial:begin", "kill")
    assert follow("notes").splitlines()[-1] == "result updated"
    assert world.has_fired("trial:begin")
    world.start()


def test_an_error_is_shown_in_the_daemons_own_words(world: World, installed: Notes, follow: Follow) -> None:
    world.slotctl("hold", "notes", "it is tax time")
    said = follow("notes", status=1)
    world.slotctl("unhold", "notes")
    assert "org.slotd1.Error.Held" in said
    assert "it is tax time" in said
    assert follow("nowhere", status=1)
