"""In the guest: runs what the host asks for, over a virtio port, which works without a network and without a bus.

A request is a line of JSON: {"id", "argv", "input": base64}. The answer is one, too: {"id", "status", "out", "err"}.
Requests run side by side; an answer carries its request's id. With "sql" instead of "argv" it asks slotd's state, and
"out" is what sqlite3(1) prints: what is asked again and again shall not need a process each time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

PORT = "slotd.agent"
STATE = "file:/var/lib/slotd/state.db?mode=ro"
LOCK = threading.Lock()


def device() -> str:
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == PORT:
            return f"/dev/{name.parent.name}"
    sys.exit("there is no port to the host")


def ask_state(sql: str) -> str:
    with contextlib.closing(sqlite3.connect(STATE, uri=True, timeout=10)) as db:
        return "\n".join("|".join("" if value is None else str(value) for value in row) for row in db.execute(sql))


def answer(port: object, request: dict[str, object]) -> None:
    data = base64.b64decode(str(request.get("input") or ""))
    try:
        if "sql" in request:
            said = {"status": 0, "out": ask_state(str(request["sql"])), "err": ""}
        else:
            done = subprocess.run(list(request["argv"]), input=data, capture_output=True, check=False)  # type: ignore[call-overload]
            said = {"status": done.returncode, "out": done.stdout.decode(errors="replace")}
            said["err"] = done.stderr.decode(errors="replace")
    except (OSError, sqlite3.Error) as error:
        said = {"status": 127, "out": "", "err": str(error)}
    line = json.dumps({"id": request["id"], **said}).encode() + b"\n"
    with LOCK:
        while line:  # the port takes no more than 32 kB at once
            line = line[port.write(line) :]  # type: ignore[attr-defined]


def main() -> None:
    with open(device(), "r+b", buffering=0) as port:
        port.write(b'{"id": 0}\n')
        rest = b""
        while True:
            part = port.read(65536)
            if not part:  # the host has closed its end
                threading.Event().wait(0.2)
                continue
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # the rest of a request that a reset of the machine cut
                    threading.Thread(target=answer, args=(port, json.loads(line)), daemon=True).start()


if __name__ == "__main__":
    main()
