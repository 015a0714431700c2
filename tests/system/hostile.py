"""A publisher who can lie, a server that can misbehave, and the proof that the app was not touched by either."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.release_server import ReleaseServer
from tests.system.notes import Notes, Publisher

SLOTS = "/var/lib/slotd/apps/notes"
CACHE = "/var/cache/slotd/notes"
APP = "org.slotd1 /org/slotd1/app/notes org.slotd1.App"
DROP_IN = "/etc/slotd/apps.d/notes.toml.d/hostile.toml"
LOOKS = {
    "unit": "systemctl show notes.service -p MainPID -p InvocationID -p NRestarts -p ActiveState",
    "app": f"busctl get-property {APP} Version Slot Held Mode Trial",
    "current": f"readlink {SLOTS}/current",
    "active slot": f"cd {SLOTS}/current/ && find . -printf '%p %y %m %u %g %s %T@ %l\\n' | sort && "
    "find . -type f -print0 | sort -z | xargs -0 sha256sum",
    # It holds no version in these tests; whether its empty directory is there says nothing.
    "other slot": f'find {SLOTS}/[ab] -mindepth 1 -not -path "{SLOTS}/$(readlink {SLOTS}/current)/*"',
    "workers": "systemctl list-units --all --plain --no-legend 'slotd-worker-*'",
}
LOOK = "; printf '\\f\\n'; ".join(LOOKS.values())


class HostilePublisher(Publisher):
    """Releases like `Publisher`'s, behind a server that misbehaves when told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        served = directory / "served"
        served.mkdir()
        (served / "files").symlink_to(self.directory)
        self.server = ReleaseServer(served)
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

    def publish_next(self) -> str:
        """Put out an honest release that is newer than all before it, and the only one. Gives its version."""
        self._releases = []
        version = self.next_version()
        self.publish(version)
        return version

    def offer(
        self,
        version: str,
        artifact: bytes,
        *,
        signature: bytes | None = None,
        sums: str | None = None,
        said: dict[str, Any] | None = None,
    ) -> None:
        """Put out any bytes as the only release: signed and summed as they should be, where nothing else is given.

        `said` is what the index says of the artifact: its size, its digest.
        """
        name = f"notes-{version}.tar.gz"
        files = {
            name: artifact,
            f"{name}.asc": self.key.sign(artifact) if signature is None else signature,
            f"SHA256SUMS-{version}": (sums or f"{hashlib.sha256(artifact).hexdigest()}  {name}\n").encode(),
        }
        for file, content in files.items():
            (self.directory / file).write_bytes(content)
        assets: dict[str, Any] = {file: file for file in files}
        assets[name] = {"url": name, **(said or {})}
        self._releases = [{"version": version, "assets": assets}]
        self._write_index()

    def leave_out(self, version: str, file: str) -> None:
        """Take one file of a release out of the index."""
        for release in self._releases:
            if release["version"] == version:
                del release["assets"][file]
        self._write_index()


def see(notes: Notes) -> dict[str, str]:
    """All that a user would notice of the app, and what lies on the disk."""
    parts = notes.machine.run(["sh", "-c", LOOK]).stdout.split("\f\n")
    return dict(zip(LOOKS, parts, strict=True)) | {"answer": str(notes.state())}


@contextlib.contextmanager
def untouched(notes: Notes) -> Iterator[None]:
    """Whatever happens in here: the app is the same process on the same files afterwards, and nothing is left lying
    about, neither a half-built slot nor a worker.
    """
    before = see(notes)
    assert before["active slot"], "there is no version in the active slot"
    assert not before["other slot"], "the other slot is not empty, so its emptiness would prove nothing"
    yield
    assert see(notes) == before


def assert_says(text: str, *words: str) -> None:
    """Each of these words stands in the text, whatever the lines it was broken into; and no traceback does."""
    lines = [line[9:] if line[2:3] == line[5:6] == ":" else line for line in text.splitlines()]
    flat = " ".join(" ".join(lines).split())
    for word in words:
        assert word in flat, f"{word!r} is not in:\n{text}"
    assert "Traceback" not in text
    assert "internal error" not in text


def refused(notes: Notes, *command: str, says: tuple[str, ...], status: int = 1) -> str:
    """Run slotctl: its exit status and words are these, and the app has not noticed. Gives what was printed."""
    with untouched(notes):
        printed = notes.slotctl(*command, status=status)
    assert_says(printed, *says)
    return printed


def refused_and_remembered(notes: Notes, *command: str, says: tuple[str, ...]) -> None:
    """As `refused`, and who asks later is told the same: by the status, the history and the app's own journal."""
    refused(notes, *command, says=says)
    status = notes.json("status", "notes")
    assert status["state"] in ("idle", "awaiting-approval")
    history = "\n".join(event["message"] for event in status["history"])
    for told in (status["last_error"], history, notes.machine.journal("notes.service")):
        assert_says(told, *says)


def reload(notes: Notes) -> None:
    """Have the daemon read the definitions again, as an administrator does."""
    notes.machine.run("systemctl reload slotd || systemctl start slotd")
