"""Sigstore bundles, GitHub's attestations among them, checked offline by the `sigstore` library.

A bundle proves that whoever an identity provider took for NAME signed this file while the certificate that says so was
valid, and that a public log has it. It is checked against a trust root in keys.d, never one from the network; whether
NAME is the publisher is for `slotd.core.trust` to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from slotd.core.verifyplan import SUMS
from slotd.core.words import one_line
from slotd.errors import Misconfigured, SlotdError, VerificationFailed
from slotd.host import extras, files
from slotd.verify import KeyFile, Material, SignatureFile

KIND = "sigstore"
PACKAGE = "sigstore"

_TRUST_ROOT = "application/vnd.dev.sigstore.trustedroot"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_IN_TOTO = "application/vnd.in-toto+json"
_MOST_SUBJECTS = 1000
# Fulcio's extensions (its docs/oid-info.md): the provider's address, plain and in DER, and the source's repository.
_ISSUER_PLAIN, _ISSUER, _REPOSITORY = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.12"


class Sigstore:
    """Bundles over the artifact or the sums file: a signature over it, or an attestation that names it."""

    def examine(self, material: Material) -> dict[str, Any]:
        wanted = [each for each in material.signatures if each.kind == KIND]
        if not wanted:
            return {KIND: []}
        roots = [key for key in material.keys if is_trust_root(key.data)]
        own = files.hash_fd(material.artifact, "sha256")
        listed = hashlib.sha256(material.sums or b"").hexdigest()
        return {KIND: [self._check(each, roots, listed if each.covers == SUMS else own) for each in wanted]}

    def _check(self, signature: SignatureFile, roots: Sequence[KeyFile], digest: str) -> dict[str, Any]:
        """The first root under which the bundle is good; else why it is not under the last."""
        bundle = _bundle(signature)
        claim = {
            "covers": signature.covers,
            "good": False,
            "key": "",
            "reason": "there is no trust root among its keys",
        }
        for root in roots:
            found = claim | _examine(bundle, root, digest)
            if found["good"]:
                return found
            claim = found
        return claim


def is_trust_root(data: bytes) -> bool:
    """Whether a key file is a sigstore trust root (`trusted_root.json`)."""
    if not data.lstrip().startswith(b"{"):
        return False
    try:
        return str(json.loads(data).get("mediaType", "")).startswith(_TRUST_ROOT)
    except (ValueError, AttributeError, RecursionError):
        return False


def describe_trust_root(key: KeyFile) -> str:
    """Which certificate authorities it trusts, by name. Raises `Misconfigured`."""
    try:
        found = [authority["uri"] for authority in json.loads(key.data)["certificateAuthorities"]]
        return ", ".join(dict.fromkeys(str(uri) for uri in found))
    except (ValueError, KeyError, TypeError):
        raise Misconfigured(
            f"cannot use the key file {key.name}: it is a sigstore trust root without certificate authorities"
        ) from None


def _bundle(signature: SignatureFile) -> Any:
    try:
        return extras.load("sigstore.models").Bundle.from_json(signature.data)
    except SlotdError:
        raise
    except Exception as error:  # whatever a hostile bundle makes of a foreign library
        raise VerificationFailed(
            f"cannot use the signature {signature.name}: it is not a sigstore bundle ({_short(error)})",
            hint="Check `signature` under [verify].",
        ) from None


def _examine(bundle: Any, root: KeyFile, digest: str) -> dict[str, Any]:
    """The claim for one bundle under one root: who signed, and the digest that the signature itself names."""
    signer = _Signer()
    try:
        verifier = extras.load("sigstore.verify").Verifier(trusted_root=_trusted_root(root))
        signed = _verify(verifier, bundle, signer, digest)
    except SlotdError:
        raise
    except Exception as error:  # the library's own, and whatever a hostile bundle makes of it
        return {"good": False, "key": signer.identity, "reason": f"it is not good under {root.name}: {_short(error)}"}
    if not signer.identity:
        return {"good": False, "reason": "its certificate does not name one signer"}
    found = {"good": True, "key": signer.identity, "issuer": signer.issuer, "comment": signer.repository}
    return found | {"digest": f"sha256:{signed}"}


def _verify(verifier: Any, bundle: Any, signer: _Signer, digest: str) -> str:
    """The sha256 in hex that is signed: `digest`, if that is among them. Raises the library's errors."""
    if bundle._inner.dsse_envelope is not None:
        kind, payload = verifier.verify_dsse(bundle, signer)
        if kind != _IN_TOTO:
            raise ValueError(f"it attests something of type {kind[:100]!r}")
        subjects = list(_subjects(payload))
        return digest if digest in subjects else subjects[0]
    # What the bundle says it is over is checked, so that a signature over another file is known as one.
    named = bundle._inner.message_signature.message_digest
    signed = named.digest if named is not None else bytes.fromhex(digest)
    hashes, algorithms = extras.load("sigstore.hashes"), extras.load("sigstore_models.common.v1").HashAlgorithm
    if named is not None and named.algorithm != algorithms.SHA2_256:
        raise ValueError("it is over another digest than sha256")
    verifier.verify_artifact(hashes.Hashed(algorithm=algorithms.SHA2_256, digest=signed), bundle, signer)
    return bytes(signed).hex()


def _subjects(payload: bytes) -> Iterator[str]:
    """What an in-toto statement is about (its specification, version 1): sha256 in hex, at least one."""
    statement = json.loads(payload)
    if statement.get("_type") not in _STATEMENTS:
        raise ValueError("it attests in a form that is not known")
    subjects = statement["subject"]
    if not isinstance(subjects, list) or not 0 < len(subjects) <= _MOST_SUBJECTS:
        raise ValueError("it attests nothing, or too much at once")
    for subject in subjects:
        yield str(subject["digest"]["sha256"])


class _Signer:
    """Notes whom the certificate names. Not a policy: it lets everyone through, since the daemon decides."""

    identity = issuer = repository = ""

    def verify(self, cert: Any) -> None:
        x509 = extras.load("cryptography.x509")
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [
            str(name.value) for name in names if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier)
        ]
        if len(found) != 1 or len(list(names)) != 1:
            return
        self.identity = found[0]
        values = {each.oid.dotted_string: each.value for each in cert.extensions}
        self.issuer = _text(values.get(_ISSUER)) or _text(values.get(_ISSUER_PLAIN), is_der=False)
        self.repository = _text(values.get(_REPOSITORY))


def _text(extension: Any, *, is_der: bool = True) -> str:
    """The text in an extension: a DER UTF8String of up to 64 KiB, or (Fulcio's first ones) the bare bytes."""
    raw: bytes = getattr(extension, "value", b"")
    if is_der and raw:
        head = 2 if raw[1] < 0x80 else 2 + (raw[1] & 0x7F)
        length = raw[1] if raw[1] < 0x80 else int.from_bytes(raw[2:head], "big")
        if raw[0] != 0x0C or head > 4 or len(raw) != head + length:
            raise ValueError("its certificate holds an extension that cannot be read")
        raw = raw[head:]
    return raw.decode("utf-8")


def _trusted_root(root: KeyFile) -> Any:
    models, inner = extras.load("sigstore.models"), extras.load("sigstore_models.trustroot.v1")
    return models.TrustedRoot(inner.TrustedRoot.from_json(root.data))


def _short(error: Exception) -> str:
    return one_line(" ".join(str(error).split()) or type(error).__name__)
