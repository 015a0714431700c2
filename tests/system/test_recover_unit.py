"""The daemon cannot be started any more: `slotd-recover.service` alone takes the app back, and asks its probes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.crashing import arm, break_build, fired, mend_build
from tests.system.notes import Notes, Publisher

TOOL = "/var/lib/notes/data/tool"
# cap_net_bind_service=ep, as `setcap` writes it (linux/capability.h, revision 2).
CAPABILITY = "0100000200040000000000000000000000000000"
OF_IT = f"'{TOOL}', 'security.capability'"
GIVE = f"import os; open('{TOOL}', 'w').close(); os.setxattr({OF_IT}, bytes.fromhex('{CAPABILITY}'))"
SHOW = f"import os; print(os.getxattr({OF_IT}).hex())"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up()
        app.install("1.0")
        yield app


def test_with_a_broken_build_the_old_version_runs_again_and_a_file_with_capabilities_has_them(notes: Notes) -> None:
    machine = notes.machine
    machine.run(f'python3 -c "{GIVE}"')
    notes.publisher.publish("2.0")
    arm(notes, "start:begin=kill")
    machine.write_file(
        "/run/systemd/system/slotd.service.d/once.conf",
        "[Service]\nRestart=no\nExecStartPre=/usr/bin/test ! -e /run/slotd-broken\n",
    )
    machine.run("systemctl mask --runtime --quiet slotd-recover.service && systemctl daemon-reload")
    machine.run("systemctl restart slotd && touch /run/slotd-broken")
    notes.slotctl("--no-wait", "update", "notes", status=None)
    machine.wait_for("systemctl is-failed --quiet slotd.service")
    assert fired(notes, "start:begin")
    machine.run(f"rm {TOOL}")  # what the new version did: the copy is needed
    machine.run("systemctl unmask --runtime --quiet slotd-recover.service && systemctl daemon-reload")

    break_build(notes)
    machine.run("systemctl start slotd-recover.service")

    mend_build(notes)
    assert notes.wait_state()["version"] == "1.0"
    assert machine.run(f'python3 -c "{SHOW}"').stdout.strip() == CAPABILITY
    machine.run("rm /run/slotd-broken && systemctl reset-failed slotd.service && systemctl start slotd.service")
    assert notes.json("status", "notes")["state"] not in ("failed", "held"), notes.slotctl("status", "notes")
    assert "rolled-back" in notes.slotctl("history", "notes")
