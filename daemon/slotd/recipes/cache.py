"""The cache of release files: each lies under its digest, in a directory that is root's alone. Most of this blocks."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from slotd.core import chunkindex
from slotd.errors import VerificationFailed
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.recipes.context import Artifact, Work
from slotd.recipes.held import Held


def cached_path(cache: Path, sha256: str) -> Path:
    """Where a downloaded file lies: its name is its digest, its directory is root's alone."""
    return cache / sha256


def partial_path(cache: Path, url: str) -> Path:
    """Where a file lies while it is on its way; what is needed to go on with it lies beside it, in `.json`."""
    return cache / f"partial-{hashlib.sha256(url.encode()).hexdigest()[:32]}"


def index_path(path: Path) -> Path:
    """Where the chunk index of a file lies, one in the cache or on its way."""
    return path.with_suffix(chunkindex.SUFFIX)


def make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def known_sha256(artifact: Artifact) -> str:
    """What the source says it is, in hex; empty if it does not say."""
    kind, _, digest = artifact.source_digest.partition(":")
    return digest if kind == "sha256" else ""


async def is_cached(work: Work, artifact: Artifact, sha256: str) -> bool:
    """Whether the cache has it. What is no longer what its name says goes, and is told."""
    path = cached_path(work.host.cache(work.app.name), sha256)
    try:
        work.hold(await off_loop(measured, path, dataclasses.replace(artifact, sha256=sha256)))
    except FileNotFoundError:
        return False
    except (VerificationFailed, OSError) as error:
        await off_loop(path.unlink, True)
        await work.tell("warning", f"{path} is damaged, is removed, and is fetched anew: {error}")
        return False
    return True


def measured(path: Path, artifact: Artifact) -> Held:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    held = Held(descriptor, artifact.sha256)
    try:
        if files.has_writers(descriptor):
            raise VerificationFailed(f"cannot use {artifact.name}: someone has it open for writing.")
        if files.hash_fd(descriptor, "sha256") != artifact.sha256 or not held.is_unchanged():
            raise VerificationFailed(
                f"cannot use {artifact.name} from the cache: its bytes have changed.",
                hint=f"The disk may be failing; remove {path} and update again.",
            )
    except BaseException:
        held.close()
        raise
    return held


def prune_cache(work: Work) -> None:
    """Keep the newest `backup.releases` files and those of this job; partial downloads of others go.

    Also before a download: else each release that cannot be had would leave its file behind.
    """
    cache, artifacts = work.host.cache(work.app.name), work.plan.artifacts
    if not cache.is_dir():
        return
    own = {artifact.sha256 for artifact in artifacts} | {known_sha256(artifact) for artifact in artifacts}
    kept = sorted((p for p in cache.iterdir() if len(p.name) == 64), key=lambda p: p.stat().st_mtime, reverse=True)
    wanted = max(work.app.backup.releases, 1) * max(1, len(artifacts))
    for path in kept[wanted:]:
        if path.name not in own:
            path.unlink(missing_ok=True)
    for path in cache.glob(f"*{chunkindex.SUFFIX}"):
        if len(path.stem) == 64 and not path.with_suffix("").exists():
            path.unlink(missing_ok=True)
    own_partials = {partial_path(cache, artifact.url) for artifact in artifacts}
    for path in cache.glob("partial-*"):
        if path.with_suffix("") not in own_partials:
            path.unlink(missing_ok=True)
