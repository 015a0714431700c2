"""A release server of our own, which can misbehave: releases of GitHub, Gitea and GitLab, PyPI's two APIs, a version
index, plain files.

What it serves lies in a folder, and a change there shows at the next request:

    ROOT/github/OWNER/REPO/TAG/…     base URL {url}/github
    ROOT/gitea/OWNER/REPO/TAG/…      base URL {url}/gitea
    ROOT/gitlab/GROUP/…/NAME/TAG/…   base URL {url}/gitlab
    ROOT/pypi/NAME/VERSION/…         base URL {url}/pypi-index, or {url}/pypi-index/simple as pip takes it
    ROOT/http/APP/VERSION/…          index {url}/http/APP/index.json
    ROOT/files/…                     {url}/files/…, with ETag, Last-Modified and Range

A version's folder may hold `.release.json`: notes, published, created, prerelease, draft, yanked, oldest,
requires_python, upcoming; and `assets`, by file name: state, digest, size (what the server says of a file, true or
not), link (an address elsewhere; for GitLab also `registry`, which is usual, or `page`).

In tests: `with ReleaseServer() as server: …`. By itself: `python3 tests/release_server.py --root DIR --port 0` prints
its address; `POST /_control/misbehave {"kind", "path", "times", …}`, `/_control/behave`, `/_control/forget`, and
`GET /_control/requests` steer it from outside. Only the standard library is used. Beside this file: `release_pages.py`
and `release_forges.py` (what is served), `release_shelf.py` (the folder) and `release_faults.py` (the misbehaviours).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

if not __package__:  # run as a program
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.release_faults import FAULTS, Fault
from tests.release_pages import Handler, Seen
from tests.release_shelf import META, meta


@dataclass(frozen=True)
class Authority:
    """A certificate authority made for one test: `ca` is what the client must trust (`SSL_CERT_FILE`)."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, names: tuple[str, ...] = ("DNS:localhost", "IP:127.0.0.1")) -> Authority:
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        ca_key, request, extensions = folder / "ca.key", folder / "server.csr", folder / "server.ext"
        extensions.write_text(f"subjectAltName={','.join(names)}\nbasicConstraints=CA:FALSE\n")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        root = ["-days", "2", "-subj", "/CN=Release test CA", "-addext", "basicConstraints=critical,CA:TRUE"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        signing = ["-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
        for command in (
            ["req", "-x509", *curve, "-keyout", ca_key, "-out", made.ca, *root, *usage],
            ["req", *curve, "-keyout", made.key, "-out", request, "-subj", "/CN=localhost"],
            ["x509", "-req", "-in", request, "-out", made.certificate, *signing],
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return made


class ReleaseServer:
    """Serves on loopback from a thread until its `with` block ends. Without `root`, from a folder of its own."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Authority | None = None,
        token: str = "",
    ) -> None:
        self._own_root = None if root else tempfile.mkdtemp(prefix="release-server-")
        self.root = Path(root or self._own_root or "")
        self.requests: list[Seen] = []
        self.sent = 0  # bytes of files, of all requests that were answered as they should be
        self.faults: list[Fault] = []
        self.token = token  # if set, everything but /_control needs it, shown as the kind of server wants it
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self._tls = tls
        self._httpd = Httpd((host, port), self, tls)
        self.port = self._httpd.server_address[1]
        self.host = host
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def __enter__(self) -> ReleaseServer:
        self.root.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()
        self._httpd.drop_connections()
        if self._own_root:
            shutil.rmtree(self._own_root, ignore_errors=True)

    def misbehave(self, kind: str, path: str = "*", *, times: int | None = None, **options: Any) -> None:
        """From now on, for paths like `path`. See `FAULTS` for kinds and their options; the first that fits counts."""
        if kind not in FAULTS:
            raise ValueError(f"{kind!r} is none of {', '.join(sorted(FAULTS))}")
        with self.lock:
            self.faults.append(Fault(kind, path, times, options))

    def behave(self) -> None:
        with self.lock:
            self.faults.clear()

    def fault_for(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and fnmatch.fnmatchcase(path, fault.path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def seen(self, path: str = "*") -> list[Seen]:
        """Requests whose path (without query) fits the pattern."""
        with self.lock:
            return [each for each in self.requests if fnmatch.fnmatchcase(each.path.partition("?")[0], path)]

    def file(self, name: str, content: bytes, *, age_s: float = 3600.0) -> str:
        """Puts a plain file and gives its address. It is as old as a published file is, so that its time can tell."""
        path = self.root / "files" / name
        _put(path, content)
        os.utime(path, (time.time() - age_s,) * 2)
        return f"{self.url}/files/{quote(name)}"

    def release(
        self, project: str, version: str, files: Mapping[str, bytes], *, remove: tuple[str, ...] = (), **said: Any
    ) -> Path:
        """Publishes or changes a release of `github/OWNER/REPO` (or gitea, gitlab: version is the tag), `pypi/NAME` or
        `http/APP`."""
        folder = self.root / project / quote(version, safe="")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _put(folder / name, content)
        for name in remove:
            (folder / name).unlink()
        if said:
            _put(folder / META, json.dumps(meta(folder) | said).encode())
        return folder


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.rename(path)


class Httpd(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: ReleaseServer, tls: Authority | None) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.certificate, tls.key)
        super().__init__(address, Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a client that does not finish its handshake must not hold up the others.
        with self.owner.lock:
            self._open.add(request)
        try:
            if self._context:
                request = self._context.wrap_socket(request, server_side=True)
                with self.owner.lock:
                    self._open.add(request)
            super().finish_request(request, client_address)
        finally:
            with contextlib.suppress(OSError):
                request.close()
            with self.owner.lock:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients that go away are what half of the tests do
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        with self.owner.lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Serves releases from a folder, on loopback, until it is told to stop."
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="", help="refuse whoever does not show it")
    parser.add_argument(
        "--tls", type=Path, help="speak TLS with an authority made in this folder (its ca.pem is to be trusted)"
    )
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tls = Authority.make(given.tls) if given.tls else None
    with ReleaseServer(given.root, host=given.host, port=given.port, tls=tls, token=given.token) as server:
        print(server.url, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
