"""An administrator's session at a terminal, with a real app and a real publisher, as docs/session.md shows it.

`SLOTD_WRITE_SESSION=1` writes the page anew. Read it then: each line must say the right thing to a person.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.schemas import check
from tests.system.container import Container
from tests.system.notes import Notes, Publisher
from tests.system.terminal import CTRL_C, Seen, Terminal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "session.md"
MENDED = "mode = "
MISTAKE = "mod = "
WATCHING = r"leaves it so\.\n.* left"
DEFINITION = "/etc/slotd/apps.d/notes.toml"

# What differs from one recording to the next: times, sizes, shares, names made from a time, ports, keys, process ids.
_MOVING = (
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( UTC)?\b", "TIME"),
    (r"\b[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d{8}T\d{6}Z?[-\w.]*", "ID"),
    (r"(\b\d+(\.\d+)? (s|min|h)\b ?)+", "SPAN "),
    (r"(updated|rolled back) (\S+ → \S+) in SPAN ", r"\1 \2 "),  # not said of less than a second
    (r"\b\d+(\.\d+)? (B|KiB|MiB)\b", "SIZE"),
    (r"\bjust now\b|\bSPAN ago\b", "AGO"),
    (r"[━╸╺]+", "BAR"),
    (r"\b\d+ %", "SHARE"),
    (r"\b[0-9A-F]{16,40}\b", "KEY"),
    (r"\[\d+\]", "[PID]"),
)


def still(page: str) -> list[str]:
    """The parts of the page without what differs from one recording to the next, and without where lines break."""
    parts = []
    for part in page.split("```"):
        text = " ".join(part.split())
        for pattern, word in _MOVING:
            text = re.sub(pattern, word, text)
        parts.append(text.replace(" ", ""))
    return parts


class Session:
    """Types lines, and keeps what a person saw as Markdown."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.parts = [HEAD]

    def say(self, text: str) -> None:
        self.parts.append(text)

    def type(self, line: str, *, status: int = 0, until: str = "", press: bytes = b"") -> Seen:
        seen = self._terminal.run(line, until=until, press=press)
        assert status is None or seen.status == status, f"`{line}` ended with {seen.status}:\n{seen.text}"
        ended = f"(exit status {status})" if status else ""
        self.parts.append(_block(line, seen.text, ended))
        return seen

    @property
    def page(self) -> str:
        return "\n\n".join(self.parts) + "\n"


def _block(line: str, shown: str, ended: str = "") -> str:
    return "\n".join(part for part in ("```console", f"# {line}", shown, ended, "```") if part)


HEAD = """\
# A session

What an administrator sees, recorded by a test from a real terminal: the package on a booted Debian, a small app that
keeps notes, and its publisher. An exit status that is not 0 is said below."""


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="3s")
        app.install("1.0")
        yield app


def test_a_session_reads_as_the_page_shows_it(notes: Notes) -> None:
    session = Session(Terminal(notes.machine))
    record(session, notes)
    if os.environ.get("SLOTD_WRITE_SESSION"):
        PAGE.write_text(session.page)
    assert still(session.page) == still(PAGE.read_text())


def test_what_gives_units_to_slotds_care_fits_its_schema(notes: Notes) -> None:
    for command in ("enable", "disable"):
        document = notes.json(command, "notes")
        check(command, document)
        assert document["changes"]


def record(session: Session, notes: Notes) -> None:
    """The whole session; each part says first what it shows."""
    session.say("## What there is")
    notes.publisher.publish("1.1", schema=2)
    session.type("slotctl check notes")
    session.type("slotctl list")
    session.type("slotctl status notes")

    session.say("## An update\n\nWhile it runs, the last line shows the step and how far it is:")
    seen = session.type("slotctl update notes", until=WATCHING)
    session.parts.insert(-1, _block("slotctl update notes", seen.middle) + "\n\nAnd when it is done:")
    session.type("slotctl update notes", status=3)

    session.say("## Going back by hand")
    # Without a terminal, this is the question and exit status 2.
    session.type("slotctl rollback notes", until="leaves all as it is:", press=b"restore\n")
    session.type("slotctl backups notes")
    session.type("slotctl status notes")

    session.say("## A release that is not well")
    notes.publisher.publish("1.2", "crash-after 1", schema=2)
    session.type("slotctl update notes", status=4)
    session.type("slotctl status")
    session.type("journalctl -u notes.service -x --no-hostname -t slotd -n 1")
    session.type("slotctl update notes", status=3)
    session.type("slotctl history notes --limit 9")

    session.say("## Keeping an app as it is")
    session.type("slotctl hold notes the disk is being replaced")
    session.type("slotctl update notes", status=1)
    session.type("slotctl unhold notes")

    session.say("## Leaving a job, and coming back to it")
    notes.publisher.publish("1.3", schema=2)
    notes.set_trial("10s")
    session.type("slotctl update notes", status=130, until=WATCHING, press=CTRL_C)
    session.type("slotctl jobs")
    session.type("slotctl follow notes")
    notes.set_trial("")

    session.say("## A job that is cancelled")
    notes.machine.write_file(f"{DEFINITION}.d/delay.toml", '[policy]\ndelay = "10min"\n')
    notes.publisher.publish("1.4", schema=2)
    session.type("slotctl reload")
    session.type("slotctl check notes")
    session.type("slotctl mode notes auto")
    session.type("slotctl update --all --no-wait")
    number = notes.json("jobs")[0]["id"]
    notes.machine.wait_for("slotctl jobs | grep -w delay")
    session.type("slotctl status notes")
    session.type(f"slotctl cancel {number}")
    notes.machine.run(f"slotctl follow {number}", check=False)
    session.type("slotctl jobs --all --limit 3")
    session.type("slotctl mode notes default")

    session.say("## A mistake in a definition")
    session.type(f"sed -i 's/^{MENDED}/{MISTAKE}/' {DEFINITION}")
    session.type("slotctl reload")
    session.type("slotctl status")
    session.type("slotctl update notes", status=1)
    session.type("slotctl verify notes", status=1)
    session.type(f"sed -i 's/^{MISTAKE}/{MENDED}/' {DEFINITION}")
    session.type("slotctl verify notes")
    session.type("slotctl reload")
    notes.machine.write_file("/etc/slotd/slotd.toml", "max_paralel = 4\n")
    session.type("cat /etc/slotd/slotd.toml")
    session.type("slotctl reload")
    session.type("slotctl status")

    session.say("## A mistake at the keyboard")
    session.type("slotctl status nots", status=1)
    session.type("slotctl updat notes", status=2)
    session.type("slotctl update notes --forc", status=2)
    session.type("slotctl mode notes automatic", status=2)
    session.type("slotctl approve notes 1.5", status=1)
    session.type("slotctl update notes --version 1.5", status=1)
    session.type("slotctl restore notes 2020", status=1)
    session.type("slotctl cancel 99", status=1)
