"""Every prefix of what the disk was told in a switch, and in a rollback: each is a disk after a power cut.

Each prefix is mounted, looked at, and then `slotd boot` does on it what it does before the app starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash import recorder
from tests.crash.disk import Disk, make_image
from tests.crash.matrix import Outcome
from tests.crash.world import BAD, World
from tests.system.image import REPOSITORY, Image

GONE_S = 20.0
CHECK = Path(__file__).parent / "prefix_check.py"


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is recorded: from one failpoint to another of an update that began on the kept disk `start`."""

    name: str
    start: str
    first: str
    last: str
    links: tuple[str, ...]  # the versions that a prefix may have active, in order


STRETCHES = (
    Stretch("switch", "well", "switch:begin", "switch:end", ("1.0", "2.0")),
    Stretch("rollback", BAD, "rb-quarantine:begin", "rb-switch:end", ("2.0", "1.0")),
)


@contextlib.contextmanager
def recorded_disk(kind: str, room: Path) -> Iterator[Path]:
    """A disk's file that remembers its writes into `room/log` once `room/flag` is there."""
    image, mountpoint = room / "image", room / "fuse"
    make_image(kind, image)
    mountpoint.mkdir()
    argv = [
        "/usr/bin/python3",
        str(Path(recorder.__file__)),
        *map(str, (mountpoint, image, room / "log", room / "flag")),
    ]
    server = subprocess.Popen(argv)
    try:
        deadline = time.monotonic() + 20
        while not (mountpoint / recorder.NAME).exists():
            assert server.poll() is None, "the FUSE server did not start"
            assert time.monotonic() < deadline, "the FUSE server does not answer"
            time.sleep(0.02)
        yield mountpoint / recorder.NAME
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False)
        try:
            server.wait(GONE_S)
        except (
            subprocess.TimeoutExpired
        ):  # the kernel is still to let go of the loop device: what was recorded is there
            server.kill()
            server.wait()


def record(image: Image, kind: str, stretch: Stretch, room: Path) -> None:
    """Run the stretch in a machine on a disk that remembers; leaves `room/base` and `room/log`."""
    with recorded_disk(kind, room) as file:
        with World(image, kind, disk=lambda machine: Disk(machine, kind, file)) as world:
            world.begin(stretch.start, points=f"{stretch.first}=hang,{stretch.last}=hang")
            world.wait_fired(stretch.first)
            world.sh("sync -f /var/lib")
            (room / "flag").touch()
            subprocess.run(["cp", "--sparse=always", room / "image", room / "base"], check=True)
            world.let_go(stretch.first)
            world.wait_fired(stretch.last)
            (room / "flag").unlink()


def replay(image: Image, kind: str, stretch: Stretch) -> Iterator[Outcome]:
    """Each prefix as a cell."""
    with tempfile.TemporaryDirectory(prefix="slotd-prefix-", dir="/dev/shm") as folder:
        room = Path(folder)
        record(image, kind, stretch, room)
        log = list(recorder.records(room / "log"))
        seen: list[str] = []
        with (room / "base").open("r+b") as base:
            for number in range(len(log) + 1):
                if number:
                    offset, data = log[number - 1]
                    if not data:
                        continue  # a flush changes nothing that is there
                    base.seek(offset)
                    base.write(data)
                    base.flush()
                began = time.monotonic()
                why, version = check(room, kind, stretch)
                seen.append(version)
                if not why and seen != sorted(seen, key=stretch.links.index):
                    why = f"the link goes back and forth: {seen}"
                name = f"{kind}/prefix-{stretch.name}/{number}"
                yield Outcome(name, f"prefix-{stretch.name}", kind, time.monotonic() - began, why)
        why = "" if set(seen) == set(stretch.links) else f"the prefixes show {set(seen)} only"
        yield Outcome(whole_name(kind, stretch), f"prefix-{stretch.name}", kind, 0.0, why)


def whole_name(kind: str, stretch: Stretch) -> str:
    """The last outcome of a replay: all prefixes were seen, and before one of them the version changes."""
    return f"{kind}/prefix-{stretch.name}/all"


def check(room: Path, kind: str, stretch: Stretch) -> tuple[str, str]:
    """One prefix, on a copy: why it does not hold, and the version that is active before `slotd boot`."""
    copy = room / "copy"
    subprocess.run(["cp", "--sparse=always", room / "base", copy], check=True)
    script = (
        'mount -o loop "$1" /var/lib && mkdir -p /var/cache/slotd && mount --bind /var/lib/cache /var/cache/slotd && '
        'mkdir -p /run/slotd && exec /usr/bin/python3 "$2" "$3"'
    )
    argv = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        script,
        "sh",
        str(copy),
        str(CHECK),
        stretch.name,
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "daemon"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return f"the check ended with {done.returncode}: {done.stdout}{done.stderr}", stretch.links[0]
    if said["active"] not in stretch.links:
        return f"the link leads to {said['active']!r}", stretch.links[0]
    return str(said["why"]), str(said["active"])
