"""What a verify worker says that it found, in a frame, and what is concluded from it."""

from __future__ import annotations

from tests.fuzz import mutate
from tests.fuzz.target import Target

from slotd.core import trust
from slotd.core.evidence import Evidence
from slotd.core.schema import Verify
from slotd.errors import VerificationFailed
from slotd.host import frames

_F, _SHA = "0123456789ABCDEF0123456789ABCDEF01234567", "a" * 64
_VALID = f"[GNUPG:] VALIDSIG {_F} 2026-01-02 1767312000 0 4 0 1 10 00 {_F}"
_GOOD = ["[GNUPG:] NEWSIG", f"[GNUPG:] GOODSIG {_F[-16:]} Somebody <a@b>", _VALID]
_KINDS = ("sha256", "sha512", "openpgp", "minisign", "sigstore", "tuf")
_REQUIREMENTS = tuple(Verify(require=(kind,), fingerprints=(_F,)) for kind in _KINDS)


def one(data: bytes) -> None:
    """A frame's body; nothing is ever found good that no line or claim says is good."""
    message = frames.decode(data)
    evidence = Evidence.from_claims({"sha256": _SHA}, "", message)
    refusals: list[str] = []
    for requirement in _REQUIREMENTS:
        try:
            trusted = trust.decide(requirement, "demo.tar.gz", evidence)
        except VerificationFailed as error:
            refusals.append(str(error))
            continue
        kind = requirement.require[0]
        assert kind in ("sha256", "sha512") or trusted.signers
        assert kind != "openpgp" or "VALIDSIG" in str(message), data
    assert all(refusal.isprintable() for refusal in refusals), refusals


def _lines(*more: str) -> dict[str, object]:
    return {"covers": "artifact", "status": [*_GOOD, *more]}


TARGET = Target(
    "claims",
    one,
    (VerificationFailed, frames.FrameError),
    seeds=(
        mutate.plain({"has_sums": True, "sums": {"sha256": _SHA}, "digests": {"sha256": _SHA}, "openpgp": [_lines()]}),
        mutate.plain(
            {"openpgp": [_lines(f"[GNUPG:] EXPKEYSIG {_F[-16:]} x", "[GNUPG:] ERRSIG 0123 1 2 00 5 9 -"), _lines()]}
        ),
        mutate.plain({"openpgp": [_lines("[GNUPG:] NOTATION_DATA %0A[GNUPG:]", "[GNUPG:] FAILURE gpg-exit 33554433")]}),
        mutate.plain({"minisign": [{"covers": "sums", "good": True, "key": "AB", "comment": "c", "reason": ""}]}),
        mutate.plain(
            {
                "sigstore": [
                    {
                        "covers": "artifact",
                        "good": True,
                        "key": "a@b",
                        "issuer": "https://i",
                        "digest": f"sha256:{_SHA}",
                    }
                ],
                "tuf": [{"covers": "artifact", "good": False, "key": "", "reason": "bad"}],
            }
        ),
    ),
    modules=("slotd.core.evidence", "slotd.core.gpgstatus", "slotd.core.trust", "slotd.host.frames"),
    words=(*_GOOD, *"EXPKEYSIG REVKEYSIG BADSIG ERRSIG VALIDSIG NEWSIG PLAINTEXT [GNUPG:]".split()),
    mutate=mutate.json_value(mutate.plain),
)
