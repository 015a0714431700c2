#!/usr/bin/python3
"""slotd's TUF client behind the small command line that the TUF project's conformance suite speaks to (CLIENT-CLI.md).

What the daemon does at a check is done here in one process: metadata are collected, judged anew over what is kept, and
what was accepted is kept; then a file is fetched, and measured. The suite looks at `root.json`, `timestamp.json` and
so on in the metadata directory, so what is kept is laid out there once more under those names.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from slotd.core import tufwalk
from slotd.core.plain import to_plain
from slotd.core.schema import Limits, Source
from slotd.errors import SlotdError, SourceFailed, VerificationFailed
from slotd.host import tuflib
from slotd.recipes import tuf as recipe
from slotd.sources import tuf as source_side
from slotd.sources.work import fetch
from slotd.verify import tuf as verify_side

_LIMITS = Limits(index_s=60.0)


class Client:
    def __init__(self, folder: Path) -> None:
        self.folder, self.kept, self.pinned = folder, folder / "kept", folder / "pinned"

    def init(self, root: Path) -> None:
        shutil.copyfile(root, self.pinned)
        self.show()

    def refresh(self, url: str) -> None:
        """One check. What was accepted stays, whatever came after it."""
        source = to_plain(Source(type="tuf", url=url))
        known = self._known()
        collected = source_side.collect({"source": source, "limits": to_plain(_LIMITS), **known}, [], _silent)
        verdict = verify_side.judge({"source": source, **known, "offered": collected["offered"]}, [], _silent)
        offered = tuflib.decoded(collected["offered"])
        recipe.keep(self.kept, {name: offered[name] for name in verdict["accepted"]})
        self.show()
        recipe.raise_problem(collected["problem"])
        recipe.raise_problem(verdict["problem"])

    def download(self, url: str, names: list[str], target_url: str, folder: Path) -> None:
        self.refresh(url)
        targets = {target.path: target for target in self._targets()}
        for name in names:
            if name not in targets:
                raise SourceFailed(f"cannot download {name}: the repository names no such file")
            place = folder / quote(name, safe="")
            if not self._is(place, targets[name]):
                self._fetch(targets[name], target_url, place)

    def show(self) -> None:
        """What is trusted now, under the names that the suite looks for."""
        kept = recipe.kept(self.kept)
        roots = {int(name.partition(".")[2]): data for name, data in kept.items() if name.startswith("root.")}
        shown = {"root": roots[max(roots)] if roots else self.pinned.read_bytes()}
        shown |= {unquote(name.removeprefix("role.")): data for name, data in kept.items() if name[:5] != "root."}
        for name, data in shown.items():
            (self.folder / f"{quote(name, safe='')}.json").write_bytes(data)

    def _known(self) -> dict[str, Any]:
        pinned = tuflib.encoded({"pinned": self.pinned.read_bytes()})
        return {**pinned, "kept": tuflib.encoded(recipe.kept(self.kept)), "now": time.time()}

    def _targets(self) -> list[tufwalk.Target]:
        """From what is kept alone, as the verify worker looks a file up."""
        found, kept = tufwalk.Found(), recipe.kept(self.kept)
        walk = tufwalk.walk(tuflib.library(), self.pinned.read_bytes(), kept, time.time(), found)
        tufwalk.follow(walk, lambda wanted: None if wanted.name.startswith("root.") else kept.get(wanted.name))
        return found.targets

    @staticmethod
    def _is(place: Path, target: tufwalk.Target) -> bool:
        if not place.is_file() or place.stat().st_size != target.size:
            return False
        algorithm, _, digest = target.digest.partition(":")
        return hashlib.new(algorithm, place.read_bytes()).hexdigest() == digest

    def _fetch(self, target: tufwalk.Target, target_url: str, place: Path) -> None:
        beside = self.folder / "part"
        url = f"{target_url}/{target.url.removeprefix('targets/')}"
        request = {"url": url, "expected_size": target.size, "expected_digest": target.digest, "kind": "http"}
        request |= {"limits": to_plain(_LIMITS), "limit_bytes": max(target.size, 1)}
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fetch(request, [descriptor], _silent)
        finally:
            os.close(descriptor)
        if not self._is(beside, target):
            raise VerificationFailed(f"cannot use {target.path}: it is not the file that the repository names")
        beside.rename(place)


def _silent(_: Any) -> None:
    """Nobody follows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("command", choices=("init", "refresh", "download"))
    parser.add_argument("root", type=Path, nargs="?")
    given = parser.parse_args()
    client, url = Client(given.metadata_dir), given.metadata_url.rstrip("/")
    if url and urlsplit(url).path.endswith("/metadata"):  # a definition's `url` is that of the repository
        url = url.removesuffix("/metadata")
    try:
        if given.command == "init":
            client.init(given.root)
        elif given.command == "refresh":
            client.refresh(url)
        else:
            client.download(url, given.target_name, given.target_base_url.rstrip("/"), given.target_dir)
    except SlotdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
