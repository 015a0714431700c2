"""The trust decision under every mixture of evidence: what it lets through, and that order never matters."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_trust import BAD, FPR, STRANGER, SUBKEY, UNKNOWN, good, taken_back

from slotd.core.evidence import Evidence, Signed, Status
from slotd.core.schema import Verify
from slotd.core.trust import Trusted, decide
from slotd.errors import VerificationFailed

MEASURED = {name: hashlib.new(name, b"the release").hexdigest() for name in ("sha256", "sha512")}
OTHER = {name: hashlib.new(name, b"another").hexdigest() for name in ("sha256", "sha512")}
SECOND = "B" * 40
KEY_ID = "6A1B2C3D4E5F6071"

kinds = st.lists(
    st.sampled_from(["sha256", "sha512", "openpgp", "minisign", "sigstore", "tuf"]), max_size=4, unique=True
)
BLOCKS = (
    good(),
    good(SUBKEY, FPR),
    good(SECOND, SECOND),
    good(hash_algorithm=2),
    taken_back("EXPKEYSIG"),
    taken_back("REVKEYSIG"),
    BAD,
    UNKNOWN,
)
GOOD_BLOCKS = {FPR: (BLOCKS[0], BLOCKS[1]), SECOND: (BLOCKS[2],)}
covers = st.sampled_from(["artifact", "sums"])
statuses = st.lists(st.builds(Status, covers, st.lists(st.sampled_from(BLOCKS), max_size=3).map(
    lambda blocks: tuple(line for block in blocks for line in block))), max_size=2)  # fmt: skip
signed = st.builds(
    Signed,
    covers=covers,
    good=st.booleans(),
    key=st.sampled_from([KEY_ID, "0" * 16]),
    reason=st.sampled_from(["", "bad", "unknown-key"]),
    digest=st.sampled_from(["", f"sha256:{MEASURED['sha256']}", f"sha256:{OTHER['sha256']}"]),
)
digests = st.dictionaries(st.sampled_from(["sha256", "sha512"]), st.booleans()).map(
    lambda flags: {name: (MEASURED if right else OTHER)[name] for name, right in flags.items()}
)
GOOD = Evidence(
    measured=MEASURED,
    source_digest=f"sha256:{MEASURED['sha256']}",
    has_sums=True,
    sums=MEASURED,
    openpgp=(Status("artifact", (*good(), *good(SECOND, SECOND))),),
    signed={
        kind: (Signed("artifact", True, KEY_ID, digest=f"sha256:{MEASURED['sha256']}"),)
        for kind in ("minisign", "sigstore", "tuf")
    },
)
# Good in all but a few places, so that many of them are trusted.
evidence = st.fixed_dictionaries(
    {},
    optional={
        "measured": st.just({"sha256": MEASURED["sha256"]}),
        "source_digest": st.sampled_from(
            ["", *(f"{n}:{d[n]}" for d in (MEASURED, OTHER) for n in d), "md5:00", "sha256:x"]
        ),
        "has_sums": st.booleans(),
        "sums": digests,
        "openpgp": statuses.map(tuple),
        "signed": st.dictionaries(
            st.sampled_from(["minisign", "sigstore", "tuf"]), st.lists(signed, max_size=3).map(tuple)
        ),
    },
).map(lambda changes: replace(GOOD, **changes))
requirements = st.builds(
    Verify,
    require=kinds.map(tuple),
    checksums=st.sampled_from(["", "SHA256SUMS"]),
    keys=st.just(("k",)),
    fingerprints=st.sampled_from([(), (FPR,), (FPR, SECOND), (STRANGER,)]),
    signers=st.sampled_from([1, 2]),
)


def verdict(requirement: Verify, known: Evidence) -> Any:
    try:
        return decide(requirement, "app", known)
    except VerificationFailed as error:
        return error.message, error.hint, error.forged


def said(known: Evidence) -> dict[str, set[str]]:
    """Algorithm -> every digest that anyone gives."""
    found: dict[str, set[str]] = {name: {digest} for name, digest in known.sums.items()}
    name, _, digest = known.source_digest.partition(":")
    found.setdefault(name, set()).add(digest)
    return found


def openpgp_signers(requirement: Verify, known: Evidence) -> set[str]:
    """Whose good signatures are there, told from the blocks that were put in."""
    found = set()
    for status in known.openpgp:
        text = "\n".join(status.lines) + "\n"
        for primary, blocks in GOOD_BLOCKS.items():
            if any("\n".join(block) + "\n" in text for block in blocks):
                found.add(primary)
    return found & set(requirement.fingerprints) if requirement.fingerprints else found


def is_met(kind: str, requirement: Verify, known: Evidence) -> bool:
    """Each demand in its own words, apart from how `trust` puts it."""
    if kind in MEASURED:
        return kind in said(known) and kind in known.measured and said(known)[kind] == {known.measured[kind]}
    if kind == "openpgp":
        return len(openpgp_signers(requirement, known)) >= requirement.signers
    pinned = kind == "minisign" and requirement.fingerprints and "openpgp" not in requirement.require
    right = (f"sha256:{MEASURED['sha256']}", *([""] if kind == "minisign" else []))
    return any(each.good and each.digest in right and not pinned for each in known.signed.get(kind, ()))


@settings(max_examples=40)
@given(requirements, evidence)
def test_nothing_is_trusted_without_every_demanded_check(requirement: Verify, known: Evidence) -> None:
    trusted = verdict(requirement, known)
    if not isinstance(trusted, Trusted):
        return
    assert requirement.require
    for kind in requirement.require:
        assert is_met(kind, requirement, known), kind
    for name in MEASURED:  # and whatever else was said of it is true
        assert said(known).get(name, {known.measured.get(name)}) == {known.measured.get(name)}
    assert not requirement.checksums or known.sums
    for kind in set(requirement.require) - set(MEASURED):
        reached = {signer.covers for signer in trusted.signers if signer.kind == kind}
        assert "artifact" in reached or (reached == {"sums"} and known.sums)


@settings(max_examples=40)
@given(requirements, evidence, st.data())
def test_with_the_evidence_for_one_demand_gone_nothing_is_trusted(
    requirement: Verify, known: Evidence, data: st.DataObject
) -> None:
    if not isinstance(verdict(requirement, known), Trusted):
        return
    kind = data.draw(st.sampled_from(requirement.require))
    if kind in MEASURED:
        gone = replace(known, sums={}, source_digest="")
    elif kind == "openpgp":
        gone = replace(known, openpgp=())
    else:
        gone = replace(known, signed={name: each for name, each in known.signed.items() if name != kind})
    assert not isinstance(verdict(requirement, gone), Trusted)


@settings(max_examples=40)
@given(requirements, evidence, st.randoms(use_true_random=False))
def test_no_order_of_what_is_demanded_or_known_changes_the_verdict(
    requirement: Verify, known: Evidence, random: Any
) -> None:
    def mixed(values: Any) -> tuple[Any, ...]:
        taken = list(values)
        random.shuffle(taken)
        return tuple(taken)

    other = replace(
        known,
        sums=dict(mixed(known.sums.items())),
        openpgp=mixed(known.openpgp),
        signed={name: mixed(each) for name, each in mixed(known.signed.items())},
        measured=dict(mixed(known.measured.items())),
    )
    shuffled = replace(requirement, require=mixed(requirement.require), fingerprints=mixed(requirement.fingerprints))
    first, second = verdict(requirement, known), verdict(shuffled, other)
    if isinstance(first, Trusted) and isinstance(second, Trusted):
        assert set(first.checks) == set(second.checks)
        assert set(first.signers) == set(second.signers)
    else:
        assert first == second


@settings(max_examples=40)
@given(evidence)
def test_a_forgery_is_told_as_one_whatever_else_is_wrong(known: Evidence) -> None:
    requirement = Verify(require=("sha512", "openpgp", "sigstore"), keys=("k",))
    wrong = replace(known, measured=MEASURED, sums={"sha256": OTHER["sha256"]}, source_digest="")
    assert verdict(requirement, wrong)[2] is True
