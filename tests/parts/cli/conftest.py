"""A private bus with slotd's objects on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.parts.cli.run import private_bus
from tests.parts.cli.service import Slotd, quick

from slotd.model import AppState, Backup


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as address:
        yield address


@pytest_asyncio.fixture
async def slotd(address: str) -> AsyncIterator[Slotd]:
    service = Slotd()
    service.script = dict.fromkeys(("check", "backup", "restore", "rollback", "update"), quick("done"))
    await service.connect(address)
    now = time.time()
    service.add(
        "notes",
        description="A notes server",
        units=("notes.service",),
        state=AppState.UPDATE_AVAILABLE,
        version="1.0",
        slot="a",
        previous_version="0.9",
        previous_slot="b",
        available="1.1",
        last_check=now - 190,
        backups=(
            saved("old", now - 90000, version="0.8"),
            saved("new", now - 300),
            saved("aside", now - 100, kind="quarantine"),
        ),
    )
    yield service
    await service.leave()


def saved(name: str, created: float, kind: str = "backup", version: str = "0.9") -> Backup:
    return Backup(name, "notes", kind, version, "update to 1.0", created, f"/b/{name}", bytes=12 * 1024**2, sealed=True)
