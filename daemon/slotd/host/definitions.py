"""Reading definitions: which files make an app, what they say, and which of it cannot be used.

`NAME.toml` of the last directory of `Paths.config` that has one, with `NAME.toml.d/*.toml` of all of them laid over it
in the order of their file names. One bad file breaks its own app and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slotd.core import consistency
from slotd.core.config import Document, misconfigured, parse_app, parse_settings
from slotd.core.schema import App, Settings
from slotd.core.validate import shown
from slotd.errors import Misconfigured
from slotd.host.confdir import Unusable, read_toml, read_trusted, search, written
from slotd.host.paths import Paths

_SUFFIX = ".toml"
_NAME_SHOWN = 255


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


class _Masked(Exception):
    """The file says that there is no such app."""


def load(paths: Paths) -> Definitions:
    """Read everything. Raises nothing for a bad file: it shows in the result."""
    settings, settings_problems = _settings(paths)
    places = [directory / "apps.d" for directory in paths.config]
    mains, warnings = search(places)
    warnings += _drop_ins_of_nothing(places, mains)
    apps: dict[str, App] = {}
    broken: dict[str, Misconfigured] = {}
    for file_name, file in sorted(mains.items()):
        name = _app_name(file_name)
        try:
            apps[name] = _load(name, file, places, settings, paths)
        except Misconfigured as error:
            broken[name] = error
        except _Masked:
            continue
    for name, problems in consistency.conflicts(apps, str(paths.state)).items():
        broken[name] = misconfigured(name, problems)
        del apps[name]
    return Definitions(apps, broken, settings, settings_problems, tuple(warnings))


def load_file(path: Path, paths: Paths | None = None) -> App:
    """One definition by its path, with the drop-ins beside it; with `paths` its keys are looked for too.

    Raises `Misconfigured`.
    """
    name = _app_name(path.name)
    if not path.name.endswith(_SUFFIX):
        raise misconfigured(name, [f'{written(path)}: a definition is a file whose name ends in "{_SUFFIX}".'])
    settings = _settings(paths)[0] if paths else Settings()
    try:
        return _load(name, path, [path.parent], settings, paths or Paths(), with_keys=paths is not None)
    except _Masked:
        raise misconfigured(name, [f"{written(path)}: is empty, which says that there is no such app."]) from None


def read_keys(paths: Paths, names: Iterable[str]) -> dict[str, bytes]:
    """Name -> content of files in `keys.d`. Raises `Misconfigured` if one is missing or may be changed by others."""
    keys, problems = _keys(paths, names)
    if problems:
        raise Misconfigured(
            f"cannot use the publisher's keys: {problems[0]}",
            hint="Keys are files in keys.d beside apps.d that only root may change.",
            problems=tuple(problems),
        )
    return keys


def _app_name(file_name: str) -> str:
    return shown(file_name.removesuffix(_SUFFIX), _NAME_SHOWN)


def _settings(paths: Paths) -> tuple[Settings, tuple[str, ...]]:
    mains, _ = search(paths.config)
    main = [mains["slotd.toml"]] if "slotd.toml" in mains else []
    documents, problems = _documents([*main, *_drop_ins(paths.config, "slotd.toml")])
    if not problems:
        try:
            return parse_settings(documents), ()
        except Misconfigured as error:
            problems += error.problems
    return Settings(), tuple(problems)


def _load(
    name: str, main: Path, places: Sequence[Path], settings: Settings, paths: Paths, *, with_keys: bool = True
) -> App:
    """`places` are the directories in which drop-ins are looked for. Raises `Misconfigured` and `_Masked`."""
    of_main, problems = _documents([main])
    if not of_main and not problems:
        raise _Masked
    drop_ins, more_problems = _documents(_drop_ins(places, main.name))
    problems += more_problems
    if problems:  # what is missing then would only be said once more, as a missing key
        raise misconfigured(name, problems)
    documents = [*of_main, *drop_ins]
    try:
        app = parse_app(name, documents, settings=settings, state=str(paths.state), cache=str(paths.cache))
    except Misconfigured as error:
        named = _named_keys(documents) if with_keys else []
        raise misconfigured(name, [*error.problems, *_missing_keys(main, paths, named)]) from None
    if paths.owner and app.service.user not in ("", paths.owner):
        problem = f'service.user is "{app.service.user}": your applications run as you, leave it out.'
        raise misconfigured(name, [f"{written(main)}: {problem}"])
    if with_keys and (missing := _missing_keys(main, paths, (*app.verify.keys, *app.verify.bundles))):
        raise misconfigured(name, missing)
    return app


def _missing_keys(main: Path, paths: Paths, names: Iterable[str]) -> list[str]:
    return [f"{written(main)}: verify.keys cannot be used: {problem}" for problem in _keys(paths, names)[1]]


def _named_keys(documents: Sequence[Document]) -> list[str]:
    """The keys that a definition names which cannot be used for other reasons; the last file that names any wins."""
    for _, said in reversed(documents):
        verify = said.get("verify")
        if isinstance(verify, Mapping) and isinstance(keys := verify.get("keys"), list):
            return [key for key in keys if isinstance(key, str) and key and "/" not in key]
    return []


def _drop_ins(places: Sequence[Path], main: str) -> list[Path]:
    found, _ = search([place / f"{main}.d" for place in places])
    return [file for _, file in sorted(found.items())]


def _documents(files: Iterable[Path]) -> tuple[list[Document], list[str]]:
    """What the files say, masked ones left out, and a sentence for each that cannot be used."""
    documents: list[Document] = []
    problems: list[str] = []
    for file in files:
        try:
            said = read_toml(file)
        except Unusable as error:
            problems.append(str(error))
            continue
        if said is not None:
            documents.append((written(file), said))
    return documents, problems


def _drop_ins_of_nothing(places: Sequence[Path], mains: Mapping[str, Path]) -> list[str]:
    found, _ = search(places, f"{_SUFFIX}.d")
    return [
        f"{written(path)}: has no effect, there is no {shown(name.removesuffix('.d'), _NAME_SHOWN)}."
        for name, path in sorted(found.items())
        if name.removesuffix(".d") not in mains
    ]


def _keys(paths: Paths, names: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
    found, problems = search([directory / "keys.d" for directory in paths.config], suffix="")
    keys: dict[str, bytes] = {}
    for name in names:
        if name not in found:
            where = written(paths.config[-1] / "keys.d" / name)
            problems.append(f"{where}: there is no such key, here or in the directories below.")
            continue
        try:
            content = read_trusted(found[name])
        except Unusable as error:
            problems.append(str(error))
            continue
        if content is None:
            problems.append(f"{written(found[name])}: the key is empty.")
        else:
            keys[name] = content
    return keys, problems
