"""Words for people that the daemon and slotctl share."""

from __future__ import annotations

import re

SAID_CHARS = 300
# What Node.js and the JVM print below an error: where it was raised, and who they are.
_BELOW_ERRORS = re.compile(r"(at \S.*|\.\.\. \d+ more|[{}]|Node\.js v[\d.]+)")


def last_words(output: str) -> str:
    """The last line that a program printed, quoted, as a sentence; empty for none. If it is a stack below an error, the
    error is quoted.

    It is foreign: one printable line of bounded length, that can neither pass for a sentence of ours (a hint comes
    on a line of its own) nor play with a terminal.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if not _BELOW_ERRORS.fullmatch(line)), lines[-1] if lines else "")
    return f"Its last words: “{one_line(last)}”." if lines else ""


def one_line(text: str) -> str:
    """A foreign text as one printable line."""
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= SAID_CHARS else line[: SAID_CHARS - 1] + "…"


def about_it(reason: str, version: str) -> str:
    """`1.2 keeps crashing` after `1.2 was rolled back:` becomes `it keeps crashing`."""
    return f"it{reason.removeprefix(version)}" if version and reason.startswith(f"{version} ") else reason


def duration(seconds: float) -> str:
    """`12 s`, `1 min 5 s`, `2 h 3 min`, `3 days 4 h`: at most two units; fractions only below ten seconds."""
    if seconds < 10 and round(seconds, 1) != round(seconds):
        return f"{max(seconds, 0.0):.1f} s"
    left = max(round(seconds), 0)
    parts = []
    for unit, size in (("day", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            name = "days" if unit == "day" and count > 1 else unit
            parts.append(f"{count} {name}")
        elif parts:
            break  # `2 h`, not `2 h 0 min 7 s`
    return " ".join(parts[:2]) or "0 s"


def size(count: int) -> str:
    """Bytes for people: `512 B`, `12 MiB`, `1.4 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
