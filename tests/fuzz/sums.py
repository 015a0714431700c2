"""Sums files in all their forms, clear-signed ones among them, for a name that is also chosen by who wrote the file."""

from __future__ import annotations

from tests.fuzz.target import Target

from slotd.core.sums import HEX_DIGITS, expected
from slotd.errors import VerificationFailed
from slotd.verify import packets

_A, _B = b"a" * 64, b"0123456789ABCDEF" * 8


def one(data: bytes) -> None:
    """The first line is the file's name, the rest the sums."""
    first, _, text = data.partition(b"\n")
    name = first.decode("utf-8", "replace")
    try:
        packets.check_clear_signed(text)
    except ValueError:
        pass
    for algorithm, digits in HEX_DIGITS.items():
        digest = expected(text, name, algorithm)
        assert digest is None or (len(digest) == digits and int(digest, 16) >= 0 and digest == digest.lower())
        assert digest is None or digest.encode() in text.lower()


TARGET = Target(
    "sums",
    one,
    (VerificationFailed,),
    seeds=(
        b"app-1.0.tar.gz\n" + _A + b"  app-1.0.tar.gz\n" + _A + b" *other\n",
        b"app\nSHA256 (app) = " + _A + b"\nSHA2-512(app)= " + _B + b"\n",
        b"app\n" + _A,
        b"app\n" + _B + b"  -\n",
        b"a\\b\n\\" + _A + b"  a\\\\b\n# comment\n; other\r\n",
        b"app\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
        + _A
        + b"  ./app\n-----BEGIN PGP SIGNATURE-----\n\n=aaaa\n-----END PGP SIGNATURE-----\n",
        b"app\n" + _A + b"  app\n" + _A.replace(b"a", b"b") + b"  app\n",
    ),
    modules=("slotd.core.sums",),
    words=("SHA256 (", "SHA-512(", ") = ", "  ./", " *", "\\", "\\\\", "\\n", "\ufeff", "\u2028", "-----BEGIN PGP "),
)
