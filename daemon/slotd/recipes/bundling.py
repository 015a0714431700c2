"""Bundles made and looked into, by a person and as that person: the daemon has no part in it.

What goes in is fetched and verified by the same workers and the same rules as an update. With root's rights these are
units of their own, as the daemon's are; a person's run as that person.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slotd.core import bundle, policy, trust, verifyplan
from slotd.core.bundle import Bundled, Content, Manifest
from slotd.core.schema import App, Settings
from slotd.core.words import last_words
from slotd.errors import Failed, NoSuchApp, NoSuchVersion, SlotdError
from slotd.host import bundlefile, files, signing
from slotd.host.definitions import Definitions, read_keys
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.host.run import Workers
from slotd.model import AppRecord, Asset, Release
from slotd.recipes import asking, proof
from slotd.sources.work import listing_from_json

_PIP = re.compile(r"pip[0-9.]*")
_PYTHON = re.compile(r"python[0-9.]*")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a bundle is made: the workers, the definitions' places, a directory for what is fetched.

    `told` is given a sentence now and then.
    """

    workers: Workers
    settings: Settings
    paths: Paths
    directory: Path
    told: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Gathered:
    """One release whose files are here and are what its publisher signed. `sources`: digest -> file."""

    release: Bundled
    checks: tuple[str, ...]
    sources: Mapping[str, Path] = field(default_factory=dict)


def make_workers(settings: Settings) -> Workers:
    """Sandboxed units where root may start them; else plain processes of whoever this is."""
    return Workers(limits=settings.limits, sandbox=os.geteuid() == 0 and os.path.isdir("/run/systemd/system"))


@dataclass(frozen=True, slots=True)
class Made:
    """A whole bundle: its SHA-256, its bytes, what is in it."""

    sha256: str
    size: int
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Looked:
    """`kind`: of the signature. By app: who signed it as far as its definition lets them, or why nobody did."""

    made: Made
    kind: str
    signers: Mapping[str, str]
    problems: Mapping[str, str]


# -- made -------------------------------------------------------------------------------------------


async def gather(site: Site, app: App, version: str) -> Gathered:
    """Find, fetch and verify a release; an empty version is the newest that the definition allows.

    Raises what an update would raise: `NoSuchVersion`, `SourceFailed`, `VerificationFailed` …
    """
    listing = await _list(site, app)
    choice = policy.choose(
        listing,
        app=app,
        current="",
        record=AppRecord(app.name),
        blocked=(),
        now=time.time(),
        machine_id="",
        wanted=version,
        force=True,  # age, ring and fraction are for the hosts that install it to judge
    )
    release = choice.release
    if release is None:
        raise NoSuchVersion(
            f"cannot put {app.name} in: its source offers no release that may be installed.",
            hint="\n".join(choice.passed_over),
        )
    site.told(f"{app.name} {release.version}: fetching {', '.join(asset.name for asset in choice.assets)}")
    contents: dict[str, Content] = {}
    sources: dict[str, Path] = {}
    checks: list[str] = []
    keys = await off_loop(read_keys, site.paths, app.verify.keys)
    for asset in choice.assets:
        wanted = proof.plan_checks(app, asset.name, release)
        trust.require_digests(app.verify, asset.name, asset.digest)
        path, sha256 = await _fetch(site, app, asset)
        sources[sha256] = path
        contents[asset.name] = Content(asset.name, sha256, asset.digest)
        bodies: dict[str, bytes] = {}
        for small in verifyplan.names(wanted):
            bodies[small.name] = await _small(site, app, small)
            path, of_small = await off_loop(_keep, site.directory, bodies[small.name])
            sources[of_small] = path
            contents[small.name] = Content(small.name, of_small, small.digest)
        with files.opened(sources[sha256], os.O_RDONLY) as descriptor:
            subject = proof.Subject(asset.name, asset.digest, sha256, descriptor)
            limits, unit = site.settings.limits, _unit(app, "verify")
            trusted = await proof.prove(site.workers, limits, app, release, subject, wanted, bodies, keys, unit=unit)
        checks += [f"{asset.name}: {check}" for check in trusted.checks]
    if pip_install(app):
        site.told(f"{app.name} {release.version}: fetching what it depends on")
        first = choice.assets[0]
        path = sources[contents[first.name].sha256]
        more, wheels = await _dependencies(site, app, first, path)
        contents |= {each.name: each for each in more}
        sources |= wheels
    elif app.slots.network and app.slots.prepare:
        site.told(f"{app.name}: what its prepare commands fetch from the network is not in the bundle")
    return Gathered(_bundled(app, release, tuple(contents.values())), tuple(checks), sources)


def _bundled(app: App, release: Release, contents: tuple[Content, ...]) -> Bundled:
    notes = release.notes.encode()[: bundle.NOTES_BYTES].decode("utf-8", "ignore")
    return Bundled(app.name, release.version, release.tag, int(release.published), notes, contents)


async def _list(site: Site, app: App) -> Sequence[Release]:
    limits = site.settings.limits
    claim = await asking.list_releases(site.workers, limits, app, {}, unit=_unit(app, "list"))
    return listing_from_json(claim, app.source, limits).releases


async def _fetch(site: Site, app: App, asset: Asset) -> tuple[Path, str]:
    """A file of the release, and its SHA-256 as it lies here."""
    limits = site.settings.limits
    room = min(limits.download_bytes, files.free_bytes(site.directory), bundle.FILE_BYTES)
    more = {"limit_bytes": room, "expected_size": asset.size, "expected_digest": asset.digest}
    more["bandwidth"] = site.settings.bandwidth
    descriptor, path = tempfile.mkstemp(dir=site.directory)
    try:
        os.fchmod(descriptor, 0o644)  # in a directory of ours alone
        await asking.fetch(site.workers, limits, app, asset.url, [descriptor], more, unit=_unit(app, "fetch"))
        return Path(path), await off_loop(files.hash_and_sync, descriptor)
    finally:
        os.close(descriptor)


async def _small(site: Site, app: App, asset: Asset) -> bytes:
    return await asking.small(site.workers, site.settings.limits, app, asset.url, unit=_unit(app, "small"))


def _keep(directory: Path, content: bytes) -> tuple[Path, str]:
    descriptor, path = tempfile.mkstemp(dir=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return Path(path), hashlib.sha256(content).hexdigest()


def _unit(app: App, verb: str) -> str:
    return f"slotd-worker-{app.name}-bundle-{verb}"


def pip_install(app: App) -> Sequence[str]:
    """The prepare command that has pip fetch what the release depends on; empty if there is none."""
    for argv in app.slots.prepare if app.slots.network else ():
        words = argv[2:] if _PYTHON.fullmatch(Path(argv[0]).name) and argv[1:2] == ("-m",) else argv
        if words and _PIP.fullmatch(Path(words[0]).name) and "install" in words and "{artifact}" in words:
            return argv
    return ()


def _constraints(argv: Sequence[str]) -> list[str]:
    """What the command says of versions that may be taken: it says the same where the bundle is installed."""
    found: list[str] = []
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        if word in ("--constraint", "-c"):
            found += ["--constraint", after]
        elif word.startswith("--constraint="):
            found.append(word)
    return found


async def _dependencies(site: Site, app: App, asset: Asset, path: Path) -> tuple[list[Content], dict[str, Path]]:
    """The wheels that pip would fetch for the release on a host like this one."""
    folder = Path(tempfile.mkdtemp(dir=site.directory))
    named = folder / asset.name
    await off_loop(shutil.copyfile, path, named)
    area = folder / "pip"
    area.mkdir()
    user = app.service.user if os.geteuid() == 0 else ""
    if user:  # what pip runs is not root's to run
        for each in (site.directory, folder):
            each.chmod(0o711)
        shutil.chown(area, user)
    venv, wheels = area / "venv", area / "wheels"
    download = [str(venv / "bin" / "pip"), "--quiet", "--disable-pip-version-check", "download", "--only-binary=:all:"]
    download += _constraints(pip_install(app))
    for argv in (["python3", "-m", "venv", str(venv)], [*download, "--dest", str(wheels), str(named)]):
        done = await site.workers.command(
            argv,
            unit=_unit(app, "pip"),
            user=user or "root",
            cwd=area,
            writable=[area],
            network=True,
            timeout_s=site.settings.limits.prepare_s,
        )
        if done.status != 0:
            raise Failed(
                f"cannot put {app.name} in: pip cannot get what {asset.name} depends on. {last_words(done.output)}",
                hint=f"Try `pip {' '.join(download[3:])} {asset.name}`; python3-venv must be installed.",
            )
    contents: list[Content] = []
    sources: dict[str, Path] = {}
    for wheel in sorted(wheels.iterdir()):
        if wheel.name == asset.name or not wheel.is_file() or wheel.is_symlink():
            continue
        with files.opened(wheel, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            sha256 = await off_loop(files.hash_fd, descriptor)
        contents.append(Content(wheel.name, sha256, kind=bundle.DEPENDENCY))
        sources[sha256] = wheel
    return contents, sources


def put_together(target: Path, gathered: Sequence[Gathered], key: str, directory: Path) -> Made:
    """Sign and write the bundle: beside, on disk, then under its name."""
    sources = {sha256: path for each in gathered for sha256, path in each.sources.items()}
    parts = bundle.lay_out((sha256, path.stat().st_size) for sha256, path in sources.items())
    manifest = Manifest(int(time.time()), tuple(each.release for each in gathered), parts)
    signed = bundle.dump(manifest)
    bundle.read(signed)  # what nobody would take is not made
    if len(signed) > bundle.MANIFEST_BYTES:
        raise Failed("cannot make the bundle: its manifest is too large.", hint="Put less into one, and make several.")
    signature = signing.sign(signed, key, directory, bundle.COMMENT)
    with files.explaining(f"cannot write {target}"):
        descriptor, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb", closefd=True):
                sha256 = bundlefile.write(descriptor, manifest, signed, signature, sources)
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
                size = os.fstat(descriptor).st_size
            os.rename(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
    files.fsync_dir(target.parent)
    return Made(sha256, size, manifest)


# -- looked into --------------------------------------------------------------------------------------


async def look_into(workers: Workers, loaded: Definitions, paths: Paths, descriptor: int) -> Looked:
    """Read a bundle, hold every byte against its manifest, and ask whose it is; nothing is taken out.

    Raises `VerificationFailed` for what is damaged. Whether anybody here may have signed it is in the answer.
    """
    head, manifest = await off_loop(bundlefile.examine, descriptor)
    names = {one.sha256: one.name for each in manifest.releases for one in each.contents}
    for part in manifest.parts:
        await off_loop(bundlefile.require_content, descriptor, head, part, names[part.sha256])
    made = Made(await off_loop(files.hash_fd, descriptor), os.fstat(descriptor).st_size, manifest)
    kind = bundle.signature_kind(head.signature)
    signers: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name in dict.fromkeys(each.app for each in manifest.releases):
        app = loaded.apps.get(name)
        try:
            if app is None:
                raise NoSuchApp(f"{name} is not defined here, or cannot be used")
            limits, unit = loaded.settings.limits, _unit(app, "verify")
            signers[name] = await proof.bundle_signer(workers, limits, paths, app, head, unit=unit)
        except SlotdError as error:
            problems[name] = error.message
    return Looked(made, kind, signers, problems)
