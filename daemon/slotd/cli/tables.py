"""Text for people: escaping, widths, times, colours, tables. Pure; `now` and the terminal's width come in as values.

Everything that came over the bus (names, reasons, versions, messages) passes `escape` before it is printed: a release
named with an escape sequence must not write on the administrator's terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC
from time import localtime, strftime

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

STATE_COLOURS = {
    "idle": "green",
    "update-available": "cyan",
    "awaiting-approval": "yellow",
    "updating": "yellow",
    "trial": "yellow",
    "rolling-back": "yellow",
    "held": "yellow",
    "failed": "red",
    "misconfigured": "red",
    "absent": "dim",
    # jobs
    "done": "green",
    "running": "yellow",
    "waiting": "dim",
    "cancelled": "dim",
    # results
    "updated": "green",
    "rolled-back": "yellow",
    "rollback-failed": "red",
}

NEVER_CUT = ("ID", "VERSION")  # columns of what people type again: a line that is too long is the lesser evil
WHOLE_CELLS = 40  # but what is longer is nobody's id
_COLUMN_MIN = (8, 4)  # columns give way down to the first; only if that is not enough, to the second
_SGR = "\x1b["  # how every colour of ours begins; `escape` lets none of others through


def escape(text: str) -> str:
    r"""`text` with everything that does not print (controls, bidi marks, surrogates) shown as `\x1b` and so on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cells(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` in at most `width` columns, ending in an ellipsis if something was cut off."""
    if cells(text) <= width:
        return text
    room = width - len(ellipsis)
    if room <= 0:
        return ellipsis[:width]
    kept: list[str] = []
    for char in text:
        room -= cells(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + ellipsis


def wrap(text: str, width: int, indent: int) -> list[str]:
    """`text` in lines of at most `width` columns, broken between words, those after the first indented.

    What stands between backticks is a command to copy: it stays on one line if it fits on any.
    """
    if _columns(text) <= width:
        return [text]
    room = max(width - indent, 1)
    body = text.lstrip(" ")
    lines, line = [], " " * (len(text) - len(body))
    is_empty = True
    for word in _words(body, room):
        if not is_empty and _columns(line) + 1 + _columns(word) > width:
            lines.append(line)
            line, is_empty = " " * min(indent, width - 1), True
        line += word if is_empty else f" {word}"
        is_empty = False
    return [*lines, line]


def _words(text: str, room: int) -> list[str]:
    """The words of `text`; a command in backticks is one if it takes no more than `room` columns."""
    words: list[str] = []
    is_open = False
    for word in text.split(" "):
        if is_open and _columns(words[-1]) + 1 + _columns(word) <= room:
            words[-1] += f" {word}"
        else:
            words.append(word)
        is_open ^= word.count("`") % 2 == 1
    return words


def _columns(text: str) -> int:
    """Columns of a text that may have colours of ours in it."""
    if _SGR not in text:
        return cells(text)
    head, *painted = text.split(_SGR)
    return cells(head) + sum(cells(part.split("m", 1)[-1]) for part in painted)


def relative(at: float | None, now: float) -> str:
    """`3 min ago`, `in 9 min`, `just now`; `never` for None."""
    if at is None:
        return "never"
    delta = now - at
    if abs(delta) < 2:
        return "just now"
    text = coarse(abs(delta))
    return f"{text} ago" if delta > 0 else f"in {text}"


def coarse(seconds: float) -> str:
    """One unit only: `42 s`, `3 min`, `5 h`, `2 days`."""
    for limit, size, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{round(seconds / size)} {name}"
    days = round(seconds / 86400)
    return f"{days} day" if days == 1 else f"{days} days"


def clock(at: float) -> str:
    """The time of day, local: `12:03:04`."""
    return strftime("%H:%M:%S", localtime(at))


def moment(at: float) -> str:
    """Date and time, local, with the zone: `2026-08-03 12:03:04 CEST`."""
    return strftime("%Y-%m-%d %H:%M:%S %Z", localtime(at)).rstrip()


def short_moment(at: float, now: float) -> str:
    """The time of day if it is today, else with the date."""
    today = strftime("%Y-%m-%d", localtime(now)) == strftime("%Y-%m-%d", localtime(at))
    return strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", localtime(at))


def iso(at: float | None) -> str | None:
    """ISO 8601 in UTC with milliseconds (`2026-08-03T10:03:04.250Z`); None stays None."""
    if at is None:
        return None
    from datetime import datetime

    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a table: text, already escaped or to be (`table` escapes), and a colour's name or nothing."""

    text: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """How to print: colours or none, the terminal's width (None: not a terminal, nothing is cut), ASCII only or not."""

    colour: bool = False
    width: int | None = None
    unicode: bool = True

    def paint(self, text: str, colour: str) -> str:
        if not self.colour or not colour or not text:
            return text
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"

    def state(self, word: str) -> str:
        """A state, job state or result in its colour, escaped."""
        return self.paint(escape(word), STATE_COLOURS.get(word, ""))

    @property
    def ellipsis(self) -> str:
        return "…" if self.unicode else "..."

    @property
    def bullet(self) -> str:
        return "●" if self.unicode else "*"


def look_at(stream: object, *, no_color: bool, environment: dict[str, str]) -> Look:
    """The look for a stream: colours only on a terminal that has them and when nobody asked for none (NO_COLOR)."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        "…→●".encode(encoding)
        unicode = True
    except (UnicodeEncodeError, LookupError):
        unicode = False
    if not is_terminal(stream):
        return Look(unicode=unicode)
    from shutil import get_terminal_size

    plain = no_color or bool(environment.get("NO_COLOR")) or environment.get("TERM", "dumb") == "dumb"
    return Look(colour=not plain, width=max(get_terminal_size().columns, 20), unicode=unicode)


def is_terminal(stream: object) -> bool:
    """True for an open stream on a terminal."""
    try:
        return bool(getattr(stream, "isatty", bool)())
    except ValueError:  # closed
        return False


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]], look: Look) -> list[str]:
    """Lines of an aligned table. On a terminal the widest columns give way until a line fits."""
    grid = [[Cell(name, "bold") for name in head]]
    grid += [[Cell(escape(c.text), c.colour) if isinstance(c, Cell) else Cell(escape(c)) for c in row] for row in rows]
    widths = [max(cells(row[i].text) for row in grid) for i in range(len(head))]
    if look.width is not None:
        whole = {i for i, name in enumerate(head) if name in NEVER_CUT and widths[i] <= WHOLE_CELLS}
        _fit(widths, look.width - 2 * (len(widths) - 1), whole)
    lines = []
    for row in grid:
        line = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = clip(cell.text, width, look.ellipsis)
            pad = " " * (width - cells(text)) if i < len(widths) - 1 else ""
            line.append(look.paint(text, cell.colour) + pad)
        lines.append("  ".join(line).rstrip())
    return lines


def _fit(widths: list[int], room: int, whole: Collection[int] = ()) -> None:
    """Narrows the widest column, again and again, until all fit or none may give more; those of `whole` never do."""
    giving = [i for i in range(len(widths)) if i not in whole]
    for least in _COLUMN_MIN:
        while giving and sum(widths) > room:
            widest = max(giving, key=lambda i: widths[i])
            if widths[widest] <= least:
                break
            widths[widest] -= 1


def warn(text: str) -> None:
    """Text on standard error, never failing because nobody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass
