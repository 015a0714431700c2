"""How each end of a job is told, and its exit code; the grammar; errors of the bus in words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slotd.cli.client import Gone, Silent, Unreachable, address, to_error
from slotd.cli.main import main
from slotd.cli.out import BUSY, DENIED, DONE, FAILED, NOTHING, ROLLED_BACK, USAGE, Out, code_of, worst
from slotd.cli.parser import build, parse
from slotd.cli.views import App, Job
from slotd.cli.words import exit_code, summary
from slotd.errors import BY_NAME, BadOption, Busy, NotAuthorized, for_user_manager

# The grammar, completion, and what `doctor` has as a command of its own kind, which it words itself
NOT_HINTS = ("parser.py", "complete.py", "diagnosis.py")


def job(kind: str = "update", **values: object) -> Job:
    given = {"id": 7, "app": "notes", "kind": kind, "state": "done", "version": "1.1", "previous_version": "1.0"}
    return Job(**(given | {"started": 100.0, "finished": 112.0} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "code", "sentence"),
    [
        (job(result="updated"), DONE, "notes: updated 1.0 → 1.1 in 12 s"),
        (job(result="updated", previous_version=""), DONE, "notes: installed 1.1 in 12 s"),
        (job(result="up-to-date"), NOTHING, "notes: 1.0 is up to date; nothing to do"),
        (
            job(result="unchanged"),
            NOTHING,
            "notes: 1.1 is the same, file for file, as what is installed; nothing was touched",
        ),
        (
            job(result="rolled-back", state="failed", error_name="Failed", error_message="the probe was red"),
            ROLLED_BACK,
            "notes: 1.1 failed and was rolled back to 1.0 in 12 s: the probe was red",
        ),
        (
            job("rollback", result="rolled-back", version="1.0", previous_version="1.1"),
            DONE,
            "notes: rolled back 1.1 → 1.0 in 12 s",
        ),
        (
            job(result="rollback-failed", state="failed", error_message="disk"),
            FAILED,
            "notes: the rollback failed: disk",
        ),
        (
            job(result="failed", state="failed", error_name="NoSpace", error_message="cannot stage: full"),
            FAILED,
            "notes: update failed: cannot stage: full",
        ),
        (
            job(result="failed", state="failed", error_name="NothingToDo", error_message="all new"),
            NOTHING,
            "notes: all new",
        ),
        (job(result="cancelled", state="cancelled"), FAILED, "notes: update cancelled; the app was not touched"),
        (
            job("restore", result="done"),
            DONE,
            "notes: data restored in 12 s; the data it replaced was set aside, see `slotctl backups notes`",
        ),
    ],
)
def test_each_end_of_a_job_has_its_sentence_and_exit_code(ended: Job, code: int, sentence: str) -> None:
    assert (exit_code(ended), summary(ended)[0]) == (code, sentence)


def test_a_check_says_what_is_available_and_how_to_get_it() -> None:
    app = App.of({"Name": "notes", "Version": "1.0", "AvailableVersion": "1.1", "State": "awaiting-approval"})
    sentence, hint = summary(job("check", result="done"), app)
    assert sentence == "notes: 1.1 is available (1.0 is installed) and awaits approval"
    assert "slotctl approve notes 1.1" in hint


def test_an_app_without_a_release_is_not_called_up_to_date() -> None:
    app = App.of({"Name": "notes", "State": "absent"})
    why = ("1.0 was passed over: it is too young", "0.9 was passed over: its asset is not there (yet)")
    for kind in ("check", "update"):
        sentence, hint = summary(job(kind, result="up-to-date", error_message=why[0], error_hint=why[1]), app)
        assert sentence == "notes: nothing is installed, and its source offers nothing to install"
        assert hint.splitlines() == list(why)


def test_a_check_of_a_held_app_says_how_to_lift_the_hold() -> None:
    app = App.of({"Name": "notes", "Version": "1.0", "AvailableVersion": "1.1", "State": "held", "Held": True})
    assert summary(job("check", result="done"), app)[1] == "`slotctl unhold notes` lifts the hold."


def test_a_forged_version_name_is_escaped_in_the_summary() -> None:
    assert "\x1b" not in summary(job(result="updated", version="1.1\x1b[2J"))[0]


def test_every_named_error_has_an_exit_code() -> None:
    special = {name: code_of(name) for name in BY_NAME if code_of(name) != FAILED}
    assert special == {
        "BadOption": USAGE,
        "DataChoiceRequired": USAGE,
        "NothingToDo": NOTHING,
        "NotAuthorized": DENIED,
        "Busy": BUSY,
    }


def test_the_exit_code_for_many_is_the_worst() -> None:
    assert worst([DONE, NOTHING]) == DONE
    assert worst([NOTHING, NOTHING]) == NOTHING
    assert worst([DONE, ROLLED_BACK, BUSY]) == ROLLED_BACK
    assert worst([BUSY, FAILED, DONE]) == FAILED
    assert worst([]) == DONE


def test_an_error_of_slotd_keeps_its_kind_sentence_and_hint() -> None:
    error = to_error("org.slotd1.Error.Busy", "cannot update notes: job 3 runs.\nWait for it.")
    assert (type(error), error.message, error.hint) == (Busy, "cannot update notes: job 3 runs.", "Wait for it.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ServiceUnknown", Unreachable),
        ("Spawn.ChildExited", Unreachable),
        ("NoReply", Silent),
        ("AccessDenied", NotAuthorized),
        ("InteractiveAuthorizationRequired", NotAuthorized),
        ("UnknownObject", Gone),
    ],
)
def test_an_error_of_the_bus_says_what_to_do(name: str, kind: type[Exception]) -> None:
    error = to_error("org.freedesktop.DBus.Error." + name, "text")
    assert type(error) is kind
    assert error.message.startswith("cannot ")
    assert error.hint or kind is Gone


def test_a_user_without_a_session_bus_is_told_so() -> None:
    with pytest.raises(Unreachable, match="cannot reach your user manager: there is no /nonexistent") as caught:
        address(user=True, environment={"XDG_RUNTIME_DIR": "/nonexistent"})
    assert "machinectl shell" in caught.value.hint
    assert "enable-linger" in caught.value.hint
    sudo = {"XDG_RUNTIME_DIR": "/nonexistent", "SUDO_USER": "alice"}
    with pytest.raises(Unreachable) as caught:
        address(user=True, environment=sudo)
    assert "run it as alice, without sudo" in caught.value.hint


def test_a_hint_of_a_users_slotd_names_commands_that_reach_it() -> None:
    said = "See `journalctl -u slotd` and `systemctl status notes`, then `slotctl unhold notes`; or `journalctl -k`."
    told = "See `journalctl --user -u slotd` and `systemctl --user status notes`, then `slotctl --user unhold notes`;"
    assert for_user_manager(said) == f"{told} or `journalctl -k`."
    assert for_user_manager(told) == told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["updat", "notes"], "Did you mean update?"),
        (["update", "notes", "--forc"], "Did you mean --force?"),
        (["mode", "notes", "atuo"], "Did you mean auto?"),
        (["rollback", "notes", "--data=restor"], "Did you mean restore?"),
        (["update"], "name an app, or --all"),
        (["check", "notes", "--all"], "not both"),
        (["update", "a", "b", "--version", "1"], "--version is for one app"),
        (["update", "--all", "--force"], "not for --all"),
        (["cancel", "x"], "not a number above zero"),
        (["history", "--limit", "0"], "not a number above zero"),
        (["up\x1b[31m"], "\\x1b"),
    ],
)
def test_a_wrong_command_line_is_told_and_exits_2(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == USAGE
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "\x1b" not in printed.err


def test_global_options_stand_before_or_after_the_command() -> None:
    for argv in (["--json", "--user", "list"], ["list", "--json", "--user"], ["--json", "list", "--user"]):
        args = parse(argv)
        assert (args.json, args.user, args.no_wait) == (True, True, False)


def test_an_app_named_twice_is_updated_once() -> None:
    assert parse(["update", "b", "a", "b"]).apps == ["b", "a"]


def test_help_and_usage_load_neither_the_bus_library_nor_rich() -> None:
    code = (
        "import sys; from slotd.cli.main import main; main(['--help']); main(['nosuch']); print(*sorted(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": "daemon"}, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.splitlines()[-1].split())
    assert "slotd.cli.parser" in loaded
    assert not loaded & {"dbus_fast", "rich", "asyncio", "httpx", "slotd.cli.client"}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["list", "--foo"], "unknown option --foo", "See `slotctl list --help`."),
        (["list", "--stat=idle"], "unknown option --stat", "Did you mean --state?\nSee `slotctl list --help`."),
        (["--jsn"], "unknown option --jsn", "Did you mean --json?\nSee `slotctl --help`."),
        (["hold"], "the following arguments are required: APP", "See `slotctl hold --help`."),
    ],
)
def test_a_wrong_option_is_judged_by_the_command_that_it_was_given_to(
    words: list[str], message: str, hint: str
) -> None:
    with pytest.raises(BadOption) as error:
        parse(words)
    assert (error.value.message, error.value.hint) == (message, hint)


def test_no_line_of_help_is_wider_than_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = build().format_help()
    assert max(map(len, said.splitlines())) <= 80
    assert "Without a command it is `slotctl status`" in said


def test_whatever_is_printed_for_a_user_names_the_commands_of_that_user(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(user=True)
    out.line(
        "No job runs now. `slotctl jobs --all` shows finished ones; see `systemctl status x` and `slotctl --user list`."
    )
    out.complain("cannot do that.", "A definition is a file like /etc/slotd/apps.d/NAME.toml; `slotctl verify NAME`.")
    said = capsys.readouterr()
    assert "`slotctl --user jobs --all`" in said.out
    assert "`systemctl --user status x` and `slotctl --user list`" in said.out
    assert "~/.config/slotd/apps.d/NAME.toml; `slotctl --user verify NAME`" in said.err
    Out(user=False).line("`slotctl jobs --all`")
    assert capsys.readouterr().out == "`slotctl jobs --all`\n"


def test_every_command_that_the_programs_tell_a_person_to_type_is_marked_as_one() -> None:
    """Between backquotes: only there is it turned into the user's own."""
    for path in (Path(__file__).resolve().parents[2] / "daemon" / "slotd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n\n" not in node.value:
                bare = re.findall(
                    r"(?<![`\w])slotctl (?:hold|unhold|approve|update|rollback|status|verify|jobs) ", node.value
                )
                assert not bare or path.name in NOT_HINTS, (path.name, node.value)
