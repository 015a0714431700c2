"""`enable`, `disable`, `verify`: what needs no daemon. They read the definitions themselves."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotd.cli.out import DONE, FAILED, Out
from slotd.cli.tables import escape
from slotd.errors import Misconfigured, NoSuchApp, NotAuthorized, SlotdError

if TYPE_CHECKING:
    from slotd.core.schema import App
    from slotd.host.definitions import Definitions
    from slotd.host.paths import Paths
    from slotd.verify import KeyFile


_UNITS = tuple(
    f"{place}/systemd/{kind}"
    for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
    for kind in ("system", "system.attached", "generator", "generator.early", "generator.late", "transient")
)
_USER_UNITS = (
    *(f"{place}/systemd/user" for place in ("~/.config", "~/.local/share", "/etc", "/run", "/usr/local/lib")),
    *("/usr/share/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"),
)


def _paths(args: Namespace) -> Paths:
    from slotd.host.paths import Paths

    return Paths.from_environment(args.user, os.environ)


def nowhere(name: str, loaded: Definitions, paths: Paths) -> NoSuchApp:
    from difflib import get_close_matches

    close = get_close_matches(name, sorted({*loaded.apps, *loaded.broken}), n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Write {paths.config[-1]}/apps.d/{name}.toml."
    return NoSuchApp(f"cannot find a definition named {name}.", hint=hint)


# -- enable, disable -------------------------------------------------------------------------------


def enable(args: Namespace, out: Out) -> int:
    from slotd.enable import enable as act

    return _care(args, out, act, enabled=True)


def disable(args: Namespace, out: Out) -> int:
    from slotd.enable import disable as act

    return _care(args, out, act, enabled=False)


def _care(args: Namespace, out: Out, act: Callable[..., Iterable[str]], *, enabled: bool) -> int:
    verb = "enable" if enabled else "disable"
    if not args.user and os.geteuid() != 0:
        raise NotAuthorized(
            f"cannot {verb} {args.app}: it writes below /etc/systemd/system, which only root may.",
            hint=f"Run `sudo slotctl {verb} {args.app}`.",
        )
    from slotd.core.schema import App
    from slotd.host import definitions

    paths = _paths(args)
    loaded = definitions.load(paths)
    app = loaded.apps.get(args.app)
    if app is None and enabled:
        raise loaded.broken.get(args.app) or nowhere(args.app, loaded, paths)
    # An app is taken out of slotd's care also when its definition is broken or gone already.
    lines = list(act(app or App(args.app), user=args.user))
    if app is None and not lines and args.app not in loaded.broken:
        raise nowhere(args.app, loaded, paths)
    out.document({"app": args.app, "enabled": enabled, "changes": lines})
    for line in lines or [f"{args.app}: nothing was to be changed"]:
        out.line(escape(line))
    return DONE


# -- verify ----------------------------------------------------------------------------------------


def verify(args: Namespace, out: Out) -> int:
    """Every problem of one definition, of a file, or of all that is configured."""
    from slotd.host import definitions

    paths = _paths(args)
    if args.what and _is_file(args.what):
        findings = [_of_file(Path(args.what), paths, user=args.user)]
        general: list[str] = []
        warnings: list[str] = []
    else:
        loaded = definitions.load(paths)
        names = sorted({*loaded.apps, *loaded.broken})
        if args.what and args.what not in names:
            raise nowhere(args.what, loaded, paths)
        findings = [_of_app(name, loaded, paths, user=args.user) for name in ([args.what] if args.what else names)]
        general = list(loaded.settings_problems)
        warnings = [] if args.what else list(loaded.warnings)
    out.document({"apps": findings, "settings_problems": general, "warnings": warnings})
    for finding in findings:
        _tell(finding, out)
    if general:
        out.line(out.look.paint(f"slotd.toml: {_count(general)}", "red"))
        _list(general, out)
    for warning in warnings:
        out.line(out.look.paint("warning: ", "yellow") + escape(warning))
    if not findings and not general:
        out.line(f"There is no definition in {', '.join(escape(str(p / 'apps.d')) for p in paths.config)}.")
    return FAILED if general or any(f["problems"] for f in findings) else DONE


def _is_file(what: str) -> bool:
    return "/" in what or what.endswith(".toml")


def _of_file(path: Path, paths: Paths, *, user: bool) -> dict[str, Any]:
    from slotd.host import definitions

    try:
        return _finding(definitions.load_file(path, paths), paths, user=user)
    except Misconfigured as error:
        return _bad(path.name.removesuffix(".toml"), error)


def _of_app(name: str, loaded: Definitions, paths: Paths, *, user: bool) -> dict[str, Any]:
    if name in loaded.broken:
        return _bad(name, loaded.broken[name])
    return _finding(loaded.apps[name], paths, user=user)


def _bad(name: str, error: Misconfigured) -> dict[str, Any]:
    return {"app": name, "files": [], "keys": [], "problems": list(error.problems), "warnings": []}


def _finding(app: App, paths: Paths, *, user: bool) -> dict[str, Any]:
    """A definition that parses; its keys are read and parsed too, each on its own so that every bad one is named."""
    from slotd.host.definitions import read_keys
    from slotd.verify import KeyFile
    from slotd.verify.work import describe_keys

    keys: list[dict[str, str]] = []
    problems: list[str] = []
    spent: list[str] = []
    for name in dict.fromkeys((*app.verify.keys, *app.verify.bundles)):
        try:
            content = read_keys(paths, [name])[name]
            described = describe_keys([KeyFile(name, content)])
            spent += _spent(KeyFile(name, content))
        except Misconfigured as error:
            problems += error.problems
            continue
        except SlotdError as error:
            problems.append(str(error))
            continue
        keys += [{"file": file, "kind": kind, "id": number, "owner": owner} for file, kind, number, owner in described]
        if not described:
            problems.append(f"cannot use the key file {name}: there is no public key in it.")
    problems += _lacking(app)
    warnings = _missing(app, user=user)
    if spent and len(spent) == len(keys) and not problems:
        problems += [f"{each} Nothing that it signs is installed; get the publisher's new key." for each in spent]
    else:
        warnings += [f"{each} What it signs is not installed." for each in spent]
    return {"app": app.name, "files": list(app.files), "keys": keys, "problems": problems, "warnings": warnings}


def _lacking(app: App) -> list[str]:
    """What the definition needs and no Debian package has."""
    from slotd.host import extras

    needed = [(kind, kind) for kind in ("sigstore", "tuf") if kind in app.verify.require]
    return [
        f"verify.require holds {kind}: the Python package {package} is not installed. Install it with {extras.INSTALL}."
        for kind, package in needed
        if not extras.has(package)
    ]


def _spent(key: KeyFile) -> list[str]:
    """A sentence for each OpenPGP key in the file that has expired or was revoked."""
    from time import time

    from slotd.verify import openpgp, packets
    from slotd.verify.expiry import standings

    if not packets.is_armoured_or_packets(key.data):
        return []  # minisign's never end
    try:
        found = standings(openpgp.public_keys(key))
    except (ValueError, IndexError):  # its form is `describe_keys`' to tell
        return []
    return [f"the key file {key.name}: {problem}" for each in found if (problem := each.problem(time()))]


def _missing(app: App, *, user: bool) -> list[str]:
    """What is needed before the first update, and may still be made: unit files, the user, a folder of releases."""
    missing = []
    for unit in app.service.units:
        template = f"{unit.partition('@')[0]}@.{unit.rpartition('.')[2]}" if "@" in unit else unit
        folders = _USER_UNITS if user else _UNITS
        if not any(os.path.lexists(f"{os.path.expanduser(d)}/{name}") for d in folders for name in (unit, template)):
            missing.append(f"service.units: there is no unit file {unit} yet.")
    if app.service.user and not user:
        from pwd import getpwnam

        try:
            getpwnam(app.service.user)
        except KeyError:
            missing.append(f"service.user: there is no user {app.service.user} yet.")
    if app.source.path and not os.path.isdir(app.source.path):
        missing.append(f"source.path: there is no directory {app.source.path}.")
    for path in app.data.paths:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            missing.append(f"data.paths: there is no {path} yet; nothing of it is saved before it is there.")
        except OSError:
            continue  # only its owner and root may look there
    return missing


def _tell(finding: dict[str, Any], out: Out) -> None:
    name = escape(finding["app"])
    if finding["problems"]:
        out.line(f"{name}: {out.look.paint(_count(finding['problems']), 'red')}")
        _list(finding["problems"], out)
    else:
        out.line(f"{name}: {out.look.paint('good', 'green')} ({', '.join(escape(f) for f in finding['files'])})")
    for key in finding["keys"]:
        owner = f" {escape(key['owner'])}" if key["owner"] else ""
        out.line(f"  key {escape(key['file'])}: {key['kind']} {escape(key['id'])}{owner}", indent=4)
    for warning in finding["warnings"]:
        out.line(f"  {out.look.paint('warning: ', 'yellow')}{escape(warning)}", indent=4)


def _list(problems: Iterable[str], out: Out) -> None:
    for problem in problems:
        first, *more = problem.splitlines() or [""]
        out.line(f"  - {escape(first)}", indent=4)
        for line in more:
            out.line(f"    {escape(line)}")


def _count(problems: list[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
