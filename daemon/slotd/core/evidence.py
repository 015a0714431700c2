"""What is known about a fetched file: digests that the daemon measured, and what the verify worker claims.

A claim is JSON from a process that read hostile bytes. It is read strictly here;
what it proves is for `slotd.core.trust` to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotd.core.verifyplan import ARTIFACT, SUMS
from slotd.errors import VerificationFailed

HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}

_KIND = re.compile(r"[a-z][a-z0-9]{0,31}")
_MAX_LINES = 2000
_MAX_TEXT = 4096
_MAX_SIGNATURES = 64


@dataclass(frozen=True, slots=True)
class Status:
    """gpgv's status lines about one signature file. `covers`: `artifact` or `sums`."""

    covers: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """What any other verifier says of one signature. `key` names the signer, `issuer` who vouches for that name.

    `digest` (`algorithm:hex`) is what was signed where the signature itself names it. `reason` says why it is not good:
    `bad` (a pinned key, other bytes), `unknown-key`, or words for a person.
    """

    covers: str
    good: bool
    key: str
    comment: str = ""
    reason: str = ""
    issuer: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one artifact. Digests are lower-case hex by algorithm; `source_digest` is `algorithm:hex`.

    `measured` is the daemon's own; `sums` is what the sums file lists for this artifact, `sums_sha256` that file's own.
    """

    measured: Mapping[str, str]
    source_digest: str = ""
    has_sums: bool = False
    sums: Mapping[str, str] = field(default_factory=dict)
    sums_sha256: str = ""
    openpgp: tuple[Status, ...] = ()
    signed: Mapping[str, tuple[Signed, ...]] = field(default_factory=dict)

    @classmethod
    def from_claims(
        cls, measured: Mapping[str, str], source_digest: str, claims: Mapping[str, Any], sums_sha256: str = ""
    ) -> Evidence:
        """Evidence from the verify worker's reply.

        Raises `VerificationFailed` for anything that is not of the agreed shape: what cannot be read proves nothing.
        """
        try:
            sums = _digests(claims.get("sums", {}))
            other = _digests(claims.get("digests", {}))
            signed = {
                _kind(kind): tuple(_signed(each) for each in _items(listed))
                for kind, listed in claims.items()
                if kind not in ("sums", "digests", "openpgp", "has_sums")
            }
            statuses = tuple(_status(each) for each in _items(claims.get("openpgp", [])))
            has_sums = _typed(claims.get("has_sums", bool(sums)), bool)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VerificationFailed(
                f"cannot use what the verify worker says: {error}", hint="Its part of the journal tells more."
            ) from None
        for algorithm, digest in other.items():
            if measured.get(algorithm, digest) != digest:
                raise VerificationFailed(f"cannot use what the verify worker says: its {algorithm} is of other bytes")
        has_sums = has_sums or bool(sums)
        return cls(dict(measured), source_digest, has_sums, sums, sums_sha256, statuses, signed)


def _digests(value: Any) -> dict[str, str]:
    digests = dict(_typed(value, dict))
    for algorithm, digest in digests.items():
        if algorithm not in HEX or not HEX[algorithm].fullmatch(_typed(digest, str)):
            raise ValueError("a digest that is none")
    return digests


def _status(value: Any) -> Status:
    claim = _typed(value, dict)
    lines = tuple(_text(line) for line in _items(claim["status"], _MAX_LINES))
    return Status(_covers(claim["covers"]), lines)


def _signed(value: Any) -> Signed:
    claim = _typed(value, dict)
    digest = _text(claim.get("digest", ""))
    if digest:
        algorithm, _, number = digest.partition(":")
        _digests({algorithm: number})
    return Signed(
        covers=_covers(claim["covers"]),
        good=_typed(claim["good"], bool),
        key=_text(claim["key"]),
        comment=_text(claim.get("comment", "")),
        reason=_text(claim.get("reason", "")),
        issuer=_text(claim.get("issuer", "")),
        digest=digest,
    )


def _covers(value: Any) -> str:
    if value not in (ARTIFACT, SUMS):
        raise ValueError("a signature over an unknown thing")
    return str(value)


def _kind(value: str) -> str:
    if not _KIND.fullmatch(value):
        raise ValueError("an unknown kind of signature")
    return value


def _text(value: Any) -> str:
    """One line for logs and terminals, with nothing in it that moves a cursor."""
    text = str(_typed(value, str))
    if len(text) > _MAX_TEXT:
        raise ValueError("a text that is too long")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _items(value: Any, limit: int = _MAX_SIGNATURES) -> Sequence[Any]:
    items = _typed(value, list)
    if len(items) > limit:
        raise ValueError("too many entries")
    return list(items)


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise ValueError(f"{wanted.__name__} expected, {type(value).__name__} found")
    return value
