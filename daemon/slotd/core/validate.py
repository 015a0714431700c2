"""Reading decoded TOML: every value checked, every problem kept, with the file it came from.

A definition is made of a file and its drop-ins. `merge` lays them over each other and remembers who said what;
a `Section` then reads one table key by key. A wrong value leaves a problem and gives the default, so that all
problems of a definition are found in one go.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

from slotd.core.schema import INFINITE_S
from slotd.core.timespan import format_size, format_span, parse_size, parse_span

T = TypeVar("T")
Path = tuple[str, ...]
Check = Callable[[str], str]

_TEXT_LIMIT = 4096
_SHOWN = 80
_DEPTH_LIMIT = 16
_HUGE = 10**30


class Report:
    """The problems of one definition, in the order in which they were found."""

    def __init__(self, origins: Mapping[Path, str], main: str) -> None:
        self.problems: list[str] = []
        self._blamed: set[Path] = set()
        self._origins = origins
        self._main = main

    def file_of(self, path: Path) -> str:
        """The file that said what stands at `path`, or above it; the last one to say so."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        return self._main

    def blames(self, *path: str) -> bool:
        """True if a problem was found there already: what follows from it need not be said too."""
        return path in self._blamed

    def add(self, path: Path, sentence: str) -> None:
        """`sentence` has the key in its place and no full stop at its end."""
        self._blamed.add(path)
        file = self.file_of(path)
        line = f"{file}: {sentence}." if file else f"{sentence}."
        if line not in self.problems:
            self.problems.append(line)


def merge(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Any], dict[Path, str]]:
    """One document of many, later ones win: tables key by key, everything else whole. Also who said what."""
    merged: dict[str, Any] = {}
    origins: dict[Path, str] = {}
    for file, document in documents:
        _lay_over(merged, document, (), file, origins)
    return merged, origins


def _lay_over(under: dict[str, Any], over: Mapping[str, Any], path: Path, file: str, origins: dict[Path, str]) -> None:
    for key, value in over.items():
        here = (*path, key)
        origins[here] = file
        if isinstance(value, Mapping) and len(here) < _DEPTH_LIMIT:
            below = under.get(key)
            if not isinstance(below, dict):
                below = under[key] = {}
            _lay_over(below, value, here, file, origins)
        else:
            under[key] = value


class Section:
    """One table. Every key that is asked for is known; `finish` reports the others."""

    def __init__(self, values: Mapping[str, Any], path: Path, report: Report) -> None:
        self._values = values
        self._path = path
        self._report = report
        self._known: list[str] = []
        self._not_yet: set[str] = set()

    # -- problems ---------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        return key in self._values

    def not_yet(self, *keys: str) -> None:
        """Keys that are refused by name, whatever they hold."""
        self._not_yet.update(keys)

    def lacks(self, key: str) -> bool:
        """True if nothing stands there: no value, or an empty text or list."""
        return self._values.get(key) in (None, "", [])

    def problem(self, key: str, why: str) -> None:
        """What was found at `key` cannot be; `why` says so and what is allowed."""
        self._report.add((*self._path, key), f"{self.label(key)} is {found(self._values.get(key))}: {why}")

    def say(self, key: str, sentence: str) -> None:
        """A problem in free words, laid at the file of `key`. `sentence` names the key itself."""
        self._report.add((*self._path, key), sentence)

    def missing(self, key: str, why: str) -> None:
        self._report.add((*self._path, key), f"{self.label(key)} is missing: {why}")

    def label(self, key: str) -> str:
        """`source.channel`, or `health no. 2: url` inside an array of tables."""
        text = ""
        for part in (*self._path, key):
            if part.startswith("#"):
                text += f" no. {part[1:]}:"
            elif text.endswith(":"):
                text += f" {shown(part)}"
            else:
                text += f"{'.' if text else ''}{shown(part)}"
        return text

    def finish(self) -> None:
        """Every key that nobody asked for is a mistake. What is planned but not built yet is not offered."""
        offered = sorted(set(self._known) - self._not_yet)
        for key in self._values:
            if key in self._known:
                continue
            names = [part for part in self._path if not part.startswith("#")]
            place = f"in [{'.'.join(names)}]" if names else "here"
            self._report.add(
                (*self._path, key),
                f"{self.label(key)} is not a known key{did_you_mean(key, offered)}; "
                f"known {place} are {', '.join(offered)}",
            )

    # -- values -----------------------------------------------------------------------------------

    def _take(self, key: str, kinds: type | tuple[type, ...], needed: str) -> Any:
        """The value, or None if it is absent or of the wrong type; bool is never taken for a number."""
        self._known.append(key)
        if key not in self._values:
            return None
        value = self._values[key]
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if (isinstance(value, bool) and bool not in wanted) or not isinstance(value, wanted):
            self.problem(key, f"{needed} is needed")
            return None
        return value

    def _checked(self, key: str, parse: Callable[[], T], default: T) -> T:
        try:
            return parse()
        except ValueError as error:
            self.problem(key, str(error))
            return default

    def text(self, key: str, default: str = "", check: Check | None = None) -> str:
        value = self._take(key, str, "a text")
        if value is None or value == default == "":  # a drop-in may empty what may be left out
            return default
        return self._checked(key, lambda: _text(value, check), default)

    def choice(self, key: str, default: str, allowed: Sequence[str], not_yet: Sequence[str] = ()) -> str:
        """One of `allowed`. What is planned but `not_yet` built is refused by name, and given back all the same."""
        value = self._take(key, str, "a text")
        if value is None:
            return default
        built = [each for each in allowed if each not in not_yet]
        if value in not_yet:
            self.problem(key, f"this is not supported yet; supported are {listed(built)}")
        elif value not in allowed:
            self.problem(key, f"allowed are {listed(built)}{did_you_mean(value, built)}")
            return default
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, bool, "true or false")
        return default if value is None else bool(value)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = self._take(key, int, "a whole number")
        if value is None:
            return default
        if not least <= value <= most:
            self.problem(key, f"a whole number from {least} to {most} is needed")
            return default
        return int(value)

    def number(self, key: str, default: float | None, least: float, most: float) -> float | None:
        value = self._take(key, (int, float), "a number")
        if value is None:
            return default
        if isinstance(value, int):
            value = max(-_HUGE, min(_HUGE, value))  # TOML has integers that no float can hold
        if not isfinite(value) or not least <= value <= most:
            limits = f" from {least:g} to {most:g}" if isfinite(least) and isfinite(most) else ", not infinite,"
            self.problem(key, f"a number{limits} is needed")
            return default
        return float(value)

    def span(self, key: str, default_s: float, *, least_s: float = 0.0, most_s: float, endless: bool = False) -> float:
        """Seconds. `endless` allows "infinity" beyond `most_s`."""
        value = self._take(key, (str, int, float), 'a time span like "30s" or "1h 30min"')
        if value is None:
            return default_s

        def parse() -> float:
            span_s = parse_span(value)
            if not (least_s <= span_s <= most_s or (endless and span_s == INFINITE_S)):
                low = f"at least {format_span(least_s)} and " if least_s else ""
                raise ValueError(f"it must be {low}at most {format_span(most_s)}")
            return span_s

        return self._checked(key, parse, default_s)

    def size(self, key: str, default: int, least: int, most: int) -> int:
        value = self._take(key, (str, int), 'a size like "4G" or "200M"')
        if value is None:
            return default

        def parse() -> int:
            size = parse_size(value)
            if not least <= size <= most:
                raise ValueError(f"it must be at least {format_size(least)} and at most {format_size(most)}")
            return size

        return self._checked(key, parse, default)

    def texts(self, key: str, check: Check | None = None, *, single: bool = False) -> tuple[str, ...]:
        """A list of texts, none of them twice; with `single` a lone text counts as a list of one."""
        kinds = (list, str) if single else (list,)
        value = self._take(key, kinds, "a text or a list of texts" if single else "a list of texts")
        items = [] if value is None else [value] if isinstance(value, str) else value
        result: list[str] = []
        for item in items:
            if not isinstance(item, str):
                self._item_problem(key, item, "a text is needed")
                continue
            try:
                text = _text(item, check)
            except ValueError as error:
                self._item_problem(key, item, str(error))
                continue
            if text in result:
                self._item_problem(key, item, "it is listed twice")
            else:
                result.append(text)
        return tuple(result)

    def _item_problem(self, key: str, item: object, why: str) -> None:
        self._report.add((*self._path, key), f"{self.label(key)} holds {found(item)}: {why}")

    def commands(self, key: str, check: Check) -> tuple[tuple[str, ...], ...]:
        """A list of commands, each a list of its words: no shell reads them."""
        value = self._take(key, list, 'a list of commands like [["uv", "sync"]]')
        if value and all(isinstance(item, str) for item in value):  # the inner brackets were forgotten
            words = value if len(value) > 1 else value[0].split()
            written = ", ".join(f'"{word}"' for word in words)
            self.problem(key, f"it holds commands, each a list of its words; write [[{shown(written)}]]")
            return ()
        result = []
        for number, item in enumerate(value or (), 1):
            if isinstance(item, list):
                result.append(self._words(key, item, f"command no. {number} of {self.label(key)}", check))
            else:
                self._item_problem(key, item, 'a command is a list of its words, like ["uv", "sync"]')
        return tuple(result)

    def command(self, key: str, check: Check) -> tuple[str, ...]:
        """One command, a list of its words."""
        value = self._take(key, list, 'a list of words like ["app", "--check"]')
        return () if value is None else self._words(key, value, self.label(key), check)

    def _words(self, key: str, words: Sequence[object], label: str, check: Check) -> tuple[str, ...]:
        result = []
        for word in words:
            if not isinstance(word, str):
                self._report.add((*self._path, key), f"{label} holds {found(word)}: every word of it is a text")
                continue
            try:
                result.append(_text(word, check))
            except ValueError as error:
                self._report.add((*self._path, key), f"{label} holds {found(word)}: {error}")
        if not words or not words[0]:
            self._report.add((*self._path, key), f"{label} is empty: its first word is the program to run")
        return tuple(result)

    # -- tables -----------------------------------------------------------------------------------

    def table(self, key: str) -> Section:
        """The table at `key`; an empty one if it is absent or no table."""
        value = self._take(key, dict, "a table")
        return Section(value or {}, (*self._path, key), self._report)

    def tables(self, key: str) -> list[Section]:
        """The array of tables at `key`, numbered from 1 as a reader counts."""
        value = self._take(key, list, f"an array of tables, [[{'.'.join((*self._path, key))}]],")
        result = []
        for number, item in enumerate(value or (), 1):
            if isinstance(item, dict):
                result.append(Section(item, (*self._path, key, f"#{number}"), self._report))
            else:
                self._item_problem(key, item, "a table is needed")
        return result

    def either(self, key: str) -> Any:
        """A value that may be of several types, as found; None if absent. The caller judges it."""
        self._known.append(key)
        return self._values.get(key)

    def mapping(self, key: str) -> dict[str, Any]:
        """A table whose keys are the administrator's own. Values are as found."""
        return dict(self._take(key, dict, "a table") or {})


def _text(value: str, check: Check | None) -> str:
    if len(value) > _TEXT_LIMIT:
        raise ValueError(f"it is longer than {_TEXT_LIMIT} characters")
    if any(not c.isprintable() and c not in "\n\t" for c in value):
        raise ValueError("it has a control character in it")
    return check(value) if check is not None else value


def found(value: object) -> str:
    """What was found, for a sentence: `"text"`, `3`, `true`, `a list`."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{shown(value)}"'
    if isinstance(value, int | float):
        return shown(repr(value)) if not isinstance(value, int) or abs(value) < _HUGE else "a huge number"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return "a date or time"


def shown(text: str, limit: int = _SHOWN) -> str:
    """Foreign text made safe for a terminal and the bus, and short enough for a sentence."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:limit])
    return clean if len(text) <= limit else f"{clean}…"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean "channel"?)`, or nothing."""
    near = difflib.get_close_matches(word[:_SHOWN].lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""
