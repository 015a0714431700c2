"""A user who may do nothing attacks the daemon over the bus, while it updates an app.

In every case the daemon stays the same process, the update ends well, somebody else is answered, and neither memory,
descriptors nor the journal grow with what was sent. `make bench BENCH=attacks` writes the figures down.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system import flood
from tests.system.attack import GROWTH_KIB, NOISE, attack, prepare
from tests.system.container import Container
from tests.system.hostile import HostilePublisher
from tests.system.notes import Notes

pytestmark = pytest.mark.attack


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        yield prepare(container, publisher)


@pytest.mark.parametrize("name", flood.ATTACKS)
def test_an_update_goes_on_and_others_are_answered_under(notes: Notes, name: str) -> None:
    seen = attack(notes, name)
    assert (seen.after.pid, seen.after.restarts) == (seen.before.pid, seen.before.restarts)
    assert seen.result.startswith(f"notes: updated {seen.version_before} → {seen.version} in "), seen.printed
    assert notes.state()["version"] == seen.version
    # All of somebody else's questions were answered, none was refused.
    assert seen.other["slotd"]["answers"] > 0
    assert seen.other["slotd"]["refused"] == 0
    assert seen.after.peak_kib - seen.before.rss_kib < GROWTH_KIB
    assert seen.after.descriptors <= seen.before.descriptors + 2
    assert seen.after.lines - seen.before.lines < NOISE, notes.machine.journal("slotd.service")[-3000:]
