"""What was tried and what held: kept while it runs, and written into docs/reliability.md as tables."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

from tests.crash import columns, matrix, prefixes, sweep
from tests.crash.disk import KINDS
from tests.crash.faults import NAMES, NOT_MET
from tests.crash.matrix import Outcome
from tests.system.image import REPOSITORY

PAGE = REPOSITORY / "docs" / "reliability.md"
KEPT = REPOSITORY / "build" / "crash.jsonl"
BEGIN, END = "<!-- crash -->", "<!-- /crash -->"


class Ledger:
    """All outcomes of one run. `add` may be called from any thread."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.seconds = 0.0
        self.outcomes: list[Outcome] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._file = KEPT.open("w")

    def add(self, outcome: Outcome) -> None:
        """Print it and keep it."""
        with self._lock:
            self.outcomes.append(outcome)
            self.seconds = time.monotonic() - self._began
            self._file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            self._file.flush()
            held = f"BROKEN: {outcome.why}" if outcome.why else "held"
            print(
                f"{len(self.outcomes):5} {self.seconds:6.0f} s  {outcome.name} ({outcome.seconds:.1f} s) {held}",
                flush=True,
            )

    def summary(self) -> str:
        held = sum(not outcome.why for outcome in self.outcomes)
        tried = sum(not outcome.fault.startswith(("sweep-", "prefix-")) for outcome in self.outcomes)
        whole = len(list(matrix.cells()))
        return (
            f"{len(self.outcomes)} cells tried ({tried} of the {whole} of the matrix), {held} held, seed {self.seed}, "
            f"{self.seconds / 60:.0f} min on {os.cpu_count()} processors"
        )

    def write(self) -> None:
        """The figures into the page, between its two marks."""
        text = PAGE.read_text()
        head, _, rest = text.partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{self.tables()}{END}{tail}")

    def tables(self) -> str:
        lines = [f"{self.summary()}. Median of a cell: {_median([o.seconds for o in self.outcomes]):.1f} s.", ""]
        lines += ["| fault | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
        for fault in columns.FAULTS:
            lines.append(f"| {fault.title} | " + " | ".join(self._of(fault.name, kind) for kind in KINDS) + " |")
        for track in sweep.TRACKS.values():
            for name in sweep.FAULTS:
                found = [self._of(f"sweep-{track.name}-{name}", kind) for kind in KINDS]
                lines.append(f"| every file-changing call of {track.title}: {name} | " + " | ".join(found) + " |")
        for stretch in prefixes.STRETCHES:
            found = [self._of(f"prefix-{stretch.name}", kind) for kind in KINDS]
            lines.append(f"| every disk prefix of a {stretch.name} | " + " | ".join(found) + " |")
        return "\n".join([*lines, "", *self._by_step()]) + "\n"

    def _by_step(self) -> list[str]:
        names = [fault.name for fault in columns.FAULTS]
        reasons = {(fault, step): why for fault, step, why in matrix.senseless()}
        numbers = {why: number for number, why in enumerate(dict.fromkeys(reasons.values()), 1)}
        lines = ["| step | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
        for step in NAMES:
            shown = []
            for name in names:
                why = reasons.get((name, step))
                shown.append(f"({numbers[why]})" if why else self._of(name, "", step))
            lines.append(f"| `{step}` | " + " | ".join(shown) + " |")
        lines += ["", *(f"({number}) {why}.  " for why, number in numbers.items())]
        lines += ["", "Failpoints that these updates do not come by:", ""]
        return lines + [f"- `{name}`: {why}" for name, why in NOT_MET.items()]

    def _of(self, fault: str, kind: str, step: str = "") -> str:
        """Held of tried, or a dash."""
        mine = Counter(
            not outcome.why
            for outcome in self.outcomes
            if outcome.fault == fault and outcome.name.startswith(kind) and (not step or outcome.step == step)
        )
        return f"{mine[True]}/{mine.total()}" if mine else "-"


def load(path: Path = KEPT) -> list[Outcome]:
    """The outcomes of the last run, as far as it came."""
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
