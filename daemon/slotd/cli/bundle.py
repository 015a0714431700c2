"""`bundle create`, `bundle inspect`, `import`: releases for hosts without a network."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotd.cli.client import Client
from slotd.cli.out import DONE, FAILED, Out
from slotd.cli.tables import Cell, escape, iso, moment
from slotd.errors import BadOption, Failed, SlotdError

if TYPE_CHECKING:
    from slotd.core.bundle import Bundled
    from slotd.core.schema import App
    from slotd.host.definitions import Definitions
    from slotd.host.paths import Paths
    from slotd.recipes.bundling import Looked, Made


async def import_bundle(client: Client, args: Namespace, out: Out) -> int:
    from slotd.cli.jobs import Request, options, run_jobs

    descriptor = _opened(args.file)
    try:
        given = options(force=args.force)
        request = Request("", "import", "Import", "ha{sv}", (0, given), fds=(descriptor,))
        return await run_jobs(client, args, out, [request])
    finally:
        os.close(descriptor)


def _opened(path: str) -> int:
    """Open for reading what is to be a file; a pipe that nobody writes to keeps nobody waiting."""
    from slotd.host.handover import require_file

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "that is no file's name"
        raise Failed(f"cannot open {path}: {why}.") from None
    try:
        require_file(descriptor)
    except SlotdError as error:
        os.close(descriptor)
        raise Failed(error.message.replace("the file", path, 1), hint=error.hint) from None
    return descriptor


# -- create ------------------------------------------------------------------------------------------


def create(args: Namespace, out: Out) -> int:
    import asyncio

    from slotd.host import definitions
    from slotd.host.paths import Paths

    paths = Paths.from_environment(args.user, os.environ)
    loaded = definitions.load(paths)
    wanted = [_named(each, loaded, paths) for each in args.apps]
    if len({app.name for app, _ in wanted}) != len(wanted):
        raise BadOption("cannot make the bundle: an app is named twice.", hint="Name each once.")
    target = Path(os.path.abspath(args.file))
    if not target.parent.is_dir():
        raise Failed(f"cannot make the bundle: there is no directory {target.parent}.")
    made = asyncio.run(_create(args, out, target, wanted, loaded, paths))
    out.document({"file": str(target), **_document(made)})
    what = ", ".join(f"{each.app} {each.version}" for each in made.manifest.releases)
    out.line(f"{escape(str(target))}: {escape(what)}, {_size(made.size)}, sha256 {made.sha256}")
    return DONE


def _named(text: str, loaded: Definitions, paths: Paths) -> tuple[App, str]:
    from slotd.cli.local import nowhere

    name, has_version, version = text.partition("=")
    if has_version and not version:
        raise BadOption(f"cannot make the bundle: {text!r} names no version.", hint=f"Write {name}=1.2, or {name}.")
    app = loaded.apps.get(name)
    if app is None:
        raise loaded.broken.get(name) or nowhere(name, loaded, paths)
    return app, version


async def _create(
    args: Namespace, out: Out, target: Path, wanted: list[tuple[App, str]], loaded: Definitions, paths: Paths
) -> Made:
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from slotd.host import files
    from slotd.host.offloop import off_loop
    from slotd.recipes import bundling

    def told(text: str) -> None:
        if not args.json:
            out.error_line(escape(text))

    with ExitStack() as stack:
        # Beside the target: what does not fit there would not fit into the bundle either.
        with files.explaining(f"cannot make {target}"):
            directory = stack.enter_context(TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent))
        site = bundling.Site(bundling.make_workers(loaded.settings), loaded.settings, paths, Path(directory), told)
        gathered = []
        for app, version in wanted:
            found = await bundling.gather(site, app, version)
            for check in found.checks:
                told(f"{app.name} {found.release.version}: {check}")
            gathered.append(found)
        return await off_loop(bundling.put_together, target, gathered, args.key, site.directory)


# -- inspect -----------------------------------------------------------------------------------------


def inspect(args: Namespace, out: Out) -> int:
    import asyncio

    from slotd.host import definitions
    from slotd.host.paths import Paths
    from slotd.recipes import bundling

    paths = Paths.from_environment(args.user, os.environ)
    loaded = definitions.load(paths)
    descriptor = _opened(args.file)
    try:
        workers = bundling.make_workers(loaded.settings)
        looked = asyncio.run(bundling.look_into(workers, loaded, paths, descriptor))
    finally:
        os.close(descriptor)
    out.document({"file": os.path.abspath(args.file), "signature": looked.kind, **_document(looked.made, looked)})
    _show(args.file, looked, out)
    return FAILED if looked.problems else DONE


def _show(file: str, looked: Looked, out: Out) -> None:
    made = looked.made
    out.line(f"{escape(file)}: {_size(made.size)}, made {moment(made.manifest.created)}, sha256 {made.sha256}")
    rows = []
    for release in made.manifest.releases:
        size = _size(sum(made.manifest.part(sha256).size for sha256 in {one.sha256 for one in release.contents}))
        signer = looked.signers.get(release.app, "")
        trust = Cell(signer, "green") if signer else Cell("nobody who may", "red")
        rows.append((release.app, release.version, str(len(release.contents)), size, trust))
    out.table(("APP", "VERSION", "FILES", "SIZE", "SIGNED BY"), rows)
    for problem in looked.problems.values():
        out.line(out.look.paint("warning: ", "yellow") + escape(problem))


def _document(made: Made, looked: Looked | None = None) -> dict[str, Any]:
    releases = [_release(made, each, looked) for each in made.manifest.releases]
    created = iso(float(made.manifest.created))
    return {"bytes": made.size, "sha256": made.sha256, "created": created, "releases": releases}


def _release(made: Made, release: Bundled, looked: Looked | None) -> dict[str, Any]:
    about: dict[str, Any] = {
        "app": release.app,
        "version": release.version,
        "published": iso(float(release.published) or None),
        "files": [
            {"name": one.name, "kind": one.kind, "bytes": made.manifest.part(one.sha256).size, "sha256": one.sha256}
            for one in release.contents
        ],
    }
    if looked is not None:
        about |= {
            "signer": looked.signers.get(release.app),
            "problem": looked.problems.get(release.app),
        }
    return about


def _size(count: int) -> str:
    from slotd.core.words import size

    return size(count)
