"""What of a unit file starts a program from one directory, said again for another: the text of a drop-in.

Follows systemd.syntax(7): lines that end in a backslash go on, `#` and `;` begin comments, a list setting with an empty
value starts anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# Settings that are lists and must be said again whole; of the others, only what changes is said.
EXEC = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
LAST_COUNTS = ("WorkingDirectory",)
ADDED_UP = ("Environment",)
PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_.+@:-]+)+")  # nothing that systemd would quote, unescape or expand


def moved(text: str, old: str, new: str, staying: Sequence[str] = ()) -> str:
    """The `[Service]` part of a drop-in that makes a unit use `new` where it uses `old`; empty if it does not.

    `text` is the unit file with its drop-ins. Paths at and below one of `staying` stay as they are.
    """
    lists: dict[str, list[str]] = {}
    for key, value in _settings(text):
        if key in LAST_COUNTS:
            lists[key] = [value]
        elif key in (*EXEC, *ADDED_UP):
            lists[key] = [*lists.get(key, []), value] if value else []
    lines = []
    for key in (*LAST_COUNTS, *ADDED_UP, *EXEC):
        values = lists.get(key, [])
        said = [_replaced(value, old, new, staying) for value in values]
        if said == values:
            continue
        if key in EXEC:
            lines.append(f"{key}=")
            lines += [f"{key}={value}" for value in said]
        else:
            lines += [f"{key}={value}" for value, before in zip(said, values, strict=True) if value != before]
    return "\n".join(["[Service]", *lines]) + "\n" if lines else ""


def _settings(text: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line:
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def _replaced(value: str, old: str, new: str, staying: Sequence[str]) -> str:
    def change(found: re.Match[str]) -> str:
        rest = value[found.start() :]
        stays = any(re.match(re.escape(each) + _END, rest) for each in staying)
        return old if stays else new

    return re.sub(r"(?<![\w/.])" + re.escape(old) + _END, change, value)


_END = r"(?=[/\s\"';:,]|$)"
