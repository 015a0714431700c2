"""A publisher in a bad mood: its server is gone, slow, ends too early, or says what is not so."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import tarfile
import time
from pathlib import Path

from tests.system.notes import Publisher

MOODS = ("lost", "slow", "cut", "lying", "stalled")
STALL_S = 30.0


class Moody(Publisher):
    """Serves releases as `Publisher` does, until told otherwise; `offer` says which versions the index lists."""

    def __init__(self, directory: Path) -> None:
        self._made: dict[tuple[str, str, bool], tuple[dict[str, bytes], str]] = {}
        self.files: dict[str, str] = {}  # of each version, as `sha256sum` lists them
        super().__init__(directory)
        self.mood = ""
        self.only = ""  # the mood is about paths that end so
        self.asked: list[str] = []  # in a mood, what was asked for
        self._server.RequestHandlerClass = functools.partial(_Handler, self, directory=str(self.directory))

    def publish(self, version: str, behaviour: str = "well", *, schema: int = 1, forged: bool = False) -> bytes:
        """The same release has the same bytes each time: whoever has fetched some of it goes on with the rest."""
        key = (version, behaviour, forged)
        names = (f"notes-{version}.tar.gz", f"notes-{version}.tar.gz.asc", f"SHA256SUMS-{version}")
        if key not in self._made:
            artifact = super().publish(version, behaviour, schema=schema, forged=forged)
            self._made[key] = {name: (self.directory / name).read_bytes() for name in names}, _sums(artifact)
        contents, self.files[version] = self._made[key]
        for name, content in contents.items():
            (self.directory / name).write_bytes(content)
        return contents[names[0]]

    def offer(self, *versions: str) -> None:
        chosen = [release for release in self._releases if release["version"] in versions]
        (self.directory / "index.json").write_text(json.dumps({"releases": chosen}))

    def be(self, mood: str, only: str = "") -> None:
        assert mood in MOODS
        self.mood, self.only, self.asked = mood, only, []

    def calm(self) -> None:
        self.mood = self.only = ""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, publisher: Moody, *args: object, directory: str) -> None:
        self.publisher = publisher
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        mood = self.publisher.mood
        if not mood or not self.path.endswith(self.publisher.only):
            return super().do_GET()
        self.publisher.asked.append(self.path)
        path = Path(self.translate_path(self.path))
        body = path.read_bytes() if path.is_file() else b""
        if mood == "lost":
            self.close_connection = True
            return None
        if mood == "stalled":
            time.sleep(STALL_S)
            return None
        if mood == "lying":
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mood == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        pieces = 8 if mood == "slow" else 1
        for number in range(pieces):
            self.wfile.write(body[number * len(body) // pieces : (number + 1) * len(body) // pieces])
            self.wfile.flush()
            time.sleep(0.1 if mood == "slow" else 0)
        return None

    def log_message(self, *_: object) -> None:
        return


def _sums(artifact: bytes) -> str:
    lines = []
    with tarfile.open(fileobj=io.BytesIO(artifact)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            lines.append(f"{hashlib.sha256(file.read()).hexdigest()}  ./{member.name.partition('/')[2]}")
    return "\n".join(sorted(lines, key=lambda line: line.split()[1]))
