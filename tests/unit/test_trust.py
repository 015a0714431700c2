"""The trust decision, attacked: every test takes one thing away or twists it, and the file is refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from slotd.core import verifyplan
from slotd.core.evidence import Evidence, Signed, Status
from slotd.core.schema import Verify
from slotd.core.trust import decide, require_digests
from slotd.errors import VerificationFailed
from slotd.model import Asset, Release

BYTES = b"the release"
HEX = hashlib.sha256(BYTES).hexdigest()
HEX512 = hashlib.sha512(BYTES).hexdigest()
WRONG = hashlib.sha256(b"something else").hexdigest()
MEASURED = {"sha256": HEX, "sha512": HEX512}

FPR = "D211278A7B409A4AFC78F68FBD0451E61BC9422F"
SUBKEY = "4067FDED237C0768F09D35BF37F5B232D93C028C"
STRANGER = "A" * 40


def good(fpr: str = FPR, primary: str = FPR, *, hash_algorithm: int = 8, signature_class: str = "00") -> list[str]:
    return [
        "[GNUPG:] NEWSIG",
        f"[GNUPG:] KEY_CONSIDERED {primary} 0",
        "[GNUPG:] SIG_ID l0FsogmcrnMAh3CueWQLKlZYqqU 2026-11-21 1795300005",
        f"[GNUPG:] GOODSIG {fpr[-16:]} Publisher <publisher@example.org>",
        f"[GNUPG:] VALIDSIG {fpr} 2026-11-21 1795300005 0 4 0 22 {hash_algorithm} {signature_class} {primary}",
    ]


def taken_back(word: str, fpr: str = FPR) -> list[str]:
    """What gpgv says for keys or signatures out of date: VALIDSIG all the same."""
    return [line.replace("GOODSIG", word) for line in good(fpr, fpr)]


BAD = ["[GNUPG:] NEWSIG", f"[GNUPG:] BADSIG {FPR[-16:]} Publisher <publisher@example.org>"]
UNKNOWN = [
    "[GNUPG:] NEWSIG",
    f"[GNUPG:] ERRSIG {STRANGER[-16:]} 22 8 00 1795300005 9 {STRANGER}",
    f"[GNUPG:] NO_PUBKEY {STRANGER[-16:]}",
]
OPENPGP = Verify(require=("openpgp",), keys=("publisher.gpg",))


def openpgp(*lines: str, covers: str = "artifact", **more: Any) -> Evidence:
    return Evidence(MEASURED, openpgp=(Status(covers, lines),), **more)


# --- digests


def test_a_file_with_the_digest_of_the_sums_file_is_trusted() -> None:
    verify = Verify(require=("sha256",), checksums="SHA256SUMS")
    trusted = decide(verify, "app", Evidence(MEASURED, has_sums=True, sums={"sha256": HEX}))
    assert trusted.checks == ("sha256 as the checksums say",)
    assert trusted.signers == ()


def test_the_digest_that_the_source_gives_counts_too() -> None:
    trusted = decide(Verify(require=("sha256",)), "app", Evidence(MEASURED, f"sha256:{HEX}"))
    assert trusted.checks == ("sha256 as the source says",)


@pytest.mark.attack
@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(MEASURED, f"sha256:{WRONG}", has_sums=True, sums={"sha256": HEX}),
        Evidence(MEASURED, f"sha256:{HEX}", has_sums=True, sums={"sha256": WRONG}),
        Evidence(MEASURED, has_sums=True, sums={"sha256": HEX, "sha512": "0" * 128}),
    ],
)
def test_one_digest_that_differs_means_forged(evidence: Evidence) -> None:
    with pytest.raises(VerificationFailed, match="cannot trust app: its sha") as caught:
        decide(Verify(require=("sha256",), checksums="SHA256SUMS"), "app", evidence)
    assert caught.value.forged


@pytest.mark.attack
def test_a_digest_of_the_source_that_differs_means_forged_even_if_only_a_signature_is_required() -> None:
    with pytest.raises(VerificationFailed) as caught:
        decide(OPENPGP, "app", openpgp(*good(), source_digest=f"sha256:{WRONG}"))
    assert caught.value.forged


def test_a_sums_file_that_is_missing_or_does_not_list_the_file_is_not_enough() -> None:
    verify = Verify(require=("sha256",), checksums="SHA256SUMS")
    with pytest.raises(VerificationFailed, match="its checksums are missing") as caught:
        decide(verify, "app", Evidence(MEASURED, f"sha256:{HEX}"))
    assert not caught.value.forged
    with pytest.raises(VerificationFailed, match="the checksums do not list it"):
        decide(verify, "app", Evidence(MEASURED, f"sha256:{HEX}", has_sums=True))


def test_a_digest_of_the_other_kind_does_not_do() -> None:
    with pytest.raises(VerificationFailed, match="nobody gives its sha256"):
        decide(Verify(require=("sha256",)), "app", Evidence(MEASURED, f"sha512:{HEX512}"))
    assert decide(Verify(require=("sha512",)), "app", Evidence(MEASURED, f"sha512:{HEX512}"))


def test_what_nobody_will_give_is_known_before_the_download() -> None:
    for digest in ("", f"sha512:{HEX512}"):
        with pytest.raises(VerificationFailed, match="nobody gives its sha256") as caught:
            require_digests(Verify(require=("sha256",)), "app", digest)
        assert "`checksums`" in caught.value.hint
        assert "`digest`" in caught.value.hint
    require_digests(Verify(require=("sha256",)), "app", f"sha256:{HEX}")
    require_digests(Verify(require=("sha256",), checksums="SHA256SUMS"), "app", "")
    require_digests(Verify(require=("openpgp",)), "app", "")


def test_a_message_and_its_hint_are_two_sentences() -> None:
    with pytest.raises(VerificationFailed) as caught:
        require_digests(Verify(require=("sha256",)), "app", "")
    assert "nobody gives its sha256. Set `checksums`" in str(caught.value)


def test_a_digest_that_was_not_measured_is_not_believed() -> None:
    with pytest.raises(VerificationFailed, match="sha512 was not measured"):
        decide(Verify(require=("sha512",)), "app", Evidence({"sha256": HEX}, f"sha512:{HEX512}"))


@pytest.mark.attack
def test_a_source_digest_that_is_none_is_refused_but_proves_no_forgery() -> None:
    with pytest.raises(VerificationFailed, match="which is no sha256") as caught:
        decide(Verify(require=("sha256",)), "app", Evidence(MEASURED, "sha256:nonsense"))
    assert not caught.value.forged


def test_nothing_required_is_nothing_trusted() -> None:
    with pytest.raises(VerificationFailed, match="nothing is required"):
        decide(Verify(), "app", Evidence(MEASURED, f"sha256:{HEX}"))


def test_a_check_that_nobody_made_fails() -> None:
    with pytest.raises(VerificationFailed, match="no sigstore signature"):
        decide(Verify(require=("sigstore",)), "app", Evidence(MEASURED, f"sha256:{HEX}"))


@pytest.mark.attack
def test_all_that_is_required_must_pass() -> None:
    verify = Verify(require=("sha256", "openpgp"), keys=("publisher.gpg",))
    with pytest.raises(VerificationFailed, match="no OpenPGP signature"):
        decide(verify, "app", Evidence(MEASURED, f"sha256:{HEX}"))
    with pytest.raises(VerificationFailed, match="nobody gives its sha256"):
        decide(verify, "app", openpgp(*good()))
    trusted = decide(verify, "app", openpgp(*good(), source_digest=f"sha256:{HEX}"))
    assert [signer.key for signer in trusted.signers] == [FPR]
    assert trusted.checks[1] == "openpgp signature over the file by Publisher <publisher@example.org>"


# --- OpenPGP


@pytest.mark.attack
@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "no OpenPGP signature"),
        (["[GNUPG:] NODATA 3"], "no OpenPGP signature"),
        (["[GNUPG:] NEWSIG"], "did not find it good"),
        (taken_back("EXPKEYSIG"), "the key has expired"),
        (taken_back("REVKEYSIG"), "the key has been revoked"),
        (taken_back("EXPSIG"), "the signature has expired"),
        (UNKNOWN, f"not among the app's keys .key {STRANGER}"),
        (good(hash_algorithm=2), "made with SHA-1"),
        (good(hash_algorithm=1), "made with MD5"),
        (good(hash_algorithm=3), "made with RIPEMD-160"),
        (good(hash_algorithm=99), "hash algorithm 99"),
        (good(signature_class="10"), "of class 10"),
        ([*good(), "[GNUPG:] EXPKEYSIG 0 x"], "the key has expired"),
        ([*good()[:-1]], "did not find it good"),
        ([*good()[:-2], good()[-1]], "did not find it good"),
        ([*good(), good()[-1]], "did not find it good"),
        (good()[1:], "GOODSIG without NEWSIG"),
        ([*good()[:-1], "[GNUPG:] VALIDSIG " + FPR], "VALIDSIG that is too short"),
        (good(fpr="nothex"), "VALIDSIG that cannot be read"),
        (["gpgv: Good signature"], "a line that gpgv does not write"),
        ([*good(), "[GNUPG:] ERROR proc_pkt.plaintext 89_BAD_DATA"], "gpgv stopped"),
        (["[GNUPG:] PLAINTEXT 62 0 ", *good()], "a signed message, not a detached signature"),
    ],
)
def test_no_signature_but_a_good_one_will_do(lines: list[str], why: str) -> None:
    with pytest.raises(VerificationFailed, match=why) as caught:
        decide(OPENPGP, "app", openpgp(*lines))
    assert not caught.value.forged


@pytest.mark.attack
def test_a_signature_over_other_bytes_means_forged() -> None:
    with pytest.raises(VerificationFailed, match="does not fit the file") as caught:
        decide(OPENPGP, "app", openpgp(*BAD))
    assert caught.value.forged


@pytest.mark.parametrize("lines", [[*good(), *UNKNOWN], [*UNKNOWN, *good()], [*taken_back("EXPKEYSIG"), *good(SUBKEY)]])
def test_of_several_signatures_one_good_one_suffices(lines: list[str]) -> None:
    assert decide(OPENPGP, "app", openpgp(*lines)).signers


def test_the_words_of_one_signature_do_not_help_another() -> None:
    lines = [*taken_back("REVKEYSIG"), "[GNUPG:] NEWSIG", good()[3]]
    with pytest.raises(VerificationFailed):
        decide(OPENPGP, "app", openpgp(*lines))


@pytest.mark.parametrize(
    "pinned", [FPR, FPR.lower(), f"0x{FPR}", " ".join(FPR[i : i + 4] for i in range(0, 40, 4)), SUBKEY]
)
def test_a_pinned_primary_key_or_subkey_may_sign(pinned: str) -> None:
    verify = Verify(require=("openpgp",), keys=("publisher.gpg",), fingerprints=(pinned,))
    assert decide(verify, "app", openpgp(*good(SUBKEY, FPR))).signers[0].key == FPR


def test_a_known_key_that_is_not_pinned_may_not() -> None:
    verify = Verify(require=("openpgp",), keys=("publisher.gpg",), fingerprints=(STRANGER, FPR[-16:]))
    with pytest.raises(VerificationFailed, match=f"{FPR} is not one of `fingerprints`"):
        decide(verify, "app", openpgp(*good()))


@pytest.mark.attack
def test_a_signature_over_the_sums_reaches_the_file_only_through_its_digest() -> None:
    verify = Verify(require=("openpgp",), keys=("k",), checksums="SHA256SUMS", signature="{checksums}.asc")
    trusted = decide(verify, "app", openpgp(*good(), covers="sums", has_sums=True, sums={"sha256": HEX}))
    assert trusted.signers[0].covers == "sums"
    with pytest.raises(VerificationFailed, match="do not list it"):
        decide(verify, "app", openpgp(*good(), covers="sums", has_sums=True))
    with pytest.raises(VerificationFailed, match="the signed checksums do not list it"):
        decide(OPENPGP, "app", openpgp(*good(), covers="sums"))
    with pytest.raises(VerificationFailed) as caught:
        decide(verify, "app", openpgp(*good(), covers="sums", has_sums=True, sums={"sha256": WRONG}))
    assert caught.value.forged


# --- minisign, and every later kind


MINISIGN = Verify(require=("minisign",), keys=("publisher.pub",))
KEY_ID = "6A1B2C3D4E5F6071"


def minisign(**claim: Any) -> Evidence:
    return Evidence(MEASURED, signed={"minisign": (Signed(covers="artifact", key=KEY_ID, **claim),)})


def test_a_good_minisign_signature_shows_its_trusted_comment() -> None:
    assert decide(MINISIGN, "app", minisign(good=True, comment="v1.2")).signers[0].name == "v1.2"


@pytest.mark.attack
@pytest.mark.parametrize(("reason", "forged"), [("bad", True), ("unknown-key", False), ("", False)])
def test_a_minisign_signature_that_is_not_good_is_refused(reason: str, forged: bool) -> None:
    with pytest.raises(VerificationFailed, match=KEY_ID) as caught:
        decide(MINISIGN, "app", minisign(good=False, reason=reason))
    assert caught.value.forged is forged


def test_a_minisign_key_may_be_pinned_by_its_id() -> None:
    verify = Verify(require=("minisign",), keys=("p",), fingerprints=(KEY_ID.lower(),))
    assert decide(verify, "app", minisign(good=True))
    for pins in (("0" * 16,), (FPR,)):
        with pytest.raises(VerificationFailed, match="not one of"):
            decide(Verify(require=("minisign",), keys=("p",), fingerprints=pins), "app", minisign(good=True))


# --- what the worker claims


def test_claims_of_the_agreed_shape_are_evidence() -> None:
    claims = {
        "has_sums": True,
        "sums": {"sha256": HEX},
        "digests": {"sha512": HEX512},
        "openpgp": [{"covers": "artifact", "status": good()}],
        "minisign": [{"covers": "sums", "good": True, "key": KEY_ID, "comment": "a\x1b[2Jb"}],
    }
    evidence = Evidence.from_claims(MEASURED, "", claims)
    assert evidence.sums == {"sha256": HEX}
    assert evidence.openpgp[0].lines == tuple(good())
    assert evidence.signed["minisign"][0].comment == "a\N{REPLACEMENT CHARACTER}[2Jb"


@pytest.mark.attack
@pytest.mark.parametrize(
    "claims",
    [
        {"sums": []},
        {"sums": {"sha256": HEX.upper()}},
        {"sums": {"md5": "0" * 32}},
        {"sums": {"sha256": None}},
        {"openpgp": {}},
        {"openpgp": [{"covers": "artifact"}]},
        {"openpgp": [{"covers": "everything", "status": good()}]},
        {"openpgp": [{"covers": "artifact", "status": "GOODSIG"}]},
        {"openpgp": [{"covers": "artifact", "status": [1]}]},
        {"openpgp": [{"covers": "artifact", "status": ["x" * 5000]}]},
        {"openpgp": [{"covers": "artifact", "status": []}] * 100},
        {"minisign": [{"covers": "artifact", "good": 1, "key": KEY_ID}]},
        {"minisign": [{"covers": "artifact", "good": "yes", "key": KEY_ID}]},
        {"minisign": "good"},
        {"../x": []},
        {"has_sums": "yes"},
        {"digests": {"sha512": "0" * 128}},
    ],
)
def test_claims_of_any_other_shape_prove_nothing(claims: dict[str, Any]) -> None:
    with pytest.raises(VerificationFailed, match="cannot use what the verify worker says"):
        Evidence.from_claims(MEASURED, f"sha256:{HEX}", claims)


# --- what has to be fetched

NAMES = (
    "app-1.2.tar.gz",
    "app-1.2.tar.gz.asc",
    "app-1.2.tar.gz.minisig",
    "app-1.2.tar.gz.sha256",
    "app-1.2.tar.gz.sha256.sig",
    "app_1.2_checksums.txt",
    "SHA256SUMS",
    "SHA256SUMS.gpg",
    "sha256sum.txt.asc",
)
RELEASE = Release("1.2", "v1.2", assets=tuple(Asset(name, f"https://example.org/{name}") for name in NAMES))
ASSET = "app-1.2.tar.gz"


def planned(**keys: Any) -> list[tuple[str, str, str]]:
    return [(w.name, w.kind, w.covers) for w in verifyplan.plan(Verify(**keys), ASSET, "1.2", RELEASE)]


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ({"require": ("sha256",)}, []),
        ({"require": ("sha256",), "checksums": "SHA256SUMS"}, [("SHA256SUMS", "sums", "artifact")]),
        ({"require": ("sha256",), "checksums": "{asset}.sha256"}, [(f"{ASSET}.sha256", "sums", "artifact")]),
        (
            {"require": ("sha256",), "checksums": "app_{version}_checksums.txt"},
            [("app_1.2_checksums.txt", "sums", "artifact")],
        ),
        ({"require": ("openpgp",)}, [(f"{ASSET}.asc", "openpgp", "artifact")]),
        ({"require": ("minisign",)}, [(f"{ASSET}.minisig", "minisign", "artifact")]),
        (
            {"require": ("openpgp", "minisign")},
            [(f"{ASSET}.asc", "openpgp", "artifact"), (f"{ASSET}.minisig", "minisign", "artifact")],
        ),
        (
            {"require": ("openpgp", "minisign"), "signature": "{asset}.minisig"},
            [(f"{ASSET}.asc", "openpgp", "artifact"), (f"{ASSET}.minisig", "minisign", "artifact")],
        ),
        (
            {"require": ("sha256", "openpgp"), "checksums": "SHA256SUMS", "signature": "{checksums}.gpg"},
            [("SHA256SUMS", "sums", "artifact"), ("SHA256SUMS.gpg", "openpgp", "sums")],
        ),
        (
            {"require": ("openpgp",), "checksums": "SHA256SUMS", "signature": "SHA256SUMS.gpg"},
            [("SHA256SUMS", "sums", "artifact"), ("SHA256SUMS.gpg", "openpgp", "sums")],
        ),
        (
            {"require": ("openpgp",), "checksums": "{asset}.sha256", "signature": "{asset}.sha256.sig"},
            [(f"{ASSET}.sha256", "sums", "artifact"), (f"{ASSET}.sha256.sig", "openpgp", "sums")],
        ),
        (
            {"require": ("sha256", "openpgp"), "checksums": "SHA256SUMS"},
            [("SHA256SUMS", "sums", "artifact"), (f"{ASSET}.asc", "openpgp", "artifact")],
        ),
        (
            {"require": ("openpgp",), "checksums": "sha256sum.txt.asc", "signature": "{checksums}"},
            [("sha256sum.txt.asc", "sums", "artifact"), ("sha256sum.txt.asc", "openpgp", "sums")],
        ),
    ],
)
def test_the_plan_names_the_files_that_verification_needs(
    keys: dict[str, Any], files: list[tuple[str, str, str]]
) -> None:
    assert planned(**keys) == files


def test_a_clear_signed_sums_file_is_fetched_once() -> None:
    verify = Verify(require=("openpgp",), checksums="sha256sum.txt.asc", signature="{checksums}")
    wanted = verifyplan.plan(verify, ASSET, "1.2", RELEASE)
    assert [asset.name for asset in verifyplan.names(wanted)] == ["sha256sum.txt.asc"]


def test_a_file_that_the_release_does_not_have_is_told_by_name() -> None:
    with pytest.raises(VerificationFailed, match=r"the release has no file SHA512SUMS") as caught:
        planned(require=("sha512",), checksums="SHA512SUMS")
    assert not caught.value.forged
    assert "may not be uploaded yet" in caught.value.hint


def test_braces_in_a_tag_are_not_expanded_again() -> None:
    release = Release("1.2", "{asset}", assets=(Asset("{asset}.sums", "https://example.org/x"),))
    wanted = verifyplan.plan(Verify(require=("sha256",), checksums="{tag}.sums"), ASSET, "1.2", release)
    assert wanted[0].name == "{asset}.sums"


def test_the_daemon_measures_what_is_compared_later() -> None:
    assert verifyplan.digests_needed(Verify(require=("sha256",)), "") == ("sha256",)
    assert verifyplan.digests_needed(Verify(require=("sha512",)), "") == ("sha256", "sha512")
    assert verifyplan.digests_needed(Verify(require=("openpgp",)), "sha512:00") == ("sha256", "sha512")
    listed = Verify(require=("sha256",), checksums="SUMS")
    assert verifyplan.digests_needed(listed, "", {"sha256": "00"}) == ("sha256",)
    assert verifyplan.digests_needed(listed, "", {"sha512": "00", "md5": "00"}) == ("sha256", "sha512")
