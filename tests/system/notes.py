"""The notes app on a booted machine: its user, unit and definition, and a publisher who signs releases of it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests import keys
from tests.system.container import Container, free_port

APP = Path(__file__).parents[1] / "apps" / "notes.py"

UNIT = """\
[Unit]
Description=Notes

[Service]
Type=notify
User=notes
Environment=NOTES_PORT={port}
ExecStart=/usr/bin/python3 -I /var/lib/slotd/apps/notes/current/notes.py
Restart=on-failure
RestartSec=200ms
WatchdogSec=2s
TimeoutStopSec=5s

[Install]
WantedBy=multi-user.target
"""

DEFINITION = """\
description = "Notes, for the tests"

[service]
units = ["notes.service"]
user = "notes"
start_timeout = "6s"

[source]
type = "http"
url = "{url}/index.json"
asset = "notes-{{version}}.tar.gz"

[verify]
require = ["sha256", "openpgp"]
checksums = "SHA256SUMS-{{version}}"
signature = "{{asset}}.asc"
keys = ["publisher.gpg"]

[data]
paths = ["/var/lib/notes/data"]
sqlite = ["notes.db"]

[policy]
mode = "{mode}"
delay = "0"
trial = "{trial}"

[[health]]
type = "http"
url = "http://127.0.0.1:{port}/health"
json = {{ version = "{{version}}" }}
interval = "200ms"
timeout = "1s"
grace = "3s"
failures = 2
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


class Publisher:
    """Signs releases and serves them on loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "releases"
        self.directory.mkdir(parents=True)
        self.key = keys.openpgp_key(directory / "gnupg")
        self._releases: list[dict[str, Any]] = []
        handler = functools.partial(_Quiet, directory=str(self.directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._write_index()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        keys.stop_agents([self.key.home])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish(
        self, version: str, behaviour: str = "well", *, schema: int = 1, forged: bool = False, files_of: str = ""
    ) -> bytes:
        """Put a release out; `forged` swaps its bytes after signing. Gives the artifact.

        `files_of` is the version whose files it holds, where that is another: a release in which nothing differs.
        """
        files = {
            "notes.py": APP.read_bytes(),
            "VERSION": (files_of or version).encode(),
            "SCHEMA": str(schema).encode(),
            "behaviour": behaviour.encode(),
        }
        artifact = _tar(f"notes-{version}", files)
        name = f"notes-{version}.tar.gz"
        signature = self.key.sign(artifact)
        if forged:
            artifact = _tar(f"notes-{version}", files | {"notes.py": b"raise SystemExit('forged')\n"})
        sums = f"{hashlib.sha256(artifact).hexdigest()}  {name}\n"
        names = {name: artifact, f"{name}.asc": signature, f"SHA256SUMS-{version}": sums.encode()}
        for file, content in names.items():
            (self.directory / file).write_bytes(content)
        self._releases = [r for r in self._releases if r["version"] != version]
        self._releases.append({"version": version, "assets": {file: file for file in names}})
        self._write_index()
        return artifact

    def withdraw(self, version: str) -> None:
        self._releases = [r for r in self._releases if r["version"] != version]
        self._write_index()

    def withdraw_all(self) -> None:
        self._releases = []
        self._write_index()

    def _write_index(self) -> None:
        (self.directory / "index.json").write_text(json.dumps({"releases": self._releases}))


def _tar(top: str, files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Notes:
    """The app on one machine."""

    program = ("slotctl",)
    config = "/etc/slotd"
    reload = "systemctl reload slotd"

    def __init__(self, machine: Container, publisher: Publisher, *, port: int = 0) -> None:
        self.machine = machine
        self.publisher = publisher
        self.port = port or free_port()  # the machine shares the network with this one, and with its sisters

    def set_up(self, *, mode: str = "approve", trial: str = "2s", more: str = "", settings: str = "") -> None:
        """User, unit, key, definition. `more` is a drop-in of the definition."""
        self.machine.run("id notes >/dev/null 2>&1 || useradd --system --home-dir /var/lib/notes --create-home notes")
        self.machine.write_file("/etc/systemd/system/notes.service", UNIT.format(port=self.port))
        self.machine.run("systemctl daemon-reload")
        self.machine.write_file("/etc/slotd/keys.d/publisher.gpg", self.publisher.key.public())
        text = DEFINITION.format(url=self.publisher.url, port=self.port, mode=mode, trial=trial)
        self.machine.write_file("/etc/slotd/apps.d/notes.toml", text)
        if more:
            self.machine.write_file("/etc/slotd/apps.d/notes.toml.d/more.toml", more)
        if settings:
            self.machine.write_file("/etc/slotd/slotd.toml", settings)
        self.machine.run("systemctl reload slotd 2>/dev/null || systemctl restart slotd")

    def slotctl(self, *args: str, status: int | None = 0, timeout_s: float = 120.0) -> str:
        """Run slotctl; `status` None takes any exit status. Gives its output."""
        done = self.run([*self.program, *args], check=False, timeout_s=timeout_s)
        text = done.stdout + done.stderr
        assert status is None or done.returncode == status, f"slotctl {' '.join(args)} gave {done.returncode}:\n{text}"
        return text

    def json(self, *args: str) -> Any:
        return json.loads(self.run([*self.program, "--json", *args]).stdout)

    def write_file(self, path: str, content: str | bytes) -> None:
        """A file of the app's administrator."""
        self.machine.write_file(path, content)

    def run(
        self, cmd: str | Sequence[str], *, check: bool = True, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """A command as the app's administrator."""
        return self.machine.run(cmd, check=check, timeout_s=timeout_s)

    def state(self) -> dict[str, Any]:
        """What the app itself says: version, notes, files, digest over all of its data."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
            return dict(json.load(answer))

    def wait_state(self, *, timeout_s: float = 20.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.state()
            except (OSError, urllib.error.URLError, ValueError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def write(self, text: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", data=text.encode(), method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    def set_trial(self, trial: str) -> None:
        """Watch the next versions for so long; empty: as the definition says."""
        drop_in = f"{self.config}/apps.d/notes.toml.d/trial.toml"
        if trial:
            self.write_file(drop_in, f'[policy]\ntrial = "{trial}"\n')
        else:
            self.run(f"rm -f {drop_in}")
        self.run(self.reload)

    def install(self, version: str = "1.0", *, trial: str = "") -> dict[str, Any]:
        """A first version with some notes in it; `trial` is that of this installation alone. Gives its state."""
        self.publisher.publish(version)
        self.set_trial(trial)
        self.slotctl("update", "notes")
        self.set_trial("")
        for number in range(10):
            self.write(f"note {number}")
        return self.state()
