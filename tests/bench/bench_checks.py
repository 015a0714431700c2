"""Two hundred apps of one server looked after: `slotctl check --all`, beside a person's 200 `curl`s."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tests import keys
from tests.bench.apps import define
from tests.bench.ledger import Samples, record
from tests.bench.machine import QUICK, WHERE, Sampler, booted, main_pid, rss, spawned
from tests.release_server import ReleaseServer
from tests.system.container import Container

APPS = 20 if QUICK else 200
RUNS = 1 if QUICK else 3
AT_ONCE = 8
MB = 1024**2
URLS = "/root/urls"
UNSIGNED = 'require = ["sha256"]'
SIGNED = 'require = ["sha256", "minisign"]\nkeys = ["acme.minisign"]'


def main() -> None:
    with ReleaseServer() as server, booted() as machine, TemporaryDirectory() as home:
        define(machine, APPS)
        public = keys.minisign_key(Path(home) / "minisign").public
        machine.path("/etc/slotd/keys.d/acme.minisign").write_bytes(public)
        urls = []
        for number in range(1, APPS + 1):
            name = f"app{number:03}"
            file = f"{name}-1.0.tar.gz"
            server.release(f"github/acme/{name}", "v1.0", dict.fromkeys([file, "SHA256SUMS", f"{file}.minisig"], b"x"))
            path = machine.path(f"/etc/slotd/apps.d/{name}.toml")
            source = f'type = "github"\nrepository = "acme/{name}"\nurl = "{server.url}/github"'
            old = 'type = "http"\nurl = "http://127.0.0.1:9/index.json"'
            path.write_text(path.read_text().replace(old, source).replace("app-{version}", f"{name}-{{version}}"))
            urls.append(f"{server.url}/github/repos/acme/{name}/releases?per_page=100&page=1")
        machine.path(URLS).write_text("\n".join(urls) + "\n")
        machine.run("systemctl restart slotd")
        one = spawned(machine, ["slotctl", "check", "app001"], RUNS, whole=True)
        with Watch(machine) as alone:
            unsigned = checked(machine)
        for path in machine.path("/etc/slotd/apps.d").iterdir():
            path.write_text(path.read_text().replace(UNSIGNED, SIGNED))
        machine.run("slotctl reload")
        with Watch(machine) as together:
            signed = checked(machine)
        curl = "curl -sSf -o /dev/null"
        turn = ["sh", "-c", f'while read -r url; do {curl} "$url"; done < {URLS}']
        by_hand = seconds(spawned(machine, turn, RUNS, whole=True))
        many = ["sh", "-c", f"xargs -P {AT_ONCE} -n 1 {curl} < {URLS}"]
        at_once = seconds(spawned(machine, many, RUNS, whole=True))
    record(
        "checks",
        f"Looking for releases of {APPS} apps",
        f"All on one server of GitHub's kind on this host, each list a page; the second run has ETags, {WHERE}. Of "
        "slotd it is the whole: a job for each app with its events and a listing in a sandboxed process, one for each "
        "app whose releases nobody signs, one for up to sixteen others.",
        ["", "time", "of each app", "against one `curl` after another"],
        [
            ["`slotctl check --all`, releases signed", signed, each(signed), signed.against(by_hand)],
            ["the same, with sums alone", unsigned, each(unsigned), unsigned.against(by_hand)],
            [f"`xargs -P {AT_ONCE} curl`", at_once, each(at_once), at_once.against(by_hand)],
            ["one `curl` after another", by_hand, each(by_hand), "1.00"],
            ["`slotctl check app001`, alone", one, "", ""],
            ["memory of the daemon meanwhile", f"{max(alone.daemon, together.daemon) / MB:.0f} MB", "", ""],
            ["workers at once, at most: signed, sums alone", f"{together.workers}, {alone.workers}", "", ""],
        ],
    )


def checked(machine: Container) -> Samples:
    found = seconds(spawned(machine, ["slotctl", "check", "--all"], RUNS, whole=True))
    known = machine.run("slotctl --json list").stdout.count('"available": "1.0"')
    assert known == APPS, f"only {known} of {APPS} apps know their release"
    return found


def seconds(samples: Samples) -> Samples:
    return Samples([value / 1000 for value in samples.values], "s")


def each(samples: Samples) -> str:
    return f"{samples.median / APPS * 1000:.1f} ms"


class Watch(Sampler):
    """How large the daemon gets, and how many units of workers there are at once."""

    PAUSE_S = 0.2

    def __init__(self, machine: Container) -> None:
        self.daemon = self.workers = 0
        self._machine, self._pid = machine, main_pid(machine, "slotd")
        super().__init__()

    def look(self) -> None:
        self.daemon = max(self.daemon, rss(self._pid).get("now", 0))
        listed = self._machine.run("systemctl list-units --no-legend 'slotd-worker-*'", check=False).stdout
        self.workers = max(self.workers, len(listed.splitlines()))
