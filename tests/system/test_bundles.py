"""Offline bundles on a booted machine without a network: carried in, imported, installed, with what they depend on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.keys import MinisignKey, minisign_key
from tests.system.container import Container
from tests.system.notes import Notes, Publisher
from tests.system.small_disk import SmallDisk

STICK = "/srv/stick"
# systemd lays it over every worker, whatever slotd asks for.
OFFLINE = "/etc/systemd/system/slotd-worker-.service.d/offline.conf"

WHEELED = """\
[service]
units = ["wheeled.service"]
user = "notes"

[source]
type = "directory"
path = "/srv/releases"
asset = "wheeled-{version}-py3-none-any.whl"

[verify]
require = ["sha256"]
checksums = "SHA256SUMS"
bundles = ["carrier.pub"]

[slots]
unpack = "none"
network = true
prepare = [
    ["python3", "-m", "venv", "{slot}/venv"],
    ["{slot}/venv/bin/pip", "install", "--constraint", "/etc/slotd/wheeled.txt", "{artifact}"],
]

[policy]
delay = "0"
trial = "1s"
"""
UNIT = """\
[Service]
User=notes
ExecStart=/var/lib/slotd/apps/wheeled/current/venv/bin/python -c "import wheeled, needed, time; time.sleep(1e6)"
"""


@pytest.fixture(scope="module")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> MinisignKey:
    return minisign_key(tmp_path_factory.mktemp("keys") / "carrier")


@pytest.fixture(scope="module")
def notes(container: Container, carrier: MinisignKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """1.0 is installed; 2.0 and the wheels lie in bundles; then the network is gone."""
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="1s", more='[verify]\nbundles = ["carrier.pub"]\n')
        container.write_file("/etc/slotd/keys.d/carrier.pub", carrier.public)
        container.run(f"mkdir -p {STICK}")
        container.write_file("/root/carrier.key", (carrier.home / "minisign.key").read_bytes(), mode=0o600)
        app.run("systemctl reload slotd")
        app.install("1.0")
        publisher.publish("2.0")
        create(app, "notes.bundle", "notes=2.0")
        define_wheeled(app)
        create(app, "wheeled.bundle", "wheeled")
        container.run("rm -r /srv/releases /srv/wheels /etc/pip.conf; mkdir /srv/releases")
        container.write_file(OFFLINE, "[Service]\nPrivateNetwork=yes\n")
        container.run("systemctl daemon-reload")
        yield app


def create(app: Notes, name: str, *apps: str) -> None:
    app.slotctl("bundle", "create", f"{STICK}/{name}", *apps, "--key", "/root/carrier.key")


def wheel(name: str, requires: str = "", version: str = "1.0") -> bytes:
    out = io.BytesIO()
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


def define_wheeled(app: Notes) -> None:
    machine, file = app.machine, "wheeled-1.0-py3-none-any.whl"
    machine.write_file(f"/srv/releases/1.0/{file}", wheel("wheeled", "needed"))
    machine.run("cd /srv/releases/1.0 && sha256sum *.whl > SHA256SUMS")
    for version in ("1.0", "2.0"):  # the newer one does not do, says the administrator
        machine.write_file(f"/srv/wheels/needed-{version}-py3-none-any.whl", wheel("needed", version=version))
    machine.write_file("/etc/slotd/wheeled.txt", "needed<2\n")
    machine.write_file("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /srv/wheels\n")
    machine.write_file("/etc/systemd/system/wheeled.service", UNIT)
    machine.write_file("/etc/slotd/apps.d/wheeled.toml", WHEELED)
    machine.run("systemctl daemon-reload; systemctl reload slotd")


@pytest.mark.attack
def test_who_may_not_import_does_not(notes: Notes) -> None:
    notes.machine.run("useradd --create-home mallory")
    denied = notes.machine.run(["slotctl", "import", f"{STICK}/notes.bundle"], user="mallory", check=False)
    assert denied.returncode == 5
    assert "org.slotd1.import" in denied.stdout + denied.stderr
    assert notes.json("status", "notes")["available"] in ("", "1.0")


@pytest.mark.attack
def test_a_cache_without_room_refuses_the_bundle_and_takes_it_once_there_is_some(notes: Notes, tmp_path: Path) -> None:
    notes.run("systemctl stop slotd")
    with SmallDisk(notes.machine, tmp_path / "disk", mib=64, at="/var/cache/slotd") as disk:
        for left in (0, 20):
            disk.fill(leave_mib=left)
            said = notes.slotctl("import", f"{STICK}/notes.bundle", status=1)
            assert "no room" in said or "No space" in said
            assert notes.run("find /var/cache/slotd -path '*import*' -type f").stdout == ""
            disk.empty()
        assert "slotctl update notes" in notes.slotctl("import", f"{STICK}/notes.bundle")
        notes.run("systemctl stop slotd")


def test_a_release_is_imported_and_installed_without_a_network(notes: Notes) -> None:
    assert "could not be asked" in notes.slotctl("check", "notes", status=1) + notes.slotctl("history", "notes")
    before = notes.wait_state()
    notes.slotctl("import", f"{STICK}/notes.bundle")
    assert notes.wait_state() == before
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert (after["version"], after["digest"]) == ("2.0", before["digest"])


def test_the_journal_keeps_whose_bundle_it_was_and_who_imported_it(notes: Notes, carrier: MinisignKey) -> None:
    entry = notes.machine.journal_entries("SLOTD_APP=notes", f"SLOTD_SIGNER=minisign:{carrier.key_id}")[-1]
    digest = notes.run(f"sha256sum {STICK}/notes.bundle").stdout.split()[0]
    assert entry["SLOTD_BUNDLE"] == f"sha256:{digest}"
    assert (entry["SLOTD_USER"], entry["SLOTD_UID"], entry["SLOTD_VERSION"]) == ("root", "0", "2.0")
    assert digest in notes.slotctl("history", "notes")


def test_what_a_release_depends_on_comes_along(notes: Notes) -> None:
    notes.slotctl("import", f"{STICK}/wheeled.bundle")
    notes.slotctl("update", "wheeled")
    assert notes.json("status", "wheeled")["version"] == "1.0"
    assert notes.machine.show("wheeled.service", "ActiveState") == {"ActiveState": "active"}
    assert not notes.machine.exists("/var/lib/slotd/apps/wheeled/.wheels")
