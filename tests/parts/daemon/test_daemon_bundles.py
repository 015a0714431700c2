"""Offline bundles with the real daemon: made by slotctl, carried over, imported by descriptor, installed without a source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.keys import MinisignKey, minisign_key
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer


@pytest.fixture(scope="module")
def carrier(world: World) -> MinisignKey:
    """Who makes bundles: known to the host as that, and no publisher."""
    key = minisign_key(world.root / "carrier")
    for path in (key.home, *key.home.iterdir()):
        path.chmod(0o755)
    world.write(world.config / "keys.d" / "carrier.pub", key.public)
    return key


@pytest.fixture(scope="module")
def installed(notes: Notes, carrier: MinisignKey) -> Notes:
    notes.define(more="\n[verify_]\n".replace("\n[verify_]\n", ""))
    text = notes.definition.read_text().replace("[data]", 'bundles = ["carrier.pub"]\n\n[data]', 1)
    notes.world.write(notes.definition, text)
    notes.publish("1.0")
    notes.world.start()
    notes.world.slotctl("update", "notes")
    return notes


def bundle_of(notes: Notes, carrier: MinisignKey, *apps: str) -> Path:
    target = notes.world.root / "carried" / f"{len(list(notes.world.root.glob('carried/*')))}.bundle"
    notes.world.make(target.parent)
    notes.world.slotctl("bundle", "create", str(target), *apps, "--key", str(carrier.home / "minisign.key"))
    return target


def test_a_release_goes_from_its_publisher_into_a_bundle_and_from_there_onto_the_host(
    installed: Notes, carrier: MinisignKey
) -> None:
    world = installed.world
    installed.publish("2.0")
    bundle = bundle_of(installed, carrier, "notes=2.0")
    print(world.slotctl("bundle", "inspect", str(bundle)))
    installed.server.stop() if hasattr(installed.server, "stop") else None
    print(world.slotctl("import", str(bundle)))
    print(world.slotctl("history", "notes"))
    print(world.slotctl("status", "notes"))
    print(world.slotctl("update", "notes"))
    assert installed.version == "2.0"
    assert 0
