"""Digests: what the sums file lists for the artifact, and what the artifact's bytes give."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from slotd.core import sums
from slotd.verify import Material

_PIECE = 1024**2


class Digest:
    """sha256 and sha512, which differ in their name only."""

    algorithm = ""

    def examine(self, material: Material) -> dict[str, Any]:
        claims: dict[str, Any] = {}
        if material.sums is not None:
            listed = sums.expected(material.sums_text, material.asset, self.algorithm)
            claims["sums"] = {self.algorithm: listed} if listed else {}
        if self.algorithm in material.want:
            claims["digests"] = {self.algorithm: self._measure(material)}
        return claims

    def _measure(self, material: Material) -> str:
        digest = hashlib.new(self.algorithm)
        offset = 0
        # pread: the offset of the descriptor is shared with the daemon
        while piece := os.pread(material.artifact, _PIECE, offset):
            digest.update(piece)
            offset += len(piece)
            material.told(offset)
        return digest.hexdigest()


class Sha256(Digest):
    algorithm = "sha256"


class Sha512(Digest):
    algorithm = "sha512"
