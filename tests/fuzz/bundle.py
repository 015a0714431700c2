"""Offline bundles: the manifest by itself, and whole files whose every byte has to follow from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import bundles
from tests.fuzz import mutate
from tests.fuzz.target import Target

from slotd.core import bundle
from slotd.errors import VerificationFailed
from slotd.host import bundlefile


def one(data: bytes) -> None:
    """A JSON text is taken for a manifest, anything else for a whole bundle."""
    if data[:1] == b"{":
        manifest = bundle.read(data)
        assert bundle.dump(manifest) == data
        assert manifest.size == sum(bundle.BLOCK + bundle.padded(part.size) for part in manifest.parts) + 1024
        for each in manifest.releases:
            release = each.release()
            assert all(bundle.digest_of(asset.url) for asset in release.assets)
            assert "/" not in each.app + each.version
        _written_around(data, manifest)
        return
    with _memory(data) as descriptor:
        head, manifest = bundlefile.examine(descriptor)
    assert head.end + manifest.size == len(data)
    assert data.startswith(bundle.header(bundle.MANIFEST, len(head.manifest)) + head.manifest)


def _written_around(data: bytes, manifest: bundle.Manifest) -> None:
    """What the writer makes of a good manifest is what the reader accepts, and nothing that is longer."""
    if manifest.size > 1024**2:
        return
    parts = [bundles.entry(part.sha256, bytes(part.size)) for part in manifest.parts]
    head = bundles.entry(bundle.MANIFEST, data) + bundles.entry(bundle.SIGNATURE, b"signature")
    whole = b"".join([head, *parts, bundle.TAIL])
    with _memory(whole) as descriptor:
        assert bundlefile.examine(descriptor)[1] == manifest
    with _memory(whole + b"\0") as descriptor:
        try:
            bundlefile.examine(descriptor)
        except VerificationFailed:
            return
    raise AssertionError("a bundle with a byte behind its end was taken")


@contextmanager
def _memory(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("bundle")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def _dump(document: Any) -> bytes:
    """In the manifest's one spelling, and with its files in their places more often than not."""
    files = document.get("files") if isinstance(document, dict) else None
    if isinstance(files, list) and len(json.dumps(document)) % 4:
        at = 0
        for each in files:
            if isinstance(each, dict) and isinstance(each.get("size"), int):
                each["offset"] = at + bundle.BLOCK
                at += bundle.BLOCK + bundle.padded(each["size"])
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _seeds() -> tuple[bytes, ...]:
    contents = [b"the release\n", b"its sums\n", bytes(600)]
    named = {"app-1.0.tar.gz": contents[0], "SHA256SUMS": contents[1], "data": contents[2]}
    said = {"app-1.0.tar.gz": f"sha256:{bundles.sha256(contents[0])}"}
    releases = [bundles.release("demo", "1.0", named, digests=said), bundles.release("other", "2.0b1", named)]
    manifest = bundles.manifest_of(releases, contents)
    single = bundles.manifest_of([bundles.release("demo", "1.0", {"a": b""})], [b""])
    return (manifest, single, bundles.write(manifest, b"signature", contents), bundles.write(single, b"x", [b""]))


TARGET = Target(
    "bundle",
    one,
    (VerificationFailed,),
    seeds=_seeds(),
    modules=("slotd.core.bundle", "slotd.core.foreign", "slotd.host.bundlefile"),
    words=(
        '"format":',
        '"slotd-bundle-1"',
        '"releases":',
        '"files":',
        '"offset":',
        "ustar\\x0000",
        "0000644\\x00",
        "\\ud800",
    ),
    mutate=mutate.json_value(_dump),
)
