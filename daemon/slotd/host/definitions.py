"""Reading definitions: which files make an app, which of them may be trusted, what they say.

Search order: for one file name the last directory of `Paths.config` wins; an empty file or a link to /dev/null there
masks it. `NAME.toml.d/*.toml` of all directories are laid over `NAME.toml`, ordered by file name. A file counts only if
it belongs to root (or to the user slotd runs as) and nobody else can change it: whoever writes a definition runs
commands. One bad file breaks its own app and no other.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slotd.core import consistency
from slotd.core.config import Document, misconfigured, parse_app, parse_settings
from slotd.core.schema import App, Settings
from slotd.core.validate import shown
from slotd.errors import Misconfigured
from slotd.host.paths import Paths

FILE_LIMIT = 1024**2  # bytes of one file
FILES_LIMIT = 1000  # files of one directory
_SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that is configured. `broken`: app -> what is wrong with it. With `settings_problems`, `settings` are the
    defaults. `warnings` are files that have no effect, each a sentence.
    """

    apps: dict[str, App] = field(default_factory=dict)
    broken: dict[str, Misconfigured] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    settings_problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Unusable(Exception):
    """A file that cannot be used; the text is a clause with the file as its subject."""


def load(paths: Paths) -> Definitions:
    """Read everything. Raises nothing for a bad file: it shows in the result."""
    settings, settings_problems = _settings(paths)
    found: dict[str, App] = {}
    broken: dict[str, Misconfigured] = {}
    mains, unreadable = _search([directory / "apps.d" for directory in paths.config], "apps.d")
    warnings = [*unreadable, *_lonely_drop_ins(paths, mains)]
    for file_name, file in sorted(mains.items()):
        name = shown(file_name.removesuffix(_SUFFIX))
        try:
            app = _load_app(name, file, [directory / "apps.d" for directory in paths.config], settings, paths)
        except _Masked:
            continue
        except Misconfigured as error:
            broken[name] = error
            continue
        missing = _missing_keys(paths, app)
        if missing:
            broken[name] = misconfigured(name, missing)
        else:
            found[name] = app
    for name, problems in consistency.conflicts(found, str(paths.state)).items():
        broken[name] = misconfigured(name, problems)
        del found[name]
    return Definitions(found, broken, settings, settings_problems, tuple(warnings))


def load_file(path: Path, paths: Paths | None = None) -> App:
    """One definition by its path, with the drop-ins beside it; with `paths` its keys are looked for too.

    Raises `Misconfigured`.
    """
    name = shown(path.name.removesuffix(_SUFFIX))
    if not path.name.endswith(_SUFFIX):
        raise misconfigured(name, [f'{shown(str(path))}: a definition is a file whose name ends in "{_SUFFIX}".'])
    settings = _settings(paths)[0] if paths else Settings()
    try:
        app = _load_app(name, path, [path.parent], settings, paths or Paths())
    except _Masked:
        raise misconfigured(name, [f"{shown(str(path))}: the file is empty, which means that there is no such app."]) from None
    missing = _missing_keys(paths, app) if paths else []
    if missing:
        raise misconfigured(name, missing)
    return app


def read_keys(paths: Paths, names: Iterable[str]) -> dict[str, bytes]:
    """Name -> content of files in `keys.d`. Raises `Misconfigured` if one is missing or may be changed by others."""
    keys: dict[str, bytes] = {}
    problems: list[str] = []
    for name in names:
        try:
            keys[name] = _read_key(paths, name)
        except _Unusable as error:
            problems.append(str(error))
    if problems:
        raise Misconfigured(
            f"cannot use the publisher's keys: {problems[0]}",
            hint="Put the key there and see that only root may change it.",
            problems=tuple(problems),
        )
    return keys


class _Masked(Exception):
    """The file says that there is no such app."""


def _settings(paths: Paths) -> tuple[Settings, tuple[str, ...]]:
    problems: list[str] = []
    documents: list[Document] = []
    mains, _ = _search(paths.config, only="slotd.toml")
    drop_ins, unreadable = _search([directory / "slotd.toml.d" for directory in paths.config])
    problems += unreadable
    for file in [*mains.values(), *(drop_ins[name] for name in sorted(drop_ins))]:
        try:
            documents += [(str(file), said) for said in _documents(file)]
        except _Unusable as error:
            problems.append(str(error))
    if not problems:
        try:
            return parse_settings(documents), ()
        except Misconfigured as error:
            problems += error.problems
    return Settings(), tuple(problems)


def _load_app(name: str, main: Path, places: list[Path], settings: Settings, paths: Paths) -> App:
    """`places` are the directories in which drop-ins are looked for. Raises `Misconfigured` and `_Masked`."""
    problems: list[str] = []
    documents: list[Document] = []
    try:
        said = _documents(main)
        if not said:
            raise _Masked
        documents.append((str(main), said[0]))
    except _Unusable as error:
        problems.append(str(error))
    drop_ins, unreadable = _search([place / f"{main.name}.d" for place in places])
    problems += unreadable
    for _, file in sorted(drop_ins.items()):
        try:
            documents += [(str(file), said) for said in _documents(file)]
        except _Unusable as error:
            problems.append(str(error))
    if problems:
        raise misconfigured(name, problems)
    return parse_app(name, documents, settings=settings, state=str(paths.state), cache=str(paths.cache))
