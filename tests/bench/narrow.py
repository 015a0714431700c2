"""Files over a line of a known width and delay: ranges, several at once too, and a count of what went over it."""

from __future__ import annotations

import http.server
import re
import threading
import time
from pathlib import Path
from typing import Any, Self

PIECE = 64 * 1024
BOUNDARY = "narrow"


class Narrow:
    """Serves a folder on loopback. `rate` in bytes per second for all connections together, 0 for as fast as it goes;
    each answer begins `delay_s` after its request.
    """

    def __init__(self, folder: Path, *, rate: int = 0, delay_s: float = 0.0) -> None:
        self.folder, self.rate, self.delay_s = folder, rate, delay_s
        self.sent = self.asked = 0
        self._due = 0.0
        self._lock = threading.Lock()
        handler = type("_Bound", (_Handler,), {"line": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def begin(self) -> None:
        with self._lock:
            self.asked += 1
        time.sleep(self.delay_s)

    def take(self, count: int) -> None:
        """Waits until so many bytes may go."""
        with self._lock:
            self.sent += count
            now = time.monotonic()
            self._due = max(self._due, now) + (count / self.rate if self.rate else 0)
            wait_s = self._due - now
        if wait_s > 0.005:
            time.sleep(wait_s)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    line: Narrow

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        path = self.line.folder / self.path.lstrip("/")
        self.line.begin()
        if ".." in self.path or not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        ranges = self._ranges(size)
        parts = [self._head(one, size) if len(ranges) > 1 else b"" for one in ranges]
        tail = f"\r\n--{BOUNDARY}--\r\n".encode() if len(ranges) > 1 else b""
        self.send_response(206 if ranges else 200)
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.send_header("Accept-Ranges", "bytes")
        if len(ranges) == 1:
            self.send_header("Content-Range", f"bytes {ranges[0][0]}-{ranges[0][1]}/{size}")
        elif ranges:
            self.send_header("Content-Type", f"multipart/byteranges; boundary={BOUNDARY}")
        whole = ranges or [(0, size - 1)]
        length = sum(last - first + 1 for first, last in whole) + sum(map(len, parts)) + len(tail)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        with path.open("rb") as file:
            for number, (first, last) in enumerate(whole):
                self.wfile.write(parts[number] if parts else b"")
                file.seek(first)
                left = last - first + 1
                while left > 0:
                    piece = file.read(min(PIECE, left))
                    self.line.take(len(piece))
                    self.wfile.write(piece)
                    left -= len(piece)
        self.wfile.write(tail)

    def _ranges(self, size: int) -> list[tuple[int, int]]:
        found = []
        for first, last in re.findall(r"(\d*)-(\d*)", self.headers.get("range", "").removeprefix("bytes=")):
            if first:
                found.append((int(first), min(int(last or size - 1), size - 1)))
            elif last:
                found.append((max(0, size - int(last)), size - 1))
        return found

    def _head(self, part: tuple[int, int], size: int) -> bytes:
        return f"\r\n--{BOUNDARY}\r\nContent-Range: bytes {part[0]}-{part[1]}/{size}\r\n\r\n".encode()
