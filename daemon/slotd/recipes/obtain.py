"""`resolve`, `delay`, `fetch`, `verify`: a release is chosen, waited for, downloaded and proven.

The app runs untouched all the while.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotd.core import policy, trust, verifyplan
from slotd.core.plain import to_plain
from slotd.errors import SourceFailed, VerificationFailed
from slotd.host import failpoint, files
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.model import Blocked, Result, SlotName
from slotd.recipes.check import WORKER_GRACE_S, credential, look, worker_properties
from slotd.recipes.context import Artifact, Work


def cached_path(cache: Path, sha256: str) -> Path:
    """Where a downloaded file lies: its name is its digest, its directory is root's alone."""
    return cache / sha256


async def choose_release(work: Work) -> Result | None:
    """Ask the source, choose by the rules, write down where the release will go."""
    active = await off_loop(work.engine.active)
    slots = await off_loop(work.host.store.slots, work.app.name)
    old = slots[active] if active else None
    choice = await look(work, wanted=work.plan.wanted, force=work.plan.force)
    release = choice.release
    if release is None:
        passed_over = [f"{version} was passed over: {why}" for version, why in choice.skipped[:5]]
        for text in passed_over:
            await work.tell("release-skipped", text)
        work.note = "; ".join(passed_over)
        return Result.UP_TO_DATE
    artifacts = tuple(Artifact(a.name, a.url, a.size, a.digest) for a in choice.assets)
    work.show(version=release.version, previous=old.version if old else "")
    await work.remember(
        release=release,
        artifacts=artifacts,
        slot=active.other if active else SlotName.A,
        old_slot=active,
        old_version=old.version if old else "",
        old_digest=old.digest if old else "",
    )
    return None


async def wait_for_veto(work: Work) -> None:
    """An automatic update waits, so that a person who sees it coming can cancel it."""
    if not work.plan.automatic or work.plan.now or work.app.policy.delay_s <= 0:
        return
    await work.tell(
        "step",
        f"updating to {work.plan.version} in {work.app.policy.delay_s:.0f} s; `slotctl cancel {work.job.id}` stops it",
    )
    await asyncio.sleep(work.app.policy.delay_s)


async def download(work: Work) -> None:
    """Every artifact into the cache, going on with a partial file; then it is root's, named by what was measured."""
    cache = work.host.cache(work.app.name)
    await off_loop(_make_private, cache)
    done: list[Artifact] = []
    for artifact in work.plan.artifacts:
        known = artifact.source_digest.removeprefix("sha256:") if artifact.source_digest.startswith("sha256:") else ""
        path = cached_path(cache, known) if known else None
        if path is None or not await off_loop(path.is_file):
            known = await _download_one(work, cache, artifact)
        size = (await off_loop(os.stat, cached_path(cache, known))).st_size
        done.append(dataclasses.replace(artifact, sha256=known, size=size))
    await work.remember(artifacts=tuple(done))


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


async def _download_one(work: Work, cache: Path, artifact: Artifact) -> str:
    """Gives the SHA-256 that the daemon measured, under whose name the file now lies."""
    partial = cache / f"partial-{hashlib.sha256(artifact.url.encode()).hexdigest()[:32]}"
    note = partial.with_suffix(".json")
    limits = work.host.settings.limits
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    # 0644 in a directory of mode 0700: whoever was handed the descriptor may re-open it to read, nobody finds the path.
    descriptor = await off_loop(os.open, partial, flags, 0o644)
    try:
        os.fchmod(descriptor, 0o644)

        noted: dict[str, Any] = {}

        def on_progress(said: Mapping[str, Any]) -> None:
            if isinstance(said.get("state"), Mapping) and said["state"] != noted:
                noted.clear()
                noted.update(said["state"])
                note.write_text(json.dumps(noted))  # once a download: a few bytes, and a lost one costs only a resume
            done, total = said.get("bytes"), said.get("total") or artifact.size
            if isinstance(done, int) and isinstance(total, int) and total > 0:
                work.progress(min(1.0, done / total))

        secret, host = credential(work.app)
        request = {
            "url": artifact.url,
            "kind": "file" if work.app.source.type == "directory" else "http",
            "offset_state": await off_loop(_read_note, note),
            "limit_bytes": limits.download_bytes,
            "expected_size": artifact.size,
            "expected_digest": artifact.source_digest,
            "bandwidth": work.host.settings.bandwidth,
            "limits": to_plain(limits),
            "credential": secret,
            "credential_host": host,
        }
        claim = await work.host.workers.call(
            "fetch",
            request,
            [descriptor],
            unit=work.unit("fetch"),
            timeout_s=limits.download_s + WORKER_GRACE_S,
            on_progress=on_progress,
            properties=worker_properties(work),
        )
        failpoint.hit("fetch:downloaded")
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    return await off_loop(_take_over, partial, note, cache, artifact, claim, size)


def _read_note(note: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_bounded(note, 64 * 1024))
    except Exception:
        return {}
    return value if isinstance(value, dict) else {}


def _take_over(partial: Path, note: Path, cache: Path, artifact: Artifact, claim: Mapping[str, Any], size: int) -> str:
    """From the worker's hands into root's: nobody may have it open for writing, and the digest is measured anew."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if files.has_writers(descriptor):
            raise VerificationFailed(
                f"cannot use the download of {artifact.name}: someone still has it open for writing."
            )
        measured = files.hash_fd(descriptor, "sha256")
        if claim.get("bytes") != size or claim.get("sha256") != measured:
            partial.unlink(missing_ok=True)
            raise VerificationFailed(
                f"cannot use the download of {artifact.name}: the fetch worker claims other bytes than are in the file."
            )
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(partial, cached_path(cache, measured))
    note.unlink(missing_ok=True)
    files.fsync_dir(cache)
    return measured


async def check_signatures(work: Work) -> None:
    """All that the definition requires, on bytes nobody else can write. A forged release is removed and blocked."""
    signers: list[str] = []
    for artifact in work.plan.artifacts:
        try:
            trusted = await _verify_one(work, artifact)
        except VerificationFailed as error:
            await _reject(work, artifact, error)
            raise
        signers += [f"{signer.kind}:{signer.key}" for signer in trusted.signers]
        await work.tell("step", f"verified {artifact.name}: {'; '.join(trusted.checks)}")
    await work.remember(signers=tuple(signers))


async def _verify_one(work: Work, artifact: Artifact) -> trust.Trusted:
    verify, release = work.app.verify, work.plan.release
    wanted = verifyplan.plan(
        verify, artifact.name, release.version, release, policy.asset_words(release, work.app.source)
    )
    bodies = {asset.name: await _small(work, asset.url) for asset in verifyplan.names(wanted)}
    keys = await off_loop(read_keys, work.host.paths, verify.keys)
    path = cached_path(work.host.cache(work.app.name), artifact.sha256)
    descriptor = await off_loop(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if await off_loop(files.has_writers, descriptor):
            raise VerificationFailed(f"cannot verify {artifact.name}: someone has it open for writing.")
        measured = {
            algorithm: await off_loop(files.hash_fd, descriptor, algorithm)
            for algorithm in verifyplan.digests_needed(verify, artifact.source_digest)
        }
        if measured["sha256"] != artifact.sha256:
            raise VerificationFailed(f"cannot use {artifact.name} from the cache: its bytes have changed.")
        request = verifyplan.request(verify, artifact.name, wanted, bodies, keys)
        limits = work.host.settings.limits
        claims = await work.host.workers.call(
            "verify", request, [descriptor], unit=work.unit("verify"), timeout_s=limits.verify_s
        )
    finally:
        os.close(descriptor)
    evidence = trust.Evidence.from_claims(measured, artifact.source_digest, claims)
    return trust.decide(verify, artifact.name, evidence)


async def _small(work: Work, url: str) -> bytes:
    """A sums file or a signature."""
    limits = work.host.settings.limits
    secret, host = credential(work.app)
    request = {
        "url": url,
        "kind": "file" if work.app.source.type == "directory" else "http",
        "limit_bytes": max(limits.sums_bytes, limits.signature_bytes),
        "limits": to_plain(limits),
        "credential": secret,
        "credential_host": host,
    }
    claim = await work.host.workers.call(
        "small",
        request,
        unit=work.unit("small"),
        timeout_s=limits.index_s + WORKER_GRACE_S,
        properties=worker_properties(work),
    )
    try:
        return base64.b64decode(str(claim["body"]), validate=True)
    except (KeyError, ValueError):
        raise SourceFailed(f"cannot read {url}: the worker gave nothing that can be used.") from None


async def _reject(work: Work, artifact: Artifact, error: VerificationFailed) -> None:
    """Nothing unverified stays in the cache; what was forged is not tried again by itself."""
    cache = work.host.cache(work.app.name)
    await off_loop(cached_path(cache, artifact.sha256).unlink, True)
    if error.forged:
        digest = artifact.source_digest or f"sha256:{artifact.sha256}"
        blocked = Blocked(
            app=work.app.name, version=work.plan.version, digest=digest, reason=str(error), at=work.host.clock.now()
        )
        await off_loop(work.host.store.save, blocked)
    await work.tell("verification-failed", f"{work.plan.version} was not accepted: {error}")
