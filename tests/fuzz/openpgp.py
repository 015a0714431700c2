"""Key files and signatures before gpgv or minisign sees them: armour, packets, minisign's four lines."""

from __future__ import annotations

import base64

from tests.fuzz.target import Target

from slotd.errors import Misconfigured, VerificationFailed
from slotd.verify import KeyFile, SignatureFile, minisign, packets
from slotd.verify.work import describe_keys

_KEY = b"\x04" + bytes(4) + b"\x16" + bytes(40)
_RING = b"\x98" + bytes([len(_KEY)]) + _KEY + b"\xb4\x05Alice" + b"\x88\x04\x04\x13\x16\x08"


def one(data: bytes) -> None:
    """Each reader in turn: what it lets through has nothing in it but what it is for."""
    outcomes = []
    try:
        assert all(tag == packets.SIGNATURE for tag, _ in packets.packets(packets.detached_signatures(data)))
    except ValueError as error:
        outcomes.append(error)
    try:
        ring = packets.keyring(data)
        assert not any(tag in (5, 7) for tag, _ in packets.packets(ring))
        assert all(len(fingerprint) in (40, 64) and name.isprintable() for fingerprint, name in packets.describe(ring))
    except ValueError as error:
        outcomes.append(error)
    assert all(str(error).isprintable() for error in outcomes)
    try:
        minisign._signature(SignatureFile("minisign", "a.minisig", data, "artifact"))
    except VerificationFailed:
        pass
    if not data.lstrip().startswith(b"{"):  # JSON is for the verifiers that need extras
        describe_keys((KeyFile("a.key", data),))


def _armoured(label: str, body: bytes) -> bytes:
    text, crc = base64.b64encode(body), base64.b64encode(packets.crc24(body).to_bytes(3, "big"))
    return b"-----BEGIN PGP %b-----\nVersion: 1\n\n%b\n=%b\n-----END PGP %b-----\n" % (
        *(label.encode(), text, crc),
        label.encode(),
    )


TARGET = Target(
    "openpgp",
    one,
    (Misconfigured,),
    seeds=(
        _RING,
        _armoured("PUBLIC KEY BLOCK", _RING),
        _armoured("SIGNATURE", b"\x88\x04\x04\x00\x16\x08\xc2\x02\x04\x00"),
        _armoured("PRIVATE KEY BLOCK", b"\x94\x01\x04"),
        b"untrusted comment: k\n" + base64.b64encode(b"Ed" + bytes(40)) + b"\n",
        b"untrusted comment: s\n%b\ntrusted comment: t\n%b\n"
        % (base64.b64encode(b"ED" + bytes(72)), base64.b64encode(bytes(64))),
        b"\xc6\xff\x00\x00\x00\x01\x04\xc2\xc0\x00" + bytes(192),
    ),
    modules=("slotd.verify.packets", "slotd.verify.minisign"),
    words=(
        "-----BEGIN PGP ",
        "-----END PGP ",
        "PUBLIC KEY BLOCK-----",
        "SIGNATURE-----",
        "trusted comment: ",
        "\\n\\n",
        "\\r\\n",
    ),
)
