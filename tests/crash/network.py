"""The network: the publisher's server is gone, slow, ends too early or lies, or its release is forged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.crash import oracle
from tests.crash.faults import Fault, hang, step_of, undisturbed
from tests.crash.world import NEW, OLD, World

TITLES = {
    "lost": "network lost",
    "slow": "network slow",
    "cut": "connections cut",
    "lying": "a server that lies",
}
ASKING = ("resolve", "fetch", "verify")  # the steps that ask a server


def points_for(mood: str) -> Callable[[str], Sequence[str] | str]:
    def points(step: str) -> Sequence[str] | str:
        if mood == "lost" or step in ASKING:
            return (f"{step}:begin",)
        return "no server is asked any more; the column `network lost` shows it"

    return points


def striking(mood: str) -> Callable[[World, str], None]:
    def strike(world: World, point: str) -> None:
        """Whoever still needs the server fails with nothing touched; all others do not notice."""
        hang(world, point)
        world.publisher.be(mood)
        world.let_go(point)
        world.settle()
        step = step_of(point)
        harmed = bool(world.publisher.asked) and mood != "slow"
        late = step not in (*ASKING, "delay")
        assert not (harmed and late), f"step {step} or a later one asked the server: {world.publisher.asked}"
        world.publisher.calm()
        oracle.check(world, expected=(OLD,) if harmed else undisturbed(step))

    return strike


FAULTS = tuple(Fault(f"net-{mood}", title, points_for(mood), striking(mood)) for mood, title in TITLES.items())


def forged_points(step: str) -> Sequence[str] | str:
    return ("verify:begin",) if step == "verify" else "signatures are checked in `verify`"


def forged(world: World, point: str) -> None:
    """Bytes that were swapped after signing, with checksums that fit: never unpacked, and blocked."""
    world.publisher.publish(NEW, schema=2, forged=True)
    try:
        world.begin("idle", points=f"{point}=hang", signed=True)
        world.update()
        world.wait_fired(point)
        world.let_go(point)
        world.settle()
        oracle.check(world, expected=(OLD,))
        kept = world.sh("grep -rl forged /var/lib/slotd/apps /var/cache/slotd || true").stdout
        assert not kept, f"forged bytes are kept in {kept}"
        said = world.notes.slotctl("update", "notes", status=3)
        assert NEW in said or "nothing" in said.lower()
    finally:
        world.publisher.publish(NEW, schema=2)
        world.checksum_only(True)
