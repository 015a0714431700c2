"""A page of docs/ (the Markdown that is used there, no more) as a manual page.

# slotd.toml(5)                 the title; the line after it, `name - what it is`, is NAME
## Files                        .SH, in capitals unless it is a table's name like [service] or an interface's
### Looking                     .SS
### `units`, #### `units`       an entry: .TP, and all that follows up to the next heading belongs to it
> words                         what the code knows of an entry, a paragraph of its own
| `path` | what it is |         each row an entry; the heading row is left out
- words                         a bullet; in an entry "- `x`: words" is an entry below it
four blanks                     an example, as it stands
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTIONS = {"1": "User commands", "5": "File formats", "7": "Conventions", "8": "System administration"}


def words(text: str) -> str:
    """Inline Markdown as roff."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    text = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"``? ?(.+?) ?``?", r"\\fB\1\\fR", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"\\fB\1\\fR", text)
    text = re.sub(r"(?<!\w)\*(\w.*?)\*", r"\\fI\1\\fR", text)
    text = re.sub(r"(?<![\w.@\\])([\w.@]+(?:\\-[\w.]+)*)\((\d)\)", r"\\fB\1\\fR(\2)", text)
    return guarded(text)


def guarded(line: str) -> str:
    """A line that cannot be taken for a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def verbatim(line: str) -> str:
    """A line of an example."""
    text = line.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return guarded(text.replace("^", "\\(ha").replace("~", "\\(ti"))


def title(text: str) -> tuple[str, str] | None:
    """Name and section of a page; None if a Markdown page is no manual page."""
    found = re.match(r"# (\S+)\((\d)\)\n", text)
    return (found[1], found[2]) if found else None


def page(text: str, day: str) -> str:
    """The manual page of a Markdown page; `day` is like 2026-01-31. Raises `ValueError` if it has no title."""
    found = title(text)
    if found is None:
        raise ValueError(f"cannot make a page of {text[:40]!r}: the first line must be like `# slotd(8)`")
    return "\n".join(_Page(text, *found, day).lines()) + "\n"


def alias(target: str) -> str:
    """A page that is another, for a second name: `target` is like `slotd.8`."""
    return f".so man{target[-1]}/{target}\n"


class _Page:
    def __init__(self, text: str, name: str, section: str, day: str) -> None:
        self._head = f'.TH "{name.upper()}" {section} "{day}" slotd "{SECTIONS[section]}"'
        self._lines = [line for line in text.splitlines() if not line.startswith("<!--")]
        self._in_entry = False
        self._is_fresh = True  # no paragraph is due: a heading or a paragraph's request came last

    def lines(self) -> Iterator[str]:
        yield self._head
        number = next(n for n, line in enumerate(self._lines[1:], 1) if line)
        yield ".SH NAME"
        yield words(self._lines[number])
        yield from self._body(self._lines[number + 1 :])

    def _body(self, lines: list[str]) -> Iterator[str]:
        in_example = is_blank = in_table = in_list = False
        for number, line in enumerate(lines):
            if in_list and line and not line.startswith(("- ", "  ")):
                yield ".RE"
                in_list = False
            is_example = line.startswith("    ") or (in_example and not line and _goes_on(lines, number))
            if in_example and not is_example:
                yield ".EE"
                is_blank, self._is_fresh = True, False
            if is_example and not in_example:
                yield from self._paragraph()
                yield ".EX"
            in_example = is_example
            if is_example:
                yield verbatim(line[4:])
            elif not line:
                is_blank = True
                in_table = False
                continue
            elif line.startswith("#"):
                yield from self._heading(line)
            elif line.startswith("|"):
                yield from self._row(line, is_head=not in_table)
                in_table = True
            elif line.startswith("- `") and self._in_entry:
                if not in_list:
                    yield ".RS"
                in_list = True
                name, _, text = line[2:].partition(": ")
                yield ".TP"
                yield words(name)
                yield words(text)
                self._is_fresh = False
            elif line.startswith("- "):
                yield ".IP \\(bu 2"
                yield words(line[2:])
                self._is_fresh = False
            else:
                if is_blank or line.startswith("> "):
                    yield from self._paragraph()
                yield words(line.removeprefix("> ").strip())
                self._is_fresh = False
            is_blank = False
        if in_example:
            yield ".EE"
        if in_list:
            yield ".RE"

    def _paragraph(self) -> Iterator[str]:
        if not self._is_fresh:
            yield ".IP" if self._in_entry else ".PP"
        self._is_fresh = True

    def _heading(self, line: str) -> Iterator[str]:
        marks, _, text = line.partition(" ")
        self._is_fresh = True
        if marks == "##":
            self._in_entry = False
            yield f'.SH "{words(text if text.startswith(("[", "org.")) else text.upper())}"'
        elif text.startswith("`"):
            self._in_entry = True
            yield ".TP"
            yield words(text)
        else:
            self._in_entry = False
            yield f'.SS "{words(text)}"'

    def _row(self, line: str, *, is_head: bool) -> Iterator[str]:
        if is_head or line.startswith("|--"):
            return
        name, *_, text = (cell.strip() for cell in line.strip("|").split("|"))
        yield ".TP"
        yield words(name)
        yield words(text[0].upper() + text[1:] + ("" if text.endswith((".", "?", ")")) else ".")) if text else "\\&"
        self._is_fresh = False


def _goes_on(lines: list[str], number: int) -> bool:
    following = next((line for line in lines[number:] if line), "")
    return following.startswith("    ")
