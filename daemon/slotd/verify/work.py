"""The worker's verb `verify`: look at a fetched file and say what was found; `slotd.core.trust` decides."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from slotd.core.verifyplan import DIGESTS
from slotd.errors import Failed, Misconfigured, VerificationFailed
from slotd.verify import (
    VERIFIERS,
    KeyFile,
    Material,
    SignatureFile,
    Verifier,
    minisign,
    openpgp,
    packets,
    sigstore,
    tuf,
)

_PROGRESS_EVERY_S = 0.5


def verify(
    request: Mapping[str, Any], fds: Sequence[int], progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Claims about the artifact `fds[0]` (open for reading), as `slotd.core.evidence.Evidence.from_claims` takes them.

    Request, as `slotd.core.verifyplan.request` makes it: asset, sums (base64 or None), sums_name, signatures
    [{kind, name, data, covers}], keys [{name, data}], want [algorithm]. Reply: `{has_sums, sums: {algorithm: hex},
    digests: {…}, openpgp: [{covers, status}], minisign: [{covers, good, key, comment, reason}], sigstore: […]}`.
    Raises `VerificationFailed` for files that are not what they are called, `Misconfigured` for keys.
    """
    material = _material(request, fds, progress)
    reply: dict[str, Any] = {"has_sums": material.sums is not None, "sums": {}, "digests": {}}
    asked = dict.fromkeys([*(each.kind for each in material.signatures), *(["tuf"] if material.tuf else [])])
    for kind in (*DIGESTS, *asked):
        for name, claims in _verifier(kind).examine(material).items():
            if isinstance(claims, dict):
                reply.setdefault(name, {}).update(claims)
            else:
                reply.setdefault(name, []).extend(claims)
    return reply


def _material(request: Mapping[str, Any], fds: Sequence[int], progress: Callable[[dict[str, Any]], None]) -> Material:
    if len(fds) != 1:
        raise Failed(f"cannot verify: {len(fds)} files were handed over instead of one")
    size = os.fstat(fds[0]).st_size
    keys = tuple(KeyFile(str(key["name"]), base64.b64decode(key["data"])) for key in request["keys"])
    describe_keys(keys)  # a file that is no key at all is told, not passed over
    signatures = tuple(
        SignatureFile(
            str(each["kind"]),
            str(each.get("name") or f"{each['kind']} signature"),
            base64.b64decode(each["data"]),
            str(each["covers"]),
        )
        for each in request["signatures"]
    )
    sums = None if request["sums"] is None else base64.b64decode(request["sums"])
    return Material(
        asset=str(request["asset"]),
        artifact=fds[0],
        size=size,
        sums=sums,
        sums_text=_sums_text(sums, signatures, keys),
        sums_name=str(request.get("sums_name", "")),
        signatures=signatures,
        keys=keys,
        want=tuple(each for each in request.get("want", ()) if each in DIGESTS),
        told=_told(progress, size),
        tuf=request.get("tuf") or {},
    )


def _sums_text(sums: bytes | None, signatures: Sequence[SignatureFile], keys: Sequence[KeyFile]) -> bytes:
    """What the sums file lists: what stands inside a clear signature, where there is one.

    A clear signature that counts must be around the very bytes that are then read as checksums.
    """
    if any(
        openpgp.is_clear_signed(each.data) and each.data != sums for each in signatures if each.kind == openpgp.KIND
    ):
        raise VerificationFailed(
            "cannot use the signature: it is a signed text, and not the sums file itself",
            hint='Let `checksums` name the signed file, with `signature = "{checksums}"`.',
        )
    if sums is None or not openpgp.is_clear_signed(sums):
        return sums or b""
    wanted = any(each.kind == openpgp.KIND for each in signatures)
    text, _ = openpgp.read_clear_signed(sums, openpgp.keyring(keys) if wanted else b"")
    return text


def describe_keys(keys: Sequence[KeyFile]) -> list[tuple[str, str, str, str]]:
    """(file, verifier, fingerprint or key id, owner's name or empty) of each public key. Raises `Misconfigured`."""
    found: list[tuple[str, str, str, str]] = []
    for key in keys:
        if sigstore.is_trust_root(key.data):
            found.append((key.name, sigstore.KIND, sigstore.describe_trust_root(key), ""))
            continue
        if tuf.is_root(key.data):
            found.append((key.name, tuf.KIND, tuf.describe_root(key), ""))
            continue
        if not packets.is_armoured_or_packets(key.data):
            found.append((key.name, minisign.KIND, minisign.public_key(key)[0], ""))
            continue
        try:
            named = packets.describe(openpgp.public_keys(key))
        except ValueError as error:
            raise Misconfigured(f"cannot use the key file {key.name}: {error}") from None
        found += [(key.name, openpgp.KIND, fingerprint, owner) for fingerprint, owner in named]
    return found


def _verifier(kind: str) -> Verifier:
    if kind not in VERIFIERS:
        raise Failed(f"cannot verify: there is no verifier {kind}", hint=f"There are {', '.join(VERIFIERS)}.")
    module, _, name = VERIFIERS[kind].partition(":")
    return cast(Verifier, getattr(import_module(module), name)())


def _told(progress: Callable[[dict[str, Any]], None], total: int) -> Callable[[int], None]:
    last = time.monotonic()

    def told(done: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= _PROGRESS_EVERY_S:
            last = time.monotonic()
            progress({"bytes": done, "total": total})

    return told
