"""The matrix from a terminal: `make crash`, or `make crash CELL=ext4/kill/switch:link`, `make crash SAMPLE=40 SEED=7`.

Needs root. Prints each cell as it ends; exits 1 if one did not hold.
"""

from __future__ import annotations

import fnmatch
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash import matrix
from tests.crash.disk import KINDS
from tests.crash.matrix import Cell, Outcome
from tests.crash.world import World
from tests.system.container import clean_up_on_sigterm
from tests.system.image import REPOSITORY, Image, slotd_image

WHOLE_UPDATE_EVERY = 8
_print = threading.Lock()


def main() -> int:
    seed = int(os.environ.get("SLOTD_CRASH_SEED") or random.SystemRandom().randrange(10**6))
    sample = int(os.environ.get("SLOTD_CRASH_SAMPLE") or 0)
    patterns = (os.environ.get("SLOTD_CRASH_CELL") or "*").split(",")
    wanted = [cell for cell in matrix.cells() if any(fnmatch.fnmatch(cell.name, p) for p in patterns)]
    chance = random.Random(seed)
    if sample:
        wanted = chance.sample(wanted, min(sample, len(wanted)))
    if not wanted:
        print("no cell has such a name", file=sys.stderr)
        return 2
    print(f"{len(wanted)} cells, seed {seed}", flush=True)
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    image = slotd_image(package)
    began = time.monotonic()
    with ThreadPoolExecutor(len(KINDS)) as pool:
        jobs = [pool.submit(column, image, kind, wanted, seed) for kind in KINDS]
        outcomes = [outcome for job in jobs for outcome in job.result()]
    broken = [outcome for outcome in outcomes if outcome.why]
    print(f"\n{len(outcomes)} cells tried, {len(outcomes) - len(broken)} held, seed {seed}, "
          f"{time.monotonic() - began:.0f} s")
    for outcome in broken:
        print(f"  {outcome.name}: {outcome.why}")
    return 1 if broken else 0


def column(image: Image, kind: str, wanted: list[Cell], seed: int) -> list[Outcome]:
    """All cells of one file system, in one container."""
    mine = [cell for cell in wanted if cell.kind == kind]
    if not mine:
        return []
    outcomes = []
    chance = random.Random(f"{seed}-{kind}")
    world = World(image, kind)
    world.__enter__()
    try:
        for number, cell in enumerate(mine, 1):
            outcome = matrix.run(world, cell, whole_update=chance.randrange(WHOLE_UPDATE_EVERY) == 0)
            outcomes.append(outcome)
            with _print:
                held = "held" if not outcome.why else f"BROKEN: {outcome.why}"
                print(f"{number:4}/{len(mine)} {outcome.seconds:5.1f} s  {cell.name}  {held}", flush=True)
            if outcome.why:
                world.__exit__(None, None, None)  # what one cell broke must not count against the next
                world = World(image, kind)
                world.__enter__()
    finally:
        world.__exit__(None, None, None)
    return outcomes


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
