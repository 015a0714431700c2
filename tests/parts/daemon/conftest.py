"""A user's session with the real daemon for each module, a release server that can misbehave, a publisher's keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests import keys
from tests.keys import MinisignKey, OpenPGPKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World, source_tree
from tests.release_server import ReleaseServer


@pytest.fixture(scope="session")
def tree() -> Iterator[Path]:
    with source_tree() as folder:
        yield folder


@pytest.fixture(scope="session")
def minisign(tmp_path_factory: pytest.TempPathFactory) -> MinisignKey:
    return keys.minisign_key(tmp_path_factory.mktemp("keys") / "minisign")


@pytest.fixture(scope="session")
def openpgp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPGPKey]:
    key = keys.openpgp_key(tmp_path_factory.mktemp("keys") / "gnupg")
    yield key
    keys.stop_agents([key.home])


@pytest.fixture(scope="module")
def world(tree: Path) -> Iterator[World]:
    with World(tree) as session:
        yield session


@pytest.fixture(scope="module")
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, minisign: MinisignKey) -> Notes:
    """The app, defined and not installed; the daemon is started by whoever asks for it first."""
    app = Notes(world, server, minisign)
    app.set_up()
    return app


@pytest_asyncio.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    connection = await Desk.open(world.address)
    yield connection
    await connection.close()
