"""How slotctl starts jobs, follows them, and tells how they ended."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from dbus_fast import Variant
from tests.parts.cli.run import DEADLINE_S, finish, on_terminal, slotctl, start
from tests.parts.cli.service import Play, Slotd, quick, through

from slotd.errors import BadOption, Busy, DataChoiceRequired, Held, NotAuthorized, NothingToDo, SlotdError, TooLate
from slotd.model import AppState
from slotd.service.polkit import InteractionRequired


async def test_an_update_prints_a_line_per_step_and_a_summary(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("resolve", "fetch", "switch", "trial", "commit")
    run = await slotctl(address, "update", "notes")
    assert run.code == 0
    assert [line.split(" - ")[0] for line in run.steps] == [
        "notes: resolve",
        "notes: fetch",
        "notes: switch",
        "notes: trial",
        run.steps[4],
        "notes: commit",
        "notes: updated 1.0 → 1.1 in 2 s",
    ]
    assert "1.1 was started, on trial for 10 min;" in run.steps[4]
    assert "Ctrl-C leaves it so" in run.steps[4]


async def test_an_update_passes_its_options_on(slotd: Slotd, address: str) -> None:
    await slotctl(address, "update", "notes", "--version", "1.1", "--force", "--now")
    assert slotd.options == {"version": "1.1", "force": True, "now": True}
    await slotctl(address, "rollback", "notes", "--data=keep", "--to", "0.9")
    assert slotd.options == {"data": "keep", "to": "0.9"}


ROLLED_BACK = quick(
    "rolled-back",
    "failed",
    version="1.1",
    previous_version="1.0",
    error_name="Failed",
    error_message="the probe was red",
)
NO_SPACE = quick("failed", "failed", error_name="NoSpace", error_message="cannot stage 1.1: disk full.\nMake room.")
BROKEN = quick("rollback-failed", "failed", error_name="Failed", error_message="backup in /b")


@pytest.mark.parametrize(
    ("play", "code", "told"),
    [
        (quick("up-to-date"), 3, "notes: 1.0 is up to date; nothing to do"),
        (quick("unchanged", version="1.1"), 3, "nothing was touched"),
        (ROLLED_BACK, 4, "notes: 1.1 failed and was rolled back to 1.0"),
        (BROKEN, 1, "notes: the rollback failed: backup in /b"),
        (NO_SPACE, 1, "Make room."),
        (quick("cancelled", "cancelled"), 1, "notes: update cancelled"),
    ],
)
async def test_each_end_of_an_update_has_its_words_and_exit_code(
    slotd: Slotd, address: str, play: Play, code: int, told: str
) -> None:
    slotd.script["update"] = play
    run = await slotctl(address, "update", "notes")
    assert run.code == code
    assert told in (run.out if code == 3 else run.err)


@pytest.mark.parametrize(
    ("error", "code"),
    [(NothingToDo, 3), (NotAuthorized, 5), (Busy, 6), (Held, 1), (BadOption, 2)],
)
async def test_a_refusal_is_told_with_its_hint_and_exit_code(
    slotd: Slotd, address: str, error: type[SlotdError], code: int
) -> None:
    slotd.refuse["update"] = error("cannot update notes: no.", hint="Try later.")
    run = await slotctl(address, "update", "notes")
    assert (run.code, run.out) == (code, "")
    assert run.err.splitlines() == ["slotctl: cannot update notes: no.", "  Try later."]
    [document] = (await slotctl(address, "update", "notes", "--json")).json["jobs"]
    assert (document["state"], document["id"]) == ("refused", None)
    assert document["error"] == {"name": error.name, "message": "cannot update notes: no.", "hint": "Try later."}


async def test_what_the_bus_forbids_is_told_as_not_authorised(slotd: Slotd, address: str) -> None:
    slotd.refuse["update"] = InteractionRequired("cannot do that: a password is needed.", hint="Run it as root.")
    run = await slotctl(address, "update", "notes")
    assert run.code == 5
    assert run.err.splitlines() == ["slotctl: cannot do that: a password is needed.", "  Run it as root."]


async def test_rollback_without_the_data_choice_is_a_usage_error_with_the_daemons_words(
    slotd: Slotd, address: str
) -> None:
    slotd.refuse["rollback"] = DataChoiceRequired(
        "cannot roll notes back: the backup is 5 min old.", hint="Say --data=keep or --data=restore."
    )
    run = await slotctl(address, "rollback", "notes")
    assert run.code == 2
    assert run.err.splitlines() == [
        "slotctl: cannot roll notes back: the backup is 5 min old.",
        "  Say --data=keep or --data=restore.",
    ]


@pytest.mark.parametrize(("typed", "asked_for"), [("r", "restore"), ("keep", "keep"), ("", ""), ("x", "")])
async def test_on_a_terminal_a_person_is_told_what_would_be_lost_and_asked(
    slotd: Slotd, address: str, typed: str, asked_for: str
) -> None:
    slotd.needs_choice = DataChoiceRequired(
        "cannot roll notes back: the backup is 5 min old; files since: 1 added (3 B).",
        hint="--data=restore brings it back.\n--data=keep keeps.",
    )
    answer = ("leaves all as it is", lambda ours: os.write(ours, f"{typed}\n".encode()))
    code, seen = await on_terminal(address, "rollback", "notes", once=answer)
    assert "1 added (3 B)" in seen
    assert code == (0 if asked_for else 2)
    assert slotd.options.get("data", "") == asked_for


async def test_an_unknown_app_gets_a_name_that_is_close(slotd: Slotd, address: str) -> None:
    for command in (("status", "nots"), ("update", "nots"), ("backups", "nots"), ("mode", "nots", "auto")):
        run = await slotctl(address, *command)
        assert run.code == 1
        assert "Did you mean notes?" in run.err


async def test_an_error_with_json_is_a_document_too(slotd: Slotd, address: str) -> None:
    run = await slotctl(address, "status", "nots", "--json")
    assert run.code == 1
    assert run.json["error"]["name"] == "NoSuchApp"
    assert run.json["error"]["hint"] == "Did you mean notes?"


async def test_check_all_follows_every_job_and_one_document_tells_of_all(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.IDLE, version="3", available="3")
    run = await slotctl(address, "check", "--all")
    assert run.code == 0
    assert sorted(run.steps) == [
        "  `slotctl update notes` installs it.",
        "notes: 1.1 is available (1.0 is installed)",
        "wiki: 3 is up to date",
    ]
    document = (await slotctl(address, "check", "--all", "--json")).json
    assert [(j["app"], j["result"], j["installed"], j["available"]) for j in document["jobs"]] == [
        ("notes", "done", "1.0", "1.1"),
        ("wiki", "done", "3", "3"),
    ]


async def test_update_all_with_nothing_due_exits_3(slotd: Slotd, address: str) -> None:
    run = await slotctl(address, "update", "--all")
    assert (run.code, run.out) == (3, "Nothing to do: no release is known that may be applied by itself.\n")


async def test_one_bad_name_among_many_does_not_stop_the_others(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch")
    run = await slotctl(address, "update", "notes", "nowhere")
    assert run.code == 1
    assert "notes: updated 1.0 → 1.1" in run.out
    assert "cannot find the app nowhere" in run.err


async def test_no_wait_returns_at_once_and_says_how_to_follow(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    run = await slotctl(address, "update", "notes", "--no-wait")
    assert run.code == 0
    assert run.out == "notes: update started as job 1; `slotctl follow 1` shows it\n"


async def test_ctrl_c_leaves_the_job_running_and_says_how_to_follow_it(slotd: Slotd, address: str) -> None:
    gate = asyncio.Event()
    slotd.script["update"] = through("fetch", wait=gate)
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    process.send_signal(signal.SIGINT)
    run = await finish(process)
    assert run.code == 130
    assert "the update goes on as job 1" in run.err
    assert "`slotctl follow 1` shows it again" in run.err
    assert "slotctl cancel 1" in run.err
    assert not slotd.all_jobs[1].is_finished


async def test_ctrl_c_in_a_trial_says_that_the_new_version_stays_on_trial(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("start", "trial", wait=asyncio.Event())
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    while b"Ctrl-C" not in await asyncio.wait_for(process.stdout.readline(), DEADLINE_S):
        pass
    process.send_signal(signal.SIGINT)
    run = await finish(process)
    assert run.code == 130
    assert "1.1 stays on trial; job 1 goes on watching it." in run.err


async def test_a_restart_of_the_daemon_in_the_middle_is_lived_through(slotd: Slotd, address: str) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    await slotd.leave()
    line = b""
    while b"waiting for it to come back" not in line:
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
        assert line
    await slotd.connect(address)
    slotd.script["update"] = through("verify", "trial")
    slotd.play(1)
    run = await finish(process)
    assert run.code == 0
    assert "notes: updated 1.0 → 1.1" in run.out


async def test_a_job_that_ended_unheard_while_the_daemon_was_away_for_a_moment_is_noticed_at_once(
    slotd: Slotd, address: str
) -> None:
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    process.send_signal(signal.SIGSTOP)  # it hears all that follows in one moment
    await slotd.leave()
    slotd.end(1, "updated")
    await slotd.connect(address)
    process.send_signal(signal.SIGCONT)
    run = await finish(process)
    assert run.code == 0
    assert "notes: updated 1.0 → 1.1" in run.out


async def test_who_asked_a_daemon_that_died_of_it_is_told_that_a_job_may_have_begun(address: str) -> None:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

    bus = await MessageBus(bus_address=address).connect()

    def die(message: Message) -> bool:
        if message.member == "Update":
            bus.disconnect()
        return message.member == "Update"

    bus.add_message_handler(die)
    await bus.request_name("org.slotd1")
    run = await slotctl(address, "update", "notes")
    assert run.code == 1
    assert "cannot finish: slotd did not answer." in run.err
    assert "`slotctl jobs` shows whether a job was started all the same." in " ".join(run.err.split())


async def test_signals_of_somebody_else_are_not_believed(slotd: Slotd, address: str) -> None:
    from dbus_fast import Message, MessageType
    from dbus_fast.aio import MessageBus

    gate = asyncio.Event()
    slotd.script["update"] = through("fetch", wait=gate)
    process = await start(address, "update", "notes")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    liar = await MessageBus(bus_address=address).connect()
    names = await liar.call(
        Message(destination="org.freedesktop.DBus", path="/", interface="org.freedesktop.DBus", member="ListNames")
    )
    for name in names.body[0]:
        if name.startswith(":"):
            forged = Message(
                message_type=MessageType.SIGNAL,
                destination=name,
                path="/org/slotd1/job/1",
                interface="org.freedesktop.DBus.Properties",
                member="PropertiesChanged",
                signature="sa{sv}as",
                body=[
                    "org.slotd1.Job",
                    {"State": Variant("s", "done"), "Result": Variant("s", "updated"), "Step": Variant("s", "forged")},
                    [],
                ],
            )
            await liar.send(forged)
    await asyncio.sleep(0.3)
    assert process.returncode is None
    gate.set()
    run = await finish(process)
    assert "forged" not in run.out
    liar.disconnect()


async def test_jobs_lists_what_runs_and_with_all_what_has_ended(slotd: Slotd, address: str) -> None:
    assert "No job runs now." in (await slotctl(address, "jobs")).out
    slotd.script["update"] = through("fetch", wait=asyncio.Event())
    await slotctl(address, "update", "notes", "--no-wait")
    await slotctl(address, "check", "notes")
    rows = (await slotctl(address, "jobs")).out.splitlines()
    assert len(rows) == 2
    assert rows[1].split()[:4] == ["1", "notes", "update", "running"]
    documents = (await slotctl(address, "jobs", "--all", "--json")).json
    assert [(d["id"], d["kind"], d["state"]) for d in documents] == [(1, "update", "running"), (2, "check", "done")]
    assert (await slotctl(address, "cancel", "1")).out == "notes: update, job 1, is being cancelled\n"
    assert slotd.cancelled == [1]
    slotd.refuse["cancel"] = TooLate("cannot cancel job 1: the app is stopped already.")
    late = await slotctl(address, "cancel", "1")
    assert (late.code, late.out) == (1, "")
    assert "the app is stopped already" in late.err
