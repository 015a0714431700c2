"""Runs the benchmarks: `make bench`, or `python3 -m tests.bench NAME…` for some. Needs root.

A benchmark is a file `bench_NAME.py` here with a function `main()` that measures and calls `ledger.record`. One that
fails is told at the end and does not keep the others from running; a missed aim is no failure.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from tests.bench import ledger

HERE = Path(__file__).parent


def main() -> int:
    there = {path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")}
    names = sorted(there, key=lambda name: (ledger.ORDER.index(name) if name in ledger.ORDER else 99, name))
    wanted = sys.argv[1:] or names
    if unknown := [name for name in wanted if name not in there]:
        print(f"no such benchmark: {', '.join(unknown)}. There are: {', '.join(names)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("the benchmarks boot containers and mount file systems: run them as root", file=sys.stderr)
        return 2
    failed = [name for name in wanted if not _ran(name)]
    missed = [f"{made.title}: {aim}" for made in ledger.records() for aim in made.aims if "MISSED" in aim]
    print(f"\n{ledger.PAGE} is written. Aims that are missed: {len(missed)}")
    print("".join(f"  {text}\n" for text in missed), end="")
    if failed:
        print(f"These did not come to their end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _ran(name: str) -> bool:
    began = time.monotonic()
    print(f"── {name} ", "─" * (100 - len(name)), flush=True)
    try:
        importlib.import_module(f"tests.bench.bench_{name}").main()
    except Exception:
        traceback.print_exc()
        return False
    print(f"({name}: {time.monotonic() - began:.0f} s)", flush=True)
    return True


if __name__ == "__main__":
    from tests.system.container import clean_up_on_sigterm

    clean_up_on_sigterm()
    sys.exit(main())
