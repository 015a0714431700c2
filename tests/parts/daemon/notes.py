"""The notes app as a user's unit, and its publisher on the release server."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.alike import archive
from tests.keys import MinisignKey, OpenPGPKey
from tests.parts.daemon.world import PYTHON, REPOSITORY, World
from tests.release_forges import FORGES
from tests.release_server import ReleaseServer

APP = REPOSITORY / "tests" / "apps" / "notes.py"

UNIT = """[Unit]
StartLimitIntervalSec=0

[Service]
Type=notify
Environment=NOTES_PORT={port} NOTES_DATA={data}
ExecStart={python} -I -S {current}/notes.py
Restart=on-failure
RestartSec=100ms
WatchdogSec=5s
TimeoutStopSec=5s
"""
DEFINITION = """
[service]
units = ["{name}.service"]
start_timeout = "5s"

[source]
{source}
asset = "{name}-{{version}}.{ending}"

[verify]
require = ["sha256", "{signed}"]
signature = "{{asset}}.{suffix}"
keys = ["{key}"]

[data]
paths = ["{data}"]
sqlite = ["notes.db"]

[policy]
{policy}

[[health]]
type = "http"
url = "http://127.0.0.1:{port}/health"
json = {{ version = "{{version}}" }}
interval = "100ms"
timeout = "1s"
grace = "3s"
failures = 2
"""
QUICK = {"mode": "approve", "delay": "0", "trial": "200ms"}


class Notes:
    """One app of this kind: its unit, definition, releases, what it says. `source`: a forge, http or directory."""

    def __init__(
        self, world: World, server: ReleaseServer, key: MinisignKey | OpenPGPKey, *, name: str = "notes",
        source: str = "http", ending: str = "tar.gz",
    ) -> None:  # fmt: skip
        self.ending = ending
        self.world, self.server, self.key, self.name, self.source = world, server, key, name, source
        self.data = world.root / "data" / name
        self.releases = world.root / "releases" / name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    # -- on the host ------------------------------------------------------------------------------

    @property
    def definition(self) -> Path:
        return self.world.config / "apps.d" / f"{self.name}.toml"

    def set_up(self) -> None:
        """Unit, key and definition; the daemon is not told."""
        current = self.world.state / "apps" / self.name / "current"
        unit = UNIT.format(port=self.port, data=self.data, python=PYTHON, current=current)
        self.world.write(self.world.units / f"{self.name}.service", unit)
        self.world.make(self.data.parent)
        if self.source == "directory":
            self.world.make(self.releases)
        kind = "openpgp" if isinstance(self.key, OpenPGPKey) else "minisign"
        self.world.write(self.world.config / "keys.d" / f"{self.name}.{kind}", self._public)
        self.define()

    @property
    def _public(self) -> bytes:
        return self.key.public() if isinstance(self.key, OpenPGPKey) else self.key.public

    def define(self, *, more: str = "", **policy: Any) -> None:
        """Write the definition, with the policy given in place of the quick one."""
        signed, suffix = ("openpgp", "asc") if isinstance(self.key, OpenPGPKey) else ("minisign", "minisig")
        forge = f'type = "{self.source}"\nurl = "{self.server.url}/{self.source}"\nrepository = "acme/{self.name}"'
        source = {
            **dict.fromkeys(FORGES, forge),
            "http": f'type = "http"\nurl = "{self.server.url}/http/{self.name}/index.json"',
            "directory": f'type = "directory"\npath = "{self.releases}"',
        }[self.source]
        text = DEFINITION.format(
            name=self.name,
            ending=self.ending,
            source=source,
            signed=signed,
            suffix=suffix,
            key=f"{self.name}.{signed}",
            data=self.data,
            port=self.port,
            policy="\n".join(f"{key} = {json.dumps(value)}" for key, value in (QUICK | policy).items()),
        )
        if self.has_sums:
            text = text.replace("[data]", 'checksums = "SHA256SUMS"\n\n[data]', 1)
        self.world.write(self.definition, text + more)

    # -- at its publisher -------------------------------------------------------------------------

    @property
    def project(self) -> str:
        return f"{self.source}/acme/{self.name}" if self.source in FORGES else f"http/{self.name}"

    @property
    def has_sums(self) -> bool:
        """Its kind of source tells no digest."""
        return self.source in ("gitea", "gitlab", "directory")

    def publish(self, version: str, behaviour: str = "well", *, schema: int = 1, **said: Any) -> str:
        """A signed release; gives its artifact's name. The same content for the same arguments but the version."""
        files = {
            "notes.py": APP.read_bytes(),
            "VERSION": version.encode(),
            "SCHEMA": str(schema).encode(),
            "behaviour": behaviour.encode(),
        }
        return self.publish_files(version, files, **said)

    def publish_files(
        self, version: str, files: Mapping[str, bytes], *, sign: Callable[[bytes], bytes] | None = None,
        beside: Mapping[str, Callable[[bytes], bytes]] | None = None, **said: Any,
    ) -> str:  # fmt: skip
        """`beside`: what else lies at the publisher's, by what follows the artifact's name, made of the artifact."""
        name = f"{self.name}-{version}.{self.ending}"
        packed = {"tar.gz": tar, "tar": plain_tar, "zip": zipped}[self.ending]
        artifact = packed(self.name if self.ending == "tar" else f"{self.name}-{version}", files)
        suffix = "asc" if isinstance(self.key, OpenPGPKey) else "minisig"
        published = {name: artifact, f"{name}.{suffix}": (sign or self.key.sign)(artifact)}
        published |= {f"{name}{end}": make(artifact) for end, make in (beside or {}).items()}
        if self.has_sums:
            sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {each}\n" for each, content in published.items())
            published["SHA256SUMS"] = sums.encode()
        if self.source == "directory":
            for each, content in published.items():
                self.world.write(self.releases / version / each, content)
        else:
            self.server.release(self.project, self.tag(version), published, **said)
        return name

    def tag(self, version: str) -> str:
        return f"v{version}" if self.source in FORGES else version

    # -- itself -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def says(self) -> dict[str, Any]:
        """Version, number of notes and files, a digest over all its data."""
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            return dict(json.load(answer))

    @property
    def version(self) -> str:
        return str(self.says()["version"])

    def write(self, *texts: str) -> dict[str, Any]:
        for text in texts:
            request = urllib.request.Request(self.url, data=text.encode(), method="POST")
            urllib.request.urlopen(request, timeout=5).close()
        return self.says()

    def run_id(self) -> str:
        """Another one after every start."""
        return self.world.unit(f"{self.name}.service", "InvocationID")["InvocationID"]


def plain_tar(top: str, files: Mapping[str, bytes]) -> bytes:
    return gzip.decompress(tar(top, files))


def zipped(top: str, files: Mapping[str, bytes]) -> bytes:
    return archive({f"{top}/{name}": content for name, content in files.items()})


def tar(top: str, files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode = len(content), 0o644
            made.addfile(entry, io.BytesIO(content))
    return out.getvalue()
