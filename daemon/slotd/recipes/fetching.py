"""`fetch`: the release's files come into the cache, by whatever way is short, and into root's hands.

Where the bytes came from - the source, one of its mirrors, in part an older file that was here already - proves
nothing and decides nothing: the daemon measures the whole file, and `verify` looks at that.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from slotd.core import bundle
from slotd.core.template import expand_name
from slotd.errors import NoSpace, SlotdError, SourceFailed, VerificationFailed
from slotd.host import failpoint, files, frames
from slotd.host.offloop import off_loop
from slotd.recipes import asking, seeds, shelf
from slotd.recipes.cache import (
    cached_path,
    index_path,
    is_cached,
    known_sha256,
    make_private,
    partial_path,
    prune_cache,
)
from slotd.recipes.context import Artifact, Work
from slotd.recipes.held import Held
from slotd.recipes.space import RESERVE_BYTES

PIECE_BYTES = 1024**2  # what a download may lack to its limit when it is refused for its size

# That a server gives no parts of a file ("no-ranges") is nothing to be told anew with each update.
_UNFIT = {
    "changed": "the file changed at its server meanwhile",
    "odd": "what tells their parts cannot be used",
    "damaged": "the older file is damaged",
    "different": "they have too little in common",
    "failed": "its server did not answer what was asked",
}


async def download(work: Work) -> None:
    """Every artifact into the cache, going on with a partial file; then it is root's, named by what was measured."""
    cache = work.host.cache(work.app.name)
    await off_loop(make_private, cache)
    await off_loop(prune_cache, work)
    await failpoint.reach("fetch:cache")
    done: list[Artifact] = []
    for artifact in work.plan.artifacts:
        known = artifact.sha256 if work.plan.kept else known_sha256(artifact)
        found = dataclasses.replace(artifact, sha256=known)
        if imported := bundle.digest_of(artifact.url):
            # Whether that is what the source said is for `verify` to see.
            found = dataclasses.replace(artifact, sha256=imported)
            await off_loop(shelf.bring, cache, imported, cached_path(cache, imported))
        elif not known or not await is_cached(work, artifact, known):
            found = await (_fetch_kept(work, artifact) if work.plan.kept else fetch(work, artifact))
        size = (await off_loop(os.stat, cached_path(cache, found.sha256))).st_size
        done.append(dataclasses.replace(found, size=size))
    await failpoint.reach("fetch:known")
    await work.remember(artifacts=tuple(done))


async def _fetch_kept(work: Work, artifact: Artifact) -> Artifact:
    """A kept release whose file is damaged or gone: nothing but its digest is asked of it, so that must be the one."""
    try:
        found = await fetch(work, artifact)
    except SourceFailed as error:
        why = f"cannot use {artifact.name}, which was kept: its bytes have changed, and to fetch it anew failed:"
        raise SourceFailed(f"{why} {error.message}", hint=error.hint) from error
    if found.sha256 != artifact.sha256:
        work.let_go()
        await off_loop(cached_path(work.host.cache(work.app.name), found.sha256).unlink, True)
        raise VerificationFailed(f"cannot use {artifact.name}: its source has another file than was verified and kept.")
    return found


async def fetch(work: Work, artifact: Artifact, *, whole: bool = False) -> Artifact:
    """The artifact with the SHA-256 that the daemon measured, under whose name the file now lies. `whole`: all of it
    from its source, none from a mirror or an older file.
    """
    cache = work.host.cache(work.app.name)
    partial = partial_path(cache, artifact.url)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    has_index = not whole and await seeds.bring_index(work, artifact, partial)
    digest = "" if whole else await seeds.find(work, artifact)
    mirrors = () if whole else _mirrors(work, artifact)
    # 0644 in a directory of mode 0700: whoever was handed the descriptor may re-open it to read, nobody finds the path.
    descriptor = await off_loop(os.open, partial, flags, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        await failpoint.reach("fetch:opened")
        with seeds.opened(cache, digest, index_path(partial) if has_index else None) as seed:
            claim = await _ask(work, artifact, partial, descriptor, seed, mirrors)
        await failpoint.reach("fetch:downloaded")
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    held = await off_loop(_take_over, partial, cache, artifact, claim, size)
    work.hold(held)
    if text := _way(work, artifact, claim, size, mirrors):
        fetched = str(_count(claim, "fetched", size))
        await work.tell("fetched", text, artifact=artifact.name, fetched=fetched, size=str(size))
    is_pieced = claim.get("pieced") is not False and not whole
    return dataclasses.replace(artifact, sha256=held.sha256, size=size, pieced=is_pieced)


async def _ask(
    work: Work, artifact: Artifact, partial: Path, descriptor: int, seed: seeds.Seed, mirrors: tuple[str, ...]
) -> Mapping[str, Any]:
    """The worker's claim about what it wrote into `descriptor`."""
    note, cache, limits = partial.with_suffix(".json"), partial.parent, work.host.settings.limits
    room = await off_loop(_room, cache, descriptor, artifact)
    noted: dict[str, Any] = {}

    def on_progress(said: Mapping[str, Any]) -> None:
        state = said.get("state")
        if isinstance(state, Mapping) and state != noted and all(isinstance(each, str) for each in state.values()):
            noted.clear()
            noted.update(state)
            note.write_text(json.dumps(noted))  # once a download: a few bytes, and a lost one costs only a resume
        work.progress(frames.fraction({**said, "total": said.get("total") or artifact.size}))

    more = {
        "offset_state": await off_loop(_read_note, note),
        "limit_bytes": min(limits.download_bytes, room),
        "expected_size": artifact.size,
        "expected_digest": f"sha256:{artifact.sha256}" if work.plan.kept else artifact.source_digest,
        "share": True,
        "seed": seed.kind,
        "mirrors": mirrors,
    }
    with work.host.bandwidth.share(work.host.settings.bandwidth) as share:
        try:
            return await asking.fetch(
                work.host.workers,
                limits,
                work.app,
                artifact.url,
                [descriptor, share, *seed.descriptors],
                more,
                unit=work.unit("fetch"),
                on_progress=on_progress,
            )
        except SlotdError:
            is_full = os.fstat(descriptor).st_size + PIECE_BYTES >= min(limits.download_bytes, room)
            if is_full or not (await off_loop(_read_note, note)).get("validator"):
                await off_loop(_drop, partial)  # nothing can go on from it
            if is_full and room < limits.download_bytes:
                raise _no_room(cache, artifact, room) from None
            raise


def _mirrors(work: Work, artifact: Artifact) -> tuple[str, ...]:
    release = work.plan.release
    words = {"asset": artifact.name, "version": release.version, "tag": release.tag}
    safe = {word: quote(value, safe="") for word, value in words.items()}
    return tuple(expand_name(each, safe) for each in work.app.source.mirrors)


def _way(work: Work, artifact: Artifact, claim: Mapping[str, Any], size: int, mirrors: tuple[str, ...]) -> str:
    """How it came here, if there is something to say about that. The worker's words are only looked up."""
    reused, number = _count(claim, "reused", size), _count(claim, "mirror", len(mirrors))
    unfit = _UNFIT.get(str(claim.get("unfit") or ""), "")
    old, said = work.plan.old_version, []
    if reused:
        fetched = f"{_count(claim, 'fetched', size) / 1024**2:.1f} of {size / 1024**2:.1f} MiB"
        said.append(f"fetched {fetched}, the rest was here already with {old}")
    if unfit:
        said.append(f"no {'more' if reused else 'part'} of the file of {old} was used: {unfit}")
    if number:
        said.append(f"the mirror {urlsplit(mirrors[number - 1]).hostname} gave it")
    return f"{artifact.name}: {'; '.join(said)}" if said else ""


def _count(claim: Mapping[str, Any], key: str, most: int) -> int:
    value = claim.get(key)
    return min(max(value, 0), most) if isinstance(value, int) else 0


def _room(cache: Path, descriptor: int, artifact: Artifact) -> int:
    """How large the file may become: a server that never ends must not take the disk from the running apps."""
    room = files.free_bytes(cache) + os.fstat(descriptor).st_size - RESERVE_BYTES
    if room <= 0 or artifact.size > room:
        raise _no_room(cache, artifact, room)
    return room


def _no_room(cache: Path, artifact: Artifact, room: int) -> NoSpace:
    return NoSpace(
        f"cannot download {artifact.name}: {cache} has room for {max(0, room) >> 20} MiB"
        f" beside the {RESERVE_BYTES >> 20} MiB that stay free, and that is too little.",
        hint="Free some space, then update again; nothing was changed.",
    )


def _drop(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_suffix(".json").unlink(missing_ok=True)
    index_path(partial).unlink(missing_ok=True)


def _read_note(note: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_bounded(note, 64 * 1024))
    except Exception:
        return {}
    return value if isinstance(value, dict) else {}


def _take_over(partial: Path, cache: Path, artifact: Artifact, claim: Mapping[str, Any], size: int) -> Held:
    """From the worker's hands into root's: nobody may have it open for writing, and the digest is measured anew."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if files.has_writers(descriptor):
            raise VerificationFailed(
                f"cannot use the download of {artifact.name}: someone still has it open for writing."
            )
        with files.explaining(f"cannot store {artifact.name} in {cache}"):
            measured = files.hash_and_sync(descriptor)
        if claim.get("bytes") != size or claim.get("sha256") != measured:
            partial.unlink(missing_ok=True)
            raise VerificationFailed(
                f"cannot use the download of {artifact.name}: the fetch worker claims other bytes than are in the file."
            )
        failpoint.hit("fetch:measured")
        os.rename(partial, cached_path(cache, measured))
        failpoint.hit("fetch:renamed")
    except BaseException:
        os.close(descriptor)
        raise
    held = Held(descriptor, measured)
    partial.with_suffix(".json").unlink(missing_ok=True)
    if index_path(partial).exists():
        os.rename(index_path(partial), index_path(cached_path(cache, held.sha256)))
    files.fsync_dir(cache)
    return held
