"""A sigstore of our own: certificate authority, certificate log, signature log, trust root. Real keys, real signatures.

`Lab().sign(…)` gives what a publisher's build uploads; each argument is a way to make it wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GITHUB = "https://token.actions.githubusercontent.com"
REPOSITORY = "https://github.com/acme/app"
WORKFLOW = f"{REPOSITORY}/.github/workflows/release.yml@refs/tags/v1.0"
_FULCIO = "1.3.6.1.4.1.57264.1"
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256 = ec.ECDSA(hashes.SHA256())
MINUTE = timedelta(minutes=1)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


@dataclass
class Lab:
    """All the keys of one sigstore. `now`: when things are signed; a certificate lasts ten minutes."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
    authority: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    certificates: ec.EllipticCurvePrivateKey = field(default_factory=_key)  # the log of certificates
    log: ec.EllipticCurvePrivateKey = field(default_factory=_key)  # the log of signatures

    def __post_init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        public = self.authority.public_key()
        self.root = (
            self._builder(self._name, public, self.now - timedelta(days=1), self.now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, public: Any, start: datetime, end: datetime) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder(self._name, subject, public, x509.random_serial_number())
        return made.not_valid_before(start).not_valid_after(end)

    # -- what the administrator pins ---------------------------------------------------------------

    def trust_root(self) -> bytes:
        since = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey, name: str) -> dict[str, Any]:
            public = {"rawBytes": b64(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            where = f"https://{name}.example.org"
            return {
                "baseUrl": where,
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": b64(_id(key))},
            }

        chain = {"certificates": [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]}
        subject = {"organization": "lab", "commonName": "lab"}
        where = "https://fulcio.example.org"
        authority = {"subject": subject, "uri": where, "certChain": chain, "validFor": since}
        return json.dumps({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log, "rekor")],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self.certificates, "ctfe")],
            "timestampAuthorities": [],
        }).encode()  # fmt: skip

    # -- what a build does --------------------------------------------------------------------------

    def certificate(
        self, public: Any, identity: str, issuer: str, repository: str, *, logged: bool = True
    ) -> x509.Certificate:
        """A certificate for ten minutes from `now`, with the promise that it is in the log."""
        name = x509.RFC822Name(identity) if "://" not in identity else x509.UniformResourceIdentifier(identity)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        made = (
            self._builder(x509.Name([]), public, self.now, self.now + 10 * MINUTE)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
        )
        for number, text in (("8", issuer), ("12", repository)):
            raw = text.encode()
            head = bytes([0x0C, len(raw)]) if len(raw) < 128 else bytes([0x0C, 0x81, len(raw)])
            oid = x509.ObjectIdentifier(f"{_FULCIO}.{number}")
            made = made.add_extension(x509.UnrecognizedExtension(oid, head + raw), critical=False)
        if not logged:
            return made.sign(self.authority, hashes.SHA256())
        before = made.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        promise = self._promise(before)
        return made.add_extension(x509.UnrecognizedExtension(_SCT_LIST, promise), False).sign(
            self.authority, hashes.SHA256()
        )

    def _promise(self, precertificate: bytes) -> bytes:
        """A signed certificate timestamp (RFC 6962, section 3.2) as a list of one, in an OCTET STRING."""
        at = int(self.now.timestamp() * 1000)
        entry = _id(self.authority) + len(precertificate).to_bytes(3, "big") + precertificate
        signature = self.certificates.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0", _SHA256)
        sct = struct.pack("!B32sQH", 0, _id(self.certificates), at, 0) + b"\x04\x03"
        sct += len(signature).to_bytes(2, "big") + signature
        listed = len(sct).to_bytes(2, "big") + sct
        listed = len(listed).to_bytes(2, "big") + listed
        return bytes([0x04, len(listed)]) + listed if len(listed) < 128 else bytes([0x04, 0x81, len(listed)]) + listed

    def entry(self, body: bytes, *, at: datetime, promised: bool = True) -> dict[str, Any]:
        """The log's receipt for one entry: a tree of that one, its signed head, and when it came in."""
        root, origin = hashlib.sha256(b"\0" + body).digest(), "rekor.example.org - 1"
        note = f"{origin}\n1\n{b64(root)}\n"
        signed = b64(_id(self.log)[:4] + self.log.sign(note.encode(), _SHA256))
        seconds, kind = int(at.timestamp()), json.loads(body)
        promise = _canonical(
            {"body": b64(body), "integratedTime": seconds, "logID": _id(self.log).hex(), "logIndex": 0}
        )
        made: dict[str, Any] = {
            "logIndex": "0",
            "logId": {"keyId": b64(_id(self.log))},
            "kindVersion": {"kind": kind["kind"], "version": kind["apiVersion"]},
            "integratedTime": str(seconds),
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— rekor.example.org {signed}\n"},
            },
            "canonicalizedBody": b64(body),
        }
        if promised:
            made["inclusionPromise"] = {"signedEntryTimestamp": b64(self.log.sign(promise, _SHA256))}
        return made

    def sign(
        self,
        data: bytes,
        *,
        identity: str = WORKFLOW,
        issuer: str = GITHUB,
        repository: str = REPOSITORY,
        attest: bool = False,
        late: timedelta = MINUTE,
        promised: bool = True,
        logged: bool = True,
    ) -> dict[str, Any]:
        """A bundle over `data`, or an attestation about it. `late`: how long after the certificate it was logged;
        `promised`: whether the log says when; `logged`: whether the certificate is in its log.
        """
        key = _key()
        certificate = self.certificate(key.public_key(), identity, issuer, repository, logged=logged)
        pem = b64(certificate.public_bytes(serialization.Encoding.PEM))
        digest = hashlib.sha256(data).digest()
        content: dict[str, Any]
        if attest:
            statement = {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": "app", "digest": {"sha256": digest.hex()}}],
                "predicateType": "https://slsa.dev/provenance/v1",
                "predicate": {},
            }
            kind, payload = "application/vnd.in-toto+json", _canonical(statement)
            signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
            signature = b64(key.sign(signed, _SHA256))
            content = {
                "dsseEnvelope": {
                    "payload": b64(payload),
                    "payloadType": kind,
                    "signatures": [{"sig": signature, "keyid": ""}],
                }
            }
            whole = hashlib.sha256(_canonical(content["dsseEnvelope"])).hexdigest()
            spec = {
                "envelopeHash": {"algorithm": "sha256", "value": whole},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": signature, "verifier": pem}],
            }
            body = _canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        else:
            signature = b64(key.sign(data, _SHA256))
            content = {
                "messageSignature": {
                    "messageDigest": {"algorithm": "SHA2_256", "digest": b64(digest)},
                    "signature": signature,
                }
            }
            spec = {
                "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
                "signature": {"content": signature, "publicKey": {"content": pem}},
            }
            body = _canonical({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec})
        raw = b64(certificate.public_bytes(serialization.Encoding.DER))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": raw},
                "tlogEntries": [self.entry(body, at=self.now + late, promised=promised)],
            },
            **content,
        }
