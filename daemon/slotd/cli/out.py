"""Where slotctl prints: text or one JSON document on standard output, errors on standard error. And the exit codes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from slotd.cli.tables import Cell, Look, escape, look_at, table, warn
from slotd.errors import SlotdError

DONE = 0
FAILED = 1
USAGE = 2
NOTHING = 3
ROLLED_BACK = 4
DENIED = 5
BUSY = 6
INTERRUPTED = 130

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

    def __init__(self, *, json: bool = False, no_color: bool = False) -> None:
        self.json = json
        environment = dict(os.environ)
        self.look: Look = look_at(sys.stdout, no_color=no_color, environment=environment)
        self._error_look = look_at(sys.stderr, no_color=no_color, environment=environment)

    def now(self) -> float:
        return time.time()

    def line(self, text: str = "") -> None:
        """One line for people; not with `--json`. The text is escaped by who made it."""
        if not self.json:
            if not self.look.unicode:
                text = text.replace("→", "->").replace("…", "...").replace("●", "*")
                text = text.encode(sys.stdout.encoding or "ascii", "backslashreplace").decode(
                    sys.stdout.encoding or "ascii"
                )
            print(text, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
        for line in table(head, rows, self.look):
            self.line(line)

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
        warn(f"{paint('slotctl:', 'red')} {escape(head)}")
        for line in rest:
            warn(f"  {escape(line)}")
        for line in hint.splitlines():
            warn(f"  {escape(line)}")

    def error(self, error: SlotdError) -> int:
        """Prints an error (with `--json` as the document too) and gives its exit code."""
        self.complain(error.message, error.hint)
        self.document({"error": error_json(error)})
        return code_of(error.name)


def error_json(error: SlotdError) -> dict[str, str]:
    return {"name": error.name, "message": error.message, "hint": error.hint}
