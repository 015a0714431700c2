"""Releases on loopback, as a publisher's static pages serve them: archives, sums, an index."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from tests.bench.payload import CACHE


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def copyfile(self, source: object, outputfile: object) -> None:
        """As a good server does it: the kernel sends the file."""
        self.wfile.flush()
        self.connection.sendfile(source)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        return


class Shelf:
    """Serves what is put on it, each app's index at `url(app)/index.json`; empty again at the end."""

    def __enter__(self) -> Self:
        CACHE.mkdir(parents=True, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix="served-", dir=CACHE))
        self._releases: dict[str, list[dict[str, Any]]] = {}
        handler = functools.partial(_Handler, directory=str(self._directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._directory)

    def url(self, app: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{app}"

    def add(self, app: str, file: Path) -> Path:
        """A copy of `file` as it is, at `url(app)`; gives where it lies."""
        folder = self._directory / app
        folder.mkdir(exist_ok=True)
        return Path(shutil.copyfile(file, folder / file.name))

    def put(self, app: str, version: str, archive: Path | bytes) -> None:
        """A release of one `tar.zst`: a file of the same file system, or its bytes."""
        folder, name, sums = self._directory / app, f"{app}-{version}.tar.zst", f"SHA256SUMS-{version}"
        folder.mkdir(exist_ok=True)
        if isinstance(archive, Path):
            os.link(archive, folder / name)
        else:
            (folder / name).write_bytes(archive)
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (folder / sums).write_text(f"{digest}  {name}\n")
        releases = self._releases.setdefault(app, [])
        releases.append({"version": version, "assets": {name: name, sums: sums}})
        (folder / "index.json").write_text(json.dumps({"releases": releases}))
