"""Is this file what its publisher released? Asked the same way of what was downloaded and of what came in a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotd.core import bundle, policy, trust, verifyplan
from slotd.core.evidence import Evidence
from slotd.core.schema import App, Limits
from slotd.host import files, tool
from slotd.host.bundlefile import Head
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.host.run import Workers
from slotd.model import Release


@dataclass(frozen=True, slots=True)
class Subject:
    """One file of a release. `descriptor` is open for reading and nobody else's to change; `sha256` was measured."""

    name: str
    source_digest: str
    sha256: str
    descriptor: int


def plan_checks(app: App, name: str, release: Release) -> tuple[verifyplan.Wanted, ...]:
    """The sums and signatures that it takes. Raises `VerificationFailed` if the release does not have one."""
    words = policy.asset_words(release, app.source)
    return verifyplan.plan(app.verify, name, release.version, release, words)


async def prove(
    workers: Workers,
    limits: Limits,
    app: App,
    release: Release,
    subject: Subject,
    wanted: tuple[verifyplan.Wanted, ...],
    bodies: Mapping[str, bytes],
    keys: Mapping[str, bytes],
    *,
    unit: str,
    repository: Mapping[str, Any] | None = None,
) -> trust.Trusted:
    """All that the definition requires of the file. Raises `VerificationFailed`.

    `bodies`: what `wanted` names; `repository`: what is kept of the TUF repository that it came from, if any.
    """
    verify = app.verify
    request = verifyplan.request(verify, subject.name, wanted, bodies, keys)
    request |= {"tuf": repository} if repository else {}
    claims = await workers.call("verify", request, [subject.descriptor], unit=unit, timeout_s=limits.verify_s)
    listed = claims.get("sums")
    needed = verifyplan.digests_needed(verify, subject.source_digest, listed if isinstance(listed, Mapping) else ())
    measured = {
        algorithm: subject.sha256
        if algorithm == "sha256"
        else await off_loop(files.hash_fd, subject.descriptor, algorithm)
        for algorithm in needed
    }
    own_sums = verifyplan.sums_sha256(wanted, bodies)
    evidence = Evidence.from_claims(measured, subject.source_digest, claims, own_sums)
    return trust.decide(verifyplan.expected(verify, release), subject.name, evidence)


async def bundle_signer(workers: Workers, limits: Limits, paths: Paths, app: App, head: Head, *, unit: str) -> str:
    """Who signed a bundle's manifest, if the app's definition lets them. Raises `VerificationFailed`."""
    kind = bundle.signature_kind(head.signature)
    wanted = bundle.requirement(app, kind)
    keys = await off_loop(read_keys, paths, wanted.keys)
    with tool.memory(head.manifest) as covered:
        os.fchmod(covered, 0o444)  # a program opens it again, by the descriptor's path
        question = bundle.question(head.signature, kind, keys)
        claims = await workers.call("verify", question, [covered], unit=unit, timeout_s=limits.verify_s)
    return bundle.signer(wanted, app.name, claims)
