"""Sigstore bundles and GitHub's attestations, from a sigstore of our own, through the worker to the decision."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sigstore_lab import GITHUB, REPOSITORY, WORKFLOW, Lab, b64

from slotd.core import trust, verifyplan
from slotd.core.evidence import Evidence
from slotd.core.schema import Limits, Verify
from slotd.errors import Failed, VerificationFailed
from slotd.host.run import Workers
from slotd.model import Asset, Release
from slotd.verify import KeyFile, work

REPO = Path(__file__).resolve().parents[2]
EXTRAS = REPO / "build" / "extras"
ARTIFACT = b"the real release\n" * 5000
ASSET = "app-1.0.tar.gz"
BUNDLE = f"{ASSET}.sigstore.json"
WORKFLOW_OF_TAG = WORKFLOW.replace("v1.0", "{tag}")
SIGSTORE = Verify(require=("sigstore",), keys=("root.json",), identity=WORKFLOW_OF_TAG, issuer=GITHUB)

Check = Callable[..., Awaitable[trust.Trusted]]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Workers:
    """The real worker program, with the libraries beside its package."""
    root = tmp_path_factory.mktemp("package") / "daemon"
    shutil.copytree(REPO / "daemon", root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "slotd-extras").symlink_to(EXTRAS)
    return Workers(limits=Limits(), sandbox=False, package_root=root)


@pytest.fixture
def check(workers: Workers, lab: Lab, tmp_path: Path) -> Check:
    async def run(
        bundle: dict[str, Any] | bytes,
        verify: Verify = SIGSTORE,
        *,
        artifact: bytes = ARTIFACT,
        root: bytes = b"",
        tag: str = "v1.0",
        more: dict[str, bytes] | None = None,
        name: str = BUNDLE,
    ) -> trust.Trusted:
        data = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
        files = {name: data, **(more or {})}
        release = Release("1.0", tag, assets=tuple(Asset(each, f"https://example.org/{each}") for each in files))
        planned = verifyplan.plan(verify, ASSET, "1.0", release)
        request = verifyplan.request(verify, ASSET, planned, files, {"root.json": root or lab.trust_root()})
        path = tmp_path / "artifact"
        path.write_bytes(artifact)
        fd = os.open(path, os.O_RDONLY)
        try:
            claims = await workers.call("verify", request, [fd], unit="slotd-worker-app-1-verify", timeout_s=60)
        finally:
            os.close(fd)
        measured = {algorithm: hashlib.new(algorithm, artifact).hexdigest() for algorithm in ("sha256", "sha512")}
        expected = verifyplan.expected(verify, release)
        return trust.decide(
            expected, ASSET, Evidence.from_claims(measured, "", claims, verifyplan.sums_sha256(planned, files))
        )

    return run


@pytest.mark.parametrize("attest", [False, True], ids=["a signature", "an attestation"])
async def test_what_the_publishers_build_signed_is_trusted_after_its_certificate_has_expired(
    check: Check, lab: Lab, attest: bool
) -> None:
    trusted = await check(lab.sign(ARTIFACT, attest=attest))
    assert [(each.kind, each.key, each.covers) for each in trusted.signers] == [("sigstore", WORKFLOW, "artifact")]
    assert trusted.checks == (f"sigstore signature over the file by {REPOSITORY}",)


async def test_a_person_may_sign_the_checksums(check: Check, lab: Lab) -> None:
    sums = f"{hashlib.sha256(ARTIFACT).hexdigest()}  {ASSET}\n".encode()
    verify = Verify(
        require=("sha256", "sigstore"), checksums="SHA256SUMS", signature="{checksums}.sigstore.json", keys=("r",),
        identity="release@example.org", issuer="https://accounts.example.org",
    )  # fmt: skip
    bundle = lab.sign(sums, identity="release@example.org", issuer="https://accounts.example.org", repository="")
    files = {"more": {"SHA256SUMS": sums}, "name": "SHA256SUMS.sigstore.json"}
    assert (await check(bundle, verify, **files)).signers[0].covers == "sums"
    with pytest.raises(VerificationFailed, match="its sha256 is") as caught:
        await check(bundle, verify, artifact=ARTIFACT + b"x", **files)
    assert caught.value.forged
    files["more"] = {"SHA256SUMS": sums.replace(b"app", b"app-1.0.zip\n")}
    with pytest.raises(VerificationFailed, match="it is over another file") as caught:
        await check(bundle, verify, **files)
    assert caught.value.forged


def changed(bundle: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one place changed (`a.0.b`), or taken out for None."""
    made = copy.deepcopy(bundle)
    *way, last = path.split(".")
    place: Any = made
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


ENTRY = "verificationMaterial.tlogEntries.0"
OTHER = "https://github.com/evil/app/.github/workflows/release.yml@refs/tags/v1.0"

REFUSED: dict[str, tuple[Callable[[Lab], Any], str]] = {
    "another repository's workflow signed it": (lambda lab: lab.sign(ARTIFACT, identity=OTHER), "`identity` demands"),
    "another repository's build attests it": (
        lambda lab: lab.sign(ARTIFACT, identity=OTHER, repository="https://github.com/evil/app", attest=True),
        "`identity` demands",
    ),
    "a longer name begins with the publisher's": (
        lambda lab: lab.sign(ARTIFACT, identity=f"{WORKFLOW}-evil"),
        "`identity` demands",
    ),
    "another provider gave that name": (
        lambda lab: lab.sign(ARTIFACT, issuer="https://issuer.example.org"),
        "`issuer` demands",
    ),
    "the log does not say when": (
        lambda lab: lab.sign(ARTIFACT, promised=False),
        "inclusion promise or signed timestamp",
    ),
    "it was logged after the certificate had expired": (
        lambda lab: lab.sign(ARTIFACT, late=timedelta(minutes=11)),
        "certificate chain",
    ),
    "it was logged before the certificate began": (
        lambda lab: lab.sign(ARTIFACT, late=timedelta(minutes=-5)),
        "certificate chain",
    ),
    "its certificate is in no log": (lambda lab: lab.sign(ARTIFACT, logged=False), "signed certificate timestamp"),
    "another sigstore signed it": (lambda _: Lab().sign(ARTIFACT), "it is not good under root.json"),
    "another sigstore attests it": (lambda _: Lab().sign(ARTIFACT, attest=True), "it is not good under root.json"),
    "its certificate log is a stranger's": (
        lambda lab: Lab(now=lab.now, authority=lab.authority, log=lab.log).sign(ARTIFACT),
        "SCT",
    ),
    "its signature log is a stranger's": (
        lambda lab: Lab(now=lab.now, authority=lab.authority, certificates=lab.certificates).sign(ARTIFACT),
        "it is not good under root.json",
    ),
    "its time was changed": (
        lambda lab: changed(lab.sign(ARTIFACT), f"{ENTRY}.integratedTime", str(int(lab.now.timestamp()) + 61)),
        "inclusion promise",
    ),
    "its log entry is another's": (
        lambda lab: changed(
            lab.sign(ARTIFACT), ENTRY.rpartition(".")[0], lab.sign(b"x")["verificationMaterial"]["tlogEntries"]
        ),
        "inconsistent with other materials",
    ),
    "its signature is another's": (
        lambda lab: changed(
            lab.sign(ARTIFACT), "messageSignature.signature", lab.sign(b"x")["messageSignature"]["signature"]
        ),
        "Signature is invalid",
    ),
    "it has no log entry": (
        lambda lab: changed(lab.sign(ARTIFACT), ENTRY.rpartition(".")[0], []),
        "it is not a sigstore bundle",
    ),
    "its payload was changed": (
        lambda lab: changed(
            lab.sign(b"x", attest=True),
            "dsseEnvelope.payload",
            lab.sign(ARTIFACT, attest=True)["dsseEnvelope"]["payload"],
        ),
        "it is not good under root.json",
    ),
    "it is a web page": (lambda _: b"<html>", "it is not a sigstore bundle"),
    "it is nothing": (lambda _: b"", "it is not a sigstore bundle"),
    "it is cut short": (lambda lab: json.dumps(lab.sign(ARTIFACT)).encode()[:-40], "it is not a sigstore bundle"),
    "it is of a kind to come": (
        lambda lab: changed(lab.sign(ARTIFACT), "mediaType", "application/vnd.dev.sigstore.bundle.v9+json"),
        "it is not a sigstore bundle",
    ),
}


@pytest.mark.attack
@pytest.mark.parametrize("fault", REFUSED)
async def test_a_bundle_proves_nothing_when(check: Check, lab: Lab, fault: str) -> None:
    make, says = REFUSED[fault]
    with pytest.raises(VerificationFailed) as caught:
        await check(make(lab))
    assert says in caught.value.message
    assert not caught.value.forged


@pytest.mark.attack
@pytest.mark.parametrize("attest", [False, True], ids=["a signature", "an attestation"])
async def test_a_good_bundle_of_the_publishers_over_another_file_means_forged(
    check: Check, lab: Lab, attest: bool
) -> None:
    with pytest.raises(VerificationFailed, match="it is over another file") as caught:
        await check(lab.sign(ARTIFACT, attest=attest), artifact=ARTIFACT + b"x")
    assert caught.value.forged


@pytest.mark.attack
async def test_the_bundle_of_one_tag_is_not_one_of_another(check: Check, lab: Lab) -> None:
    with pytest.raises(VerificationFailed, match=r"refs/tags/v1\.1, and it is by .*refs/tags/v1\.0"):
        await check(lab.sign(ARTIFACT), tag="v1.1")


@pytest.mark.attack
async def test_a_shared_workflow_signs_for_the_repository_that_is_demanded(check: Check, lab: Lab) -> None:
    shared = "https://github.com/shared/workflows/.github/workflows/release.yml@refs/heads/main"
    verify = replace(SIGSTORE, identity=shared, repository=REPOSITORY)
    assert await check(lab.sign(ARTIFACT, identity=shared, attest=True), verify)
    with pytest.raises(VerificationFailed, match="`repository` demands"):
        await check(lab.sign(ARTIFACT, identity=shared, repository=f"{REPOSITORY}2", attest=True), verify)


async def test_the_old_and_the_new_trust_root_may_both_be_pinned(check: Check, lab: Lab) -> None:
    """A file with both kinds of key beside each other names each by what it is."""
    old = Lab()
    files = [KeyFile("old.json", old.trust_root()), KeyFile("new.json", lab.trust_root())]
    assert [kind for _, kind, _, _ in work.describe_keys(files)] == ["sigstore", "sigstore"]


async def test_without_its_library_it_says_what_to_install(tmp_path: Path, lab: Lab) -> None:
    workers = Workers(limits=Limits(), sandbox=False, package_root=REPO / "daemon")
    signature = {"kind": "sigstore", "name": BUNDLE, "covers": "artifact", "data": b64(b"{}")}
    key = {"name": "root.json", "data": base64.b64encode(lab.trust_root()).decode()}
    request = {"asset": ASSET, "sums": None, "signatures": [signature], "keys": [key]}
    (tmp_path / "artifact").write_bytes(ARTIFACT)
    with (tmp_path / "artifact").open("rb") as file, pytest.raises(Failed, match="sigstore is not installed") as caught:
        await workers.call("verify", request, [file.fileno()], unit="slotd-worker-app-1-verify", timeout_s=60)
    assert "python3 -m pip install --target" in str(caught.value)
