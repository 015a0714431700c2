"""OpenPGP's outer layers: ASCII armour and packet framing (RFC 9580, sections 4 and 6).

Only what is needed to hand gpgv exactly what is meant and nothing else: a keyring of public keys, a file of
signatures. All cryptography is gpgv's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

CLEAR_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"

SIGNATURE = 2
_SECRET = (5, 7)
_PUBLIC_KEY = 6
_USER_ID = 13
# What may follow a primary key (section 10.1): signatures, trust, user ids, subkeys, attributes, padding
_KEY_PARTS = (2, 6, 10, 12, 13, 14, 17, 21)

_ARMOUR = re.compile(
    rb"^-----BEGIN PGP (?P<label>[A-Z ,/0-9]+)-----[ \t]*\r?\n(?P<body>.*?)^-----END PGP (?P=label)-----[ \t]*\r?$",
    re.MULTILINE | re.DOTALL,
)
_CRC24_INIT = 0xB704CE
_CRC24_POLY = 0x1864CFB


def keyring(data: bytes) -> bytes:
    """The binary keyring in a key file (several armoured blocks may stand in one). ValueError: not public keys only."""
    binary = _binary(data, b"PUBLIC KEY BLOCK")
    tags = [tag for tag, _ in packets(binary)]
    if any(tag in _SECRET for tag in tags):
        raise ValueError("it holds a secret key, which does not belong on this machine")
    if not tags or tags[0] != _PUBLIC_KEY or any(tag not in _KEY_PARTS for tag in tags):
        raise ValueError("it does not hold OpenPGP public keys")
    return binary


def detached_signatures(data: bytes) -> bytes:
    """The binary signature packets in a signature file, and nothing but signature packets. ValueError otherwise.

    A whole signed message in its place would be checked against itself, and not against the file.
    """
    binary = _binary(data, b"SIGNATURE")
    tags = [tag for tag, _ in packets(binary)]
    if not tags:
        raise ValueError("it is empty")
    if any(tag != SIGNATURE for tag in tags):
        raise ValueError("it is something else than a detached OpenPGP signature")
    return binary


def check_clear_signed(data: bytes) -> None:
    """One clear-signed text and nothing beside it, so that what is signed is all there is. ValueError otherwise."""
    text = data.strip()
    if not text.startswith(CLEAR_SIGNED) or not text.endswith(b"-----END PGP SIGNATURE-----"):
        raise ValueError("it is not one clear-signed text from its first line to its last")
    starts = [line for line in text.split(b"\n") if line.startswith((CLEAR_SIGNED, b"-----BEGIN PGP SIGNATURE-----"))]
    if len(starts) != 2:
        raise ValueError("it holds more than one clear-signed text")


def describe(ring: bytes) -> list[tuple[str, str]]:
    """(fingerprint, first user id) of each key in a binary keyring, subkeys left out (section 5.5.4)."""
    found: list[tuple[str, str]] = []
    for tag, body in packets(ring):
        if tag == _PUBLIC_KEY:
            found.append((_fingerprint(body), ""))
        elif tag == _USER_ID and found and not found[-1][1]:
            name = "".join(c if c.isprintable() else "?" for c in body.decode("utf-8", errors="replace"))
            found[-1] = (found[-1][0], name)
    return found


def _fingerprint(key: bytes) -> str:
    match key[:1]:
        case b"\x04":
            return hashlib.sha1(b"\x99" + len(key).to_bytes(2, "big") + key, usedforsecurity=False).hexdigest().upper()
        case b"\x06":
            return hashlib.sha256(b"\x9b" + len(key).to_bytes(4, "big") + key).hexdigest().upper()
        case _:
            raise ValueError("it holds a key of a version that is not known")


def is_armoured_or_packets(data: bytes) -> bool:
    """Whether a key file is OpenPGP at all: armour, or a first byte with the packet bit (section 4.2)."""
    return b"-----BEGIN PGP " in data[:4096] or (bool(data) and data[0] & 0x80 != 0)


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of each packet. ValueError for what is cut short, or framed as only streamed messages are."""
    at = 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            raise ValueError("it is not made of OpenPGP packets")
        if first & 0x40:
            tag, (length, at) = first & 0x3F, _new_length(data, at + 1)
        else:
            tag, (length, at) = (first >> 2) & 0x0F, _old_length(data, at + 1, first & 0x03)
        if at + length > len(data):
            raise ValueError("it is cut short")
        yield tag, data[at : at + length]
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = _number(data, at, 1)
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + _number(data, at + 1, 1) + 192, at + 2
    if first == 255:
        return _number(data, at + 1, 4), at + 5
    raise ValueError("it is a stream, not a key or a signature")


def _old_length(data: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind == 3:
        raise ValueError("it is a stream, not a key or a signature")
    size = 1 << kind
    return _number(data, at, size), at + size


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise ValueError("it is cut short")
    return int.from_bytes(data[at : at + size], "big")


def _binary(data: bytes, label: bytes) -> bytes:
    """The bytes inside the armour, or the data as they are if there is none."""
    if b"-----BEGIN PGP " not in data:
        return data
    found = list(_ARMOUR.finditer(data))
    if data.count(b"-----BEGIN PGP ") != len(found):
        raise ValueError("its ASCII armour is cut short")
    if any(match["label"] != label for match in found):
        raise ValueError(
            "it holds a secret key, which does not belong on this machine"
            if any(b"PRIVATE" in match["label"] for match in found)
            else f"it is an OpenPGP {found[0]['label'].decode('ascii').lower()}, not what is wanted here"
        )
    return b"".join(_dearmour(match["body"]) for match in found)


def _dearmour(body: bytes) -> bytes:
    """The bytes of one armoured block: headers, an empty line, base64, and a checksum that newer writers leave out."""
    lines = [line.strip() for line in body.split(b"\n")]
    if b"" not in lines:
        raise ValueError("its ASCII armour has no empty line after the headers")
    lines = [line for line in lines[lines.index(b"") + 1 :] if line]
    checksum = b""
    if lines and len(lines[-1]) == 5 and lines[-1].startswith(b"="):
        checksum = lines.pop()[1:]
    try:
        data = base64.b64decode(b"".join(lines), validate=True)
        if checksum and base64.b64decode(checksum, validate=True) != crc24(data).to_bytes(3, "big"):
            raise ValueError("the checksum of its ASCII armour is wrong")
    except binascii.Error:
        raise ValueError("its ASCII armour is damaged") from None
    return data


def crc24(data: bytes) -> int:
    """The armour checksum (section 6.1.1)."""
    crc = _CRC24_INIT
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= _CRC24_POLY
    return crc
