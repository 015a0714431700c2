"""Where slotctl prints: text or one JSON document on standard output, errors on standard error. And the exit codes.

With `--json` standard output holds exactly one document whatever happens, an error too (`{"error": {"name", "message",
"hint"}}`); only `monitor` prints one per line. What people read of an error stands on standard error either way.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from slotd.cli.tables import Cell, Look, escape, look_at, table, warn, wrap
from slotd.errors import SlotdError, for_user_manager

DONE = 0
FAILED = 1
USAGE = 2
NOTHING = 3
ROLLED_BACK = 4
DENIED = 5
BUSY = 6
INTERRUPTED = 130
TERMINATED = 143

_CODES = {
    "BadOption": USAGE,
    "DataChoiceRequired": USAGE,
    "NothingToDo": NOTHING,
    "NotAuthorized": DENIED,
    "Busy": BUSY,
}
_WORST_FIRST = (FAILED, ROLLED_BACK, DENIED, BUSY, USAGE)


def code_of(name: str) -> int:
    """The exit code for an error's name."""
    return _CODES.get(name, FAILED)


def worst(codes: Iterable[int]) -> int:
    """One exit code for many jobs: the worst; `nothing to do` only if that is true of all."""
    seen = set(codes)
    for code in _WORST_FIRST:
        if code in seen:
            return code
    return NOTHING if seen == {NOTHING} else DONE


class Out:
    """`json`: exactly one document goes to standard output, and nothing else does."""

    def __init__(self, *, json: bool = False, no_color: bool = False, user: bool = False) -> None:
        self.json = json
        self._user = user
        environment = dict(os.environ)
        self.look: Look = look_at(sys.stdout, no_color=no_color, environment=environment)
        self._error_look = look_at(sys.stderr, no_color=no_color, environment=environment)

    def now(self) -> float:
        return time.time()

    def line(self, text: str = "", *, indent: int = 2) -> None:
        """One line for people; not with `--json`. The text is escaped by who made it.

        On a terminal one that is too long goes on below, `indent` columns further in.
        """
        if not self.json:
            print("\n".join(self._lines(self.look, self.worded(text), indent, sys.stdout)), flush=True)

    def worded(self, text: str) -> str:
        """`text` with the commands that this person has to type: those of one's own slotd take --user."""
        return for_user_manager(text).replace("/etc/slotd/", "~/.config/slotd/") if self._user else text

    def error_line(self, text: str, *, indent: int = 2) -> None:
        """The same on standard error, with `--json` too."""
        warn("\n".join(self._lines(self._error_look, self.worded(text), indent, sys.stderr)))

    def _lines(self, look: Look, text: str, indent: int, stream: Any) -> list[str]:
        if not look.unicode:
            encoding = stream.encoding or "ascii"
            text = text.replace("→", "->").replace("…", "...").replace("●", "*")
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        depth = len(text) - len(text.lstrip(" "))
        return [text] if look.width is None else wrap(text, look.width, max(depth, indent))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
        if not self.json and rows:
            print("\n".join(table(head, rows, self.look)), flush=True)

    def document(self, value: Any) -> None:
        """The JSON document; only with `--json`."""
        if self.json:
            from json import dumps

            print(dumps(value, indent=2, ensure_ascii=True), flush=True)

    def json_line(self, value: Any) -> None:
        """One JSON document on one line, for streams of them (`monitor`)."""
        from json import dumps

        print(dumps(value, ensure_ascii=True), flush=True)

    def complain(self, message: str, hint: str = "") -> None:
        """An error for people, on standard error: the sentence, and what to do on a line of its own."""
        head, *rest = message.splitlines() or [""]
        paint = self._error_look.paint
        self.error_line(f"{paint('slotctl:', 'red')} {escape(head)}")
        for line in (*rest, *hint.splitlines()):
            self.error_line(f"  {escape(line)}")

    def error(self, error: SlotdError) -> int:
        """Prints an error (with `--json` as the document too) and gives its exit code."""
        if self._user:
            error.message, error.hint = self.worded(error.message), self.worded(error.hint)
        self.complain(error.message, error.hint)
        self.document({"error": error_json(error)})
        return code_of(error.name)


def error_json(error: SlotdError) -> dict[str, str]:
    return {"name": error.name, "message": error.message, "hint": error.hint}
