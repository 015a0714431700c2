"""`make demo`: the story of slotd, told by a real application on a booted system. Non-zero if a step went wrong."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests import keys  # noqa: E402
from tests.demo import badwheel  # noqa: E402
from tests.system.container import Container  # noqa: E402
from tests.system.image import slotd_image  # noqa: E402

URL = "http://127.0.0.1:5232"
OLD, NEW, BAD = "3.8.0", "3.9.0", "3.9.1"
EVENTS = 12

MIRROR = """\
# From now on from a server of our own, which signs what it offers.
[source]
type = "http"
url = "{url}/index.json"
asset = "radicale-{{version}}-py3-none-any.whl"
versions = ">=3.8,<4"

[verify]
require = ["sha256", "openpgp"]
checksums = "SHA256SUMS"
signature = "{{asset}}.asc"
keys = ["mirror.gpg"]
"""


class Wrong(Exception):
    """A step of the story was not as it should be."""


def say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}── {text}{plain}", flush=True)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Wrong(what)
    print(f"   ✓ {what}", flush=True)


class Story:
    """One telling."""

    def __init__(self, machine: Container, directory: Path) -> None:
        self.machine = machine
        self.directory = directory

    def shell(self, line: str, *, status: int | None = 0) -> str:
        """Run a line in the machine as an administrator would, and show it."""
        print(f"\n# {line}", flush=True)
        done = self.machine.run(line, check=False, timeout_s=600)
        sys.stdout.write(done.stdout + done.stderr)
        sys.stdout.flush()
        if status is not None and done.returncode != status:
            raise Wrong(f"`{line}` ended with status {done.returncode}, not {status}")
        return done.stdout

    # ── the calendar, over its own HTTP interface ────────────────────────────────────────────────────────────────

    def http(self, method: str, path: str, body: str = "") -> tuple[int, str]:
        request = urllib.request.Request(URL + path, data=body.encode() or None, method=method)
        request.add_header("Content-Type", "text/calendar")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def fill(self) -> None:
        self.http("MKCOL", "/alice/")
        require(self.http("MKCALENDAR", "/alice/work/")[0] == 201, "alice has a calendar")
        for number in range(EVENTS):
            status, _ = self.http("PUT", f"/alice/work/{number}.ics", EVENT.format(number=number))
            if status != 201:
                raise Wrong(f"an event could not be stored: {status}")

    def events(self) -> str:
        """The digest over all events, in order; what a person would lose."""
        texts = [self.http("GET", f"/alice/work/{number}.ics")[1] for number in range(EVENTS)]
        present = sum(1 for text in texts if "BEGIN:VEVENT" in text)
        print(f"   {present} of {EVENTS} events are in the calendar", flush=True)
        return hashlib.sha256("".join(texts).encode()).hexdigest()

    # ── the mirror, which signs ──────────────────────────────────────────────────────────────────────────────────

    def offer_bad_release(self, wheel: bytes) -> str:
        releases = self.directory / "mirror"
        releases.mkdir()
        key = keys.openpgp_key(self.directory / "gnupg", "Mirror <mirror@example.org>")
        name = f"radicale-{BAD}-py3-none-any.whl"
        bad = badwheel.make(wheel, BAD)
        (releases / name).write_bytes(bad)
        (releases / f"{name}.asc").write_bytes(key.sign(bad))
        (releases / "SHA256SUMS").write_text(f"{hashlib.sha256(bad).hexdigest()}  {name}\n")
        assets = {file: file for file in (name, f"{name}.asc", "SHA256SUMS")}
        (releases / "index.json").write_text(json.dumps({"releases": [{"version": BAD, "assets": assets}]}))
        handler = functools.partial(_Quiet, directory=str(releases))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.machine.write_file("/etc/slotd/keys.d/mirror.gpg", key.public())
        keys.stop_agents([key.home])
        return f"http://127.0.0.1:{server.server_address[1]}"

    # ── the story ────────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self) -> None:
        machine = self.machine
        say("A Debian machine with systemd and slotd; an administrator describes an application")
        self.shell("systemctl --version | head -1; slotctl --version; systemctl is-enabled slotd-check.timer")
        machine.run("useradd --system --home-dir /var/lib/radicale radicale")
        examples = REPOSITORY / "docs" / "examples"
        definition = (examples / "radicale.toml").read_text().replace('trial = "10min"', 'trial = "3s"')
        machine.write_file("/etc/systemd/system/radicale.service", (examples / "radicale.service").read_bytes())
        machine.write_file("/etc/slotd/apps.d/radicale.toml", definition)
        machine.run("install -d -o radicale -g radicale /var/lib/radicale /var/lib/radicale/collections")
        machine.run("systemctl daemon-reload")
        self.shell("slotctl verify radicale && slotctl enable radicale")
        self.shell("slotctl reload")

        say(f"Radicale {OLD} is installed from PyPI: downloaded, verified, prepared in slot a, started, watched")
        self.shell(f"slotctl update radicale --version {OLD}")
        require(self.version() == OLD, f"Radicale {OLD} runs")
        self.fill()
        before = self.events()

        say("A newer release is on PyPI")
        self.shell("slotctl check radicale")
        self.shell("slotctl list")
        self.shell(f"slotctl update radicale --version {NEW}")
        require(self.version() == NEW, f"Radicale {NEW} runs")
        require(self.events() == before, "every event is still there")
        self.shell("slotctl status radicale")

        say("Then a release that deletes every second event and crashes - correctly signed, so only its trial can tell")
        digest = machine.run("ls -t /var/cache/slotd/radicale | head -1").stdout.strip()
        read = machine.argv(["cat", f"/var/cache/slotd/radicale/{digest}"])
        wheel = subprocess.run(read, stdout=subprocess.PIPE, check=True).stdout
        url = self.offer_bad_release(wheel)
        tables = [part for part in definition.split("\n\n") if not part.startswith(("[source]", "[verify]"))]
        machine.write_file("/etc/slotd/apps.d/radicale.toml", "\n\n".join([*tables, MIRROR.format(url=url)]))
        self.shell("slotctl verify radicale; slotctl reload")
        self.shell("slotctl check radicale; slotctl list")
        self.shell("slotctl update radicale", status=4)
        require(self.version() == NEW, f"Radicale {NEW} runs again")
        require(self.events() == before, "every event is there: the data came back with the code")

        say("What an administrator sees afterwards")
        self.shell("slotctl status radicale")
        self.shell("slotctl history radicale")
        self.shell("slotctl backups radicale")
        self.shell("busctl tree org.slotd1 --no-pager")
        self.shell("journalctl --unit radicale --identifier slotd --no-pager --output cat")
        self.shell("slotctl update radicale", status=3)
        require(True, "and the version that failed is not tried again by itself")

    def version(self) -> str:
        line = "/var/lib/slotd/apps/radicale/current/venv/bin/python -m radicale --version"
        return self.machine.run(shlex.split(line)).stdout.strip()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


EVENT = """\
BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example//demo//EN
BEGIN:VEVENT
UID:event-{number}
DTSTAMP:20260101T000000Z
DTSTART:20260101T{number:02d}0000Z
SUMMARY:Meeting {number}
END:VEVENT
END:VCALENDAR
"""


def main() -> int:
    began = time.monotonic()
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    with tempfile.TemporaryDirectory(prefix="slotd-demo-") as directory:
        with Container(slotd_image(package), hostname="demo") as machine:
            try:
                Story(machine, Path(directory)).tell()
            except Exception as error:  # whatever went wrong, the journal tells more
                sys.stdout.write(machine.run("journalctl --identifier slotd --no-pager | tail -40", check=False).stdout)
                print(f"\n✗ {error}", flush=True)
                return 1
    print(f"\n✓ the demo ended as it should, after {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
