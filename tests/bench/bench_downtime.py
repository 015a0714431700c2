"""How long an update takes the app away from a client, against `systemctl restart` of the same app."""

from __future__ import annotations

import io
import random
import socket
import subprocess
import tarfile
import time
from pathlib import Path

from tests.bench.ledger import Aim, Samples, record
from tests.bench.machine import QUICK, WHERE, Sampler, booted
from tests.bench.shelf import Shelf
from tests.system.container import Container, free_port

MB = 10**6
APP = Path(__file__).with_name("slow_app.py")
SIZES = (
    {"10 MB": (10 * MB, 200), "200 MB": (200 * MB, 2000)}
    if QUICK
    else {"10 MB": (10 * MB, 200), "5 GB": (5000 * MB, 4000)}
)
RUNS = 3 if QUICK else 5

DEFINITION = """\
[service]
units = ["{name}.service"]
user = "{name}"
[source]
type = "http"
url = "{url}/index.json"
asset = "{name}-{{version}}.tar.zst"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS-{{version}}"
[data]
paths = ["/var/lib/{name}-data"]
[backup]
retention = "0"
[policy]
mode = "manual"
trial = "10ms"
delay = "0"
"""
UNIT = """\
[Service]
Type=notify
User={name}
ExecStart=/usr/bin/python3 -I /var/lib/slotd/apps/{name}/current/slow_app.py {port} /var/lib/{name}-data
"""


class Client(Sampler):
    """Asks every 5 ms. The downtime is the longest time between two answers, of which 5 ms are the client's own."""

    PAUSE_S = 0.005

    def __init__(self, port: int) -> None:
        self._port = port
        self._last = 0.0
        self.longest_s = 0.0
        super().__init__()

    def look(self) -> None:
        if self._is_answered():
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - (self._last or now))
            self._last = now

    def _is_answered(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as door:
                door.sendall(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
                return door.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def release(version: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("slow_app.py", APP.read_bytes()), ("VERSION", version.encode())):
            entry = tarfile.TarInfo(f"app-{version}/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return subprocess.run(["zstd", "-q", "-c"], input=out.getvalue(), stdout=subprocess.PIPE, check=True).stdout


def fill(machine: Container, name: str, total: int, count: int) -> None:
    """So many bytes in so many files of different sizes, the app's own."""
    directory = machine.path(f"/var/lib/{name}-data")
    directory.mkdir()
    chance = random.Random(name)
    pool = chance.randbytes(16 * MB)
    weights = [chance.expovariate(1) + 0.01 for _ in range(count)]
    for number, weight in enumerate(weights):
        left = int(total * weight / sum(weights))
        folder = directory / f"{number % 50:02}"
        folder.mkdir(exist_ok=True)
        with (folder / f"{number}.dat").open("wb") as file:
            while left > 0:
                start = chance.randrange(len(pool) // 2)
                left -= file.write(pool[start : start + min(left, len(pool) // 2)])
    machine.run(f"chown -R {name}: /var/lib/{name}-data && sync")


def measure(machine: Container, shelf: Shelf, name: str, total: int, count: int) -> tuple[list[float], list[float]]:
    """Downtimes: of updates, of restarts."""
    port = free_port()
    machine.run(f"useradd --system {name}")
    fill(machine, name, total, count)
    machine.write_file(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, port=port))
    machine.write_file(f"/etc/slotd/apps.d/{name}.toml", DEFINITION.format(name=name, url=shelf.url(name)))
    machine.run("systemctl daemon-reload; systemctl restart slotd")
    updates: list[float] = []
    restarts: list[float] = []
    shelf.put(name, "1.0", release("1.0"))
    machine.run(f"slotctl update {name}")
    for number in range(1, RUNS + 1):
        shelf.put(name, f"1.{number}", release(f"1.{number}"))
        for command, found in ((f"slotctl update {name}", updates), (f"systemctl restart {name}", restarts)):
            time.sleep(0.3)
            with Client(port) as client:
                time.sleep(0.2)
                machine.run(command, timeout_s=900)
                time.sleep(0.2)
            found.append(client.longest_s)
            print(f"  {command}: {client.longest_s:.3f} s", flush=True)
    version = machine.run(["readlink", f"/var/lib/slotd/apps/{name}/current"]).stdout.strip()
    assert version in ("a", "b"), "nothing was updated"
    machine.run(
        f"systemctl stop {name}; rm -rf /var/lib/{name}-data /var/lib/slotd/*/{name}; rm /etc/slotd/apps.d/{name}.toml"
    )
    return updates, restarts


def main() -> None:
    rows: list[list[object]] = []
    aims: list[Aim] = []
    with booted() as machine, Shelf() as shelf:
        for number, (size, (total, count)) in enumerate(SIZES.items()):
            updates, restarts = (Samples(v, "s") for v in measure(machine, shelf, f"app{number}", total, count))
            rows.append([f"`slotctl update`, {size} of data in {count:,} files", updates, updates.against(restarts)])
            rows.append([f"`systemctl restart`, {size}", restarts, "1.00"])
            aims.append(
                Aim(f"downtime with {size}, against a restart", updates.median / restarts.median, 1.15, "times")
            )
    record(
        "downtime",
        "Downtime of an update" + (" (QUICK)" if QUICK else ""),
        "What a client sees that asks every 5 ms: the longest time without an answer. The app needs 1 s to start "
        f"and keeps writing into twenty files of its data, also while they are copied; {WHERE}. The first update "
        "copies all of the data, the later ones share with the backup before; all count. With each update the data are "
        "saved whole and can be brought back; a restart saves nothing.",
        ["", "downtime", "against a restart"],
        rows,
        aims=aims,
    )
