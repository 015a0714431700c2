"""What gpgv says on its status descriptor, read strictly (GnuPG doc/DETAILS, "Format of the --status-fd output").

gpgv's exit status does not decide: it is 0 for an expired key, a revoked key and a SHA-1 signature, and 2 for a file
with one good signature and one by a stranger.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_PREFIX = "[GNUPG:] "
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")

# RFC 9580 section 9.5. MD5 (1), SHA-1 (2) and RIPEMD-160 (3) are left out, and so is what does not exist yet.
_HASHES = {8: "SHA256", 9: "SHA384", 10: "SHA512", 11: "SHA224", 12: "SHA3-256", 14: "SHA3-512"}
_WEAK = {1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"}
# Signatures over a file or a text; others (over keys, standalone) say nothing about a file.
_CLASSES = ("00", "01")
# Said outside of any signature, and meaning that gpgv did not get to the end of what it was given
_BROKEN = ("ERROR", "FAILURE", "UNEXPECTED")
_NO_CERTAIN_WORD = {
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key has been revoked",
    "EXPSIG": "the signature has expired",
    "ERRSIG": "it cannot be checked",
    "BADSIG": "it does not fit the file",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a file. `problem` empty: it is good; then `fingerprint` and `primary` say whose it is.

    `is_bad`: by a known key, over other bytes than these.
    """

    fingerprint: str = ""
    primary: str = ""
    signer: str = ""
    problem: str = ""
    is_bad: bool = False


def signatures(lines: Iterable[str], *, detached: bool) -> tuple[Signature, ...]:
    """All signatures that gpgv looked at. ValueError for lines that gpgv does not write, or not in this order.

    `detached`: the signature stands in a file of its own; then gpgv has no plaintext to tell of (if it does, it was
    given a whole signed message in place of a signature, and looked at that instead of the file).
    """
    blocks: list[list[tuple[str, list[str]]]] = []
    for keyword, arguments in _records(lines):
        if keyword == "NEWSIG":
            blocks.append([])
        elif keyword in _BROKEN and arguments[:1] != ["gpg-exit"]:  # that is its exit status in words
            raise ValueError(f"gpgv stopped: {keyword} {' '.join(arguments)}".rstrip())
        elif keyword.startswith("PLAINTEXT") and detached:
            raise ValueError("it is a signed message, not a detached signature")
        elif blocks:
            blocks[-1].append((keyword, arguments))
        elif keyword in _NO_CERTAIN_WORD or keyword in ("GOODSIG", "VALIDSIG"):
            raise ValueError(f"{keyword} without NEWSIG")
    return tuple(_judge(block) for block in blocks)


def _records(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        if not line.startswith(_PREFIX):
            raise ValueError("a line that gpgv does not write")
        keyword, *arguments = line.removeprefix(_PREFIX).split(" ")
        yield keyword, arguments


def _judge(block: list[tuple[str, list[str]]]) -> Signature:
    """One signature: exactly one GOODSIG and one VALIDSIG, and none of the words that take it back."""
    said = dict(block)
    signer = " ".join(said["GOODSIG"][1:]) if "GOODSIG" in said else ""
    for keyword, arguments in block:
        if keyword in _NO_CERTAIN_WORD:
            key = _key(arguments) if keyword == "ERRSIG" else arguments[0] if arguments else ""
            if "VALIDSIG" in said:
                key = said["VALIDSIG"][0]
            return Signature(
                fingerprint=key,
                signer=" ".join(arguments[1:]) if keyword != "ERRSIG" else "",
                problem=_why(arguments) if keyword == "ERRSIG" else _NO_CERTAIN_WORD[keyword],
                is_bad=keyword == "BADSIG",
            )
    keywords = [keyword for keyword, _ in block]
    if keywords.count("GOODSIG") != 1 or keywords.count("VALIDSIG") != 1:
        return Signature(signer=signer, problem="gpgv did not find it good")
    return _valid(said["VALIDSIG"], signer)


def _valid(arguments: list[str], signer: str) -> Signature:
    """VALIDSIG: fingerprint, date, timestamp, expiry, version, reserved, key algorithm, hash, class, primary key."""
    if len(arguments) < 9:
        raise ValueError("a VALIDSIG that is too short")
    fingerprint, hash_algorithm, signature_class = arguments[0], arguments[7], arguments[8]
    primary = arguments[9] if len(arguments) > 9 else fingerprint
    if not _FINGERPRINT.fullmatch(fingerprint) or not _FINGERPRINT.fullmatch(primary) or not hash_algorithm.isdecimal():
        raise ValueError("a VALIDSIG that cannot be read")
    problem = ""
    if int(hash_algorithm) not in _HASHES:
        name = _WEAK.get(int(hash_algorithm), f"hash algorithm {hash_algorithm}")
        problem = f"it was made with {name}, which proves nothing"
    elif signature_class not in _CLASSES:
        problem = f"it is of class {signature_class}, not one over a file"
    return Signature(fingerprint, primary, signer, problem)


def _key(errsig: list[str]) -> str:
    """The key of an ERRSIG: its fingerprint where gpgv (2.2.7 and later) and the signature give it, else the key id."""
    if len(errsig) > 6 and _FINGERPRINT.fullmatch(errsig[6]):
        return errsig[6]
    return errsig[0] if errsig else ""


def _why(errsig: list[str]) -> str:
    code = errsig[5] if len(errsig) > 5 else ""
    hash_algorithm = int(errsig[2]) if len(errsig) > 2 and errsig[2].isdecimal() else 0
    if hash_algorithm in _WEAK:
        return f"it was made with {_WEAK[hash_algorithm]}, which proves nothing"
    match code:
        case "9":
            return "it was made by a key that is not among the app's keys"
        case "125":  # GPG_ERR_WRONG_KEY_USAGE
            return "it was made by a key that has no right to sign"
        case "4":
            return "it uses an algorithm that gpgv does not know"
        case _:
            return "it cannot be checked"
