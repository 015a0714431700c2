"""A person who is asked for a password at a terminal, with a real polkitd: and what happens meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.notes import Notes, Publisher
from tests.system.people import (
    INTERACTIVE,
    NOT_AUTHORIZED,
    Terminal,
    add_person,
    answers_in,
    argv_of,
    ask,
    of_app,
    set_rules,
)

IDLE = 'test "$(slotctl --json jobs)" = "[]"'


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    add_person(container, "alice", "sudo", password="open sesame")
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s")
        app.install("1.0")
        yield app


@pytest.fixture(autouse=True)
def fresh(notes: Notes) -> None:
    """Before a test no job runs, nothing is held, no rule is set, and polkit remembers nobody."""
    notes.machine.wait_for(IDLE, timeout_s=60)
    notes.slotctl("unhold", "notes")
    set_rules(notes.machine)


def offer(notes: Notes, version: str) -> None:
    notes.publisher.publish(version)
    notes.slotctl("check", "notes")


def jobs(notes: Notes) -> list[object]:
    return list(notes.json("jobs", "--all"))


def test_the_right_password_gets_it_done_and_the_prompt_says_what(notes: Notes) -> None:
    with Terminal(notes.machine, "alice", ["slotctl", "hold", "notes", "a party"]) as alice:
        prompt = alice.see("Password: ")
        assert "AUTHENTICATING FOR org.slotd1.hold" in prompt
        assert "Authentication is required to hold notes at version 1.0." in prompt
        assert "Authenticating as: alice" in prompt
        alice.type("open sesame\n")
        status, said = alice.end()
    assert (status, "notes: held" in said) == (0, True)
    assert notes.json("status", "notes")["held"] is True


def test_a_wrong_password_gets_nothing_done(notes: Notes) -> None:
    with Terminal(notes.machine, "alice", ["slotctl", "hold", "notes"]) as alice:
        alice.see("Password: ")
        alice.type("open barley\n")
        status, said = alice.end()
    assert status == 5
    assert "not authorised for org.slotd1.hold" in said
    assert notes.json("status", "notes")["held"] is False


def test_ctrl_c_at_the_prompt_gets_nothing_done_and_leaves_nothing_behind(notes: Notes) -> None:
    before = jobs(notes)
    with Terminal(notes.machine, "alice", ["slotctl", "update", "notes"]) as alice:
        alice.see("Password: ")
        alice.type("\x03")
        status, _ = alice.end()
    assert status == 130
    assert jobs(notes) == before
    assert notes.machine.run("pgrep -x pkttyagent", check=False).stdout == ""


def test_without_a_terminal_the_error_says_what_is_missing(notes: Notes) -> None:
    done = notes.machine.run(["slotctl", "hold", "notes"], user="alice", check=False)
    assert done.returncode == 5
    assert "nobody to ask for it in your session" in done.stderr
    assert "as root" in done.stderr


def test_at_the_machine_a_check_needs_no_password_and_elsewhere_it_does(notes: Notes) -> None:
    session = "-p PAMName=login -p User=alice -E XDG_SESSION_CLASS=user -E XDG_SESSION_TYPE=tty"
    start = f"systemd-run --quiet --collect --wait --pipe {session}"
    notes.machine.run(f"{start} -E XDG_SEAT=seat0 slotctl check notes")
    elsewhere = notes.machine.run(f"{start} slotctl check notes", check=False)
    assert (elsewhere.returncode, "org.slotd1.check: it needs a password" in elsewhere.stderr) == (5, True)


def test_a_password_is_kept_for_the_same_question_and_no_other(notes: Notes) -> None:
    hold, unhold = of_app("Hold", "notes", "x"), of_app("Unhold", "notes")
    with Terminal(notes.machine, "alice", argv_of([hold, hold, unhold], interactive=True)) as alice:
        alice.see("Password: ")
        alice.type("open sesame\n")
        status, said = alice.end()
    first, second, other = answers_in(said)
    assert (status, "Password" in said) == (0, False)
    assert (first["error"], second["error"], other["error"]) == ("", "", NOT_AUTHORIZED)
    assert "polkit keeps a password that was given in this process for something else" in other["text"]
    assert notes.json("status", "notes")["held"] is True


def test_a_password_is_kept_for_a_process_on_whichever_of_its_connections_it_asks(notes: Notes) -> None:
    hold, unhold = of_app("Hold", "notes", "x"), of_app("Unhold", "notes")
    command = argv_of([hold, hold, unhold], interactive=True, apart=True)
    with Terminal(notes.machine, "alice", command) as alice:
        alice.see("Password: ")
        alice.type("open sesame\n")
        status, said = alice.end()
    first, second, other = answers_in(said)
    assert (status, "Password" in said) == (0, False)
    assert (first["error"], second["error"], other["error"]) == ("", "", NOT_AUTHORIZED)
    assert "Wait some minutes until polkit has forgotten it, or use slotctl." in other["text"]


def test_a_kept_password_is_worth_nothing_in_another_process(notes: Notes) -> None:
    hold = of_app("Hold", "notes", "x")
    with Terminal(notes.machine, "alice", argv_of([hold], interactive=True)) as alice:
        alice.see("Password: ")
        alice.type("open sesame\n")
        assert alice.end()[0] == 0
    assert ask(notes.machine, "alice", hold)[0]["error"] == INTERACTIVE


# ── while the prompt is open ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.attack
def test_the_version_of_the_prompt_is_installed_though_another_came_out(notes: Notes) -> None:
    offer(notes, "1.1")
    with Terminal(notes.machine, "alice", ["slotctl", "update", "notes"]) as alice:
        assert "Authentication is required to install version 1.1 of notes." in alice.see("Password: ")
        offer(notes, "1.2")
        alice.type("open sesame\n")
        status, said = alice.end()
    assert (status, notes.wait_state()["version"]) == (0, "1.1"), said


@pytest.mark.attack
def test_a_version_that_is_withdrawn_meanwhile_is_not_replaced_by_another(notes: Notes) -> None:
    notes.publisher.withdraw_all()
    offer(notes, "2.0")
    before = notes.state()
    with Terminal(notes.machine, "alice", ["slotctl", "update", "notes"]) as alice:
        assert "install version 2.0 of notes" in alice.see("Password: ")
        notes.publisher.withdraw_all()
        offer(notes, "2.1")
        alice.type("open sesame\n")
        status, said = alice.end()
    assert (status, notes.state()) == (1, before)
    assert "cannot update notes to 2.0, which was authorised" in said


@pytest.mark.attack
def test_a_hold_that_comes_meanwhile_holds(notes: Notes) -> None:
    offer(notes, "2.2")
    before = notes.state()
    with Terminal(notes.machine, "alice", ["slotctl", "update", "notes"]) as alice:
        alice.see("Password: ")
        notes.slotctl("hold", "notes", "not today")
        alice.type("open sesame\n")
        status, said = alice.end()
    assert (status, notes.state()) == (1, before)
    assert "it is held (not today)" in said


@pytest.mark.attack
def test_a_definition_that_is_taken_away_meanwhile_ends_it(notes: Notes) -> None:
    before = notes.state()
    definition = "/etc/slotd/apps.d/notes.toml"
    with Terminal(notes.machine, "alice", ["slotctl", "update", "notes", "--version=2.2"]) as alice:
        alice.see("Password: ")
        notes.machine.run(f"mv {definition} /root/ && systemctl reload slotd")
        alice.type("open sesame\n")
        status, said = alice.end()
    notes.machine.run(f"mv /root/notes.toml {definition} && systemctl reload slotd")
    assert (status, notes.state()) == (1, before)
    assert "notes" in said


def test_a_caller_who_is_killed_at_the_prompt_gets_nothing_done_and_polkit_is_told(notes: Notes) -> None:
    before = jobs(notes)
    monitor = notes.machine.popen(["busctl", "--json=short", "monitor", "org.freedesktop.PolicyKit1"])
    try:
        assert monitor.stdout is not None
        with Terminal(notes.machine, "alice", ["slotctl", "update", "notes"]) as alice:
            alice.see("Password: ")
            notes.machine.run("pkill -KILL -x slotctl")
            asked = ""
            for line in monitor.stdout:
                message = json.loads(line) if line.startswith("{") else {}
                if message.get("member") == "CheckAuthorization" and "org.slotd1.update" in line:
                    asked = message["payload"]["data"][4]
                if message.get("member") == "CancelCheckAuthorization":
                    assert message["payload"]["data"] == [asked]
                    break
            else:
                raise AssertionError("nobody told polkit")
            assert alice.end()[0] != 0
    finally:
        monitor.kill()
        monitor.wait()
    assert jobs(notes) == before


# ── a polkit that dies, hangs, or is not there ──────────────────────────────────────────────────────────────────────


def test_a_polkit_that_is_killed_at_the_prompt_is_a_denial_and_the_next_question_is_answered(notes: Notes) -> None:
    with Terminal(notes.machine, "alice", ["slotctl", "hold", "notes"]) as alice:
        alice.see("Password: ")
        notes.machine.run("systemctl kill --signal=KILL polkit.service")
        status, said = alice.end()
    assert status == 5
    assert "polkit gave no answer" in said
    assert notes.json("status", "notes")["held"] is False
    assert ask(notes.machine, "alice", of_app("Hold", "notes", "x"))[0]["error"] == INTERACTIVE


def test_a_polkit_that_hangs_is_a_denial_in_the_end_and_keeps_nobody_else_waiting(notes: Notes) -> None:
    machine = notes.machine
    machine.run("systemctl kill --signal=STOP polkit.service")
    try:
        caller = subprocess.Popen(
            machine.argv(argv_of([of_app("Hold", "notes", "x")]), user="alice"), stdout=subprocess.PIPE, text=True
        )
        machine.wait_for("busctl --timeout=2 get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs")
        notes.slotctl("backup", "notes", timeout_s=15)
        assert caller.poll() is None
        [said] = answers_in(caller.communicate(timeout=60)[0])
    finally:
        machine.run("systemctl kill --signal=CONT polkit.service")
    assert (said["error"], "polkit gave no answer" in said["text"]) == (NOT_AUTHORIZED, True)
    assert notes.json("status", "notes")["held"] is False


def test_without_polkit_root_works_and_others_are_told_why(notes: Notes) -> None:
    notes.machine.run("systemctl mask --now polkit.service")
    try:
        done = notes.machine.run(["slotctl", "hold", "notes"], user="alice", check=False)
        assert done.returncode == 5
        assert "polkit does not run on this host, and without it only root may change things." in done.stderr
        notes.machine.run(["slotctl", "status", "notes"], user="alice")
        notes.slotctl("hold", "notes")
        notes.slotctl("unhold", "notes")
    finally:
        notes.machine.run("systemctl unmask polkit.service")


def test_nothing_waits_in_the_daemon_after_all_of_this(notes: Notes) -> None:
    # It leaves by itself only when no call is open.
    notes.machine.write_file(
        "/run/systemd/system/slotd.service.d/idle.conf", "[Service]\nEnvironment=SLOTD_IDLE_SECONDS=1\n"
    )
    notes.machine.run("systemctl daemon-reload; systemctl restart slotd")
    with Terminal(notes.machine, "alice", ["slotctl", "hold", "notes"]) as alice:
        alice.see("Password: ")
        time.sleep(3)  # longer than it would stay idle
        assert notes.machine.show("slotd.service", "ActiveState") == {"ActiveState": "active"}
        notes.machine.run("pkill -KILL -x slotctl")
        alice.end()
    notes.machine.wait_for("systemctl show -P ActiveState slotd.service | grep -qx inactive", timeout_s=30)
