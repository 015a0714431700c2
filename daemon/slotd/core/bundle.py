"""The form of an offline bundle: a plain ustar archive whose every byte follows from its signed manifest.

    manifest.json        what is inside: releases, their files, each file's size, SHA-256 and place
    manifest.json.sig    a detached signature over it, minisign's or OpenPGP's
    SHA256 …             the files, each named by its digest, in the order of the manifest
    1024 zeros

There is one way only to write it: no owner, no time, no second spelling of a number or a JSON text. A reader puts the
archive's headers together himself and compares, so nothing can hide in them, between the files, or behind the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slotd.core import release as forms
from slotd.core import trust, verifyplan
from slotd.core.evidence import Evidence
from slotd.core.foreign import Foreign, parse
from slotd.core.schema import App, Verify
from slotd.errors import Misconfigured, SourceFailed, VerificationFailed
from slotd.model import Asset, Release

FORMAT = "slotd-bundle-1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
BLOCK = 512
TAIL = bytes(2 * BLOCK)
MANIFEST_BYTES = 4 * 1024**2
MOST_FILES = 5000
MOST_RELEASES = 500
APP_CHARS = 255
NOTES_BYTES = 16 * 1024
FILE_BYTES = 8**11 - 1  # what the size of an archive's entry can say
COMMENT = "slotd bundle"  # in minisign's first line, which no signature covers: it says this alone

ARTIFACT = "release"  # a file of the release itself: what is installed, sums, signatures
DEPENDENCY = "dependency"  # what `prepare` would fetch from elsewhere

_HINT = "It is damaged, or was changed: get it again, or make it anew with `slotctl bundle create`."
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LATEST = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Part:
    """One file in the archive. `offset`: where its bytes begin, counted from the end of the signature's blocks."""

    sha256: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Content:
    """A file of a release and the part that holds it. `digest` is what the release's source said of it, or empty."""

    name: str
    sha256: str
    digest: str = ""
    kind: str = ARTIFACT


@dataclass(frozen=True, slots=True)
class Bundled:
    """One release of an app, as its source described it."""

    app: str
    version: str
    tag: str
    published: int
    notes: str
    contents: tuple[Content, ...]

    def release(self) -> Release:
        """What is installed and what proves it; each file is `bundle:SHA256`."""
        own = [each for each in self.contents if each.kind == ARTIFACT]
        assets = tuple(Asset(each.name, address(each.sha256), digest=each.digest) for each in own)
        return Release(self.version, self.tag, float(self.published), self.notes, assets=assets)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. `created` is in seconds since the epoch."""

    created: int
    releases: tuple[Bundled, ...]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes behind the signature: all parts with their headers and padding, and the end."""
        last = self.parts[-1] if self.parts else Part("", 0, 0)
        return last.offset + padded(last.size) + len(TAIL)

    def part(self, sha256: str) -> Part:
        return next(part for part in self.parts if part.sha256 == sha256)


def address(sha256: str) -> str:
    """Where a file of an imported release is, in the place of a URL."""
    return f"bundle:{sha256}"


def digest_of(url: str) -> str:
    """The digest in such an address; empty for any other."""
    kind, _, sha256 = url.partition(":")
    return sha256 if kind == "bundle" and _SHA256.fullmatch(sha256) else ""


def padded(size: int) -> int:
    """`size` up to whole blocks."""
    return size + -size % BLOCK


def lay_out(sizes: Iterable[tuple[str, int]]) -> tuple[Part, ...]:
    """The parts for (SHA-256, size) in their order."""
    parts: list[Part] = []
    at = 0
    for sha256, size in sizes:
        parts.append(Part(sha256, size, at + BLOCK))
        at += BLOCK + padded(size)
    return tuple(parts)


def header(name: str, size: int) -> bytes:
    """The one header that an entry can have: a regular file of nobody, made at no time (POSIX.1-1988 ustar)."""
    fields = [
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        b"0".ljust(101, b"\0"),
        b"ustar\00000",
        bytes(64),
        b"0000000\0" * 2,
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def size_in(block: bytes, name: str, most: int) -> int:
    """The size that the header of entry `name` gives, at most `most`. Raises `VerificationFailed` for any other."""
    digits = block[124:135]
    size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if size < 0 or block != header(name, size):
        raise refused(f"its entry {name} is not where it has to be, or not as it has to be")
    if not 0 < size <= most:
        raise refused(f"its {name} has {size} bytes, which cannot be")
    return size


def refused(why: str) -> VerificationFailed:
    """The error for a file that is no bundle, or no longer the one that was signed."""
    return VerificationFailed(f"cannot use the bundle: {why}.", hint=_HINT)


def dump(manifest: Manifest) -> bytes:
    """The manifest's one spelling."""
    plain = {
        "format": FORMAT,
        "created": manifest.created,
        "releases": [release_to_plain(each) for each in manifest.releases],
        "files": [{"sha256": part.sha256, "size": part.size, "offset": part.offset} for part in manifest.parts],
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def release_to_plain(each: Bundled) -> dict[str, Any]:
    return {
        "app": each.app,
        "version": each.version,
        "tag": each.tag,
        "published": each.published,
        "notes": each.notes,
        "files": [
            {"name": one.name, "sha256": one.sha256, "digest": one.digest, "kind": one.kind} for one in each.contents
        ],
    }


def read(data: bytes) -> Manifest:
    """The manifest in these bytes, every field checked, and that they are its one spelling.

    Raises `VerificationFailed` that names the place.
    """
    try:
        manifest = _manifest(parse(data, "its manifest"))
    except SourceFailed as error:
        raise refused(error.message.removeprefix("cannot use ")) from None
    if dump(manifest) != data:
        raise refused("its manifest is not written as a manifest is")
    return manifest


def _manifest(top: Foreign) -> Manifest:
    if isinstance(top.value, dict) and top["format"].line(64, "") != FORMAT:
        top["format"].refuse(f'it is not "{FORMAT}", the only form that is known here')
    top.only(("format", "created", "releases", "files"))
    releases = tuple(release_from_plain(item) for item in top["releases"].items(MOST_RELEASES))
    parts = tuple(_part(item) for item in top["files"].items(MOST_FILES))
    if not releases:
        top["releases"].refuse("there is none")
    if len({(each.app, each.version) for each in releases}) != len(releases):
        top["releases"].refuse("one release is there twice")
    if len({part.sha256 for part in parts}) != len(parts):
        top["files"].refuse("one file is there twice")
    if parts != lay_out((part.sha256, part.size) for part in parts):
        top["files"].refuse("they do not lie one behind the other")
    named = {one.sha256 for each in releases for one in each.contents}
    if named != {part.sha256 for part in parts}:
        top["files"].refuse("they are not the files of its releases")
    return Manifest(top["created"].integer(0, _LATEST), releases, parts)


def release_from_plain(entry: Foreign) -> Bundled:
    """The other way, every field checked. Raises `SourceFailed` that names the place."""
    entry.only(("app", "version", "tag", "published", "notes", "files"))
    app, version, tag = entry["app"].line(APP_CHARS), entry["version"].line(forms.VERSION_CHARS), entry["tag"]
    if not forms.is_file_name(app) or app.startswith("."):
        entry["app"].refuse(f"{app!r} cannot be an app's name")
    if not forms.is_version(version):
        entry["version"].refuse(f"{version!r} cannot be a version")
    if not forms.is_tag(tag.line(forms.TAG_CHARS)):
        tag.refuse(f"{tag.value!r} cannot be a tag")
    contents = tuple(_content(item) for item in entry["files"].items(forms.MOST_ASSETS))
    if len({each.name for each in contents}) != len(contents):
        entry["files"].refuse("two files have the same name")
    if not any(each.kind == ARTIFACT for each in contents):
        entry["files"].refuse("none of them is of the release")
    published = entry["published"].integer(0, _LATEST)
    return Bundled(app, version, str(tag.value), published, entry["notes"].prose(NOTES_BYTES), contents)


def _content(entry: Foreign) -> Content:
    entry.only(("name", "sha256", "digest", "kind"))
    name, digest, kind = entry["name"].line(forms.NAME_BYTES), entry["digest"].line(7 + 128), entry["kind"].line(16)
    if not forms.is_file_name(name):
        entry["name"].refuse(f"{name!r} is not a plain file name")
    if digest and not forms.is_digest(digest):
        entry["digest"].refuse("it is not a sha256 or sha512 digest")
    if kind not in (ARTIFACT, DEPENDENCY):
        entry["kind"].refuse(f"{kind!r} is no kind of file")
    return Content(name, _sha256(entry["sha256"]), digest, kind)


def _part(entry: Foreign) -> Part:
    entry.only(("sha256", "size", "offset"))
    offset = entry["offset"].integer(BLOCK, forms.MOST_BYTES)
    return Part(_sha256(entry["sha256"]), entry["size"].integer(0, FILE_BYTES), offset)


def _sha256(entry: Foreign) -> str:
    text = entry.line(64)
    if not _SHA256.fullmatch(text):
        entry.refuse("it is not a SHA-256 digest")
    return text


# -- who may sign one --------------------------------------------------------------------------------


def signature_kind(signature: bytes) -> str:
    """The verifier that it is for: minisign's begin with a comment, which must be the one that bundles have."""
    if not signature.startswith(b"untrusted comment:"):
        return "openpgp"
    if signature.split(b"\n", 1)[0] != f"untrusted comment: {COMMENT}".encode():
        raise refused(f"the first line of its signature does not say {COMMENT!r}")
    return "minisign"


def requirement(app: App, kind: str) -> Verify:
    """What is required of a bundle's signature before anything of `app` is taken from it.

    `verify.bundles` are the keys of those who may hand releases on. Without any, the publisher's own. Neither says
    anything of the release: that is proven by what its publisher signed, as if it had come over the network.
    Raises `Misconfigured` where there is no key at all.
    """
    own, handed_on = app.verify.keys, app.verify.bundles
    if not own and not handed_on:
        raise Misconfigured(
            f"cannot take {app.name} from a bundle: its definition names nobody who may sign one.",
            hint="Name the key of who makes your bundles as `bundles` under [verify].",
        )
    if handed_on:
        return Verify(require=(kind,), keys=handed_on)
    return Verify(require=(kind,), keys=own, fingerprints=app.verify.fingerprints, signers=app.verify.signers)


def question(signature: bytes, kind: str, keys: Mapping[str, bytes]) -> dict[str, Any]:
    """The verify worker's request about the manifest. `keys`: key file name -> its content."""
    wanted = verifyplan.Wanted(SIGNATURE, kind, verifyplan.ARTIFACT, Asset(SIGNATURE, ""))
    return verifyplan.request(Verify(), MANIFEST, (wanted,), {SIGNATURE: signature}, keys)


def signer(wanted: Verify, app: str, claims: Mapping[str, Any]) -> str:
    """Who signed, if that is one of those that `requirement` names. Raises `VerificationFailed`."""
    evidence = Evidence.from_claims({}, "", claims)
    try:
        trusted = trust.decide(wanted, f"the bundle with releases of {app}", evidence)
    except VerificationFailed as error:
        hint = (
            f"Who may sign bundles for {app} is named by `bundles`, or else `keys`, under [verify] of its definition."
        )
        raise VerificationFailed(error.message, hint=hint) from None
    return ", ".join(f"{each.kind}:{each.key}" for each in trusted.signers)
