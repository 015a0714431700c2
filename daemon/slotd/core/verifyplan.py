"""Which small files an artifact needs beside it before it can be verified, and the verify worker's request."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from slotd.core.schema import Verify
from slotd.errors import VerificationFailed
from slotd.model import Asset, Release

DIGESTS = ("sha256", "sha512")
ARTIFACT = "artifact"
SUMS = "sums"
TUF = "tuf"

_DEFAULT_SIGNATURE = next(f.default for f in fields(Verify) if f.name == "signature")
# What a verifier's signature files are called, where the template was not written for it
_SUFFIX = {"openpgp": ".asc", "minisign": ".minisig", "sigstore": ".sigstore.json"}
SIGNED = frozenset(_SUFFIX)  # somebody else than the source vouches for the release


@dataclass(frozen=True, slots=True)
class Wanted:
    """One small file to fetch. `kind`: `sums`, or the verifier that reads it as a signature over what it `covers`."""

    name: str
    kind: str
    covers: str
    asset: Asset


class Missing(VerificationFailed):
    """A release does not have the `file` that `key` of [verify] names."""

    def __init__(self, version: str, file: str, key: str) -> None:
        super().__init__(
            f"cannot verify {version}: the release has no file {file}",
            hint=f"It may not be uploaded yet. If it is called otherwise, change `{key}` under [verify].",
        )
        self.file, self.key = file, key


def plan(
    verify: Verify, asset: str, version: str, release: Release, words: Mapping[str, str] | None = None
) -> tuple[Wanted, ...]:
    """The sums file and the signatures for one artifact.

    Templates: `checksums` with {asset} {version} {tag}, `signature` with {checksums} too; `words` are more of them
    ({arch}, {os}). A signature covers the sums file if its template or its name is made of that file's, or has no
    {asset} in it; otherwise the artifact. A `signature` that is the sums file itself means that it is clear-signed:
    it is then fetched once. Raises `VerificationFailed` if the release does not have such a file (yet).
    """
    known = {**(words or {}), "asset": asset, "version": version, "tag": release.tag}
    wanted: list[Wanted] = []
    sums = ""
    if verify.checksums:
        sums = _fill(verify.checksums, known)
        wanted.append(Wanted(sums, SUMS, ARTIFACT, _asset(release, sums, "checksums")))
    for kind in verify.require:
        if kind in (*DIGESTS, TUF):
            continue  # these have no file of their own
        template = _template(verify, kind)
        name = _fill(template, {**known, "checksums": sums})
        covers = SUMS if sums and _covers_sums(template, name, sums) else ARTIFACT
        wanted.append(Wanted(name, kind, covers, _asset(release, name, "signature")))
    return tuple(wanted)


def lacking(verify: Verify, assets: Iterable[Asset], release: Release, words: Mapping[str, str]) -> str:
    """A clause on the first sums file or signature that the release does not have (yet); empty if it has all."""
    for asset in assets:
        try:
            plan(verify, asset.name, release.version, release, words)
        except Missing as missing:
            return f"it has no file {missing.file}; if that is called otherwise, change `{missing.key}` under [verify]"
    return ""


def expected(verify: Verify, release: Release) -> Verify:
    """What is demanded of this release: who must have signed it may name its version and its tag."""
    words = {"version": release.version, "tag": release.tag}
    return replace(verify, identity=_fill(verify.identity, words))


def names(plan: tuple[Wanted, ...]) -> tuple[Asset, ...]:
    """What to fetch: every file of the plan once."""
    return tuple({wanted.name: wanted.asset for wanted in plan}.values())


def sums_sha256(plan: tuple[Wanted, ...], bodies: Mapping[str, bytes]) -> str:
    """The digest of the sums file as it was fetched, in hex; empty without one."""
    found = next((bodies[wanted.name] for wanted in plan if wanted.kind == SUMS), None)
    return "" if found is None else hashlib.sha256(found).hexdigest()


def request(
    verify: Verify, asset: str, plan: tuple[Wanted, ...], bodies: Mapping[str, bytes], keys: Mapping[str, bytes]
) -> dict[str, Any]:
    """The `verify` worker's request. `bodies`: file name -> what was fetched; `keys`: key file name -> its content."""
    sums = next((wanted for wanted in plan if wanted.kind == SUMS), None)
    return {
        "asset": asset,
        "sums": _base64(bodies[sums.name]) if sums else None,
        "sums_name": sums.name if sums else "",
        "signatures": [
            {"kind": each.kind, "name": each.name, "data": _base64(bodies[each.name]), "covers": each.covers}
            for each in plan
            if each.kind != SUMS
        ],
        "keys": [{"name": name, "data": _base64(data)} for name, data in keys.items()],
        "want": [],
    }


def digests_needed(verify: Verify, source_digest: str, listed: Collection[str] = ()) -> tuple[str, ...]:
    """The digests that the daemon has to measure itself: sha256 always, others where something is compared by them.

    `listed`: the algorithms by which the sums file gives the artifact. What was not measured is never trusted.
    """
    from_source = source_digest.partition(":")[0].lower()
    return tuple(a for a in DIGESTS if a == "sha256" or a in verify.require or a == from_source or a in listed)


def _template(verify: Verify, kind: str) -> str:
    """The one `signature` template serves all; where it was written for another verifier, the ending changes."""
    template = verify.signature
    suffix = _SUFFIX.get(kind)
    if suffix is None or template == "{checksums}":
        return template
    signers = [each for each in verify.require if each not in DIGESTS]
    is_foreign = any(other != kind and template.endswith(ending) for other, ending in _SUFFIX.items())
    if is_foreign and (len(signers) > 1 or template == _DEFAULT_SIGNATURE):
        ending = next(each for each in _SUFFIX.values() if template.endswith(each))
        return template.removesuffix(ending) + suffix
    if kind != "openpgp" and len(signers) > 1 and not template.endswith(suffix):
        return (
            template.rpartition(".")[0] + suffix if template.endswith((".sig", ".sign", ".gpg")) else template + suffix
        )
    return template


def _covers_sums(template: str, name: str, sums: str) -> bool:
    return "{checksums}" in template or name == sums or name.startswith(f"{sums}.") or "{asset}" not in template


def _fill(template: str, words: Mapping[str, str]) -> str:
    # Once through, and not with str.format(): a tag may hold braces too, and format() reaches into attributes.
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)


def _asset(release: Release, name: str, key: str) -> Asset:
    found = release.asset(name)
    if found is None:
        raise Missing(release.version, name, key)
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
