"""OpenPGP signatures, checked by gpgv with the app's own keys and no others.

gpgv gets a keyring and a signature that were taken apart here first (`packets`), the artifact as its standard input,
and a status file of its own; the daemon reads the status lines. Its stderr can be forged by the signed bytes and is
never looked at (CVE-2018-12020), nor is its exit status, which is 0 for expired and revoked keys.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from slotd.core.verifyplan import SUMS
from slotd.errors import Misconfigured, VerificationFailed
from slotd.host import tool
from slotd.verify import KeyFile, Material, SignatureFile, packets

KIND = "openpgp"


class OpenPGP:
    """Detached signatures over the artifact or the sums file, and sums files that are clear-signed."""

    def examine(self, material: Material) -> dict[str, Any]:
        ring = keyring(material.keys)
        claims = []
        for signature in material.signatures:
            if signature.kind != KIND:
                continue
            if signature.covers == SUMS and is_clear_signed(signature.data):
                _, status = read_clear_signed(signature.data, ring)
            else:
                status = self._detached(signature, material, ring)
            claims.append({"covers": signature.covers, "status": status})
        return {KIND: claims}

    def _detached(self, signature: SignatureFile, material: Material, ring: bytes) -> list[str]:
        try:
            data = packets.detached_signatures(signature.data)
        except ValueError as error:
            raise VerificationFailed(
                f"cannot use the signature {signature.name}: {error}", hint="Check `signature` under [verify]."
            ) from None
        if signature.covers == SUMS:
            with tool.memory(material.sums or b"") as covered:
                return _gpgv(ring, data, covered)
        os.lseek(material.artifact, 0, os.SEEK_SET)
        return _gpgv(ring, data, material.artifact)


def is_clear_signed(data: bytes) -> bool:
    return data.lstrip().startswith(packets.CLEAR_SIGNED)


def read_clear_signed(data: bytes, ring: bytes) -> tuple[bytes, list[str]]:
    """The text that is signed - that alone, as gpgv gives it - and gpgv's status lines about its signature."""
    try:
        packets.check_clear_signed(data)
    except ValueError as error:
        raise VerificationFailed(f"cannot use the signed checksums: {error}") from None
    with tool.memory(ring) as keys, tool.memory(data) as message, tool.memory() as status, tool.memory() as text:
        _run(["--output", "-", "--", tool.path(message)], keys, status, stdout=text, fds=[message])
        return tool.content(text), _lines(tool.content(status))


def keyring(keys: Sequence[KeyFile]) -> bytes:
    """One keyring of all OpenPGP key files. Raises `Misconfigured` for a file that is none, or holds secret keys."""
    return b"".join(public_keys(key) for key in keys if packets.is_armoured_or_packets(key.data))


def public_keys(key: KeyFile) -> bytes:
    """The binary public keys in one key file. Raises `Misconfigured`."""
    try:
        return packets.keyring(key.data)
    except ValueError as error:
        raise Misconfigured(
            f"cannot use the key file {key.name}: {error}", hint="Export it again, with `gpg --export`."
        ) from None


def _gpgv(ring: bytes, signature: bytes, covered: int) -> list[str]:
    with tool.memory(ring) as keys, tool.memory(signature) as file, tool.memory() as status, tool.memory() as text:
        _run(["--", tool.path(file), "-"], keys, status, stdin=covered, stdout=text, fds=[file])
        return _lines(tool.content(status))


def _run(
    arguments: list[str], keys: int, status: int, *, stdout: int, fds: list[int], stdin: int | None = None
) -> None:
    argv = ["gpgv", "--homedir", "/nonexistent", "--keyring", tool.path(keys)]
    argv += ["--status-fd", str(status), "--weak-digest", "SHA1", *arguments]
    ended = tool.run(argv, package="gpgv", stdin=stdin, stdout=stdout, fds=[keys, status, *fds])
    if ended not in (
        0,
        1,
        2,
    ):  # these are its own verdicts, which do not count; anything else is not the end of its work
        raise VerificationFailed(f"cannot check the OpenPGP signature: gpgv ended with status {ended}")


def _lines(status: bytes) -> list[str]:
    # gpgv escapes line feeds in what it quotes; any other odd character is for the daemon to judge.
    return status.decode("utf-8", errors="replace").rstrip("\n").split("\n") if status else []
