"""What an argparse tree knows of itself, as Markdown: synopsis, commands, options, exit codes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, in their order; those that are not told of (without a help text) are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = [choice.dest for choice in action._choices_actions]
            return {name: action.choices[name] for name in shown}
    return {}


def summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Command -> its line in `--help`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {}


def leaves(parser: argparse.ArgumentParser, *above: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command that can be run, `bundle create` too, and its parser."""
    for name, sub in subparsers(parser).items():
        if subparsers(sub):
            yield from leaves(sub, *above, name)
        else:
            yield " ".join((*above, name)), sub


def own_options(parser: argparse.ArgumentParser, common: set[str]) -> list[argparse.Action]:
    """The options and arguments of a command, without those that every command has."""
    return [
        action
        for action in parser._actions
        if not (set(action.option_strings) & (common | {"--help"}))
        and action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._SubParsersAction)
    ]


def common_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]


def common_names(parser: argparse.ArgumentParser) -> set[str]:
    """The options that may stand before a command or after it."""
    every = [{name for action in sub._actions for name in action.option_strings} for _, sub in leaves(parser)]
    return {name for action in common_options(parser) for name in action.option_strings}.intersection(*every)


def usage(parser: argparse.ArgumentParser, common: set[str] = frozenset()) -> str:
    """The command line in one line, `update [--force] APP...`, without the program's name."""
    options = [
        _written(action) if action.required else _bracketed(_written(action))
        for action in own_options(parser, common)
        if action.option_strings
    ]
    words = [_argument(action) for action in own_options(parser, common) if not action.option_strings]
    return " ".join((*words, *options))


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The text of an option, its placeholders filled in as `--help` fills them, as a sentence."""
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return text and text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _written(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_metavar(action)}"
    return f"{', '.join(action.option_strings)}{value}"


def _metavar(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _bracketed(text: str) -> str:
    return f"[{text.split(', ')[-1]}]"


def _argument(action: argparse.Action) -> str:
    name = _metavar(action)
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)


def synopsis(parser: argparse.ArgumentParser, word: str) -> str:
    return f"`{parser.prog}` [*OPTIONS*] [*{word}* [*ARGUMENTS*]]\n"


def options(parser: argparse.ArgumentParser) -> str:
    """The options of the program itself."""
    return "".join(_entry(parser, action, "###") for action in common_options(parser))


def commands(parser: argparse.ArgumentParser, before: str, common: set[str]) -> str:
    """An entry for each command. What stands by hand in `before` below `<!-- more NAME -->` stays where it is."""
    more = dict(re.findall(r"<!-- more ([\w -]+) -->\n(.*?)(?=^<!--|^###|\Z)", before, re.DOTALL | re.MULTILINE))
    told = []
    for name, sub in leaves(parser):
        told.append(f"### `{name} {usage(sub, common)}".rstrip() + "`\n\n")
        text = sub.description or summaries(parser).get(name, "")
        told.append(f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}\n\n" if text else "")
        told += [_listed(sub, action) for action in own_options(sub, common) if action.help]
        told.append("\n" if told[-1].startswith("- ") else "")
        told.append(f"<!-- more {name} -->\n{more.get(name, '')}".rstrip() + "\n\n")
    return "".join(told).rstrip() + "\n"


def _listed(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    name = _written(action) if action.option_strings else _metavar(action)
    return f"- `{name}`: {help_of(parser, action)}\n"


def _entry(parser: argparse.ArgumentParser, action: argparse.Action, mark: str) -> str:
    return f"{mark} `{_written(action)}`\n\n{help_of(parser, action)}\n\n"


def exit_codes(epilog: str) -> str:
    """The table of the words `exit codes: 0 done, 1 failed` of a parser's epilog."""
    found = re.search(r"exit codes: (.*(?:\n +.*)*)", epilog)
    pairs = re.findall(r"(\d+) ([^,]+)", " ".join(found[1].split()) if found else "")
    rows = "".join(f"| `{code}` | {text.strip()} |\n" for code, text in pairs)
    return f"| status | what |\n|---|---|\n{rows}"
