"""The import of a bundle: its bytes copied into our hands, its signer known, every release of it proven.

Nothing is installed and nothing of an app changes, but for what is available. What is taken in is installed as any
release is: by the app's mode, verified again, on trial. A bundle is taken in whole or not at all.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slotd import engines
from slotd.core import assets, bundle, policy, trust, verifyplan
from slotd.core.bundle import Bundled, Manifest
from slotd.core.schema import App
from slotd.core.version import parse
from slotd.errors import BadOption, Failed, NoSpace, NothingToDo, SlotdError, VerificationFailed
from slotd.host import bundlefile, failpoint, files, frames
from slotd.host.bundlefile import Head
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.model import Result
from slotd.recipes import proof, shelf
from slotd.recipes.context import Host, Work
from slotd.recipes.run import Step
from slotd.recipes.shelf import Imported
from slotd.recipes.space import RESERVE_BYTES

SCRATCH = ".import"  # in the cache; no app has this name


@dataclass(frozen=True, slots=True)
class Handed:
    """What a caller handed over, who that is (a user's id), and whether older releases are to be taken in, too.

    `apps` are the definitions that can be used; the descriptor is closed by `let_go`.
    """

    descriptor: int
    uid: int = 0
    force: bool = False
    apps: Mapping[str, App] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Open:
    """A bundle in our hands: the file that nobody else can change, and what is in it."""

    descriptor: int
    head: Head
    manifest: Manifest


def steps(handed: Handed) -> tuple[Step, ...]:
    """The one step of an import. Its undo needs nothing that was handed over."""
    return (Step("import", functools.partial(_import, handed=handed), undo=take_back),)


async def take_back(work: Work) -> None:
    """What was begun of a bundle is offered by nobody: an import that did not come to its end took nothing in."""
    await forget(work)
    if digest := work.plan.source.removeprefix("sha256:"):
        for cache in await off_loop(lambda: [each for each in work.host.paths.cache.iterdir() if each.is_dir()]):
            for version in await off_loop(shelf.drop_of, cache, digest, work.job.id):
                await _withdraw(work, cache.name, version)


async def _withdraw(work: Work, app: str, version: str) -> None:
    """It may have been told as imported, and offered: that ends here."""
    store = work.host.store
    if (await off_loop(store.app, app)).available == version:
        await off_loop(lambda: store.change_app(app, available=""))
    told = copy.copy(work)
    told.app, told.job = dataclasses.replace(work.app, name=app), dataclasses.replace(work.job, version=version)
    said = f"{version} was taken back: the import of {work.plan.source} did not come to its end"
    await told.tell("import-failed", said, bundle=work.plan.source)


async def forget(work: Work) -> None:
    await off_loop(files.remove_tree, _scratch(work.host))


def _scratch(host: Host) -> Path:
    return host.paths.cache / SCRATCH


async def _import(work: Work, *, handed: Handed) -> Result:
    who = await off_loop(_name, handed.uid)
    try:
        return await _take_in(work, handed, who)
    except SlotdError as error:
        if not isinstance(error, NothingToDo):
            digest = work.plan.source
            which = f"a bundle ({digest})" if digest else "a bundle"
            said = f"{which} of {who} (uid {handed.uid}) was refused: {error}"
            await work.tell("import-failed", said, bundle=digest, uid=str(handed.uid), user=who)
        raise
    finally:
        await forget(work)


def _name(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return "somebody"
    return name if name.isprintable() else ascii(name)


async def _take_in(work: Work, handed: Handed, who: str) -> Result:
    scratch = _scratch(work.host)
    await off_loop(_make_empty, scratch)
    await failpoint.reach("import:scratch")
    sha256 = await _copy(work, handed, scratch / "bundle")
    await work.remember(source=f"sha256:{sha256}")
    await failpoint.reach("import:copied")
    with files.opened(scratch / "bundle", os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        opened = _Open(descriptor, *await off_loop(bundlefile.examine, descriptor))
        known = tuple(each for each in opened.manifest.releases if each.app in handed.apps)
        unknown = sorted({each.app for each in opened.manifest.releases} - handed.apps.keys())
        if not known:
            raise NothingToDo(
                f"cannot use the bundle: none of its apps ({', '.join(unknown)}) is defined here, or can be used.",
                hint="`slotctl verify` lists what is defined; then `slotctl reload`.",
            )
        host, unit = work.host, work.unit("verify")
        signers = {
            app: await proof.bundle_signer(
                host.workers, host.settings.limits, host.paths, handed.apps[app], opened.head, unit=unit
            )
            for app in {each.app for each in known}
        }
        await failpoint.reach("import:signed")
        fresh, notes = await _pass_over(work, handed, known)
        await _take_out(work, opened, fresh, scratch)
    await failpoint.reach("import:taken-out")
    for number, each in enumerate(fresh):
        await _prove(work, handed.apps[each.app], each, scratch)
        work.progress(0.7 + 0.25 * (number + 1) / len(fresh))
    await failpoint.reach("import:proven")
    work.too_late = True  # from here on it is there, in parts at least
    now = work.host.clock.now()
    taken = [Imported(each, sha256, signers[each.app], now, work.job.id) for each in fresh]
    await _put(work, taken, scratch)
    for one in taken:
        await _tell(work, handed, who, one)
        notes.append(await _offer(work, handed.apps[one.release.app], one.release.version))
    notes += [f"{app} is not defined here, or cannot be used" for app in unknown]
    work.note = "\n".join(notes)
    return Result.DONE if fresh else Result.UP_TO_DATE


def _make_empty(scratch: Path) -> None:
    files.remove_tree(scratch)
    with files.explaining(f"cannot make {scratch}"):
        scratch.mkdir(mode=0o700, parents=True)


# -- into our hands ----------------------------------------------------------------------------------


async def _copy(work: Work, handed: Handed, target: Path) -> str:
    """Have a worker copy what was handed over; the SHA-256 that is measured when only we have the file."""
    limits = work.host.settings.limits
    room = files.free_bytes(target.parent) - RESERVE_BYTES
    if room <= 0:
        raise _no_room(target.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with files.explaining("cannot store the bundle"), files.opened(target, flags) as descriptor:
        claim = await work.host.workers.call(
            "copy",
            {"limit_bytes": limits.bundle_bytes, "room_bytes": room},
            [handed.descriptor, descriptor],
            unit=work.unit("copy"),
            timeout_s=limits.download_s,
            on_progress=lambda said: work.progress(0.5 * frames.fraction(said)),
        )
    return await off_loop(_take_over, target, claim)


def _take_over(path: Path, claim: Mapping[str, object]) -> str:
    with files.explaining(f"cannot read {path}"), files.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        if files.has_writers(descriptor):
            raise VerificationFailed("cannot use the bundle: someone still has the copy of it open for writing.")
        measured = files.hash_fd(descriptor)
        if claim.get("sha256") != measured or claim.get("bytes") != os.fstat(descriptor).st_size:
            raise VerificationFailed("cannot use the bundle: the worker claims other bytes than are in its copy.")
    return measured


def _no_room(place: Path) -> NoSpace:
    return NoSpace(
        f"cannot take the bundle in: {place} has no room for it beside the {RESERVE_BYTES >> 20} MiB that stay free.",
        hint="Free some space there, then import again; nothing was changed.",
    )


# -- what of it ---------------------------------------------------------------------------------------


async def _pass_over(work: Work, handed: Handed, known: tuple[Bundled, ...]) -> tuple[list[Bundled], list[str]]:
    """What is to be taken in, and a sentence for each that is not. Raises `BadOption` if all of it is older."""
    fresh: list[Bundled] = []
    notes: list[str] = []
    older = ""
    for each in known:
        app = handed.apps[each.app]
        installed = await off_loop(_installed, work.host, app)
        new, current = parse(app.source.scheme, each.version), parse(app.source.scheme, installed)
        if new is None:
            raise Failed(
                f"cannot use the bundle: {each.version} of {app.name} is not a version of the scheme"
                f" {app.source.scheme}.",
                hint=f"Is `scheme` under [source] of {app.name} right?",
            )
        if current is not None and new == current:
            notes.append(f"{app.name} {each.version} is installed already")
        elif current is not None and new < current and not handed.force:
            older = older or f"{each.version} of {app.name} is older than {installed}, which is installed"
            notes.append(f"{app.name} {each.version} was left out: {installed} is installed, which is newer")
        else:
            fresh.append(each)
    if older and not fresh:
        raise BadOption(f"cannot import the bundle: {older}.", hint="--force takes it in all the same.")
    return fresh, notes


def _installed(host: Host, app: App) -> str:
    """The version in the active slot; empty for none."""
    engine = engines.create(app, host.root(app), host.settings.limits, user_mode=host.user_mode)
    return host.store.version_in(app.name, engine.active())


async def _take_out(work: Work, opened: _Open, fresh: list[Bundled], scratch: Path) -> None:
    """Every file is held against its digest; those of the releases that are taken in are written beside."""
    names = {one.sha256: one.name for each in opened.manifest.releases for one in each.contents}
    wanted = {one.sha256 for each in fresh for one in each.contents}
    parts, total, done = opened.manifest.parts, max(1, opened.manifest.size), 0
    if sum(part.size for part in parts if part.sha256 in wanted) > files.free_bytes(scratch) - RESERVE_BYTES:
        raise _no_room(scratch)
    for part in parts:
        name = names[part.sha256]
        if part.sha256 in wanted:
            target = scratch / part.sha256
            await off_loop(bundlefile.take_out, opened.descriptor, opened.head, part, name, target)
        else:
            await off_loop(bundlefile.require_content, opened.descriptor, opened.head, part, name)
        done += part.size
        work.progress(0.5 + 0.2 * done / total)


async def _prove(work: Work, app: App, release: Bundled, scratch: Path) -> None:
    """The same as is asked of a download, with the definition's own keys. Raises `VerificationFailed`."""
    offered = release.release()
    found = assets.match(app.source, offered)
    if found.problem:
        raise Failed(
            f"cannot use the bundle: {app.name} {release.version}: {found.problem}.",
            hint="Was it made for another architecture, or with another definition?",
        )
    limits = work.host.settings.limits
    keys = await off_loop(read_keys, work.host.paths, app.verify.keys)
    for asset in found.assets:
        trust.require_digests(app.verify, asset.name, asset.digest)
        wanted = proof.plan_checks(app, asset.name, offered)
        most = max(limits.sums_bytes, limits.signature_bytes)
        bodies = {
            each.name: await off_loop(files.read_bounded, scratch / bundle.digest_of(each.url), most)
            for each in verifyplan.names(wanted)
        }
        sha256 = bundle.digest_of(asset.url)
        with files.opened(scratch / sha256, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            subject = proof.Subject(asset.name, asset.digest, sha256, descriptor)
            await proof.prove(
                work.host.workers, limits, app, offered, subject, wanted, bodies, keys, unit=work.unit("verify")
            )


# -- and there it is ----------------------------------------------------------------------------------


async def _put(work: Work, taken: list[Imported], scratch: Path) -> None:
    """Onto the apps' shelves; the undo takes it off again."""
    for each in taken:
        cache, contents = work.host.cache(each.release.app), each.release.contents
        await off_loop(shelf.put, cache, each, {one.sha256: scratch / one.sha256 for one in contents})
    await work.remember(taken=tuple(dict.fromkeys(each.release.app for each in taken)))


async def _tell(work: Work, handed: Handed, who: str, imported: Imported) -> None:
    """The record of it, in the app's history and beside the app's own words in the journal."""
    app, version = handed.apps[imported.release.app], imported.release.version
    told = copy.copy(work)
    told.app, told.job = app, dataclasses.replace(work.job, app=app.name, version=version)
    await told.tell(
        "imported",
        f"{version} came with the bundle sha256:{imported.bundle}, signed by {imported.signer};"
        f" {who} (uid {handed.uid}) imported it",
        bundle=f"sha256:{imported.bundle}",
        signer=imported.signer,
        uid=str(handed.uid),
        user=who,
    )


async def _offer(work: Work, app: App, version: str) -> str:
    store = work.host.store
    record, installed = await off_loop(store.app, app.name), await off_loop(_installed, work.host, app)
    choice = policy.choose(
        await off_loop(shelf.releases, work.host.cache(app.name)),
        app=app,
        current=installed,
        record=record,
        blocked=await off_loop(store.blocked, app.name),
        now=work.host.clock.now(),
        machine_id=work.host.machine_id,
    )
    offered = choice.release.version if choice.release else ""
    newer, known = parse(app.source.scheme, offered), parse(app.source.scheme, record.available)
    if newer is not None and (known is None or newer > known):
        await off_loop(lambda: store.change_app(app.name, available=offered))
    if offered == version:
        return f"{app.name} {version} is here: `slotctl update {app.name}` installs it"
    why = dict(choice.skipped).get(version) or (f"{offered} is newer" if offered else f"{installed} is installed")
    return f"{app.name} {version} is here, but not offered: {why}"


INTERRUPTED = steps(Handed(-1))  # whoever handed it over is gone: there is the undo alone
