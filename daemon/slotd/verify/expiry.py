"""Whether OpenPGP keys are still good, as they say themselves (RFC 9580, sections 5.2.3.13 and 5.2.1.11).

For people, in time; it decides nothing: that is gpgv's word on each signature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from slotd.verify.packets import describe, packets

_SIGNATURE, _PUBLIC_KEY, _USER_ID = 2, 6, 13
_CERTIFICATIONS = (0x10, 0x11, 0x12, 0x13, 0x1F)  # of a user id, or of the key itself
_REVOKES_KEY = 0x20
_CREATED, _KEY_EXPIRES, _ISSUER = 2, 9, 16


@dataclass(frozen=True, slots=True)
class Standing:
    """One key of a keyring. `ends`: seconds since the epoch, 0 for never."""

    fingerprint: str
    ends: float = 0.0
    is_revoked: bool = False

    def problem(self, now: float) -> str:
        """Why nothing that it signs will be accepted, as a sentence; empty if it may be."""
        if self.is_revoked:
            return f"its key {self.fingerprint} has been revoked."
        if not self.ends or self.ends > now:
            return ""
        day = datetime.fromtimestamp(self.ends, UTC).strftime("%Y-%m-%d")
        return f"its key {self.fingerprint} expired on {day}."


def standings(ring: bytes) -> list[Standing]:
    """Each primary key of a binary keyring. Raises `ValueError` or `IndexError` for what is none."""
    fingerprints = [fingerprint for fingerprint, _ in describe(ring)]
    ends = [0.0] * len(fingerprints)
    newest = [0] * len(fingerprints)
    revoked = [False] * len(fingerprints)
    made, number, is_primary = 0, -1, False
    for tag, body in packets(ring):
        if tag == _PUBLIC_KEY:
            made, number, is_primary = int.from_bytes(body[1:5], "big"), number + 1, True
        elif tag not in (_SIGNATURE, _USER_ID):
            is_primary = False  # a subkey's come after it
        elif tag == _SIGNATURE and is_primary and body[1] == _REVOKES_KEY:
            revoked[number] = True
        elif tag == _SIGNATURE and is_primary and body[:1] == b"\x04" and body[1] in _CERTIFICATIONS:
            said = dict(_subpackets(body))
            issuer = said.get(_ISSUER, b"").hex().upper()
            when = int.from_bytes(said.get(_CREATED, b""), "big")
            if when < newest[number] or (issuer and not fingerprints[number].endswith(issuer)):
                continue
            newest[number] = when
            lasts = int.from_bytes(said.get(_KEY_EXPIRES, b""), "big")
            ends[number] = float(made + lasts) if lasts else 0.0
    return [Standing(*each) for each in zip(fingerprints, ends, revoked, strict=True)]


def _subpackets(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The hashed subpackets of a version 4 signature, then the others."""
    at = 4
    for _ in range(2):
        size = int.from_bytes(body[at : at + 2], "big")
        area, at = body[at + 2 : at + 2 + size], at + 2 + size
        while area:
            head, length = 1, area[0]
            if 192 <= length < 255:
                head, length = 2, ((length - 192) << 8) + area[1] + 192 if len(area) > 1 else 0
            elif length == 255:
                head, length = 5, int.from_bytes(area[1:5], "big")
            piece, area = area[head : head + length], area[head + length :]
            if not piece:
                return
            yield piece[0] & 0x7F, piece[1:]
