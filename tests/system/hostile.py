"""A publisher who can lie, a server that can misbehave, and the proof that the app was not touched by either."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.release_server import Authority, ReleaseServer
from tests.system.notes import Notes, Publisher

SLOTS = "/var/lib/slotd/apps/notes"
# What the archives of `tests/hostile_archives.py` would leave behind, wherever they got out to.
TRACES = ["find", "/", "-xdev", "(", "-name", "*evil*", "-o", "-name", "victim", ")"]


class HostilePublisher(Publisher):
    """Releases like `Publisher`'s, behind a server that misbehaves when told to. With `tls`, by https."""

    def __init__(self, directory: Path, *, tls: Authority | None = None) -> None:
        super().__init__(directory)
        served = directory / "served"
        served.mkdir()
        (served / "files").symlink_to(self.directory)
        self.server = ReleaseServer(served, tls=tls)
        self._minor = itertools.count(1)

    def __enter__(self) -> Self:
        super().__enter__()
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__(None, None, None)
        super().__exit__()

    @property
    def url(self) -> str:
        return f"{self.server.url}/files"

    def next_version(self) -> str:
        """A version that is newer than all before it."""
        return f"2.{next(self._minor)}"

    def offer(
        self, version: str, artifact: bytes, *, suffix: str = ".tar.gz", signature: bytes | None = None, sums: str = ""
    ) -> None:
        """Put out any bytes as a release, the only one there is: signed and summed as they should be, if not given."""
        name = f"notes-{version}{suffix}"
        files = {
            name: artifact,
            f"{name}.asc": self.key.sign(artifact) if signature is None else signature,
            f"SHA256SUMS-{version}": (sums or f"{hashlib.sha256(artifact).hexdigest()}  {name}\n").encode(),
        }
        for file, content in files.items():
            (self.directory / file).write_bytes(content)
        self._releases = [{"version": version, "assets": {file: file for file in files}}]
        self._write_index()

    def withdraw(self, version: str, file: str) -> None:
        """Take one file of a release out of the index."""
        for release in self._releases:
            if release["version"] == version:
                del release["assets"][file]
        self._write_index()


@dataclass(frozen=True)
class Sight:
    """All that a user would notice of the app, and what lies on the disk."""

    state: dict[str, Any]
    unit: dict[str, str]
    shown: dict[str, Any]
    link: str
    active: str
    other: str
    units: str


def see(notes: Notes) -> Sight:
    machine = notes.machine
    status = notes.json("status", "notes")
    link = machine.run(["readlink", f"{SLOTS}/current"]).stdout.strip()
    other = "b" if link == "a" else "a"
    listing = f"cd {SLOTS}/{{}} 2>/dev/null && find . -printf '%p %y %m %u %g %s %T@ %l\\n' | sort && " + (
        "find . -type f -print0 | sort -z | xargs -0r sha256sum; true"
    )
    return Sight(
        state=notes.state(),
        unit=machine.show("notes.service", "MainPID", "InvocationID", "NRestarts", "ActiveState"),
        shown={key: status[key] for key in ("version", "slot", "held", "trial", "mode")},
        link=link,
        active=machine.run(listing.format(link)).stdout,
        # The other slot holds no version here; whether its empty directory is there says nothing.
        other=machine.run(f"find {SLOTS}/{other} -mindepth 1 2>/dev/null; true").stdout,
        units=machine.run("systemctl list-units --all --plain --no-legend 'slotd-worker-*'").stdout,
    )


@contextlib.contextmanager
def untouched(notes: Notes) -> Iterator[None]:
    """Whatever happens in here, the app is the same process on the same files, and nothing is left lying about."""
    before = see(notes)
    assert before.active, "there is no version in the active slot"
    yield
    after = see(notes)
    assert after == before
    assert notes.machine.run(TRACES).stdout == ""


def assert_says(text: str, *words: str) -> None:
    """Each of these words stands in the text, whatever the lines it was broken into."""
    flat = " ".join(text.split())
    for word in words:
        assert word in flat, f"{word!r} is not in:\n{text}"
    assert "Traceback" not in text
