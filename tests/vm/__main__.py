"""`make vm`: power cuts and worse on emulated machines. Prints how many ended right, and how to see one of them again.

/usr/bin/python3 -m tests.vm [--seed N] [--cuts 50] [--guests 2] [--only CASE] [--report FILE]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.image import REPOSITORY, slotd_image
from tests.vm.cases import CASES, run_case
from tests.vm.cuts import KINDS, Cut, Ended, boot_and_judge, cut_during_update
from tests.vm.disk import make_disk
from tests.vm.report import write_report
from tests.vm.world import World

MOST_OF_ONE_UPDATE = 10


@dataclass
class Run:
    """What came of a run."""

    seed: int
    cuts: list[Ended] = field(default_factory=list)
    cases: list[tuple[str, list[str], float]] = field(default_factory=list)
    seconds: float = 0.0
    until: float = math.inf  # by the host's monotonic clock: what has not begun by then is not run
    not_run: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not any(ended.wrong for ended in self.cuts) and not any(wrong for _, wrong, _ in self.cases)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make vm", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance; 0: a new one")
    parser.add_argument("--cuts", type=int, default=50, help="how many disks of power cuts are booted")
    parser.add_argument("--guests", type=int, default=os.cpu_count() or 1, help="how many machines at a time")
    parser.add_argument("--only", action="append", help=f"cuts, or one of: {', '.join(CASES)}")
    parser.add_argument("--number", type=int, help="boot only the cut of this number again")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these, no further machine is begun")
    parser.add_argument("--report", type=Path, help="write the figures of a whole run to this page")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    run = Run(args.seed or random.SystemRandom().randrange(1, 1_000_000))
    print(f"seed {run.seed}", flush=True)
    (deb,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    begun = time.monotonic()
    run.until = begun + args.minutes * 60
    kept = REPOSITORY / "build" / "vm" / f"seed-{run.seed}"
    with World(make_disk(slotd_image(deb)), REPOSITORY / "build" / "vm" / f"run-{os.getpid()}", deb, kept) as world:
        print(f"a machine with notes 1.0 is ready after {time.monotonic() - begun:.0f} s", flush=True)
        with ThreadPoolExecutor(args.guests) as pool:
            cases = [name for name in CASES if args.only is None or name in args.only]
            done = [pool.submit(_case, world, run, name) for name in cases]
            if args.only is None or "cuts" in args.only:
                _power_cuts(world, run, args.cuts, args.number, pool)
            for future in done:
                future.result()
    run.seconds = time.monotonic() - begun
    right = sum(not ended.wrong for ended in run.cuts)
    print(f"{right} of {len(run.cuts)} power cuts ended right; {run.seconds:.0f} s, seed {run.seed}")
    print(f"{sum(not wrong for _, wrong, _ in run.cases)} of {len(run.cases)} other cases ended right")
    if run.not_run:
        print(f"not run, for want of time: {', '.join(run.not_run)}")
    if args.report and args.only is None:  # a part of it is no result
        write_report(args.report, run.seed, run.cuts, run.cases, run.seconds, run.not_run)
    return 0 if run.is_right else 1


def _power_cuts(world: World, run: Run, wanted: int, number: int | None, pool: ThreadPoolExecutor) -> None:
    """Updates one after another give disks; as many of them as are wanted are booted meanwhile."""
    chance = random.Random(run.seed)
    futures, made = [], 0
    while made < wanted and time.monotonic() < run.until:
        kind = list(KINDS)[(made // MOST_OF_ONE_UPDATE) % len(KINDS)]
        cuts = cut_during_update(world, kind, chance.randrange(1, 1 << 30), made)
        chosen = sorted(
            chance.sample(cuts, min(len(cuts), MOST_OF_ONE_UPDATE, wanted - made)), key=lambda cut: cut.number
        )
        for place, cut in enumerate(chosen):
            numbered = Cut(made + place, cut.kind, cut.seed, cut.after_s, cut.image)
            if number in (None, numbered.number):
                futures.append(pool.submit(_cut, world, run, numbered))
        for cut in set(cuts) - set(chosen):
            cut.image.unlink()
        made += len(chosen)
    for future in futures:
        future.result()
    if (missing := wanted - len(run.cuts)) and number is None:
        run.not_run.append(f"{missing} of {wanted} power cuts")


def _cut(world: World, run: Run, cut: Cut) -> None:
    if time.monotonic() > run.until:
        cut.image.unlink()
        return
    ended = boot_and_judge(world, cut)
    cut.image.unlink()
    run.cuts.append(ended)
    how = "right" if not ended.wrong else "WRONG: " + "; ".join(ended.wrong)
    print(
        f"cut {cut.number:3}  {cut.kind:14} {cut.after_s:5.0f} s, at {ended.step or '-':14} {ended.cuts} cuts"
        f" → {ended.version or '-':4} {ended.seconds:4.0f} s  {how}",
        flush=True,
    )
    if ended.wrong:
        print(f"    again: make vm SEED={run.seed} ARGS='--only cuts --number {cut.number}'", flush=True)


def _case(world: World, run: Run, name: str) -> None:
    begun = time.monotonic()
    if begun > run.until:
        run.not_run.append(name)
        return
    try:
        wrong = run_case(world, name, random.Random(f"{run.seed} {name}"))
    except Exception as error:  # the other cases are to be seen, too
        wrong = [f"{type(error).__name__}: {error}"]
    run.cases.append((name, wrong, time.monotonic() - begun))
    how = "right" if not wrong else "WRONG: " + "; ".join(wrong)
    print(f"{name:30} {time.monotonic() - begun:4.0f} s  {how}", flush=True)
    if wrong:
        print(f"    again: make vm SEED={run.seed} ARGS='--only {name}'", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
