"""Verification with the real gpgv and minisign: from fetched files, through the worker's verb, to the decision."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import keys
from tests.keys import MinisignKey, OpenPGPKey

from slotd.core import trust, verifyplan
from slotd.core.evidence import Evidence
from slotd.core.schema import Verify
from slotd.errors import Misconfigured, SlotdError, VerificationFailed
from slotd.model import Asset, Release
from slotd.verify import KeyFile, packets, work

ARTIFACT = b"the real release\n" * 50_000
TAMPERED = ARTIFACT[:-1] + b"!"
ASSET = "app-1.0.tar.gz"
IN_2020 = "20200601T000000"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    yield path
    keys.stop_agents([each for each in path.iterdir() if each.is_dir()])
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def publisher(home: Path) -> OpenPGPKey:
    return keys.openpgp_key(home / "a")


@pytest.fixture(scope="module")
def stranger(home: Path) -> OpenPGPKey:
    return keys.openpgp_key(home / "b", "Stranger <stranger@example.org>")


@pytest.fixture(scope="module")
def minisigner(home: Path) -> MinisignKey:
    return keys.minisign_key(home / "m")


Check = Callable[..., trust.Trusted]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Fetch, worker and decision in a row, as the daemon does it, with the worker's claims going over JSON."""

    def run(
        verify: Verify, files: dict[str, bytes], keyring: dict[str, bytes], artifact: bytes = ARTIFACT, digest: str = ""
    ) -> trust.Trusted:
        release = Release("1.0", "v1.0", assets=tuple(Asset(name, f"https://example.org/{name}") for name in files))
        planned = verifyplan.plan(verify, ASSET, "1.0", release)
        request = verifyplan.request(verify, ASSET, planned, files, keyring)
        path = tmp_path / "artifact"
        path.write_bytes(artifact)
        fd = os.open(path, os.O_RDONLY)
        path.unlink()  # what is verified is the descriptor; a path would not help
        os.lseek(fd, 0, os.SEEK_END)  # where the daemon left it
        try:
            claims = json.loads(json.dumps(work.verify(json.loads(json.dumps(request)), [fd], lambda _: None)))
        finally:
            os.close(fd)
        measured = {name: hashlib.new(name, artifact).hexdigest() for name in ("sha256", "sha512")}
        return trust.decide(
            verify, ASSET, Evidence.from_claims(measured, digest, claims, verifyplan.sums_sha256(planned, files))
        )

    return run


OPENPGP = Verify(require=("openpgp",), keys=("publisher.gpg",))


# --- OpenPGP over the artifact


@pytest.mark.parametrize("armoured_key", [False, True])
@pytest.mark.parametrize("armoured_signature", [False, True])
def test_a_signature_by_the_publisher_is_trusted_in_every_encoding(
    check: Check, publisher: OpenPGPKey, armoured_key: bool, armoured_signature: bool
) -> None:
    signature = publisher.sign(ARTIFACT, armour=armoured_signature)
    trusted = check(OPENPGP, {f"{ASSET}.asc": signature}, {"publisher.gpg": publisher.public(armour=armoured_key)})
    assert [(s.kind, s.key, s.covers) for s in trusted.signers] == [("openpgp", publisher.fingerprint, "artifact")]
    assert trusted.signers[0].name == "Publisher <publisher@example.org>"


def refused(check: Check, signature: bytes, keyring: dict[str, bytes], **more: Any) -> VerificationFailed:
    with pytest.raises(VerificationFailed) as caught:
        check(more.pop("verify", OPENPGP), {f"{ASSET}.asc": signature}, keyring, **more)
    return caught.value


@pytest.mark.attack
def test_a_signature_over_other_bytes_means_forged(check: Check, publisher: OpenPGPKey) -> None:
    error = refused(check, publisher.sign(ARTIFACT), {"k": publisher.public()}, artifact=TAMPERED)
    assert error.forged
    assert "does not fit the file" in error.message


@pytest.mark.attack
def test_one_byte_more_at_the_end_is_noticed(check: Check, publisher: OpenPGPKey) -> None:
    assert refused(check, publisher.sign(ARTIFACT), {"k": publisher.public()}, artifact=ARTIFACT + b"\n").forged


@pytest.mark.attack
def test_a_signature_by_another_key_is_refused_and_named(
    check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey
) -> None:
    error = refused(check, stranger.sign(ARTIFACT), {"k": publisher.public()})
    assert stranger.fingerprint in error.message
    assert "not among the app's keys" in error.message
    assert "keys.d" in error.hint


@pytest.mark.attack
def test_an_expired_key_is_refused(check: Check, home: Path) -> None:
    key = keys.openpgp_key(home / "e", expired=True)
    assert "the key has expired" in refused(check, key.sign(ARTIFACT, at=IN_2020), {"k": key.public()}).message


@pytest.mark.attack
def test_an_expired_signature_is_refused(check: Check, home: Path) -> None:
    key = keys.openpgp_key(home / "s", since_2020=True)
    signature = key.sign_until_yesterday(ARTIFACT)
    assert "the signature has expired" in refused(check, signature, {"k": key.public()}).message


@pytest.mark.attack
def test_a_revoked_key_is_refused(check: Check, home: Path) -> None:
    key = keys.openpgp_key(home / "r")
    signature = key.sign(ARTIFACT)
    assert check(OPENPGP, {f"{ASSET}.asc": signature}, {"k": key.public()})
    key.revoke()
    assert "revoked" in refused(check, signature, {"k": key.public()}).message


@pytest.mark.attack
def test_a_signature_made_with_sha1_is_refused(check: Check, home: Path) -> None:
    key = keys.openpgp_key(home / "1", algorithm="rsa2048")
    assert check(OPENPGP, {f"{ASSET}.asc": key.sign(ARTIFACT)}, {"k": key.public()})
    assert "SHA-1" in refused(check, key.sign(ARTIFACT, digest="SHA1"), {"k": key.public()}).message


def test_of_two_signatures_in_a_file_one_good_one_suffices(
    check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey
) -> None:
    ours, theirs = publisher.sign(ARTIFACT, armour=False), stranger.sign(ARTIFACT, armour=False)
    for both in (ours + theirs, theirs + ours, publisher.sign(ARTIFACT) + stranger.sign(ARTIFACT)):
        trusted = check(OPENPGP, {f"{ASSET}.asc": both}, {"k": publisher.public()})
        assert [signer.key for signer in trusted.signers] == [publisher.fingerprint]


@pytest.mark.attack
def test_a_good_signature_over_another_file_does_not_help_a_strangers(
    check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey
) -> None:
    both = publisher.sign(b"another file", armour=False) + stranger.sign(ARTIFACT, armour=False)
    assert refused(check, both, {"k": publisher.public()}).forged


def test_a_subkey_signs_for_its_primary_key(check: Check, home: Path) -> None:
    key = keys.openpgp_key(home / "sub")
    key.add_signing_subkey()
    pinned = Verify(require=("openpgp",), keys=("k",), fingerprints=(key.fingerprint,))
    trusted = check(pinned, {f"{ASSET}.asc": key.sign(ARTIFACT)}, {"k": key.public()})
    assert trusted.signers[0].key == key.fingerprint


@pytest.mark.attack
def test_only_pinned_keys_of_a_keyring_may_sign(check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey) -> None:
    keyring = {"both.asc": publisher.public(armour=True) + stranger.public(armour=True)}
    pinned = Verify(require=("openpgp",), keys=("both.asc",), fingerprints=(publisher.fingerprint,))
    assert check(pinned, {f"{ASSET}.asc": publisher.sign(ARTIFACT)}, keyring)
    assert "not one of `fingerprints`" in refused(check, stranger.sign(ARTIFACT), keyring, verify=pinned).message


@pytest.mark.attack
@pytest.mark.parametrize(
    "name", ["nothing", "a page", "noise", "cut binary", "cut armour", "bad checksum", "message", "key", "key after it"]
)
def test_what_is_no_detached_signature_is_refused_and_proves_no_forgery(
    check: Check, publisher: OpenPGPKey, name: str
) -> None:
    binary, armoured = publisher.sign(ARTIFACT, armour=False), publisher.sign(ARTIFACT)
    lines = armoured.splitlines(keepends=True)
    data = {
        "nothing": b"",
        "a page": b"<html>404 not found</html>",
        "noise": b"\xc3\xff" * 40,
        "cut binary": binary[:-5],
        "cut armour": b"".join(lines[:-2]),
        "bad checksum": b"".join([*lines[:-2], b"=AAAA\n", lines[-1]]),
        # signed by the publisher, and over the right bytes even: but gpgv would look at them instead of the file
        "message": publisher.sign_whole(ARTIFACT),
        "key": publisher.public(armour=True),
        "key after it": binary + publisher.public(),
    }[name]
    error = refused(check, data, {"k": publisher.public()})
    assert f"cannot use the signature {ASSET}.asc" in error.message
    assert not error.forged


@pytest.mark.attack
def test_a_clear_signed_text_is_no_signature_over_the_artifact(check: Check, publisher: OpenPGPKey) -> None:
    assert refused(check, publisher.clear_sign(b"hello\n"), {"k": publisher.public()})


# --- OpenPGP over the checksums


SUMS = f"{hashlib.sha256(ARTIFACT).hexdigest()}  {ASSET}\n{'0' * 64}  other.zip\n".encode()
SIGNED_SUMS = Verify(require=("sha256", "openpgp"), checksums="SHA256SUMS", signature="{checksums}.asc", keys=("k",))
CLEAR_SUMS = Verify(require=("sha256", "openpgp"), checksums="sums.asc", signature="{checksums}", keys=("k",))


def test_a_signature_over_the_checksums_covers_what_they_list(check: Check, publisher: OpenPGPKey) -> None:
    files = {"SHA256SUMS": SUMS, "SHA256SUMS.asc": publisher.sign(SUMS)}
    trusted = check(SIGNED_SUMS, files, {"k": publisher.public()})
    assert trusted.checks[0] == "sha256 as the checksums say"
    assert trusted.signers[0].covers == "sums"


@pytest.mark.attack
def test_checksums_that_were_changed_after_signing_mean_forged(check: Check, publisher: OpenPGPKey) -> None:
    changed = f"{hashlib.sha256(TAMPERED).hexdigest()}  {ASSET}\n".encode()
    files = {"SHA256SUMS": changed, "SHA256SUMS.asc": publisher.sign(SUMS)}
    with pytest.raises(VerificationFailed, match="does not fit the file") as caught:
        check(SIGNED_SUMS, files, {"k": publisher.public()}, TAMPERED)
    assert caught.value.forged


@pytest.mark.attack
def test_a_changed_artifact_beside_signed_checksums_means_forged(check: Check, publisher: OpenPGPKey) -> None:
    files = {"SHA256SUMS": SUMS, "SHA256SUMS.asc": publisher.sign(SUMS)}
    with pytest.raises(VerificationFailed, match="the checksums say") as caught:
        check(SIGNED_SUMS, files, {"k": publisher.public()}, TAMPERED)
    assert caught.value.forged


def test_clear_signed_checksums_are_verified_and_read(check: Check, publisher: OpenPGPKey) -> None:
    trusted = check(CLEAR_SUMS, {"sums.asc": publisher.clear_sign(SUMS)}, {"k": publisher.public()})
    assert [signer.covers for signer in trusted.signers] == ["sums"]


def test_clear_signed_checksums_without_a_required_signature_are_still_read(
    check: Check, publisher: OpenPGPKey
) -> None:
    verify = Verify(require=("sha256",), checksums="sums.asc")
    assert check(verify, {"sums.asc": publisher.clear_sign(SUMS)}, {}).signers == ()


@pytest.mark.attack
def test_clear_signed_checksums_by_a_stranger_are_refused(
    check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey
) -> None:
    with pytest.raises(VerificationFailed, match="not among the app's keys"):
        check(CLEAR_SUMS, {"sums.asc": stranger.clear_sign(SUMS)}, {"k": publisher.public()})


@pytest.mark.attack
def test_a_line_slipped_into_clear_signed_checksums_means_forged(check: Check, publisher: OpenPGPKey) -> None:
    evil = f"{hashlib.sha256(TAMPERED).hexdigest()}  {ASSET}".encode()
    signed = publisher.clear_sign(b"# sums\n").replace(b"# sums", b"# sums\n" + evil)
    with pytest.raises(VerificationFailed, match="does not fit") as caught:
        check(CLEAR_SUMS, {"sums.asc": signed}, {"k": publisher.public()}, TAMPERED)
    assert caught.value.forged


@pytest.mark.attack
@pytest.mark.parametrize("place", ["before", "after", "second"])
def test_text_around_clear_signed_checksums_is_refused(
    check: Check, publisher: OpenPGPKey, stranger: OpenPGPKey, place: str
) -> None:
    evil = f"{hashlib.sha256(TAMPERED).hexdigest()}  {ASSET}\n".encode()
    signed = publisher.clear_sign(b"# nothing listed\n")
    data = {"before": evil + signed, "after": signed + evil, "second": signed + stranger.clear_sign(evil)}[place]
    with pytest.raises(VerificationFailed, match="cannot use the sign"):
        check(CLEAR_SUMS, {"sums.asc": data}, {"k": publisher.public()}, TAMPERED)


@pytest.mark.attack
def test_a_signed_text_that_is_not_the_sums_file_does_not_vouch_for_it(check: Check, publisher: OpenPGPKey) -> None:
    files = {"SHA256SUMS": SUMS, "SHA256SUMS.asc": publisher.clear_sign(b"harmless\n")}
    with pytest.raises(VerificationFailed, match="not the sums file itself"):
        check(SIGNED_SUMS, files, {"k": publisher.public()})


# --- digests


@pytest.mark.parametrize(
    "text",
    [
        "{hex}  {asset}\n",
        "{hex} *./{asset}\r\n",
        "SHA256 ({asset}) = {hex}\n",
        "{hex}\n",
    ],
)
def test_checksums_in_their_usual_forms_are_read_in_the_worker(check: Check, text: str) -> None:
    sums = text.format(hex=hashlib.sha256(ARTIFACT).hexdigest(), asset=ASSET).encode()
    verify = Verify(require=("sha256",), checksums="{asset}.sha256")
    assert check(verify, {f"{ASSET}.sha256": sums}, {}).checks == ("sha256 as the checksums say",)
    with pytest.raises(VerificationFailed) as caught:
        check(verify, {f"{ASSET}.sha256": sums}, {}, TAMPERED)
    assert caught.value.forged


def test_sha512_is_compared_when_it_is_what_the_publisher_gives(check: Check) -> None:
    sums = f"{hashlib.sha512(ARTIFACT).hexdigest()}  {ASSET}\n".encode()
    verify = Verify(require=("sha512",), checksums="sums.txt")
    assert check(verify, {"sums.txt": sums}, {}).checks == ("sha512 as the checksums say",)


def test_the_worker_measures_digests_when_asked_and_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(ARTIFACT)
    told: list[dict[str, int]] = []
    request = {"asset": ASSET, "sums": None, "sums_name": "", "signatures": [], "keys": [], "want": ["sha512"]}
    with (tmp_path / "f").open("rb") as file:
        reply = work.verify(request, [file.fileno()], told.append)
    assert reply["digests"] == {"sha512": hashlib.sha512(ARTIFACT).hexdigest()}
    assert told[-1] == {"bytes": len(ARTIFACT), "total": len(ARTIFACT)}


# --- minisign

MINISIGN = Verify(require=("minisign",), keys=("publisher.pub",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_minisign_signature_is_trusted_and_its_comment_shown(
    check: Check, minisigner: MinisignKey, legacy: bool
) -> None:
    signature = minisigner.sign(ARTIFACT, comment="app 1.0", legacy=legacy)
    trusted = check(MINISIGN, {f"{ASSET}.minisig": signature}, {"p.pub": minisigner.public})
    assert [(s.key, s.name) for s in trusted.signers] == [(minisigner.key_id, "app 1.0")]


def test_a_key_given_as_its_one_line_of_base64_will_do(check: Check, minisigner: MinisignKey) -> None:
    bare = minisigner.public.splitlines()[1]
    assert check(MINISIGN, {f"{ASSET}.minisig": minisigner.sign(ARTIFACT)}, {"p.pub": bare})


@pytest.mark.attack
def test_a_minisign_signature_over_other_bytes_means_forged(check: Check, minisigner: MinisignKey) -> None:
    with pytest.raises(VerificationFailed, match="does not fit the file") as caught:
        check(MINISIGN, {f"{ASSET}.minisig": minisigner.sign(ARTIFACT)}, {"p": minisigner.public}, TAMPERED)
    assert caught.value.forged


@pytest.mark.attack
def test_a_changed_trusted_comment_is_noticed(check: Check, minisigner: MinisignKey) -> None:
    signature = minisigner.sign(ARTIFACT, comment="app 1.0").replace(b"app 1.0", b"app 9.9")
    with pytest.raises(VerificationFailed) as caught:
        check(MINISIGN, {f"{ASSET}.minisig": signature}, {"p": minisigner.public})
    assert "9.9" not in str(caught.value)


@pytest.mark.attack
@pytest.mark.parametrize(("line", "char"), [(1, -2), (3, -3)])
def test_bits_that_no_byte_of_a_minisign_signature_needs_are_not_free(
    check: Check, minisigner: MinisignKey, line: int, char: int
) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    lines = minisigner.sign(ARTIFACT).decode().split("\n")
    at = len(lines[line]) + char
    lines[line] = lines[line][:at] + alphabet[alphabet.index(lines[line][at]) + 1] + lines[line][at + 1 :]
    with pytest.raises(VerificationFailed, match="it is not a minisign signature"):
        check(MINISIGN, {f"{ASSET}.minisig": "\n".join(lines).encode()}, {"p": minisigner.public})


@pytest.mark.attack
def test_a_minisign_signature_by_another_key_is_refused(check: Check, home: Path, minisigner: MinisignKey) -> None:
    other = keys.minisign_key(home / "m2")
    with pytest.raises(VerificationFailed, match=other.key_id) as caught:
        check(MINISIGN, {f"{ASSET}.minisig": other.sign(ARTIFACT)}, {"p": minisigner.public})
    assert not caught.value.forged


@pytest.mark.attack
def test_a_strangers_minisign_signature_with_the_publishers_key_id_means_forged(
    check: Check, home: Path, minisigner: MinisignKey
) -> None:
    import base64

    other = keys.minisign_key(home / "m3")
    lines = other.sign(ARTIFACT).splitlines()
    raw = base64.b64decode(lines[1])
    ours = base64.b64decode(minisigner.public.splitlines()[1])
    lines[1] = base64.b64encode(raw[:2] + ours[2:10] + raw[10:])
    with pytest.raises(VerificationFailed) as caught:
        check(MINISIGN, {f"{ASSET}.minisig": b"\n".join(lines) + b"\n"}, {"p": minisigner.public})
    assert caught.value.forged


@pytest.mark.attack
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_minisign_signature_that_is_cut_short_is_refused(check: Check, minisigner: MinisignKey, cut: int) -> None:
    data = b"\n".join(minisigner.sign(ARTIFACT).splitlines()[:cut])
    with pytest.raises(VerificationFailed, match="not a minisign signature, or cut short"):
        check(MINISIGN, {f"{ASSET}.minisig": data}, {"p": minisigner.public})


def test_a_minisign_signature_over_the_checksums_covers_what_they_list(check: Check, minisigner: MinisignKey) -> None:
    verify = Verify(require=("minisign",), checksums="SHA256SUMS", signature="{checksums}.minisig", keys=("p",))
    files = {"SHA256SUMS": SUMS, "SHA256SUMS.minisig": minisigner.sign(SUMS)}
    assert check(verify, files, {"p": minisigner.public}).signers[0].covers == "sums"
    with pytest.raises(VerificationFailed):
        check(verify, files, {"p": minisigner.public}, TAMPERED)


@pytest.mark.attack
def test_openpgp_and_minisign_together_must_both_pass(
    check: Check, publisher: OpenPGPKey, minisigner: MinisignKey
) -> None:
    both = Verify(require=("openpgp", "minisign"), keys=("a", "b"))
    keyring = {"a": publisher.public(), "b": minisigner.public}
    asc, minisig = publisher.sign(ARTIFACT), minisigner.sign(ARTIFACT)
    assert len(check(both, {f"{ASSET}.asc": asc, f"{ASSET}.minisig": minisig}, keyring).signers) == 2
    with pytest.raises(VerificationFailed, match="minisign"):
        check(both, {f"{ASSET}.asc": asc, f"{ASSET}.minisig": minisigner.sign(b"x")}, keyring)
    with pytest.raises(VerificationFailed, match="OpenPGP"):
        check(both, {f"{ASSET}.asc": publisher.sign(b"x"), f"{ASSET}.minisig": minisig}, keyring)


# --- keys


@pytest.mark.attack
@pytest.mark.parametrize("armour", [False, True])
def test_a_secret_key_among_the_keys_is_refused(check: Check, publisher: OpenPGPKey, armour: bool) -> None:
    secret = publisher._gpg("--armor", "--export-secret-keys") if armour else publisher.secret()
    with pytest.raises(Misconfigured, match=r"the key file oops\.gpg: it holds a secret key"):
        check(OPENPGP, {f"{ASSET}.asc": publisher.sign(ARTIFACT)}, {"oops.gpg": secret})


@pytest.mark.parametrize("data", [b"", b"<html>", b"untrusted comment: x\nAAAA\n", b"\x99\x00"])
def test_a_key_file_that_is_no_key_is_told_by_name(check: Check, publisher: OpenPGPKey, data: bytes) -> None:
    with pytest.raises(Misconfigured, match=r"key file page\.gpg"):
        check(OPENPGP, {f"{ASSET}.asc": publisher.sign(ARTIFACT)}, {"page.gpg": data})


@pytest.mark.attack
def test_no_key_at_all_is_no_trust(check: Check, publisher: OpenPGPKey) -> None:
    assert "not among the app's keys" in refused(check, publisher.sign(ARTIFACT), {}).message


def test_keys_are_described_as_gpg_and_minisign_do(publisher: OpenPGPKey, minisigner: MinisignKey) -> None:
    files = [KeyFile("a.asc", publisher.public(armour=True)), KeyFile("b.pub", minisigner.public)]
    assert work.describe_keys(files) == [
        ("a.asc", "openpgp", publisher.fingerprint, "Publisher <publisher@example.org>"),
        ("b.pub", "minisign", minisigner.key_id, ""),
    ]


def test_the_armour_checksum_is_the_one_of_the_standard() -> None:
    assert packets.crc24(b"") == 0xB704CE
    assert packets.crc24(b"123456789") == 0x21CF02


def test_one_artifact_is_verified_and_no_other_number_of_them() -> None:
    with pytest.raises(SlotdError, match="0 files were handed over"):
        work.verify({"asset": "x", "sums": None, "signatures": [], "keys": []}, [], lambda _: None)
