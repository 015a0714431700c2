"""What is found out about a fetched file in the *verify* worker. One file per kind, one line in `VERIFIERS`.

A verifier reports, it does not judge: its claims go back to the daemon, where `slotd.core.trust` decides. It runs
unprivileged, without network, and reads the artifact only through the descriptor that the daemon handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """A signature as it was fetched. `kind`: the verifier it is for; `covers`: `artifact` or `sums`."""

    kind: str
    name: str
    data: bytes
    covers: str


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of keys.d: OpenPGP (armoured or not), minisign or a sigstore trust root, told apart by its content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Material:
    """What a verifier works on. `artifact` is a descriptor, open for reading, `size` bytes long.

    `sums` is the sums file as it was fetched, `sums_text` what it lists (less a clear signature around it).
    `want`: digests to compute. `tuf`: what is kept of the repository that it came from (`slotd.verify.tuf`).
    `told(bytes)` is called now and then with the bytes read so far.
    """

    asset: str
    artifact: int
    size: int
    sums: bytes | None
    sums_text: bytes
    sums_name: str
    signatures: tuple[SignatureFile, ...]
    keys: tuple[KeyFile, ...]
    want: tuple[str, ...]
    told: Callable[[int], None]
    tuf: Mapping[str, Any] = field(default_factory=dict)


class Verifier(Protocol):
    """A kind of check."""

    def examine(self, material: Material) -> dict[str, Any]:
        """Claims, merged into the worker's reply: lists and mappings by name. Raises `VerificationFailed`.

        A verifier of signatures gives `{KIND: [{covers, good, key, comment, reason, issuer, digest}]}`, see
        `slotd.core.evidence.Signed`.
        """
        ...


# name in `require` -> "module:Class", imported when a request has something for it
VERIFIERS: dict[str, str] = {
    "sha256": "slotd.verify.digest:Sha256",
    "sha512": "slotd.verify.digest:Sha512",
    "openpgp": "slotd.verify.openpgp:OpenPGP",
    "minisign": "slotd.verify.minisign:Minisign",
    "sigstore": "slotd.verify.sigstore:Sigstore",
    "tuf": "slotd.verify.tuf:Tuf",
}
