"""What an artifact is, and which names in it are honest: rules on names and first bytes, nothing is touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from slotd.errors import VerificationFailed

RECORD_DIRECTORY: Final = ".slotd"  # slotd's own record in a slot
NAME_BYTES: Final = 255

_COMPRESSED_SUFFIXES = (".gz", ".xz", ".zst", ".bz2")
_TAR_SUFFIXES = (".tar", ".tgz", ".txz", ".tbz", ".tbz2", ".tzst", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2")
# Zip files inside, but used whole.
_WHOLE_SUFFIXES = (".whl", ".egg", ".pyz", ".jar", ".war", ".apk", ".xpi", ".vsix", ".nupkg")
_COMPRESSED_MAGIC = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"BZh")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
# Control characters, and those that make a name look like another one.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an artifact may hold, unpacked. Bytes and counts."""

    max_size: int
    max_files: int
    path_bytes: int
    path_depth: int


def kind_of(name: str, wanted: str, head: bytes) -> str:
    """What to do with an artifact that begins with `head` (512 bytes), where the definition wants `auto none tar zip`.

    Gives `tar`, `zip`, `compressed-tar`, `compressed` (a tar or a single file, the content will tell) or `file`.
    Raises `VerificationFailed` for what is not what its name, or the definition, says.
    """
    low = name.lower()
    if wanted == "none" or (wanted == "auto" and low.endswith(_WHOLE_SUFFIXES)):
        return "file"
    if head.startswith(_ZIP_MAGIC) and wanted in ("auto", "zip"):
        return "zip"
    if head.startswith(_COMPRESSED_MAGIC) and wanted in ("auto", "tar"):
        return "compressed-tar" if wanted == "tar" or low.endswith(_TAR_SUFFIXES) else "compressed"
    if wanted in ("auto", "tar") and (head[257:262] == b"ustar" or wanted == "tar" or low.endswith(".tar")):
        return "tar"
    if wanted == "zip" or low.endswith((".zip", *_TAR_SUFFIXES, *_COMPRESSED_SUFFIXES)):
        raise VerificationFailed(
            f"cannot unpack {name}: it is not what its name says.",
            hint='See what the source offers under this name, or set slots.unpack = "none".',
        )
    return "file"


def bare_mode(head: bytes) -> int:
    """The mode of an artifact that is one file: programs may be executed."""
    return 0o755 if head.startswith((b"\x7fELF", b"#!")) else 0o644


def file_name(target: str, artifact: str, *, unpacked: bool = False) -> str:
    """`target`, checked, as the name of an artifact that is one file; `unpacked`: less the compression's suffix."""
    if unpacked:
        for suffix in _COMPRESSED_SUFFIXES:
            target = target.removesuffix(suffix)
    odd = "/" in target or target in ("", ".", "..", RECORD_DIRECTORY) or is_odd(target)
    if odd or len(target.encode()) > NAME_BYTES:
        raise VerificationFailed(f"cannot unpack {artifact}: {target!r} cannot be a file's name.", forged=True)
    return target


def is_odd(text: str) -> bool:
    """Whether a name or a link's target holds characters that have no business there."""
    return _ODD.search(text) is not None


def refused(artifact: str, entry: bytes | str | None, why: str) -> VerificationFailed:
    """The error for an entry that no honest archive holds."""
    name = entry.decode("utf-8", "backslashreplace") if isinstance(entry, bytes) else entry
    return VerificationFailed(
        f"cannot unpack {artifact}: its entry {ascii(name)[:200]} {why}.",
        hint="An honest archive holds no such thing: ask its publisher.",
        forged=True,
    )


class Names:
    """Takes the names of one archive's entries apart. `strip`: how many components to drop in front."""

    def __init__(self, artifact: str, bounds: Bounds, strip: int) -> None:
        self._artifact, self._bounds, self._strip = artifact, bounds, strip
        self._above: tuple[bytes, list[str]] | None = None  # the last name's directory: most names share it

    def parts(self, raw: bytes | None) -> list[str]:
        """A name's components; empty for the top itself and for what `strip` drops. Raises `VerificationFailed`."""
        if not raw:
            raise refused(self._artifact, raw, "has no name that can be read")
        above, slash, last = raw.rpartition(b"/")
        if last not in (b"", b".") and self._above is not None and self._above[0] == above + slash:
            parts = [*self._above[1], *self._checked(raw, last)]
        else:
            parts = self._checked(raw, raw)
            if last not in (b"", b"."):
                self._above = above + slash, parts[:-1]
        if len(raw) > self._bounds.path_bytes:
            raise VerificationFailed(
                f"cannot unpack {self._artifact}: a name is longer than {self._bounds.path_bytes} bytes.",
                hint="If it is right, raise limits.path_bytes.",
            )
        parts = parts[self._strip :] if self._strip else parts
        if len(parts) > self._bounds.path_depth:
            raise VerificationFailed(
                f"cannot unpack {self._artifact}: directories are nested deeper than {self._bounds.path_depth}.",
                hint="If it is right, raise limits.path_depth.",
            )
        return parts

    def _checked(self, raw: bytes, piece: bytes) -> list[str]:
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            raise refused(self._artifact, raw, "has a name that is not UTF-8") from None
        if text.startswith("/"):
            raise refused(self._artifact, raw, "has an absolute name")
        if is_odd(text):
            raise refused(self._artifact, raw, "has control characters in its name")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise refused(self._artifact, raw, "leads out of the slot")
        if len(piece) > NAME_BYTES and any(len(part.encode()) > NAME_BYTES for part in parts):
            raise refused(self._artifact, raw, f"has a part longer than {NAME_BYTES} bytes")
        return parts


def is_inside(directory: Sequence[str], target: str, is_directory: Callable[[Sequence[str]], bool]) -> bool:
    """Whether a link in `directory` (components below the top) with this target stays below the top.

    Going up is right only from where one really is: `..` after a name counts only if that name `is_directory`
    and no link, because a link may stand higher up in the tree than its name says.
    """
    if target.startswith("/"):
        return False
    at, went_down = list(directory), False
    for part in target.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            at.append(part)
            went_down = True
            continue
        if not at or (went_down and not is_directory(at)):
            return False
        at.pop()
    return True


def place_name(asset: str, app: str, *, alone: bool) -> str:
    """The name in the slot of an artifact that is put in as one file.

    A bare program gets its app's name, so that a unit's `ExecStart=` stays the same for every version
    (`gitea-1.22.1-linux-amd64` becomes `gitea`); what a tool knows by its suffix (wheels, archives) keeps its own,
    and so do all where there are several.
    """
    low = asset.lower()
    has_suffix = low.endswith((*_WHOLE_SUFFIXES, *_TAR_SUFFIXES, ".zip")) or (
        re.search(r"\.[a-z][a-z0-9]{0,4}$", low) is not None and not low.endswith(_COMPRESSED_SUFFIXES)
    )
    return app if alone and not has_suffix else asset
