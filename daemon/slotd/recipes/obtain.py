"""`resolve`, `delay`, `verify`: a release is chosen, waited for and, once it was fetched, proven.

The app runs untouched all the while.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from slotd.core import bundle, trust, verifyplan
from slotd.core.words import duration
from slotd.errors import NoSuchVersion, SourceFailed, VerificationFailed
from slotd.host import failpoint
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.model import Blocked, Release, Result, Slot, SlotName
from slotd.recipes import asking, fetching, proof, shelf, tuf
from slotd.recipes.cache import cached_path, index_path, measured
from slotd.recipes.check import look
from slotd.recipes.context import Artifact, Work
from slotd.recipes.preserve import require_units
from slotd.recipes.push import require_pushed


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
    async with work.room.lent():
        await asyncio.sleep(work.app.policy.delay_s)


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
        artifact, trusted = await _prove(work, artifact)
        signers += [f"{signer.kind}:{signer.key}" for signer in trusted.signers]
        await work.tell("verified", f"verified {artifact.name}: {'; '.join(trusted.checks)}")
    await failpoint.reach("verify:accepted")
    await work.remember(signers=tuple(signers) or work.plan.signers)


async def _prove(work: Work, artifact: Artifact) -> tuple[Artifact, trust.Trusted]:
    """What was put together here, or came from a mirror, is not called wrong before it was fetched from its source."""
    try:
        return artifact, await _verify_one(work, artifact)
    except VerificationFailed as error:
        if not artifact.pieced:
            await _reject(work, artifact, error)
            raise
        whole = await _fetch_whole(work, artifact, error)
    try:
        return whole, await _verify_one(work, whole)
    except VerificationFailed as error:
        await _reject(work, whole, error)
        raise


async def _fetch_whole(work: Work, artifact: Artifact, error: VerificationFailed) -> Artifact:
    why = "it was put together from parts that were here, or came from a mirror, and was not accepted"
    await work.tell("warning", f"{artifact.name} is fetched anew, all of it from its source: {why}: {error.message}")
    work.let_go()
    try:
        whole = await fetching.fetch(work, artifact, whole=True)
    except SourceFailed as failed:
        not_proven = VerificationFailed(
            f"cannot use {artifact.name}: {why}; to fetch it anew failed: {failed.message}", hint=failed.hint
        )
        await _reject(work, artifact, not_proven)
        raise not_proven from failed
    artifacts = tuple(whole if each == artifact else each for each in work.plan.artifacts)
    await work.remember(artifacts=artifacts)
    if whole.sha256 != artifact.sha256:
        cache = work.host.cache(work.app.name)
        await off_loop(_give_way, cached_path(cache, artifact.sha256), cached_path(cache, whole.sha256))
    return whole


def _give_way(wrong: Path, right: Path) -> None:
    """The chunk index was fetched from the source for the right bytes: the next update goes by it."""
    if index_path(wrong).exists():
        index_path(wrong).rename(index_path(right))
    wrong.unlink(missing_ok=True)


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
