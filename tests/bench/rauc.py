"""Debian's RAUC as an opponent: a bundle with the same archive for a slot that is a loop device."""

from __future__ import annotations

from pathlib import Path

from tests.system.container import Container


class Rauc:
    def __init__(self, machine: Container, release: Path, size_mib: int) -> None:
        self.problem = "not tried"

    def set_up(self) -> None:
        return

    def install(self, number: int) -> float:
        return 0.0

    def close(self) -> None:
        return
