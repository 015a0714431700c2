"""A package in an npm registry, as plain files of the release server: its document, and a tarball for each version."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.release_server import ReleaseServer


@dataclass
class NpmPackage:
    """`url` is the registry's. The document is written anew at each change; a scoped name's cannot be a plain file."""

    server: ReleaseServer
    name: str = "note-pad"
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.server.url}/files/npm"

    def publish(
        self, version: str, content: bytes = b"", *, time: str = "2026-01-31T12:00:00.000Z", **said: Any
    ) -> None:
        """One more version, or one changed. `said`: more members of its entry; those of `dist` replace single ones."""
        content = content or f"{self.name} {version}".encode()
        name = f"{self.name.rpartition('/')[2]}-{version}.tgz"
        dist: Mapping[str, Any] = {
            "tarball": self.server.file(f"npm/{self.name}/-/{name}", content),
            "integrity": integrity(content),
            "shasum": hashlib.sha1(content).hexdigest(),
        }
        entry = {"name": self.name, "version": version, **said, "dist": {**dist, **said.get("dist", {})}}
        self.document.setdefault("name", self.name)
        self.document.setdefault("dist-tags", {"latest": version})
        self.document.setdefault("versions", {})[version] = entry
        self.document.setdefault("time", {"created": time, "modified": time})[version] = time
        self.write()

    def write(self) -> None:
        # Beside the folder with its files, of whose name a file cannot be.
        self.server.behave()
        path = f"/files/npm/{self.name}" if "/" not in self.name else f"/files/npm/{self.name.replace('/', '%2F')}"
        self.server.misbehave("body", path, body=json.dumps(self.document), type="application/json")

    def short(self) -> bytes:
        """The document as it is for installing: without dates."""
        return json.dumps({key: value for key, value in self.document.items() if key != "time"}).encode()


def integrity(content: bytes, algorithm: str = "sha512") -> str:
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"
