"""`resolve`, `delay`, `fetch`, `verify`: a release is chosen, waited for, downloaded and proven.

The app runs untouched all the while.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotd.core import bundle, trust, verifyplan
from slotd.core.words import duration
from slotd.errors import NoSpace, NoSuchVersion, SlotdError, SourceFailed, VerificationFailed
from slotd.host import failpoint, files
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.model import Blocked, Release, Result, Slot, SlotName
from slotd.recipes import asking, proof, shelf, tuf
from slotd.recipes.cache import cached_path, is_cached, known_sha256, make_private, measured, partial_path, prune_cache
from slotd.recipes.check import look
from slotd.recipes.context import Artifact, Held, Work
from slotd.recipes.preserve import require_units
from slotd.recipes.push import require_pushed

RESERVE_BYTES = 32 * 1024**2  # of the disk that nothing of ours may take from the running apps
PIECE_BYTES = 1024**2  # what a download may lack to its limit when it is refused for its size


async def choose_release(work: Work) -> Result | None:
    """Ask the source, choose by the rules, write down where the release will go."""
    await require_units(work)
    await require_pushed(work)
    active = await off_loop(work.engine.active)
    slots = await off_loop(work.host.store.slots, work.app.name)
    old = slots[active] if active else None
    if work.plan.kept:
        await _remember_place(work, work.plan.release, work.plan.artifacts, active, old)
        return None
    only = work.plan.only
    choice = await look(work, wanted=work.plan.wanted or only, force=work.plan.force)
    release = choice.release
    if release is None:
        for text in choice.passed_over:
            await work.tell("release-skipped", text)
        work.note = "\n".join(choice.passed_over)
        if only and only not in (old.version if old else "", *(version for version, _ in choice.skipped)):
            raise NoSuchVersion(
                f"cannot update {work.app.name} to {only}, which was authorised: its source has it no more.",
                hint=f"Look with `slotctl check {work.app.name}`, and ask again.",
            )
        return Result.UP_TO_DATE
    artifacts = tuple(Artifact(a.name, a.url, a.size, a.digest) for a in choice.assets)
    for artifact in artifacts:  # what cannot be verified is known now, before anything is downloaded
        proof.plan_checks(work.app, artifact.name, release)
        trust.require_digests(work.app.verify, artifact.name, artifact.source_digest)
    await _remember_place(work, release, artifacts, active, old)
    return None


async def _remember_place(
    work: Work, release: Release, artifacts: tuple[Artifact, ...], active: SlotName | None, old: Slot | None
) -> None:
    """Write down what goes where."""
    work.show(version=release.version, previous=old.version if old else "")
    await work.remember(
        release=release,
        artifacts=artifacts,
        slot=active.other if active else SlotName.A,
        old_slot=active,
        old_version=old.version if old else "",
        old_digest=old.digest if old else "",
    )
    await failpoint.reach("resolve:chosen")
    begun = f"update from {old.version} to {release.version}" if old else f"installation of {release.version}"
    await work.tell("job-started", f"the {begun} begins")


async def wait_for_veto(work: Work) -> None:
    """An automatic update waits, so that a person who sees it coming can cancel it."""
    if not work.plan.automatic or work.plan.now or work.app.policy.delay_s <= 0:
        return
    when = duration(work.app.policy.delay_s)
    stop = f"`slotctl cancel {work.job.id}` stops it"
    await work.tell("update-delayed", f"updating to {work.plan.version} in {when}; {stop}")
    await failpoint.reach("delay:told")
    await asyncio.sleep(work.app.policy.delay_s)


async def download(work: Work) -> None:
    """Every artifact into the cache, going on with a partial file; then it is root's, named by what was measured."""
    cache = work.host.cache(work.app.name)
    await off_loop(make_private, cache)
    await off_loop(prune_cache, work)
    await failpoint.reach("fetch:cache")
    done: list[Artifact] = []
    for artifact in work.plan.artifacts:
        known = artifact.sha256 if work.plan.kept else known_sha256(artifact)
        if imported := bundle.digest_of(artifact.url):
            known = imported  # whether that is what the source said is for `verify` to see
            await off_loop(shelf.bring, cache, imported, cached_path(cache, imported))
        elif not known or not await is_cached(work, artifact, known):
            known = await (
                _fetch_kept(work, cache, artifact) if work.plan.kept else _download_one(work, cache, artifact)
            )
        size = (await off_loop(os.stat, cached_path(cache, known))).st_size
        done.append(dataclasses.replace(artifact, sha256=known, size=size))
    await failpoint.reach("fetch:known")
    await work.remember(artifacts=tuple(done))


async def _fetch_kept(work: Work, cache: Path, artifact: Artifact) -> str:
    """A kept release whose file is damaged or gone: nothing but its digest is asked of it, so that must be the one."""
    try:
        found = await _download_one(work, cache, artifact)
    except SourceFailed as error:
        why = f"cannot use {artifact.name}, which was kept: its bytes have changed, and to fetch it anew failed:"
        raise SourceFailed(f"{why} {error.message}", hint=error.hint) from error
    if found != artifact.sha256:
        work.let_go()
        await off_loop(cached_path(cache, found).unlink, True)
        raise VerificationFailed(f"cannot use {artifact.name}: its source has another file than was verified and kept.")
    return found


async def _download_one(work: Work, cache: Path, artifact: Artifact) -> str:
    """Gives the SHA-256 that the daemon measured, under whose name the file now lies."""
    partial = partial_path(cache, artifact.url)
    note = partial.with_suffix(".json")
    limits = work.host.settings.limits
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    # 0644 in a directory of mode 0700: whoever was handed the descriptor may re-open it to read, nobody finds the path.
    descriptor = await off_loop(os.open, partial, flags, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        await failpoint.reach("fetch:opened")
        room = await off_loop(_room, cache, descriptor, artifact)

        noted: dict[str, Any] = {}

        def on_progress(said: Mapping[str, Any]) -> None:
            if isinstance(said.get("state"), Mapping) and said["state"] != noted:
                noted.clear()
                noted.update(said["state"])
                note.write_text(json.dumps(noted))  # once a download: a few bytes, and a lost one costs only a resume
            done, total = said.get("bytes"), said.get("total") or artifact.size
            if isinstance(done, int) and isinstance(total, int) and total > 0:
                work.progress(min(1.0, done / total))

        more = {
            "offset_state": await off_loop(_read_note, note),
            "limit_bytes": min(limits.download_bytes, room),
            "expected_size": artifact.size,
            "expected_digest": artifact.source_digest,
            "bandwidth": work.host.settings.bandwidth,
        }
        workers, unit = work.host.workers, work.unit("fetch")
        try:
            claim = await asking.fetch(
                workers, limits, work.app, artifact.url, descriptor, more, unit=unit, on_progress=on_progress
            )
        except SlotdError:
            is_full = os.fstat(descriptor).st_size + PIECE_BYTES >= min(limits.download_bytes, room)
            if is_full or not (await off_loop(_read_note, note)).get("validator"):
                await off_loop(_drop, partial)  # nothing can go on from it
            if is_full and room < limits.download_bytes:
                raise _no_room(cache, artifact, room) from None
            raise
        await failpoint.reach("fetch:downloaded")
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    held = await off_loop(_take_over, partial, note, cache, artifact, claim, size)
    work.hold(held)
    return held.sha256


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


def _read_note(note: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_bounded(note, 64 * 1024))
    except Exception:
        return {}
    return value if isinstance(value, dict) else {}


def _take_over(partial: Path, note: Path, cache: Path, artifact: Artifact, claim: Mapping[str, Any], size: int) -> Held:
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
    note.unlink(missing_ok=True)
    files.fsync_dir(cache)
    return held


async def verified_descriptor(work: Work, artifact: Artifact) -> int:
    """The artifact's descriptor, for as long as the job lasts: what was measured is what is checked and unpacked.

    It is measured once. A job that was resumed, a file that lay in the cache already, or one that anything has
    happened to since, is measured (again). Raises `VerificationFailed` if it is not `artifact.sha256`.
    """
    held = work.held.get(artifact.sha256)
    if held is None or not held.is_unchanged():
        path = cached_path(work.host.cache(work.app.name), artifact.sha256)
        held = await off_loop(measured, path, artifact)
        work.hold(held)
    return held.descriptor


async def check_signatures(work: Work) -> None:
    """All that the definition requires, on bytes nobody else can write. A forged release is removed and blocked.

    A kept release was verified before it was first installed here: it must still be the bytes that were.
    """
    signers: list[str] = []
    for artifact in work.plan.artifacts:
        if work.plan.kept:
            await verified_descriptor(work, artifact)
            await work.tell("verified", f"{artifact.name} still is what was verified when it was first installed")
            continue
        try:
            trusted = await _verify_one(work, artifact)
        except VerificationFailed as error:
            await _reject(work, artifact, error)
            raise
        signers += [f"{signer.kind}:{signer.key}" for signer in trusted.signers]
        await work.tell("verified", f"verified {artifact.name}: {'; '.join(trusted.checks)}")
    await failpoint.reach("verify:accepted")
    await work.remember(signers=tuple(signers) or work.plan.signers)


async def _verify_one(work: Work, artifact: Artifact) -> trust.Trusted:
    wanted = proof.plan_checks(work.app, artifact.name, work.plan.release)
    bodies = {asset.name: await _small(work, asset.url) for asset in verifyplan.names(wanted)}
    keys = await off_loop(read_keys, work.host.paths, work.app.verify.keys)
    subject = proof.Subject(
        artifact.name, artifact.source_digest, artifact.sha256, await verified_descriptor(work, artifact)
    )
    workers, limits, unit = work.host.workers, work.host.settings.limits, work.unit("verify")
    return await proof.prove(
        workers,
        limits,
        work.app,
        work.plan.release,
        subject,
        wanted,
        bodies,
        keys,
        unit=unit,
        repository=await tuf.looked_up_in(work),
    )


async def _small(work: Work, url: str) -> bytes:
    """A sums file or a signature."""
    limits = work.host.settings.limits
    if imported := bundle.digest_of(url):
        return await off_loop(shelf.small, work.host.cache(work.app.name), imported, limits)
    return await asking.small(work.host.workers, limits, work.app, url, unit=work.unit("small"))


async def _reject(work: Work, artifact: Artifact, error: VerificationFailed) -> None:
    """Nothing unverified stays in the cache; what was forged is not tried again by itself."""
    cache = work.host.cache(work.app.name)
    work.let_go()
    await off_loop(cached_path(cache, artifact.sha256).unlink, True)
    await failpoint.reach("verify:rejected")
    if error.forged:
        digest = artifact.source_digest or f"sha256:{artifact.sha256}"
        blocked = Blocked(
            app=work.app.name, version=work.plan.version, digest=digest, reason=str(error), at=work.host.clock.now()
        )
        await off_loop(work.host.store.save, blocked)
    await work.tell("verification-failed", f"{work.plan.version} was not accepted: {error}")
