"""minisign signatures (jedisct1.github.io/minisign), checked by the minisign program.

A public key file has a comment line and base64 of `Ed`, 8 bytes of key id and the key; a signature file a comment,
base64 of `ED` (over the file's hash) or `Ed` (over the file), key id and signature, a trusted comment, and a signature
over that.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from slotd.core.verifyplan import SUMS
from slotd.errors import Misconfigured, VerificationFailed
from slotd.host import tool
from slotd.verify import KeyFile, Material, SignatureFile, packets

KIND = "minisign"

_KEY_BYTES = 42
_SIGNATURE_BYTES = 74
_TRUSTED = "trusted comment: "
# minisign reads the whole of a file that was signed without hashing it first.
_LEGACY_BYTES = 128 * 1024**2


class Minisign:
    """Signatures over the artifact or the sums file, by one of the app's minisign keys."""

    def examine(self, material: Material) -> dict[str, Any]:
        keys = dict(public_key(key) for key in material.keys if is_own(key))
        return {KIND: [self._check(each, material, keys) for each in material.signatures if each.kind == KIND]}

    def _check(self, signature: SignatureFile, material: Material, keys: dict[str, bytes]) -> dict[str, Any]:
        key_id, comment, is_legacy = _signature(signature)
        claim = {"covers": signature.covers, "good": False, "key": key_id, "comment": comment, "reason": ""}
        if key_id not in keys:
            return claim | {"reason": "unknown-key", "comment": ""}
        size = len(material.sums or b"") if signature.covers == SUMS else material.size
        if is_legacy and size > _LEGACY_BYTES:
            raise VerificationFailed(
                f"cannot check {signature.name}: it is a signature of the legacy kind over a file of {size} bytes",
                hint="The publisher has to sign such a file with `minisign -H`.",
            )
        if signature.covers == SUMS:
            with tool.memory(material.sums or b"") as covered:
                good = _minisign(keys[key_id], signature.data, covered)
        else:
            good = _minisign(keys[key_id], signature.data, material.artifact)
        return claim | ({"good": True} if good else {"reason": "bad", "comment": ""})


def _minisign(key: bytes, signature: bytes, covered: int) -> bool:
    with tool.memory(key) as public, tool.memory(signature) as file, tool.memory() as text:
        # minisign has no way to read standard input: it opens the descriptor again, never the artifact's path.
        argv = ["minisign", "-V", "-p", tool.path(public), "-x", tool.path(file), "-m", tool.path(covered)]
        return tool.run(argv, package="minisign", stdout=text, fds=[public, file, covered]) == 0


def is_own(key: KeyFile) -> bool:
    """Whether a key file is minisign's: it is neither OpenPGP's, nor JSON as other verifiers have it."""
    return not packets.is_armoured_or_packets(key.data) and not key.data.lstrip().startswith(b"{")


def public_key(key: KeyFile) -> tuple[str, bytes]:
    """Key id, and the key file as minisign wants it. Raises `Misconfigured`."""
    lines = [line.strip() for line in key.data.splitlines() if line.strip()]
    try:
        raw = base64.b64decode(lines[-1], validate=True) if lines else b""
    except binascii.Error:
        raw = b""
    if len(raw) != _KEY_BYTES or raw[:2] != b"Ed" or len(lines) > 2:
        raise Misconfigured(
            f"cannot use the key file {key.name}: it is neither an OpenPGP nor a minisign public key",
            hint="Put in the file as the publisher gives it.",
        )
    key_id = _key_id(raw)
    return key_id, f"untrusted comment: {key_id}\n".encode() + lines[-1] + b"\n"


def _signature(signature: SignatureFile) -> tuple[str, str, bool]:
    """(key id, trusted comment, whether of the legacy kind). Raises `VerificationFailed`."""
    try:
        lines = signature.data.decode("utf-8").rstrip("\n").split("\n")
        raw = _decoded(lines[1].strip())
        comment = lines[2].rstrip("\r")
        if len(lines) != 4 or len(raw) != _SIGNATURE_BYTES or raw[:2] not in (b"Ed", b"ED"):
            raise ValueError
        if not comment.startswith(_TRUSTED) or len(_decoded(lines[3].strip())) != 64:
            raise ValueError
    except (ValueError, IndexError):
        raise VerificationFailed(
            f"cannot use the signature {signature.name}: it is not a minisign signature, or cut short",
            hint="Check `signature` under [verify].",
        ) from None
    return _key_id(raw), comment.removeprefix(_TRUSTED), raw[:2] == b"Ed"


def _decoded(text: str) -> bytes:
    """Base64 in its one spelling: bits that no byte needs are 0, as encoders leave them. Else `ValueError`."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError
    return raw


def _key_id(raw: bytes) -> str:
    """As minisign prints it: 16 hex digits, the little-endian number after the two letters."""
    return f"{int.from_bytes(raw[2:10], 'little'):016X}"
