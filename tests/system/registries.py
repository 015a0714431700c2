"""A machine whose applications come from the package registries that this host is set to, and the story it tells.

What pip downloads is kept in `build/registry`, so that the next run only looks whether there is something newer.
"""

from __future__ import annotations

import configparser
import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.system.container import Container, free_port
from tests.system.image import REPOSITORY, Image, base_image, image_with

EXAMPLES = REPOSITORY / "docs" / "examples"
KEPT = REPOSITORY / "build" / "registry"
WHEELS = "/srv/wheels"
INSTALL_S = 1800.0  # a hundred and more packages, on a slow machine beside others


def machine_image() -> Image:
    """A Debian with Node.js and npm, and without slotd: that is quickly installed, and changes often."""
    return image_with(base_image(), ["nodejs", "npm"])


def npm_registry() -> str:
    """The registry that this host's npm is set to; empty where there is none, which means npm's own."""
    try:
        done = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, check=True, cwd="/")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def prepare_machine(machine: Container, deb: Path) -> None:
    """slotd from its package, npm as on this host, and the wheels of earlier runs where pip looks for them."""
    machine.copy_in(deb, "/root/slotd.deb")
    machine.run("apt-get install --yes --no-install-recommends /root/slotd.deb", timeout_s=300)
    registry = npm_registry()
    if registry:
        machine.write_file("/etc/npmrc", f"registry={registry}\n")
    machine.run(["mkdir", "-p", WHEELS])
    if (KEPT / "wheels").is_dir():
        machine.copy_in(KEPT / "wheels", WHEELS)
    pip = configparser.RawConfigParser()
    pip.read_string(machine.run("cat /etc/pip.conf 2>/dev/null || true").stdout)
    if not pip.has_section("global"):
        pip.add_section("global")
    pip.set("global", "find-links", f"{WHEELS}\n{pip.get('global', 'find-links', fallback='')}".strip())
    text = io.StringIO()
    pip.write(text)
    machine.write_file("/etc/pip.conf", text.getvalue().replace("\n\t", "\n    "))


def download_wheels(machine: Container, *requirements: str) -> None:
    """What pip needs for these, into the machine, and from there to `build/registry` for the next run."""
    stamp = KEPT / "requirements.txt"
    wanted = "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    machine.run("python3 -m venv /srv/pip")
    for each in requirements:
        words = ["/srv/pip/bin/pip", "download", "--quiet", "--no-input", "--dest", WHEELS, *each.split()]
        machine.run(words, timeout_s=INSTALL_S)
    KEPT.mkdir(parents=True, exist_ok=True)
    pack = machine.argv(["tar", "-c", "-C", "/srv", "wheels"])
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-x", "--no-same-owner", "-C", str(KEPT)], stdin=packing.stdout, check=True)
    stamp.write_text(wanted)


class RealApp:
    """One application of `docs/examples`, defined as its page says but for the port and the length of the trial."""

    def __init__(self, machine: Container, name: str, port: int) -> None:
        self.machine, self.name = machine, name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.told: list[tuple[str, str]] = []  # (command, what it printed)
        definition = self.example(".toml", port) + '\n[policy]\ndelay = "0"\ntrial = "5s"\n'
        machine.run(["useradd", "--system", "--home-dir", f"/var/lib/{name}", name])
        machine.write_file(f"/etc/slotd/apps.d/{name}.toml", definition)
        machine.write_file(f"/etc/systemd/system/{name}.service", self.example(".service", port))
        machine.run("systemctl daemon-reload")

    def example(self, ending: str, port: int) -> str:
        return (EXAMPLES / f"{self.name}{ending}").read_text().replace(str(port), str(self.port))

    def shell(self, line: str, *, status: int = 0) -> str:
        """A line as an administrator types it; kept for the page, shown with `pytest -s`."""
        began = time.monotonic()
        done = self.machine.run(line, check=False, timeout_s=INSTALL_S)
        out = done.stdout + done.stderr
        self.told.append((line, out))
        print(f"\n# {line}\n{out}({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
        assert done.returncode == status, f"`{line}` ended with {done.returncode}, not {status}:\n{out}\n{self.why()}"
        return out

    def leave_out(self, line: str) -> None:
        """The definition without the line that starts so."""
        path = f"/etc/slotd/apps.d/{self.name}.toml"
        lines = self.machine.read_file(path).splitlines(keepends=True)
        kept = [each for each in lines if not each.strip().startswith(line)]
        assert len(kept) == len(lines) - 1, f"no line of {path} starts with {line}"
        self.machine.write_file(path, "".join(kept))
        self.machine.run("systemctl try-reload-or-restart slotd")

    def why(self) -> str:
        return self.machine.run(f"journalctl --no-pager -o cat -u {self.name} -u slotd | tail -60", check=False).stdout

    def aftermath(self) -> str:
        """What is there to be read after a night: the history, and the unit's journal as slotd tells it there."""
        self.shell(f"slotctl history {self.name}")
        self.machine.run("journalctl --sync", check=False)
        return self.shell(f"journalctl --unit {self.name} --identifier slotd --no-pager --output cat")

    def keep(self) -> None:
        """Leaves what was said in `build/registry`."""
        KEPT.mkdir(parents=True, exist_ok=True)
        text = "\n".join(f"# {line}\n{out}" for line, out in self.told)
        (KEPT / f"{self.name}.txt").write_text(text)

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, token: str = "", method: str = ""
    ) -> tuple[int, bytes]:
        """The app's own interface: status and body."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method or None)
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
