"""A database goes back after a boot: `slotd boot` brings files, the daemon loads the dump, wherever it is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.container import Container, free_port
from tests.system.crashing import wait_until_done
from tests.system.notes import Notes, Publisher
from tests.system.small_disk import SmallDisk

DATABASE = "/srv/database"
# One value, told and taken over HTTP: what any server does, without what makes it slow to install.
SERVER = f"""
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(open("{DATABASE}", "rb").read())

    def do_PUT(self):
        with open("{DATABASE}", "wb") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])))
            file.flush()
            os.fsync(file.fileno())
        self.answer(b"")

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
UNIT = """
[Service]
ExecStart=/usr/bin/python3 -I /srv/server.py {port}

[Install]
WantedBy=multi-user.target
"""
DUMP = "/var/lib/notes/data/dump"
FIRED = "/var/lib/slotd-fired"
CURL = '"curl", "--silent", "--show-error", "--fail", "--retry", "50", "--retry-connrefused"'
DATA = """
[data]
dump = [[{curl}, "--output", "{dump}", "http://127.0.0.1:{port}/"]]
restore = [[{curl}, "--upload-file", "{dump}", "http://127.0.0.1:{port}/"]]

[policy]
attempts = 1
"""
POINTS = (
    "rb-start:dumped", "rb-quarantine:recorded", "rb-quarantine:aside", "rb-restore:restored", "rb-start:brought",
    "rb-start:loaded",
)  # fmt: skip


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app, port = Notes(container, publisher), free_port()
        container.write_file(DATABASE, "empty\n")
        container.write_file("/srv/server.py", SERVER)
        container.write_file("/etc/systemd/system/database.service", UNIT.format(port=port))
        app.set_up(trial="1h", more=DATA.format(curl=CURL, dump=DUMP, port=port))
        container.run("systemctl enable --quiet --now database; systemctl enable --quiet notes; slotctl enable notes")
        app.install("1.0", trial="300ms")
        yield app


def test_a_daemon_that_is_killed_while_it_brings_a_database_back_loads_the_old_content_all_the_same(
    notes: Notes,
) -> None:
    notes.machine.run(f"echo of the old version > {DATABASE}")
    before = notes.wait_state()
    notes.publisher.publish("2.0", schema=2)
    notes.slotctl("--no-wait", "update", "notes")
    notes.machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
    notes.machine.run(f"echo of the new version > {DATABASE}")
    notes.machine.write_file(
        "/etc/systemd/system/slotd.service.d/failpoint.conf",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=50ms\n"
        f"Environment=SLOTD_FAILPOINTS={','.join(f'{point}=kill' for point in POINTS)} SLOTD_FAILPOINTS_DIR={FIRED}\n",
    )
    notes.machine.run(f"mkdir {FIRED}; sync")
    notes.machine.crash()
    notes.machine.boot()
    notes.machine.wait_for(f"test -e {FIRED}/{POINTS[-1]}", timeout_s=120)
    notes.machine.wait_for("systemctl is-active --quiet notes.service", timeout_s=60)
    wait_until_done(notes)
    assert set(notes.machine.run(f"ls {FIRED}").stdout.split()) == set(POINTS)

    assert notes.machine.read_file(DATABASE) == "of the old version\n"
    assert notes.wait_state() == before
    asides = [copy["id"] for copy in notes.json("backups", "notes") if copy["kind"] == "quarantine"]
    dumps = [
        notes.machine.run(f"cat /var/lib/slotd/quarantine/notes/{each}/data/0/dump", check=False) for each in asides
    ]
    assert "of the new version\n" in [dump.stdout for dump in dumps]
    assert not notes.json("status", "notes")["held"]


def test_a_database_that_has_grown_goes_back_on_a_disk_full_to_the_last_byte(
    notes: Notes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = notes.machine
    machine.run("rm /etc/systemd/system/slotd.service.d/failpoint.conf; systemctl daemon-reload")
    machine.run(f"head -c 2M /dev/zero | tr '\\0' o > {DATABASE}; sha256sum {DATABASE} > /srv/sum")
    with SmallDisk(machine, tmp_path_factory.mktemp("disk") / "image", mib=96) as disk:
        machine.run("systemctl stop slotd notes")
        machine.run(f"cp -a /var/lib/notes {disk.at}/ && rm -rf /var/lib/notes && ln -s {disk.at}/notes /var/lib/notes")
        machine.run("systemctl start notes slotd")
        before = notes.wait_state()
        notes.publisher.publish("3.0", schema=2)
        notes.slotctl("--no-wait", "update", "notes", "--version", "3.0")
        machine.wait_for('slotctl --json status notes | grep -q \'"state": "trial"\'', timeout_s=60)
        machine.run(f"head -c 3M /dev/zero | tr '\\0' n > {DATABASE}")
        disk.fill()
        machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0")
        wait_until_done(notes)
        assert notes.wait_state() == before
        assert not notes.json("status", "notes")["held"]
        machine.run("sha256sum --check --quiet /srv/sum")
        machine.run("systemctl stop notes slotd")
