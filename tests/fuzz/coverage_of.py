"""What a corpus reaches: `coverage_of.py TARGET CORPUS` offers it once more and prints what is covered, as JSON."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import coverage


def main() -> None:
    name, corpus = sys.argv[1:3]
    watch = coverage.Coverage(branch=True, data_file=None, include=["*/slotd/*"])
    watch.start()
    from tests.fuzz import target as targets

    target = targets.load(name)
    inputs = [path.read_bytes() for path in Path(corpus).iterdir()]
    taken = sum(targets.offer(target, data) for data in inputs)
    watch.stop()
    branches = reached = 0
    missing: dict[str, list[int]] = {}
    for module in target.modules:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        numbers = watch._analyze(spec.origin).numbers
        branches += numbers.n_branches + numbers.n_statements
        reached += numbers.n_branches - numbers.n_missing_branches + numbers.n_statements - numbers.n_missing
        missing[module] = watch.analysis2(spec.origin)[3]
    json.dump(
        {"inputs": len(inputs), "taken": taken, "covered": round(100 * reached / branches, 1), "missing": missing},
        sys.stdout,
    )


if __name__ == "__main__":
    main()
