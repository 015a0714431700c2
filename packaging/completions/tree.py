"""The grammar of slotctl as completion needs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

# What a value is, by its name in the usage: asked of `slotctl _complete`.
ASKED = {
    "APP": "apps",
    "APP|FILE": "apps",
    "APP[=VERSION]": "apps",
    "VERSION": "versions",
    "ID": "backups",
    "JOB": "jobs",
    "JOB|APP": "jobs-or-apps",
}
ASKED_OF_OPTION = {"--to": "kept"}
FILES = ("FILE", "DIR", "PATH", "KEY")


@dataclass(frozen=True, slots=True)
class Value:
    """`choices`, or what `slotctl _complete` is asked, or files, or nothing that could be known."""

    name: str
    choices: tuple[str, ...] = ()
    asked: str = ""
    files: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    text: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Command:
    """`path` is `("bundle", "create")`; a group has `below` and no arguments. `rest`: the last argument repeats."""

    path: tuple[str, ...]
    text: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    rest: bool
    below: tuple[Command, ...]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def walk(self) -> Iterator[Command]:
        """This one and all below it."""
        yield self
        for each in self.below:
            yield from each.walk()


def command(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), text: str = "") -> Command:
    options, arguments, rest, below = [], [], False, []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = [command(action.choices[c.dest], (*path, c.dest), c.help or "") for c in action._choices_actions]
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            said = parser._get_formatter()._expand_help(action) if action.help else ""
            options.append(Option(tuple(action.option_strings), said, None if action.nargs == 0 else _value(action)))
        else:
            arguments.append(_value(action))
            rest = action.nargs in ("*", "+")
    return Command(path, text, tuple(options), tuple(arguments), rest, tuple(below))


def _value(action: argparse.Action) -> Value:
    name = str(action.metavar or action.dest.upper())
    asked = next(
        (ASKED_OF_OPTION[each] for each in action.option_strings if each in ASKED_OF_OPTION), ASKED.get(name, "")
    )
    choices = tuple(map(str, action.choices or ()))
    return Value(name, choices, "" if choices else asked, any(word in name for word in FILES))
