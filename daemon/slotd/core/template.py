"""Placeholders in commands and in asset names: `{slot}`, `{version}` and the like.

In commands only `{word}` is a placeholder. `${word}` is left to the shell, `{{word}}` gives `{word}`, and all other
braces (JSON, awk) stay as they are. Asset names have no use for braces, so there each must be a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from slotd.core.validate import shown

COMMAND_WORDS = ("slot", "artifact", "version", "previous", "data")
PROBE_WORDS = ("slot", "version")
ASSET_WORDS = ("version", "tag", "arch", "os")
CHECKSUMS_WORDS = ("asset", *ASSET_WORDS)
MIRROR_WORDS = ("asset", "version", "tag")
IDENTITY_WORDS = ("version", "tag")
SIGNATURE_WORDS = ("checksums", *CHECKSUMS_WORDS)

_IN_COMMAND = re.compile(r"\{\{([a-z_]+)\}\}|\$\{[^{}]*\}|\{([a-z_]+)\}")
_WORD = re.compile(r"\{([^{}]*)\}")


def expand(text: str, values: Mapping[str, str]) -> str:
    """One argument of a command with its placeholders filled in. Values are put in as they are, never read again."""

    def fill(found: re.Match[str]) -> str:
        if found[1] is not None:
            return f"{{{found[1]}}}"
        return values.get(found[2], found[0]) if found[2] is not None else found[0]

    return _IN_COMMAND.sub(fill, text)


def expand_command(command: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The argv of a command, one expanded argument for each: a value with blanks stays one argument."""
    return tuple(expand(argument, values) for argument in command)


def check_argument(text: str, words: Collection[str]) -> str:
    """`text` itself. Raises `ValueError` if it has a placeholder that is not one of `words`."""
    for found in _IN_COMMAND.finditer(text):
        if found[2] is not None and found[2] not in words:
            raise ValueError(
                f"{found[0]} is no placeholder here; known are {_listed(words)}, "
                f"and {{{found[0]}}} stands for {found[0]} itself"
            )
    return text


def check_name(text: str, words: Collection[str]) -> str:
    """`text` itself, a template of a file name. Raises `ValueError` if it cannot be one."""
    if not text:
        raise ValueError("it is empty; write the file's name at the source")
    for word in _WORD.findall(text):
        if word not in words:
            raise ValueError(f'"{{{shown(word)}}}" is no placeholder here; known are {_listed(words)}')
    rest = _WORD.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError("it has a brace that belongs to no placeholder")
    if "/" in rest:
        raise ValueError('it is a file\'s name, without "/"')
    if text in (".", ".."):
        raise ValueError("it is no file's name")
    return text


def check_text(text: str, words: Collection[str]) -> str:
    """`text` itself, with such placeholders in it. Raises `ValueError` for others, and for what is not one line."""
    for word in _WORD.findall(text):
        if word not in words:
            raise ValueError(f'"{{{shown(word)}}}" is no placeholder here; known are {_listed(words)}')
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("it is one line, without blanks around it")
    return text


def expand_name(template: str, values: Mapping[str, str]) -> str:
    """A template of a file name filled in, in one pass."""
    return _WORD.sub(lambda found: values.get(found[1], found[0]), template)


def words_in(template: str) -> frozenset[str]:
    """The placeholders of a file name's template."""
    return frozenset(_WORD.findall(template))


def _listed(words: Collection[str]) -> str:
    return " ".join(f"{{{word}}}" for word in words)
