"""People on a booted machine: who they are, what they say on the bus, and how they type at a terminal of their own."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Self

from tests.system.container import Container
from tests.system.image import REPOSITORY

MANAGER, APP, JOB = "org.slotd1.Manager", "org.slotd1.App", "org.slotd1.Job"
NOT_AUTHORIZED = "org.slotd1.Error.NotAuthorized"
INTERACTIVE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
DENIALS = {NOT_AUTHORIZED, INTERACTIVE, ACCESS_DENIED}

_RULES = re.compile(r"```(?:js|xml|ini)\n(?://|<!--|#) (/etc/\S+/(\S+?)(?:\.rules|\.conf))(?: -->)?\n.*?```", re.DOTALL)

# Calls, one after another on one connection: from JSON on the first line of its input, to a line of JSON each.
_CALLER = """\
import asyncio, json, sys
from slotd.cli.agent import PasswordAgent
from slotd.errors import SlotdError
from slotd.host.bus import Bus, Variant

async def main():
    calls, is_apart = json.loads(sys.argv[1])
    agent = PasswordAgent()
    bus = await Bus.connect("system")
    await agent.start()
    for interface, path, member, signature, body, options, is_interactive in calls:
        body = [*body, {k: Variant("b" if isinstance(v, bool) else "s", v) for k, v in options.items()}]
        body = body if signature.endswith("a{sv}") else body[:-1]
        fds = [0] if "h" in signature else []
        if is_apart:
            await bus.close()
            bus = await Bus.connect("system")
        try:
            reply = await bus.call("org.slotd1", path, interface, member, signature, body,
                                   timeout_s=100, interactive=is_interactive, fds=fds)
            print("said", json.dumps({"error": "", "text": "", "reply": reply}), flush=True)
        except SlotdError as error:
            said = {"error": error.remote_name, "text": error.message, "reply": None}
            print("said", json.dumps(said), flush=True)
    agent.stop()
    await bus.close()

asyncio.run(main())
"""


def rules_of_the_manual() -> dict[str, tuple[str, str]]:
    """What docs/polkit.md tells people to paste: for each file's name, without its ending, its path and text."""
    manual = (REPOSITORY / "docs" / "polkit.md").read_text()
    return {found[2]: (found[1], found[0].partition("\n")[2].removesuffix("```")) for found in _RULES.finditer(manual)}


def add_person(machine: Container, name: str, *groups: str, password: str = "") -> None:
    """A user with a home and maybe a password."""
    for group in groups:
        machine.run(["groupadd", "--force", group])
    machine.run(f"id {name} >/dev/null 2>&1 || useradd --create-home --shell=/bin/bash {name}")
    for group in groups:
        machine.run(["gpasswd", "--add", name, group])
    if password:
        machine.run("chpasswd", input=f"{name}:{password}\n")


def set_rules(machine: Container, *names: str) -> None:
    """Exactly these of the manual's rules hold from now on."""
    rules = rules_of_the_manual()
    machine.run("find /etc/polkit-1/rules.d -name '*-slotd-*' -delete")
    for name in names:
        path, text = rules[name]
        machine.write_file(path, text)
    # polkit looks at the directory by itself, but not at once. Fast tests would restart it beyond its start limit.
    machine.run("systemctl reset-failed polkit.service; systemctl restart polkit.service")


Call = tuple[str, str, str, str, list[Any], dict[str, Any]]  # interface, path, member, signature, arguments, options


def argv_of(calls: Sequence[Call], *, interactive: bool = False, apart: bool = False) -> list[str]:
    """The command that makes these calls on one connection; `apart`: each on another, all of one process."""
    told = [[[*call, interactive] for call in calls], apart]
    return ["/usr/bin/python3", "-I", "-c", _CALLER, json.dumps(told)]


def answers_in(output: str) -> list[dict[str, Any]]:
    """What that command printed, among whatever else was on the terminal: `error`, `text`, `reply`."""
    found = (line.partition("said ")[2].strip() for line in output.splitlines() if "said {" in line)
    return [json.loads(line) for line in found]


def ask(machine: Container, user: str | None, *calls: Call, interactive: bool = False) -> list[dict[str, Any]]:
    """Calls of a user, on one connection."""
    return answers_in(machine.run(argv_of(calls, interactive=interactive), user=user).stdout)


def of_app(member: str, app: str, *args: str, by_manager: bool = True, **options: Any) -> Call:
    """A call about an app, of the manager or of the app's own object."""
    if by_manager:
        return (MANAGER, "/org/slotd1", member, "s" * (len(args) + 1) + "a{sv}", [app, *args], options)
    return (APP, f"/org/slotd1/app/{app}", member, "s" * len(args) + "a{sv}", list(args), options)


class Terminal:
    """A command that a user runs at a terminal, in a login session."""

    def __init__(self, machine: Container, user: str, command: Sequence[str]) -> None:
        session = ["-p", "PAMName=login", "-p", f"User={user}", "-E", "XDG_SESSION_CLASS=user"]
        run = ["systemd-run", "--quiet", "--collect", "--wait", "--pty", *session, "-E", "XDG_SESSION_TYPE=tty"]
        self._ours, theirs = os.openpty()
        argv = ["setsid", "--ctty", "--wait", *machine.argv([*run, "--", *command])]
        self._process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._read = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def see(self, text: str, *, timeout_s: float = 30.0) -> str:
        """Wait until this is on the screen, below what was seen before; gives all down to there."""
        deadline = time.monotonic() + timeout_s
        while text not in self._read:
            assert self._look(deadline), f"{text!r} was never shown; the terminal says:\n{self._read}"
        seen, _, self._read = self._read.partition(text)
        return seen + text

    def type(self, text: str) -> None:
        time.sleep(0.3)  # as a person would: pkttyagent drops what is typed before it has turned the echo off
        os.write(self._ours, text.encode())

    def end(self, *, timeout_s: float = 60.0) -> tuple[int, str]:
        """Wait for the end of the command; gives its status and what it printed since it was last looked at."""
        deadline = time.monotonic() + timeout_s
        while self._look(deadline):
            pass
        return self._process.wait(max(1.0, deadline - time.monotonic())), self._read

    def _look(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._ours, 65536) if readable else b""
        except OSError:  # the other side is closed
            data = b""
        self._read += data.decode(errors="replace")
        return bool(data)
