"""Every call of `slotd boot` on its way back, killed at, failing and full, and every look that it takes failing.

Before any app starts, with no daemon and no bus. Then the host boots again, undisturbed, and must end where it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.crash import oracle, sweep
from tests.crash.matrix import Outcome, tried
from tests.crash.sweep import Call
from tests.crash.world import BAD, NEW, OLD, World

DAEMON_EVERY = 16  # after each so many of them the daemon comes up, too, and all is looked at
LOST = "what the new version wrote is in no sealed quarantine"
SPEND = """
import sqlite3
db = sqlite3.connect("/var/lib/slotd/state.db")
db.execute("UPDATE trials SET attempts_left = 0")
db.commit()
"""
LOOK = """
look() {
    cd /var/lib/notes; data=$(find data -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum | cut -c1-12)
    aside=$(for d in /var/lib/slotd/quarantine/notes/*/; do test -e "$d/header.json" && ls "$d"data/0/ran; done)
    echo "$1|$2|$(cat /var/lib/slotd/apps/notes/current/VERSION)|$data|$(ls /run/slotd/held-back 2>/dev/null)|"$aside
    ls -d /var/lib/slotd/state.db.broken.* 2>/dev/null
}
next_boot() { rm -rf /run/slotd; }
"""


@dataclass(frozen=True, slots=True)
class Way:
    """From where `slotd boot` goes back. `is_half`: no version may be started on the data that it finds.

    `has_run`: whether the new version did, and wrote into them.
    """

    name: str
    title: str
    start: str
    point: str
    is_half: bool
    has_run: bool = True

    @property
    def key(self) -> str:
        return f"boot-{self.name}"


WAYS = {
    "spent": Way("spent", "`slotd boot`, the boots of a trial spent", "well", "trial:begin", False),
    "half": Way("half", "`slotd boot`, the power cut in `rb-restore`", BAD, "rb-restore:begin", True),
    "migrate": Way("migrate", "`slotd boot`, the power cut in `migrate`", "well", "migrate:begin", True, has_run=False),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """The machine after a boot: what an app would be started on, and whether one may be."""

    status: str
    version: str
    data: str
    held_back: str
    aside: tuple[str, ...]


def prepare(world: World, way: Way) -> None:
    """Keep the disk as it is where this way begins."""
    sweep.install(world)
    world.keep_at(way.key, way.start, way.point, before="" if way.is_half else SPEND)


def boots(world: World, way: Way, *, number: int = 0, fault: str) -> tuple[list[Seen], list[str], str]:
    """The disk as it lay there, after a boot that is broken, and after the next; the calls; and what else is there."""
    world.put_back(way.key)
    environment = sweep.environment(number=number, fault=fault)
    broken = " ".join(f"{name}={value}" for name, value in environment.items())
    said = world.sh(
        f"{LOOK}\nrm -rf {sweep.ROOM}; mkdir {sweep.ROOM}; touch {sweep.ARM}\nlook seen 0\n"
        f"next_boot; {broken} /usr/sbin/slotd boot >/dev/null 2>&1; look seen $?\n"
        "next_boot; /usr/sbin/slotd boot >/dev/null 2>&1; look seen $?\n",
        check=False,
    ).stdout
    seen, rest = [], []
    for line in said.splitlines():
        if not line.startswith("seen|"):
            rest.append(line)
            continue
        _, status, version, data, held_back, aside = line.split("|")
        seen.append(Seen(status, version, data, held_back, tuple(aside.split())))
    assert len(seen) == 3, f"the machine could not be looked at: {said}"
    return seen, sweep.read_log(world), " ".join(rest)


@dataclass(frozen=True, slots=True)
class Counted:
    """What an undisturbed boot does, and leaves: the data of the old version. `new`: those of the other, before it."""

    made: sweep.Made
    old: str
    new: str


def count(world: World, way: Way) -> Counted:
    prepare(world, way)
    lists, old, new = [], "", ""
    for fault in (sweep.CHANGES[0], sweep.LOOKS[0]):
        (before, after, _), made, rest = boots(world, way, fault=fault)
        assert (after.status, after.version, after.held_back, rest) == ("0", OLD, "", ""), f"{after}, {rest}"
        assert NEW in after.aside or not way.has_run, LOST
        lists.append(made)
        old, new = after.data, before.data
    return Counted(sweep.Made(*lists), old, new)


def run(world: World, way: Way, call: Call, counted: Counted) -> Outcome:
    """One call broken, and the next boot; then what must hold."""

    def act() -> None:
        seen, _, rest = boots(world, way, number=call.number, fault=call.fault)
        _check(seen, rest, way, call, counted)
        if call.number % DAEMON_EVERY == 0:
            world.go_on()
            world.settle()
            oracle.check(world, expected=(OLD,))

    return tried(call.name, call.column, call.kind, act)


def _check(seen: Sequence[Seen], rest: str, way: Way, call: Call, counted: Counted) -> None:
    _, broken, after = seen
    whole = [(OLD, counted.old)] if way.is_half else [(OLD, counted.old), (NEW, counted.new)]
    if call.fault != "kill":  # who is killed holds nothing back
        may_start = (broken.version, broken.data) in whole
        assert may_start or broken.held_back, f"{broken.version} would be started on what is half there: {broken}"
    assert not rest, f"one call that failed cost the state: {rest}"
    assert (after.status, after.version, after.held_back) == ("0", OLD, ""), f"the next boot left {after}"
    assert after.data == counted.old, f"the data of {OLD} are {after.data}, not {counted.old}"
    assert NEW in after.aside or not way.has_run, LOST
