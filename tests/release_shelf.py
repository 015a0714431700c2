"""The folder that the release server serves: its versions, their files, and what is said of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

META = ".release.json"


def meta(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / META).read_text()))
    except FileNotFoundError:
        return {}


@dataclass(frozen=True)
class Published:
    """One version's folder, with what it says of itself."""

    tag: str
    folder: Path
    said: Mapping[str, Any]

    @property
    def published(self) -> str:
        said = self.said.get("published")
        return str(said) if said else iso(self.folder.stat().st_mtime)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def about(self, path: Path) -> Mapping[str, Any]:
        return dict(self.said.get("assets", {}).get(path.name, {}))

    def digest(self, path: Path) -> Any:
        about = self.about(path)
        return about["digest"] if "digest" in about else f"sha256:{sha256(path)}"

    def size(self, path: Path) -> Any:
        return self.about(path).get("size", path.stat().st_size)


def versions(folder: Path) -> list[Published]:
    """The newest first."""
    if not folder.is_dir():
        return []
    found = [Published(unquote(each.name), each, meta(each)) for each in folder.iterdir() if each.is_dir()]
    return sorted(found, key=lambda each: (each.published, each.tag), reverse=True)


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
