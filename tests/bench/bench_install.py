"""A release of 1 GiB, from the server's first byte until it is on the disk and runs, against doing it by hand."""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import payload
from tests.bench.ledger import Aim, Samples, record
from tests.bench.machine import PROGRAMS, QUICK, WHERE, Watch, booted, make_cold, timed
from tests.bench.rauc import Rauc
from tests.bench.shelf import Shelf
from tests.bench.swupdate import Swupdate
from tests.system.container import Container

MIB = 1024**2
SIZE_MIB = 64 if QUICK else 1024
RUNS = 3

DEFINITION = """\
[service]
units = ["payload.service"]
[source]
type = "http"
url = "{url}/index.json"
asset = "payload-{{version}}.tar.zst"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS-{{version}}"
[policy]
mode = "manual"
trial = "10ms"
delay = "0"
"""
UNIT = """\
[Service]
Type=exec
ExecStart=/usr/bin/sleep infinity
"""
CALLED = {
    "rauc": "`rauc install` of a local bundle, `sync`",
    "swupdate": "`swupdate --download` of an image, `sync -f`",
}
HOW = {
    "rauc": "RAUC downloads nothing here: the bundle (format plain, the same `tar.zst`) is on the disk. It checks the "
    "signature over the whole bundle, makes an ext4 on a loop device, unpacks into it, and marks the slot.",
    "swupdate": "SWUpdate downloads an image that holds the same `tar.zst`, checks the signature over its description "
    "(CMS) and the archive's SHA-256 in it, and unpacks it into a directory as it arrives; it writes no manifest, "
    "switches nothing and starts no unit.",
}
BY_HAND = """\
set -e
rm -rf /var/lib/byhand; mkdir -p /var/lib/byhand/slot; cd /var/lib/byhand
curl -sSf -O {url}/SHA256SUMS-1.0 -O {url}/payload-1.0.tar.zst
sha256sum --quiet -c SHA256SUMS-1.0
tar --zstd -x --strip-components=1 -f payload-1.0.tar.zst -C slot
sync -f slot
"""


def set_up(machine: Container, shelf: Shelf) -> None:
    shelf.put("payload", "1.0", payload.release(SIZE_MIB))
    machine.write_file("/etc/systemd/system/payload.service", UNIT)
    machine.run("systemctl daemon-reload")
    machine.write_file("/etc/slotd/apps.d/payload.toml", DEFINITION.format(url=shelf.url("payload")))


def clean(machine: Container) -> None:
    """As before the first installation; none of it is measured."""
    machine.run(
        "systemctl stop slotd payload; rm -rf /var/lib/slotd/apps/payload /var/lib/slotd/state.db* "
        "/var/cache/slotd/payload /var/lib/byhand"
    )
    make_cold(payload.release(SIZE_MIB))


def steps(machine: Container) -> dict[str, float]:
    """Seconds in each step of the last job."""
    query = "SELECT step, ended_at - began_at FROM steps WHERE ended_at > 0 ORDER BY began_at"
    out = machine.run(["sqlite3", "/var/lib/slotd/state.db", query]).stdout
    return {line.split("|")[0]: float(line.split("|")[1]) for line in out.splitlines()}


def main() -> None:
    ours: list[float] = []
    hand: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    spent: list[dict[str, float]] = []
    with booted() as machine, Shelf() as shelf, ExitStack() as stack:
        set_up(machine, shelf)
        rauc = Rauc(machine, payload.release(SIZE_MIB), SIZE_MIB)
        stack.callback(rauc.close)
        rauc.set_up()
        swupdate = Swupdate(machine, shelf, payload.release(SIZE_MIB))
        swupdate.set_up()
        with Watch(machine) as watch:
            for _ in range(RUNS):
                clean(machine)
                machine.run("systemctl start slotd")
                ours.append(timed(lambda: machine.run("slotctl update payload", timeout_s=900)))
                spent.append(steps(machine))
                print(
                    f"  slotd {ours[-1]:.2f} s:", {k: round(v, 2) for k, v in spent[-1].items() if v > 0.02}, flush=True
                )
                clean(machine)
                hand.append(timed(lambda: machine.run(BY_HAND.format(url=shelf.url("payload")), timeout_s=900)))
                print(f"  by hand {hand[-1]:.2f} s", flush=True)
                clean(machine)
                if not rauc.problem and (seconds := rauc.install()):
                    others["rauc"].append(seconds)
                    print(f"  rauc {seconds:.2f} s", flush=True)
                clean(machine)
                if not swupdate.problem:
                    swupdate.clean()
                    make_cold(swupdate.image)
                    if seconds := swupdate.install():
                        others["swupdate"].append(seconds)
                        print(f"  swupdate {seconds:.2f} s", flush=True)
    problems = [
        f"{name} is not in the table: {other.problem}"
        for name, other in (("RAUC", rauc), ("SWUpdate", swupdate))
        if other.problem
    ]
    tell(Samples(ours, "s"), Samples(hand, "s"), others, spent, watch, problems)


def tell(
    ours: Samples,
    hand: Samples,
    others: dict[str, list[float]],
    spent: list[dict[str, float]],
    watch: Watch,
    problems: list[str],
) -> None:
    memory = {name: value / MIB for name, value in watch.peaks.items() if name not in PROGRAMS}
    worker, most = max(((name, value) for name, value in memory.items() if name != "daemon"), key=lambda pair: pair[1])
    notes = [HOW[name] for name in PROGRAMS if others[name]] + problems
    rows: list[list[object]] = [
        ["`slotctl update`", ours, ours.against(hand), f"{max(memory.values()):.0f} MB"],
        ["`curl`, `sha256sum`, `tar --zstd`, `sync -f`", hand, "1.00", ""],
    ]
    for name in PROGRAMS:
        if others[name]:
            found = Samples(others[name], "s")
            rows.append([CALLED[name], found, found.against(hand), f"{watch.peaks.get(name, 0) / MIB:.0f} MB"])
    typical = spent[ours.values.index(sorted(ours.values)[len(ours.values) // 2])]
    long = ", ".join(f"`{name}` {seconds:.1f} s" for name, seconds in typical.items() if seconds >= 0.1)
    notes.append(f"Where slotd's time goes, in the median run: {long}.")
    told = ", ".join(f"{name} {value:.0f} MB" for name, value in sorted(memory.items()))
    own = ", ".join(f"{name} {value / MIB:.0f} MB" for name, value in sorted(watch.own.items()) if name in memory)
    notes.append(f"Highest resident memory, files that are mapped counted: {told}. Of that its own: {own}.")
    record(
        "install",
        "Installing a release of 1 GiB" if SIZE_MIB == 1024 else f"Installing a release of {SIZE_MIB} MiB (QUICK)",
        f"A `tar.zst` of {SIZE_MIB} MiB with {23 * SIZE_MIB:,} small files and some large ones, from an HTTP server on "
        f"loopback until it is on the disk, {WHERE}. The archive is not in memory when a run begins. By hand only the "
        "sum is checked; slotd downloads and unpacks in sandboxes, measures the digest itself, walks the unpacked "
        "tree, hashes every file into the slot's manifest, switches, and starts the unit.",
        ["", "time", "against by hand", "largest process"],
        rows,
        aims=[
            Aim("time against `curl`, `sha256sum`, `tar`, `sync`", ours.median / hand.median, 1.15, "times"),
            Aim("the daemon's resident memory", memory["daemon"], 64, "MB"),
            Aim(f"the largest worker's ({worker}) resident memory", most, 128, "MB"),
        ],
        notes=notes,
    )
