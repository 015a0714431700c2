"""The matrix, the sweeps and the prefixes from a terminal: `make crash`. Needs root.

    make crash CELL=ext4/kill/switch:link       one cell by name; patterns and commas work
    make crash SAMPLE=40 SEED=7                 a seeded sample
    make crash LANES=3                          machines side by side
    make crash MINUTES=10                       as many as that allows, in an order drawn with the seed
    make crash AGAIN=1                          go on with the last whole run: what has not held yet, or not been run
    make crash AGAIN=1 CELL=*/kill/commit*      these once more, their outcomes in place of those of the whole run

Prints each cell as it ends; docs/reliability.md when all was run. Exits 1 if a cell did not hold or was not run.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

from tests.crash import plan, report
from tests.system.container import clean_up_on_sigterm
from tests.system.image import REPOSITORY, slotd_image


def main() -> int:
    again = bool(os.environ.get("SLOTD_CRASH_AGAIN"))
    seed, before = report.load() if again else (0, [])
    seed = seed or int(os.environ.get("SLOTD_CRASH_SEED") or random.SystemRandom().randrange(10**6))
    before = report.without_begun_replays(before)
    sample = int(os.environ.get("SLOTD_CRASH_SAMPLE") or 0)
    lanes = int(os.environ.get("SLOTD_CRASH_LANES") or os.cpu_count() or 1)
    wanted = os.environ.get("SLOTD_CRASH_CELL") or "*"
    is_whole = again or (wanted == "*" and not sample)
    last = {told.outcome.name: told.outcome for told in before}
    held = frozenset(name for name, outcome in last.items() if not outcome.why and wanted == "*")
    chosen = plan.Choice(tuple(wanted.split(",")), sample, seed, held)
    chunks = plan.chunks(chosen)
    if not chunks:
        print("no cell has such a name", file=sys.stderr)
        return 2
    (package,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    image = slotd_image(package)
    print(f"seed {seed}: {len(chunks)} machines, {lanes} at a time", flush=True)
    ledger = report.Ledger(seed, report.WHOLE if is_whole else report.SOME, before)
    over = threading.Event()
    clock = threading.Timer(60 * float(os.environ.get("SLOTD_CRASH_MINUTES") or 24 * 60), over.set)
    clock.daemon = True
    clock.start()
    with ThreadPoolExecutor(lanes) as pool:
        jobs = [pool.submit(plan.run, image, chunk, chosen, ledger.add, over) for chunk in chunks]
        try:
            stranded = [error for error in (job.exception() for job in jobs) if error is not None]
        finally:
            over.set()  # told to stop: each machine ends with the cell at hand
    broken = [outcome for outcome in ledger.outcomes if outcome.why]
    print(f"\n{ledger.summary()}")
    print("".join(f"  {outcome.name}: {outcome.why}\n" for outcome in broken), end="")
    for error in stranded:
        print("a machine was given up, its other cells were not run:", file=sys.stderr)
        traceback.print_exception(error)
    if is_whole:
        ledger.write()
        print(f"{report.PAGE} is written")
    return 1 if broken or stranded else 0


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
