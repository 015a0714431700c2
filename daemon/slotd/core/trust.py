"""May this file be trusted? The one place that decides it (promise 2), and it reads nothing but values.

What is decided on is evidence: digests that the daemon measured itself on the descriptor it holds, what the source
said, and what the verify worker claims. All that the definition requires must pass, and it must require something;
whatever else speaks against the file counts too. In which order the evidence came, and in which order the definition
names its checks, changes nothing of the verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from slotd.core import gpgstatus
from slotd.core.evidence import HEX, Evidence, Signed
from slotd.core.schema import Verify
from slotd.core.verifyplan import ARTIFACT, DIGESTS, SUMS
from slotd.errors import VerificationFailed


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed. `kind`: the verifier; `key`: fingerprint, key id or identity; `name`: user id or comment, if any."""

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
    """Trust `asset`, or raise `VerificationFailed`: `forged` if it shows that its bytes are not the publisher's.

    Every check is made before anything is said, so that a forgery is told as one whatever else is wrong.
    """
    if not requirement.require:
        raise _refusal(asset, "nothing is required of it", "Set `require` under [verify].")
    refusals = list(_against_digests(requirement, asset, evidence))
    checks = list(_passed_digests(evidence))
    signers: list[Signer] = []
    for kind in sorted(set(requirement.require)):
        if kind in DIGESTS:
            continue
        try:
            found = _signers(requirement, kind, asset, evidence)
        except VerificationFailed as refusal:
            refusals.append(refusal)
            continue
        signers += found
        checks += [f"{each.kind} signature over the {_WHAT[each.covers]} by {each.name or each.key}" for each in found]
    if refusals:
        raise min(refusals, key=lambda each: not each.forged)  # of several the first: digests say more than signatures
    return Trusted(tuple(checks), tuple(signers))


def require_digests(requirement: Verify, asset: str, source_digest: str) -> None:
    """Before the download: a digest that is required and that neither the source nor a sums file will give.

    Raises `VerificationFailed`. What a sums file lists is known only when it was fetched: `decide` judges that.
    """
    if not requirement.checksums:
        for refusal in _against_missing(requirement, asset, {source_digest.partition(":")[0].lower()}):
            raise refusal


_WHAT = {ARTIFACT: "file", SUMS: "checksums"}
_NAMES = {"openpgp": "OpenPGP"}
_HINT_KEYS = "If the publisher has changed keys, get the new one from a place you trust and put it into keys.d."
_HINT_FORGED = "Someone changed the file or its signature. Do not install it by other means; ask the publisher."
_REASONS = {
    "bad": "it does not fit the file",
    "unknown-key": "it was made by a key that is not among the app's keys",
    "": "it could not be checked",
}


# ── digests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _given(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    """(who says it, algorithm, digest): every digest that anyone gave. Weak ones neither prove nor disprove."""
    yield from (("checksums say", algorithm, digest) for algorithm, digest in sorted(evidence.sums.items()))
    algorithm, _, digest = evidence.source_digest.lower().partition(":")
    if algorithm in DIGESTS:
        yield "source says", algorithm, digest


def _passed_digests(evidence: Evidence) -> Iterator[str]:
    return (f"{algorithm} as the {who}" for who, algorithm, _ in _given(evidence) if algorithm in DIGESTS)


def _against_digests(requirement: Verify, asset: str, evidence: Evidence) -> Iterator[VerificationFailed]:
    """Every digest that anyone gave must be the measured one; each one required must have been given by someone."""
    if requirement.checksums and not evidence.has_sums:
        yield _refusal(asset, "its checksums are missing", "Check `checksums` under [verify].")
    elif requirement.checksums and not evidence.sums:
        yield _refusal(asset, "the checksums do not list it", "Check `checksums` and `asset` in the definition.")
    for who, algorithm, digest in _given(evidence):
        refusal = _against_digest(asset, evidence, who, algorithm, digest)
        if refusal is not None:
            yield refusal
    yield from _against_missing(requirement, asset, {algorithm for _, algorithm, _ in _given(evidence)})


def _against_digest(asset: str, evidence: Evidence, who: str, algorithm: str, digest: str) -> VerificationFailed | None:
    if not HEX[algorithm].fullmatch(digest):
        return _refusal(asset, f"the {who} {digest[:80]!r}, which is no {algorithm}")
    measured = evidence.measured.get(algorithm)
    if measured is None:
        return _refusal(asset, f"its {algorithm} was not measured")
    if measured != digest:
        return _refusal(
            asset,
            f"its {algorithm} is {measured}, the {who} {digest}",
            "Someone changed the file, or the publisher replaced it half-way. Do not install it by other means.",
            forged=True,
        )
    return None


def _against_missing(requirement: Verify, asset: str, given: Collection[str]) -> Iterator[VerificationFailed]:
    for algorithm in DIGESTS:
        if algorithm in requirement.require and algorithm not in given:
            yield _refusal(
                asset,
                f"nobody gives its {algorithm}",
                "Set `checksums` under [verify] to the name of the publisher's sums file, or require another check;"
                f' an index of one\'s own (type = "http") may also give the file a `digest`, "{algorithm}:…".',
            )


# ── signatures ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Word:
    """One signature, judged: `signer` if it counts, else why not."""

    signer: Signer | None = None
    problem: str = ""
    is_bad: bool = False


def _signers(requirement: Verify, kind: str, asset: str, evidence: Evidence) -> list[Signer]:
    """Who signed in this way, each once; at least as many as the definition wants. Raises `VerificationFailed`."""
    name = _NAMES.get(kind, kind)
    words = list(_openpgp(requirement, asset, evidence) if kind == "openpgp" else _other(requirement, kind, evidence))
    counted = sorted({(w.signer.key, w.signer.name, w.signer.covers): w.signer for w in words if w.signer}.items())
    signers = [signer for _, signer in counted]
    needed = requirement.signers if kind == "openpgp" else 1
    if len({signer.key for signer in signers}) < needed:
        raise _too_few(asset, name, words, signers, needed)
    if all(signer.covers == SUMS for signer in signers) and not any(each in evidence.sums for each in DIGESTS):
        # A signature over the checksums reaches the file only through a digest in them, compared on its own.
        raise _refusal(asset, "the signed checksums do not list it", "Check `checksums` under [verify].")
    return signers


def _too_few(asset: str, name: str, words: list[_Word], signers: list[Signer], needed: int) -> VerificationFailed:
    if not words:
        return _refusal(asset, f"it has no {name} signature", "Check `signature` and `keys` under [verify].")
    problems = sorted({word.problem for word in words if word.problem})
    is_bad = any(word.is_bad for word in words)
    hint = _HINT_FORGED if is_bad else _HINT_KEYS
    if not signers:
        return _refusal(asset, f"its {name} signature is not good: {'; '.join(problems)}", hint, forged=is_bad)
    why = f"{len({signer.key for signer in signers})} of the {needed} keys that must sign it did"
    return _refusal(asset, "; ".join([why, *problems]), hint, forged=is_bad)


def _openpgp(requirement: Verify, asset: str, evidence: Evidence) -> Iterator[_Word]:
    pinned = {_plain(each) for each in requirement.fingerprints}
    for status in evidence.openpgp:
        try:
            found = gpgstatus.signatures(status.lines, detached=status.covers == ARTIFACT)
        except ValueError as error:
            raise _refusal(asset, f"its OpenPGP signature cannot be used: {error}") from None
        for each in found:
            if each.problem:
                who = f" (key {each.fingerprint})" if each.fingerprint else ""
                yield _Word(problem=f"{each.problem}{who}", is_bad=each.is_bad)
            elif pinned and not pinned & {each.fingerprint, each.primary}:
                yield _Word(problem=f"the signer {each.primary} is not one of `fingerprints`")
            else:
                yield _Word(Signer("openpgp", each.primary, each.signer, status.covers))


def _other(requirement: Verify, kind: str, evidence: Evidence) -> Iterator[_Word]:
    # Key ids are shorter than OpenPGP fingerprints: an entry of this length can only mean such a key.
    pinned = {each for each in map(_plain, requirement.fingerprints) if len(each) not in (40, 64)}
    is_pinned = bool(pinned) or (bool(requirement.fingerprints) and "openpgp" not in requirement.require)
    for each in evidence.signed.get(kind, ()):
        if not each.good:
            who = f" (key {each.key})" if each.key else ""
            yield _Word(problem=f"{_REASONS.get(each.reason, each.reason)}{who}", is_bad=each.reason == "bad")
        elif is_pinned and kind == "minisign" and _plain(each.key) not in pinned:
            yield _Word(problem=f"the signer {each.key} is not one of `fingerprints`")
        else:
            yield _named(requirement, kind, each, evidence)


def _named(requirement: Verify, kind: str, each: Signed, evidence: Evidence) -> _Word:
    """A good signature that names what it is over, and by whom, in its own words."""
    problem = _stranger(requirement, each) if kind == "sigstore" else ""
    if problem:
        return _Word(problem=problem)
    if not each.digest and kind in ("sigstore", "tuf"):
        return _Word(problem="it does not say which file it is over")
    algorithm, _, digest = each.digest.partition(":")
    own = {"sha256": evidence.sums_sha256} if each.covers == SUMS else evidence.measured
    if each.digest and own.get(algorithm) != digest:
        return _Word(problem=f"it is over another file, whose {algorithm} is {digest}", is_bad=True)
    return _Word(Signer(kind, each.key, each.comment, each.covers))


def _stranger(requirement: Verify, each: Signed) -> str:
    """Why this is not who must sign. Names are compared letter by letter: a prefix of one is another's."""
    wanted = (("identity", each.key), ("issuer", each.issuer), ("repository", each.comment))
    for key, found in wanted:
        asked = getattr(requirement, key)
        if found != asked and (asked or key != "repository"):
            return f"`{key}` demands {asked or 'nothing that it could be'}, and it is by {found or 'nobody by name'}"
    return ""


def _plain(fingerprint: str) -> str:
    return fingerprint.replace(" ", "").removeprefix("0x").upper()


def _refusal(asset: str, why: str, hint: str = "", *, forged: bool = False) -> VerificationFailed:
    return VerificationFailed(f"cannot trust {asset}: {why}", hint=hint, forged=forged)
