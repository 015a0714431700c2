"""`make vm`: power cuts and worse on emulated machines. Prints how many ended right, and how to see one of them again.

/usr/bin/python3 -m tests.vm [--seed N] [--cuts 50] [--guests 2] [--only CASE] [--report FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import random
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.system.image import REPOSITORY, slotd_image
from tests.vm.cases import CASES, run_case
from tests.vm.cuts import KINDS, Cut, boot_and_judge, cut_during_update, left_over, store
from tests.vm.disk import make_disk
from tests.vm.ledger import Ended, Ledger, build_of
from tests.vm.report import write_report
from tests.vm.world import World

OF_ONE_UPDATE = 10
DISK = "disk.qcow2"


@dataclass
class Run:
    """One go at what a seed stands for."""

    seed: int
    ledger: Ledger
    until: float = math.inf  # by the host's monotonic clock: what has not begun by then is not run
    wrong: bool = False


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make vm", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance; 0: a new one")
    parser.add_argument("--cuts", type=int, default=50, help="how many disks of power cuts are booted")
    parser.add_argument("--guests", type=int, default=os.cpu_count() or 1, help="how many machines at a time")
    parser.add_argument("--only", action="append", help=f"cuts, or one of: {', '.join(CASES)}")
    parser.add_argument("--number", type=int, help="boot only the disk of this power cut again, which ended wrong")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these, no further machine is begun")
    parser.add_argument("--keep-right", action="store_true", help="what ended right on an earlier build counts, too")
    parser.add_argument("--report", type=Path, help="write what is known of the seed to this page")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    seed = args.seed or random.SystemRandom().randrange(1, 1_000_000)
    (deb,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    build, kept = build_of(deb), REPOSITORY / "build" / "vm" / f"seed-{seed}"
    begun = time.monotonic()
    ledger = Ledger(kept / "ledger.jsonl", build, keep_right=args.keep_right)
    for name in args.only or []:
        ledger.forget(name)  # who asks for one by its name wants to see it
    run = Run(seed, ledger, begun + args.minutes * 60)
    print(f"seed {seed}, build {build}; counted from before: {len(ledger.cuts) + len(ledger.cases)}", flush=True)
    with World(make_disk(slotd_image(deb)), REPOSITORY / "build" / "vm" / f"run-{os.getpid()}", deb, kept) as world:
        print(f"a machine with notes 1.0 is ready after {time.monotonic() - begun:.0f} s", flush=True)
        with ThreadPoolExecutor(args.guests) as pool:
            done = [pool.submit(_case, world, run, name) for name in args.only or CASES if name in CASES]
            if args.number is not None:
                _cut_again(world, run, args.number)
            elif args.only is None or "cuts" in args.only:
                _power_cuts(world, run, args.cuts, pool)
            for future in done:
                future.result()
    _tell(run, args.cuts, args.report)
    return 1 if run.wrong else 0


def _tell(run: Run, wanted: int, report: Path | None) -> None:
    """All that is known of the seed, from this go and from those before it."""
    for what, ended in (("power cuts", run.ledger.cuts), ("other cases", run.ledger.cases)):
        print(f"{sum(not each.wrong for each in ended)} of {len(ended)} {what} ended right")
    not_run = [name for name in CASES if name not in run.ledger]
    if missing := wanted - len(run.ledger.cuts):
        not_run.append(f"{missing} of {wanted} power cuts")
    if not_run:
        print(f"not run: {', '.join(not_run)}; the same command goes on with them: make vm SEED={run.seed}")
    if report:
        write_report(report, run.seed, run.ledger, not_run)


def _power_cuts(world: World, run: Run, wanted: int, pool: ThreadPoolExecutor) -> None:
    """Updates one after another give disks; as many as are wanted are booted meanwhile, those left over first."""
    free = [number for number in range(wanted) if f"cut {number}" not in run.ledger]
    left = [cut for cut in left_over(world) if cut.number in free]
    futures = [pool.submit(_cut, world, run, cut) for cut in left]
    free = sorted(set(free) - {cut.number for cut in left})
    while free and time.monotonic() < run.until:
        chance = random.Random(f"{run.seed} {free[0]}")
        kind = list(KINDS)[(free[0] // OF_ONE_UPDATE) % len(KINDS)]
        cuts = pool.submit(cut_during_update, world, kind, chance.randrange(1, 1 << 30)).result()
        chosen = sorted(chance.sample(range(len(cuts)), min(len(cuts), len(free), OF_ONE_UPDATE)))
        for place in set(range(len(cuts))) - set(chosen):
            cuts[place].image.unlink()
        for place in chosen:
            cut = store(world, dataclasses.replace(cuts[place], number=free.pop(0)))
            futures.append(pool.submit(_cut, world, run, cut))
    for future in futures:
        future.result()


def _cut(world: World, run: Run, cut: Cut) -> None:
    """The disk of one that ends wrong is kept: `--number` boots it again."""
    if time.monotonic() > run.until:
        return  # the next go does it
    ended = boot_and_judge(world, cut, run.ledger.build)
    if ended.wrong:
        shutil.copyfile(cut.image, world.kept / f"cut-{cut.number}" / DISK)
    _note(run, ended, f"cuts --number {cut.number}")
    cut.image.unlink()
    cut.image.with_suffix(".json").unlink(missing_ok=True)


def _cut_again(world: World, run: Run, number: int) -> None:
    ended = run.ledger.forget(f"cut {number}")
    disk, image = world.kept / f"cut-{number}" / DISK, world.directory / DISK
    if ended is None or not disk.exists():
        raise SystemExit(f"cannot boot cut {number} again: none of this build ended wrong.")
    shutil.copyfile(disk, image)
    _cut(world, run, Cut(number, ended.kind, ended.seed, ended.after_s, image))


def _case(world: World, run: Run, name: str) -> None:
    begun = time.monotonic()
    if begun > run.until or name in run.ledger:
        return
    try:
        wrong = run_case(world, name, random.Random(f"{run.seed} {name}"))
    except Exception as error:  # the other cases are to be seen, too
        wrong = [f"{type(error).__name__}: {error}"]
    _note(run, Ended(name, run.ledger.build, time.monotonic() - begun, tuple(wrong)), name)


def _note(run: Run, ended: Ended, again: str) -> None:
    run.ledger.add(ended)
    said = f"{ended.name:30} {ended.seconds:4.0f} s"
    if ended.is_cut:
        said += f"  {ended.kind:14} {ended.after_s:5.0f} s, at {ended.step or '-':14} {ended.cuts} cuts"
        said += f" → {ended.version or '-':4}"
    print(said + (f"  WRONG: {'; '.join(ended.wrong)}" if ended.wrong else "  right"), flush=True)
    if ended.wrong:
        run.wrong = True
        print(f"    again: make vm SEED={run.seed} ARGS='--only {again}'", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
