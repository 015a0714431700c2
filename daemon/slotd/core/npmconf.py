"""Which registry the host's own npm uses, by npm's own rules (npm-config, npmrc)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

# How npm's own source (config/definitions.js) names the registry that it uses where nothing is configured.
_DEFAULT = re.compile(r"""\bregistry'(?:, |: new Definition\('registry', )\{\s*default: ['"`](https://[^'"`\s]+)""")
_VARIABLE = re.compile(r"(?<!\\)\$\{([^${}]+)\}")
_KEY = re.compile(r"npm_config_(?!//)(.+)", re.IGNORECASE)


def default_registry(npm_source: str) -> str:
    """The address of npm's default registry in the text of its module of definitions; empty if it is not there."""
    match = _DEFAULT.search(npm_source)
    return match[1] if match else ""


def registry(texts: Iterable[str], environment: Mapping[str, str], scope: str = "") -> str:
    """The registry for packages of `scope` (`@name`, or empty for those without), from the texts of npm's
    configuration files, the strongest last, and from `npm_config_…`, which beats them all. Empty: npm's default.

    A scope's own registry counts before the general one, whichever file says it.
    """
    found: dict[str, str] = {}
    for text in texts:
        found |= settings(text, environment)
    found |= from_environment(environment)
    return (found.get(f"{scope}:registry", "") if scope else "") or found.get("registry", "")


def settings(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of one file, which is an ini file: what stands below a `[section]` is no setting of npm's."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            break
        key, is_set, value = line.partition("=")
        if is_set and not line.startswith((";", "#")):
            name, given = (_expanded(_bare(part.strip()), environment) for part in (key, value))
            found[name] = given
    return found


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`npm_config_KEY=value`, in any case, with `_` for `-`."""
    found: dict[str, str] = {}
    for name, value in environment.items():
        match = _KEY.fullmatch(name)
        if match and value:
            key = match[1].lower()
            found[key[0] + key[1:].replace("_", "-")] = value
    return found


def _bare(text: str) -> str:
    """A value without its quotes, or without the comment behind it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        try:
            inner = json.loads(text) if text[0] == '"' else text[1:-1]
        except ValueError:
            return text
        return inner if isinstance(inner, str) else text
    return re.split(r"(?<!\\)[;#]", text, maxsplit=1)[0].strip()


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME}` is of the environment; one that is not there stays as it is, as with npm."""
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), text)
