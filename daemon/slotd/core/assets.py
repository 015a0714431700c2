"""Which files of a release are the ones to install: the templates of `source.asset` against what the source offers.

A name must match exactly, one of the usual spellings of architecture and system put in. Nothing is guessed from
parts of a name: `app-linux-amd64-debug.tar.gz` is not `app-linux-amd64.tar.gz`.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from slotd.core.release import is_version
from slotd.core.schema import Source
from slotd.core.template import expand_name, words_in
from slotd.core.version import parse, version_of_tag
from slotd.model import Asset, Release

THIS_ARCHITECTURE = platform.machine()
"""What this machine calls itself; a constant of the process, like its byte order."""

# Debian's and Go's name first, then what else publishers write; what `uname -m` says is among them.
_ARCHITECTURES: tuple[tuple[str, ...], ...] = (
    ("amd64", "x86_64", "x64", "x86-64", "64bit"),
    ("arm64", "aarch64", "armv8"),
    ("armv7", "armhf", "armv7l", "arm-7", "arm"),
    ("armv6", "armv6l", "armel", "arm-6", "arm"),
    ("386", "i386", "i686", "x86", "i586", "32bit"),
    ("riscv64",),
    ("ppc64le", "ppc64el", "powerpc64le"),
    ("s390x",),
    ("loong64", "loongarch64"),
    ("mips64le", "mips64el"),
)
_SYSTEMS = ("linux", "Linux", "linux-gnu", "unknown-linux-gnu", "unknown-linux-musl")
_SIGNATURES = (".asc", ".sig", ".minisig", ".pem", ".json", ".txt")
_NAMED = 4  # files of a release that does not have the one that is asked for
_SUMS = (".sha256", ".sha512", ".sha256sum", ".sha512sum", ".md5")


@dataclass(frozen=True, slots=True)
class Match:
    """The files to install, one per template, in their order. `words`: the spellings of `arch` and `os` that fitted.

    `problem` is not empty if there is no match: a clause that says why.
    """

    assets: tuple[Asset, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def match(source: Source, release: Release, arch: str = THIS_ARCHITECTURE) -> Match:
    """What of `release` is to be installed on a machine of the architecture `arch`, in `uname`'s or Debian's words."""
    if not source.asset:
        return _by_default(source, release)
    offered = {asset.name: asset for asset in release.assets}
    assets: list[Asset] = []
    words: dict[str, str] = {}
    for template in source.asset:
        for name, spelled in names(template, version=release.version, tag=release.tag, arch=arch):
            if name in offered and "/" not in name:
                assets.append(offered[name])
                words = words or dict(spelled)
                break
        else:
            first = next(names(template, version=release.version, tag=release.tag, arch=arch))[0]
            by_kind = sorted(offered, key=lambda name: (name.endswith((*_SIGNATURES, *_SUMS, "SUMS")), name))
            has = f"; it has {', '.join(by_kind[:_NAMED])}" if offered else ""
            return Match(problem=f"its asset {first} is not there (yet){has}")
    return Match(tuple(assets), words)


def names(template: str, *, version: str, tag: str, arch: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every name that `template` may stand for, the most usual spelling first, each with its words."""
    used = words_in(template)
    for arch_name, os_name in product(
        architecture_names(arch) if "arch" in used else architecture_names(arch)[:1],
        _SYSTEMS if "os" in used else _SYSTEMS[:1],
    ):
        words = {"arch": arch_name, "os": os_name}
        yield expand_name(template, {"version": version, "tag": tag, **words}), words


def architecture_names(arch: str) -> tuple[str, ...]:
    """The spellings of an architecture, Debian's and Go's first; an unknown one as it is."""
    for spellings in _ARCHITECTURES:
        if arch in spellings:
            return spellings
    return (arch,)


def _by_default(source: Source, release: Release) -> Match:
    if source.type == "pypi":
        return _distribution(release)
    files = [asset for asset in release.assets if not _is_beside(asset.name)]
    if len(files) == 1:
        return Match((files[0],))
    if not files:
        return Match(problem="it has no file to install (yet)")
    shown = ", ".join(sorted(asset.name for asset in files)[:5])
    return Match(problem=f"it has several files ({shown}); name the one to install in source.asset")


def _distribution(release: Release) -> Match:
    """A wheel for every machine, else the source distribution; other wheels are for those who name them."""
    wheel = next((asset for asset in release.assets if _is_universal_wheel(asset.name)), None)
    chosen = wheel or next((asset for asset in release.assets if asset.name.endswith((".tar.gz", ".zip"))), None)
    if chosen is not None:
        return Match((chosen,))
    if release.assets:
        return Match(problem="it has only wheels for certain machines; name the one to install in source.asset")
    return Match(problem="it has no file to install (yet)")


def _is_universal_wheel(name: str) -> bool:
    parts = name.removesuffix(".whl").split("-")
    return name.endswith("-none-any.whl") and len(parts) >= 5 and "py3" in parts[-3].split(".")


def _is_beside(name: str) -> bool:
    return name.lower().endswith(_SIGNATURES + _SUMS) or "sums" in name.lower()


def patterns(template: str) -> Iterator[re.Pattern[str]]:
    """A template of a file name as patterns, one for each spelling of this host's architecture and system."""
    for spelled, _ in names(template, version="{version}", tag="{tag}", arch=THIS_ARCHITECTURE):
        pieces = []
        seen: set[str] = set()
        for piece in re.split(r"(\{version\}|\{tag\})", spelled):
            word = piece[1:-1]
            if piece not in ("{version}", "{tag}"):
                pieces.append(re.escape(piece))
            elif word in seen:
                pieces.append(f"(?P={word})")
            else:
                pieces.append(f"(?P<{word}>[0-9A-Za-z][0-9A-Za-z.+_~!-]{{0,127}})")
                seen.add(word)
        yield re.compile("".join(pieces))


def captured(pattern: re.Pattern[str], name: str, scheme: str) -> tuple[str, str] | None:
    """Version and tag in a file's name, if it fits and what it holds is a version in this scheme."""
    match = pattern.fullmatch(name)
    if match is None:
        return None
    found = match.groupdict()
    tag = found.get("tag") or found.get("version") or ""
    version = version_of_tag(scheme, found.get("version") or tag)
    return (version, tag) if is_version(version) and parse(scheme, version) is not None else None
