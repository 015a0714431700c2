"""May this file be trusted? The one place that decides it (promise 2).

What is decided on is evidence: digests that the daemon measured itself on the descriptor it holds, what the source
said, and what the verify worker claims. All that the definition requires must pass, and it must require something;
whatever else speaks against the file counts too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotd.core import gpgstatus
from slotd.core.schema import Verify
from slotd.core.verifyplan import ARTIFACT, DIGESTS, SUMS
from slotd.errors import VerificationFailed

_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}
_KIND = re.compile(r"[a-z][a-z0-9]{0,31}")
_MAX_LINES = 2000
_MAX_TEXT = 4096
_MAX_SIGNATURES = 64


@dataclass(frozen=True, slots=True)
class Status:
    """gpgv's status lines about one signature file. `covers`: `artifact` or `sums`."""

    covers: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """What any other verifier says of one signature file. `key` names the signer, `reason` why it is not good:
    `bad` (a pinned key, other bytes), `unknown-key`, or words for a person."""

    covers: str
    good: bool
    key: str
    comment: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one artifact. Digests are lower-case hex by algorithm; `source_digest` is `algorithm:hex`.

    `measured` is the daemon's own; `sums` is what the sums file lists for this artifact.
    """

    measured: Mapping[str, str]
    source_digest: str = ""
    has_sums: bool = False
    sums: Mapping[str, str] = field(default_factory=dict)
    openpgp: tuple[Status, ...] = ()
    signed: Mapping[str, tuple[Signed, ...]] = field(default_factory=dict)

    @classmethod
    def from_claims(cls, measured: Mapping[str, str], source_digest: str, claims: Mapping[str, Any]) -> Evidence:
        """Evidence from the verify worker's reply, which is JSON from a process that read hostile bytes.

        Raises `VerificationFailed` for anything that is not of the agreed shape: what cannot be read proves nothing.
        """
        try:
            sums = _digests(claims.get("sums", {}))
            other = _digests(claims.get("digests", {}))
            signed = {
                _kind(kind): tuple(_signed(each) for each in _items(listed))
                for kind, listed in claims.items()
                if kind not in ("sums", "digests", "openpgp", "has_sums")
            }
            statuses = tuple(_status(each) for each in _items(claims.get("openpgp", [])))
            has_sums = _typed(claims.get("has_sums", bool(sums)), bool)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VerificationFailed(
                f"cannot use what the verify worker says: {error}", hint="Its part of the journal tells more."
            ) from None
        for algorithm, digest in other.items():
            if measured.get(algorithm, digest) != digest:
                raise VerificationFailed(f"cannot use what the verify worker says: its {algorithm} is of other bytes")
        return cls(dict(measured), source_digest, has_sums or bool(sums), sums, statuses, signed)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed. `kind`: the verifier; `key`: fingerprint or key id; `name`: user id or trusted comment, if any."""

    kind: str
    key: str
    name: str
    covers: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """The file may be used. `checks`: what passed, each a clause for a person; `signers` empty if only digests did."""

    checks: tuple[str, ...]
    signers: tuple[Signer, ...] = ()


def decide(requirement: Verify, asset: str, evidence: Evidence) -> Trusted:
    """Trust `asset`, or raise `VerificationFailed`: `forged` if it shows that its bytes are not the publisher's."""
    if not requirement.require:
        raise _refusal(asset, "nothing is required of it", "Set `require` under [verify].")
    checks = _compare_digests(requirement, asset, evidence)
    signers: list[Signer] = []
    for kind in requirement.require:
        if kind in DIGESTS:
            continue
        found = (
            _openpgp(requirement, asset, evidence) if kind == "openpgp" else _other(requirement, kind, asset, evidence)
        )
        if all(signer.covers == SUMS for signer in found):
            _require_chain(asset, evidence)
        signers += found
        checks += [f"{each.kind} signature over the {_WHAT[each.covers]} by {each.name or each.key}" for each in found]
    return Trusted(tuple(checks), tuple(signers))


_WHAT = {ARTIFACT: "file", SUMS: "checksums"}


def _compare_digests(requirement: Verify, asset: str, evidence: Evidence) -> list[str]:
    """Every digest that anyone gave must be the measured one; each one required must have been given by someone."""
    if requirement.checksums and not evidence.has_sums:
        raise _refusal(asset, "its checksums are missing", "Check `checksums` under [verify].")
    if requirement.checksums and not evidence.sums:
        raise _refusal(asset, "the checksums do not list it", "Check `checksums` and `asset` in the definition.")
    checks: list[str] = []
    given = [("checksums", "say", algorithm, digest) for algorithm, digest in evidence.sums.items()]
    if evidence.source_digest:
        algorithm, _, digest = evidence.source_digest.partition(":")
        given.append(("source", "says", algorithm.lower(), digest.lower()))
    for who, says, algorithm, digest in given:
        if algorithm not in DIGESTS:
            continue  # a weak or unknown one neither proves nor disproves
        if not _HEX[algorithm].fullmatch(digest):
            raise _refusal(asset, f"the {who} {says} {digest[:80]!r}, which is no {algorithm}")
        if algorithm not in evidence.measured:
            raise _refusal(asset, f"its {algorithm} was not measured")
        if evidence.measured[algorithm] != digest:
            raise _refusal(
                asset,
                f"its {algorithm} is {evidence.measured[algorithm]}, the {who} {says} {digest}",
                "Someone changed the file, or the publisher replaced it half-way. Do not install it by other means.",
                forged=True,
            )
        checks.append(f"{algorithm} as the {who} {says}")
    _require_given(requirement, asset, {algorithm for _, _, algorithm, _ in given})
    return checks


def require_digests(requirement: Verify, asset: str, source_digest: str) -> None:
    """Before the download: a digest that is required and that neither the source nor a sums file will give.

    Raises `VerificationFailed`. What a sums file lists is known only when it was fetched: `decide` judges that.
    """
    if not requirement.checksums:
        _require_given(requirement, asset, {source_digest.partition(":")[0].lower()})


def _require_given(requirement: Verify, asset: str, given: Collection[str]) -> None:
    for algorithm in DIGESTS:
        if algorithm in requirement.require and algorithm not in given:
            raise _refusal(
                asset,
                f"nobody gives its {algorithm}",
                "Set `checksums` under [verify] to the name of the publisher's sums file, or require another check;"
                f' an index of one\'s own (type = "http") may also give the file a `digest`, "{algorithm}:…".',
            )


def _openpgp(requirement: Verify, asset: str, evidence: Evidence) -> list[Signer]:
    """One good signature by a pinned key suffices; none at all is a failure."""
    pinned = {_plain(each) for each in requirement.fingerprints}
    signers: list[Signer] = []
    problems: list[str] = []
    bad = False
    for status in evidence.openpgp:
        try:
            found = gpgstatus.signatures(status.lines, detached=status.covers == ARTIFACT)
        except ValueError as error:
            raise _refusal(asset, f"its OpenPGP signature cannot be used: {error}") from None
        for each in found:
            bad = bad or each.is_bad
            if each.problem:
                problems.append(f"{each.problem} (key {each.fingerprint})" if each.fingerprint else each.problem)
            elif pinned and not pinned & {each.fingerprint, each.primary}:
                problems.append(f"the signer {each.primary} is not one of `fingerprints`")
            else:
                signers.append(Signer("openpgp", each.primary, each.signer, status.covers))
    if signers:
        return signers
    if not problems:
        raise _refusal(asset, "it has no OpenPGP signature", "Check `signature` and `keys` under [verify].")
    hint = _HINT_FORGED if bad else _HINT_KEYS
    raise _refusal(asset, f"its OpenPGP signature is not good: {'; '.join(problems)}", hint, forged=bad)


_HINT_KEYS = "If the publisher has changed keys, get the new one from a place you trust and put it into keys.d."
_HINT_FORGED = "Someone changed the file or its signature. Do not install it by other means; ask the publisher."


def _other(requirement: Verify, kind: str, asset: str, evidence: Evidence) -> list[Signer]:
    # Key ids are shorter than OpenPGP fingerprints: an entry of this length can only mean such a key.
    pinned = {each for each in map(_plain, requirement.fingerprints) if len(each) not in (40, 64)}
    is_pinned = bool(pinned) or (bool(requirement.fingerprints) and "openpgp" not in requirement.require)
    signers: list[Signer] = []
    problems: list[str] = []
    bad = False
    for each in evidence.signed.get(kind, ()):
        if not each.good:
            bad = bad or each.reason == "bad"
            problems.append(f"{_REASONS.get(each.reason, each.reason)} (key {each.key})")
        elif is_pinned and _plain(each.key) not in pinned:
            problems.append(f"the signer {each.key} is not one of `fingerprints`")
        else:
            signers.append(Signer(kind, each.key, each.comment, each.covers))
    if signers:
        return signers
    if not problems:
        raise _refusal(asset, f"it has no {kind} signature", "Check `signature` and `keys` under [verify].")
    hint = _HINT_FORGED if bad else _HINT_KEYS
    raise _refusal(asset, f"its {kind} signature is not good: {'; '.join(problems)}", hint, forged=bad)


_REASONS = {
    "bad": "it does not fit the file",
    "unknown-key": "it was made by a key that is not among the app's keys",
    "": "it could not be checked",
}


def _require_chain(asset: str, evidence: Evidence) -> None:
    """A signature over the checksums reaches the file only through a digest in them, already compared above."""
    if not any(algorithm in evidence.sums for algorithm in DIGESTS):
        raise _refusal(asset, "the signed checksums do not list it", "Check `checksums` under [verify].")


def _refusal(asset: str, why: str, hint: str = "", *, forged: bool = False) -> VerificationFailed:
    return VerificationFailed(f"cannot trust {asset}: {why}", hint=hint, forged=forged)


def _plain(fingerprint: str) -> str:
    return fingerprint.replace(" ", "").removeprefix("0x").upper()


def _digests(value: Any) -> dict[str, str]:
    digests = dict(_typed(value, dict))
    for algorithm, digest in digests.items():
        if algorithm not in _HEX or not _HEX[algorithm].fullmatch(_typed(digest, str)):
            raise ValueError("a digest that is none")
    return digests


def _status(value: Any) -> Status:
    claim = _typed(value, dict)
    lines = tuple(_text(line) for line in _items(claim["status"], _MAX_LINES))
    return Status(_covers(claim["covers"]), lines)


def _signed(value: Any) -> Signed:
    claim = _typed(value, dict)
    return Signed(
        covers=_covers(claim["covers"]),
        good=_typed(claim["good"], bool),
        key=_text(claim["key"]),
        comment=_text(claim.get("comment", "")),
        reason=_text(claim.get("reason", "")),
    )


def _covers(value: Any) -> str:
    if value not in (ARTIFACT, SUMS):
        raise ValueError("a signature over an unknown thing")
    return str(value)


def _kind(value: str) -> str:
    if not _KIND.fullmatch(value):
        raise ValueError("an unknown kind of signature")
    return value


def _text(value: Any) -> str:
    """One line for logs and terminals, with nothing in it that moves a cursor."""
    text = str(_typed(value, str))
    if len(text) > _MAX_TEXT:
        raise ValueError("a text that is too long")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _items(value: Any, limit: int = _MAX_SIGNATURES) -> Sequence[Any]:
    items = _typed(value, list)
    if len(items) > limit:
        raise ValueError("too many entries")
    return list(items)


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise ValueError(f"{wanted.__name__} expected, {type(value).__name__} found")
    return value
