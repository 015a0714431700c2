"""Two applications that people run, from the registries that they come from: AstrBot of PyPI and Verdaccio of npm.

Each is updated and keeps what it has, and each meets a release that cannot start here, of which nothing was made up:
it is gone back from, with its data. `make real` runs this, and leaves what was said in `build/registry`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.container import Container
from tests.system.registries import RealApp, download_wheels, machine_image, prepare_machine

pytestmark = [pytest.mark.registry, pytest.mark.slow]

PIN = "psutil<7.1"
PINS = "/etc/slotd/astrbot-constraints.txt"


@pytest.fixture(scope="module")
def machine(deb: Path) -> Iterator[Container]:
    with Container(machine_image(), hostname="real") as host:
        prepare_machine(host, deb)
        yield host


# ── AstrBot ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class AstrBot(RealApp):
    def __init__(self, machine: Container) -> None:
        super().__init__(machine, "astrbot", 6185)
        # Its web interface comes from where this machine may not reach: a page of our own stands for it. It listens on
        # all addresses unless told.
        for path, text in (
            ("dist/index.html", "<html>"),
            ("dist/assets/version", "v99.0.0"),
            ("cmd_config.json", json.dumps({"dashboard": {"host": "127.0.0.1"}})),
        ):
            machine.write_file(f"/var/lib/astrbot/data/{path}", text)
        machine.run("chown -R astrbot: /var/lib/astrbot")

    def token(self) -> str:
        login = {"username": "astrbot", "password": hashlib.md5(b"astrbot").hexdigest()}
        return str(self.json("/api/auth/login", login)["token"])

    def json(self, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
        status, text = self.ask(path, body, token=token)
        answer = json.loads(text)
        assert (status, answer["status"]) == (200, "ok"), text
        return answer["data"]

    def version(self) -> str:
        return str(self.json("/api/stat/version", token=self.token())["version"])

    def add_persona(self, name: str) -> None:
        said = {"persona_id": name, "system_prompt": f"You are {name}.", "begin_dialogs": [], "tools": None}
        self.json("/api/persona/create", said, self.token())

    def personas(self) -> list[tuple[str, str]]:
        found = self.json("/api/persona/list", token=self.token())
        return sorted((each["persona_id"], each["system_prompt"]) for each in found)

    def database(self) -> str:
        """Whether it is whole, and all rows of what people write."""
        file = "/var/lib/astrbot/data/data_v4.db"
        tables = ("personas", "conversations", "preferences")
        lines = ["pragma integrity_check", *(f"select * from {name} order by 1" for name in tables)]
        return self.machine.run(["sqlite3", "-readonly", file, "; ".join(lines)]).stdout


@pytest.fixture(scope="module")
def astrbot(machine: Container) -> Iterator[AstrBot]:
    """AstrBot 4.9.1, installed with the pin, with something in its database."""
    app = AstrBot(machine)
    download_wheels(machine, f"astrbot==4.9.1 {PIN}", "astrbot==4.9.2")
    machine.write_file(PINS, f"{PIN}\n")
    app.shell("slotctl verify astrbot && slotctl enable astrbot && systemctl try-reload-or-restart slotd")
    app.shell("slotctl update astrbot --version 4.9.1")
    for number in range(20):
        app.add_persona(f"person-{number}")
    yield app
    app.keep()


def test_astrbot_is_installed_and_has_data_of_its_own(astrbot: AstrBot) -> None:
    assert astrbot.version() == "4.9.1"
    assert len(astrbot.personas()) == 20
    assert astrbot.database().startswith("ok\n")


def test_astrbot_without_its_pin_crashes_at_start_and_is_taken_back_with_its_database(
    machine: Container, astrbot: AstrBot
) -> None:
    personas, database = astrbot.personas(), astrbot.database()
    machine.write_file(PINS, "# nothing is pinned\n")
    out = astrbot.shell("slotctl update astrbot --version 4.9.2", status=4)
    assert "4.9.1" in out
    assert astrbot.version() == "4.9.1"
    assert astrbot.personas() == personas
    assert astrbot.database() == database
    assert "Traceback" in machine.run("journalctl --unit astrbot --no-pager --output cat").stdout
    said = astrbot.aftermath()
    assert "4.9.2" in said
    assert "quarantine" in astrbot.shell("slotctl backups astrbot")


def test_astrbot_with_its_pin_is_updated_and_keeps_what_it_had(machine: Container, astrbot: AstrBot) -> None:
    personas = astrbot.personas()
    machine.write_file(PINS, f"{PIN}\n")
    astrbot.shell("slotctl update astrbot --version 4.9.2")  # it failed here: only who names it gets it again
    assert astrbot.version() == "4.9.2"
    assert astrbot.personas() == personas
    astrbot.add_persona("someone new")
    assert len(astrbot.personas()) == 21
    assert "4.9.2" in astrbot.aftermath()
    astrbot.shell("slotctl status astrbot")


# ── Verdaccio ────────────────────────────────────────────────────────────────────────────────────────────────────────

OLD, NEW, TOO_NEW = "6.0.5", "6.1.6", "6.10.4"  # the last one wants a newer Node.js than Debian 12 has
ASKED_FIRST = '["{slot}/node_modules/.bin/verdaccio", "--version"]'


class Verdaccio(RealApp):
    def __init__(self, machine: Container) -> None:
        super().__init__(machine, "verdaccio", 4873)
        machine.write_file("/etc/verdaccio.yaml", self.example(".yaml", 4873))

    def version(self) -> str:
        page = self.ask("/")[1].decode()
        return page.partition('"version":"')[2].partition('"')[0]

    def sign_up(self, name: str) -> str:
        status, text = self.ask(
            f"/-/user/org.couchdb.user:{name}", {"name": name, "password": "correct horse battery"}, method="PUT"
        )
        assert status == 201, text
        return str(json.loads(text)["token"])

    def publish(self, token: str, name: str, content: bytes) -> None:
        file = f"{name}-1.0.0.tgz"
        dist = {"tarball": f"{self.url}/{name}/-/{file}", "shasum": hashlib.sha1(content).hexdigest()}
        body = {
            "_id": name,
            "name": name,
            "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": {"name": name, "version": "1.0.0", "dist": dist}},
            "_attachments": {file: {"data": base64.b64encode(content).decode(), "length": len(content)}},
        }
        status, text = self.ask(f"/{name}", body, token=token, method="PUT")
        assert status == 201, text

    def tarball(self, name: str) -> bytes:
        status, content = self.ask(f"/{name}/-/{name}-1.0.0.tgz")
        assert status == 200, content
        return content

    def whoami(self, token: str) -> str:
        return str(json.loads(self.ask("/-/whoami", token=token)[1])["username"])


@pytest.fixture(scope="module")
def verdaccio(machine: Container) -> Iterator[Verdaccio]:
    app = Verdaccio(machine)
    app.shell("slotctl verify verdaccio && slotctl enable verdaccio && systemctl try-reload-or-restart slotd")
    app.shell(f"slotctl update verdaccio --version {OLD}")
    yield app
    app.keep()


def test_verdaccio_is_updated_then_taken_back_from_a_release_for_a_newer_node(
    machine: Container, verdaccio: Verdaccio
) -> None:
    assert verdaccio.version() == OLD
    token = verdaccio.sign_up("alice")
    packages = {f"thing-{number}": f"the tarball of {number}".encode() * 1000 for number in range(5)}
    for name, content in packages.items():
        verdaccio.publish(token, name, content)

    verdaccio.shell(f"slotctl update verdaccio --version {NEW}")
    assert verdaccio.version() == NEW
    assert verdaccio.whoami(token) == "alice"
    assert {name: verdaccio.tarball(name) for name in packages} == packages

    verdaccio.publish(token, "thing-new", b"since the update")
    verdaccio.leave_out("versions = ")  # the bound that keeps such a release away
    run = machine.show("verdaccio.service", "InvocationID")
    assert "upgrade your Node.js" in verdaccio.shell(f"slotctl update verdaccio --version {TOO_NEW}", status=1)
    assert (verdaccio.version(), machine.show("verdaccio.service", "InvocationID")) == (NEW, run)

    verdaccio.leave_out(ASKED_FIRST)
    verdaccio.shell(f"slotctl update verdaccio --version {TOO_NEW}", status=4)
    assert verdaccio.version() == NEW
    assert verdaccio.whoami(token) == "alice"
    assert {name: verdaccio.tarball(name) for name in packages} == packages
    assert verdaccio.tarball("thing-new") == b"since the update"
    said = verdaccio.aftermath()
    assert TOO_NEW in said
    own = verdaccio.shell("journalctl --unit verdaccio --no-pager --output cat --grep 'requires at least' | tail -1")
    assert "requires at least Node.js" in own
    verdaccio.shell("slotctl status verdaccio")
    verdaccio.shell("slotctl check verdaccio")
