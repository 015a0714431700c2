"""Offline bundles made by hand: good ones, and what no honest tool would write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.keys import MinisignKey

from slotd.core import bundle
from slotd.core.bundle import BLOCK, Bundled, Content, Manifest
from slotd.host import signing


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def release(app: str, version: str, files: Mapping[str, bytes], *, digests: Mapping[str, str] | None = None) -> Bundled:
    """A release of these files; `digests` is what its source said of them."""
    said = digests or {}
    contents = tuple(Content(name, sha256(content), said.get(name, "")) for name, content in files.items())
    return Bundled(app, version, version, 0, "", contents)


def manifest_of(releases: Sequence[Bundled], contents: Sequence[bytes]) -> bytes:
    sizes = {sha256(content): len(content) for content in contents}
    return bundle.dump(Manifest(1_700_000_000, tuple(releases), bundle.lay_out(sizes.items())))


def sign(manifest: bytes, key: MinisignKey, folder: Path) -> bytes:
    return signing.sign(manifest, str(key.home / "minisign.key"), folder, bundle.COMMENT)


def entry(name: str, content: bytes, *, head: bytes = b"") -> bytes:
    return (head or bundle.header(name, len(content))) + content + bytes(-len(content) % BLOCK)


def write(manifest: bytes, signature: bytes, contents: Sequence[bytes]) -> bytes:
    """The file, as `slotctl bundle create` writes it."""
    parts = [entry(bundle.MANIFEST, manifest), entry(bundle.SIGNATURE, signature)]
    return b"".join([*parts, *(entry(sha256(content), content) for content in contents), bundle.TAIL])


def build(releases: Sequence[Bundled], contents: Sequence[bytes], key: MinisignKey, folder: Path) -> bytes:
    """A whole bundle, signed."""
    manifest = manifest_of(releases, contents)
    return write(manifest, sign(manifest, key, folder), contents)
