"""An app that needs a second to start and always writes a little: what is updated while a client polls it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_S = 1.0
VERSION = Path(__file__).with_name("VERSION").read_text().strip()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = VERSION.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def write_on(data: Path) -> None:
    """Twenty files change all the time, also while they are copied."""
    number = 0
    while True:
        number += 1
        with (data / f"live{number % 20}").open("ab") as file:
            file.write(b"one more line\n")
        time.sleep(0.05)


def main() -> None:
    data = Path(sys.argv[2])
    time.sleep(START_S)
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    threading.Thread(target=write_on, args=(data,), daemon=True).start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
    server.serve_forever()


if __name__ == "__main__":
    main()
