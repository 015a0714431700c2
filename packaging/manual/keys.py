"""What the reader of definitions knows of each key: type, default, bounds, allowed values.

The reader itself is asked: it runs over a table that notes what it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from slotd.core import config, schema, sections
from slotd.core.timespan import format_size, format_span
from slotd.core.validate import Report, Section, listed
from slotd.errors import Misconfigured

CODE = "`{}`".format


class Asked(Section):
    """A table that writes down each key that is read, with a phrase on what may stand there."""

    def __init__(self, values: dict[str, Any] | None = None, path: tuple[str, ...] = ()) -> None:
        super().__init__(values or {}, path, Report({}, ""))
        self.facts: dict[str, list[str]] = {}
        self.needed: set[str] = set()

    def _note(self, key: str, *parts: str) -> None:
        self.facts.setdefault(key, [part for part in parts if part])

    def missing(self, key: str, why: str) -> None:
        self.needed.add(key)

    def text(self, key: str, default: str = "", check: Any = None) -> str:
        self._note(key, "a text", _default(default))
        return super().text(key, default, check)

    def choice(self, key: str, default: str, allowed: Sequence[str], not_yet: Sequence[str] = ()) -> str:
        built = [CODE(each) for each in allowed if each not in not_yet]
        self._note(key, f"one of {', '.join(built)}" if len(built) > 1 else f"only {built[0]}", _default(default))
        return super().choice(key, default, allowed, not_yet)

    def flag(self, key: str, default: bool) -> bool:
        self._note(key, "`true` or `false`", _default(str(default).lower()))
        return super().flag(key, default)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        has_default = least <= default <= most
        self._note(key, f"a whole number, {least} to {most}", _default(str(default) if has_default else ""))
        return super().whole(key, default, least, most)

    def number(self, key: str, default: float | None, least: float, most: float) -> float | None:
        self._note(key, f"a number, {least:g} to {most:g}", _default("" if default is None else str(default)))
        return super().number(key, default, least, most)

    def span(self, key: str, default_s: float, *, least_s: float = 0.0, most_s: float, endless: bool = False) -> float:
        end = " or `infinity`" if endless else ""
        bounds = f"{CODE(format_span(least_s))} to {CODE(format_span(most_s))}{end}"
        self._note(key, f"a time span, {bounds}", _default(format_span(default_s)))
        return super().span(key, default_s, least_s=least_s, most_s=most_s, endless=endless)

    def size(self, key: str, default: int, least: int, most: int) -> int:
        bounds = f"{CODE(format_size(least))} to {CODE(format_size(most))}"
        self._note(key, f"a size, {bounds}", _default(format_size(default)))
        return super().size(key, default, least, most)

    def texts(self, key: str, check: Any = None, *, single: bool = False) -> tuple[str, ...]:
        self._note(key, "a text or a list of texts" if single else "a list of texts", _allowed(check))
        return super().texts(key, check, single=single)

    def commands(self, key: str, check: Any) -> tuple[tuple[str, ...], ...]:
        self._note(key, "a list of commands")
        return super().commands(key, check)

    def command(self, key: str, check: Any) -> tuple[str, ...]:
        self._note(key, "a command")
        return super().command(key, check)

    def mapping(self, key: str) -> dict[str, Any]:
        self._note(key, "a table of texts")
        return super().mapping(key)

    def either(self, key: str) -> Any:
        self._note(key, "a text or a whole number")
        return super().either(key)

    def table(self, key: str) -> Section:
        return Asked()  # a chapter of its own

    def tables(self, key: str) -> list[Section]:
        self._note(key, "an array of tables")
        return []

    def finish(self) -> None:
        return


def _default(text: str) -> str:
    return f"default {CODE(text)}" if text else ""


def _allowed(check: Callable[[str], str] | None) -> str:
    """What the check of a list's items allows, if it is a choice: the reader's own sentence to a wrong item."""
    try:
        if check is not None:
            check("?")
    except ValueError as error:
        found = re.fullmatch(r"allowed are (.*)", str(error))
        return (
            f"of {', '.join(CODE(word) for word in re.findall(r'[a-z0-9]+', found[1]) if word != 'and')}"
            if found
            else ""
        )
    return ""


Reader = Callable[[Section], object]
SOURCES = tuple(kind for kind in sections.SOURCE_TYPES if kind not in sections.SOURCES_NOT_YET)
PROBES = tuple(kind for kind in sections.PROBES if kind not in sections.PROBES_NOT_YET)
# Chapter of a page: who reads it, and the values of `type` that decide what else is read, if it has one.
CHAPTERS: dict[str, dict[str, tuple[Reader, tuple[str, ...]]]] = {
    "slotd-app.toml.md": {
        "Top level": (config.description, ()),
        "[service]": (sections.service, ()),
        "[source]": (sections.source, SOURCES),
        "[verify]": (sections.verify, ()),
        "[slots]": (sections.slots, ()),
        "[data]": (sections.data, ()),
        "[backup]": (lambda section: sections.backup(section, schema.BackupPolicy()), ()),
        "[policy]": (lambda section: sections.policy(section, schema.Policy()), ()),
        "[rollout]": (sections.rollout, ()),
        "[[health]]": (sections.health, PROBES),
    },
    "slotd.toml.md": {"Top level": (config.settings, ()), "[limits]": (sections.limits, ())},
}


def facts(reader: Reader, kinds: tuple[str, ...] = ()) -> dict[str, str]:
    """Key -> a line on what may stand there, of the keys that are obeyed. What is refused as not supported yet, and
    tables, which have chapters of their own, are left out."""
    plain = Asked()
    reader(plain)
    told = {}
    for key, parts in plain.facts.items():
        having = _belonging(reader, key, kinds)
        if is_refused(reader, key) or (kinds and not having):
            continue
        needing = [kind for kind in kinds if key != "type" and _is_needed(reader, key, kind)]
        belongs = [f"for {_listed(having)}"] if len(having) < len(kinds) else []
        needed = [f"needed for {_listed(needing)}"] if needing and needing != having else []
        needed += ["needed"] * (needing == having != [] or key in plain.needed or key in NEEDED)
        told[key] = "; ".join([*parts, *belongs, *needed])
    return told


def is_refused(reader: Reader, key: str) -> bool:
    """Whether the reader says of a key, whatever its value, that this is not supported yet."""
    for value in ("https://example.org", "/srv/example", [{}]):
        report = Report({}, "")
        reader(Section({key: value}, (), report))
        if any(re.search(rf"\b{key} is (\".*\": this is )?not supported yet; take", line) for line in report.problems):
            return True
    return False


def _is_needed(reader: Reader, key: str, kind: str) -> bool:
    asked = Asked({"type": kind})
    reader(asked)
    return key in asked.needed


def _belonging(reader: Reader, key: str, kinds: tuple[str, ...]) -> list[str]:
    """The types that a key means something with."""
    having = []
    for kind in kinds:
        report = Report({}, "")
        reader(Section({"type": kind, key: "?"}, (), report))
        having += [kind] * (not any("means nothing" in line for line in report.problems))
    return having


def _listed(kinds: Sequence[str]) -> str:
    return listed([CODE(kind) for kind in kinds])


def _needed_at_all() -> set[str]:
    try:
        config.parse_app("app", [("", {})])
    except Misconfigured as error:
        return {found[1] for line in error.problems if (found := re.match(r"\w+\.(\w+) (?:is missing|names no)", line))}
    return set()


NEEDED = _needed_at_all()
