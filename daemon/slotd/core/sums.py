"""Sums files: which digest does the publisher give for a file?

The forms that are met in the wild: `HEX  name` and `HEX *name` of coreutils (sha256sum(1); a leading backslash marks
an escaped name), names as `./name`, `SHA256 (name) = HEX` of the BSDs and of `--tag`, `SHA2-256(name)= HEX` of openssl,
and a file beside each asset with nothing but the digest. A clear-signed file comes here without its signature.
"""

from __future__ import annotations

import re

from slotd.errors import VerificationFailed

HEX_DIGITS = {"sha256": 64, "sha512": 128}

_TEXT = re.compile(r"(?P<hex>[0-9A-Fa-f]+)(?:[ \t]+\*?(?P<name>.+))?")
_TAGGED = re.compile(r"(?P<tag>[A-Za-z0-9-]+) ?\((?P<name>.+)\) ?= ?(?P<hex>[0-9A-Fa-f]+)")
_TAGS = {"sha256": ("SHA256", "SHA2-256", "SHA-256"), "sha512": ("SHA512", "SHA2-512", "SHA-512")}
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def expected(text: bytes, asset: str, algorithm: str) -> str | None:
    """The digest (lower-case hex) that a sums file gives for `asset`, or None if it lists none of this algorithm.

    Raises `VerificationFailed` if the file is not text, or gives two different digests for the same name: then it
    can be read either way, and an attacker chooses which.
    """
    lines = [line for line in _lines(text) if line and not line.startswith(("#", ";"))]
    if len(lines) == 1 and (alone := _alone(lines[0], algorithm)):
        return alone
    found = {digest for name, digest in (_entry(line, algorithm) for line in lines) if name == asset and digest}
    if len(found) > 1:
        raise VerificationFailed(
            f"cannot use the checksums: they give {len(found)} different {algorithm} digests for {asset}",
            hint="Tell the publisher: such a file proves nothing.",
        )
    return found.pop() if found else None


def _lines(text: bytes) -> list[str]:
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise VerificationFailed(
            "cannot use the checksums: the file is not UTF-8 text", hint="Check `checksums` in the definition."
        ) from None
    # Only the line feed ends a line: str.splitlines() would also split at characters that may stand in names.
    return [line.removesuffix("\r").rstrip(" \t") for line in decoded.split("\n")]


def _alone(line: str, algorithm: str) -> str:
    """A file beside its asset: nothing but the digest, or `sha256sum` of standard input (`HEX  -`)."""
    match = _TEXT.fullmatch(line)
    if match and match["name"] in (None, "-") and len(match["hex"]) == HEX_DIGITS[algorithm]:
        return match["hex"].lower()
    return ""


def _entry(line: str, algorithm: str) -> tuple[str, str]:
    escaped = line.startswith("\\")
    line = line.removeprefix("\\")
    if tagged := _TAGGED.fullmatch(line):
        if tagged["tag"].upper() not in _TAGS[algorithm]:
            return "", ""
        name, digest = tagged["name"], tagged["hex"]
    elif plain := _TEXT.fullmatch(line):
        name, digest = plain["name"] or "", plain["hex"]
    else:
        return "", ""
    if len(digest) != HEX_DIGITS[algorithm]:
        return "", ""
    if escaped:
        name = re.sub(r"\\[\\nr]", lambda m: _ESCAPES[m.group()], name)
    return name.removeprefix("./"), digest.lower()
