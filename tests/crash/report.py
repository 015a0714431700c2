"""What was tried and what held: kept while it runs, and written into docs/reliability.md as tables."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash import boots, columns, coverage, matrix, prefixes, sweep
from tests.crash.disk import KINDS
from tests.crash.faults import NAMES
from tests.crash.matrix import Outcome
from tests.system.image import REPOSITORY

PAGE = REPOSITORY / "docs" / "reliability.md"
WHOLE = REPOSITORY / "build" / "crash.jsonl"  # the last whole run
SOME = REPOSITORY / "build" / "crash-some.jsonl"  # the last run of some cells
BEGIN, END = "<!-- crash -->", "<!-- /crash -->"
WORDS = 160  # of why a cell did not hold, so many characters on the page


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome as it is kept. `source`: the daemon's commit; `at`: seconds since its sitting began."""

    outcome: Outcome
    source: str
    at: float

    @classmethod
    def read(cls, line: str) -> Told:
        raw = json.loads(line)
        return cls(Outcome(**raw["outcome"]), raw["source"], raw["at"])


class Ledger:
    """All outcomes of one run, which may have several sittings: `before` are those of the earlier ones.

    Of a cell that was run again the last outcome counts. `add` may be called from any thread.
    """

    def __init__(self, seed: int, path: Path, before: Sequence[Told] = ()) -> None:
        self.seed = seed
        self.seconds = 0.0  # of this sitting
        self.told = list(before)
        self._source = _commit()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._file = path.open("w")
        self._file.write(json.dumps({"seed": seed}) + "\n")
        for told in self.told:
            self._keep(told)

    def add(self, outcome: Outcome) -> None:
        """Print it and keep it."""
        with self._lock:
            self.seconds = time.monotonic() - self._began
            self.told.append(Told(outcome, self._source, self.seconds))
            self._keep(self.told[-1])
            held = f"BROKEN: {outcome.why}" if outcome.why else "held"
            print(
                f"{len(self.told):5} {self.seconds:6.0f} s  {outcome.name} ({outcome.seconds:.1f} s) {held}",
                flush=True,
            )

    def _keep(self, told: Told) -> None:
        self._file.write(json.dumps(dataclasses.asdict(told)) + "\n")
        self._file.flush()

    @property
    def outcomes(self) -> list[Outcome]:
        """The last of each cell."""
        return list({told.outcome.name: told.outcome for told in self.told}.values())

    def summary(self) -> str:
        outcomes = self.outcomes
        held = sum(not outcome.why for outcome in outcomes)
        tried = sum(not outcome.fault.startswith(("sweep-", "boot-", "prefix-")) for outcome in outcomes)
        whole = len(list(matrix.cells()))
        spent = [told.at for told, after in itertools.pairwise(self.told) if after.at < told.at]
        spent += [told.at for told in self.told[-1:]]
        return (
            f"{len(outcomes)} cells tried ({tried} of the {whole} of the matrix), {held} held, seed {self.seed}, "
            f"{sum(spent) / 60:.0f} min on {os.cpu_count()} processors"
        )

    def write(self) -> None:
        """The figures into the page, between its two marks."""
        text = PAGE.read_text()
        head, _, rest = text.partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{self.tables()}{END}{tail}")

    def tables(self) -> str:
        lines = [f"{self.summary()}. Median of a cell: {_median([o.seconds for o in self.outcomes]):.1f} s.", ""]
        lines += [*self._of_sources(), *self._not_held()]
        lines += ["| fault | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
        for fault in columns.FAULTS:
            lines.append(f"| {fault.title} | " + " | ".join(self._of(fault.name, kind) for kind in KINDS) + " |")
        swept = [(track.key, track.title) for track in sweep.TRACKS.values()]
        swept += [(way.key, way.title) for way in boots.WAYS.values()]
        for key, title in swept:
            for name in sweep.FAULTS:
                found = [self._of(f"{key}-{name}", kind) for kind in KINDS]
                which = "look at the disk in" if name in sweep.LOOKS else "file-changing call of"
                fault = "eio" if name in sweep.LOOKS else name
                lines.append(f"| every {which} {title}: {fault} | " + " | ".join(found) + " |")
        for stretch in prefixes.STRETCHES:
            found = [self._of(f"prefix-{stretch.name}", kind) for kind in KINDS]
            lines.append(f"| every disk prefix of a {stretch.name} | " + " | ".join(found) + " |")
        return "\n".join([*lines, "", *self._by_step()]) + "\n"

    def _of_sources(self) -> list[str]:
        last = {told.outcome.name: told.source for told in self.told}
        counts = Counter(last.values())
        sittings = 1 + sum(after.at < told.at for told, after in itertools.pairwise(self.told))
        if len({told.source for told in self.told}) == 1:
            run = "One unbroken run" if sittings == 1 else f"One run in {sittings} sittings, with no mend between them"
            return [f"{run}, with the daemon of commit `{next(iter(counts))}`.", ""]
        said = ", ".join(f"{count} by `{source}`" for source, count in counts.items())
        begun = f"A run in {sittings} sittings, with mends between them; of each cell the last counts"
        return [f"{begun}. Commits of the daemon: {said}.", ""]

    def _not_held(self) -> list[str]:
        """The cells that did not hold, once or still, as a table; nothing if there are none."""
        last = {told.outcome.name: told for told in self.told}
        first_broken: dict[str, Told] = {}
        for told in self.told:
            if told.outcome.why:
                first_broken.setdefault(told.outcome.name, told)
        if not first_broken:
            return []
        lines = ["| did not hold at first | what was seen | now |", "|---|---|---|"]
        for name, told in sorted(first_broken.items()):
            now = last[name]
            since = f"holds, `{now.source}`" if not now.outcome.why else f"does not hold, `{now.source}`"
            lines.append(f"| `{name}` (`{told.source}`) | {_short(told.outcome.why)} | {since} |")
        return [*lines, ""]

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
        return [*lines, "", *coverage.told()]

    def _of(self, fault: str, kind: str, step: str = "") -> str:
        """Held of tried, or a dash."""
        mine = Counter(
            not outcome.why
            for outcome in self.outcomes
            if outcome.fault == fault and outcome.name.startswith(kind) and (not step or outcome.step == step)
        )
        return f"{mine[True]}/{mine.total()}" if mine else "-"


def load(path: Path = WHOLE) -> tuple[int, list[Told]]:
    """The last whole run, as far as it came: its seed, and what was told."""
    head, *lines = path.read_text().splitlines()
    return int(json.loads(head)["seed"]), [Told.read(line) for line in lines]


def without_begun_replays(told: Sequence[Told]) -> list[Told]:
    """A replay of prefixes that did not come to its end is done anew: its numbers are those of one recording."""
    ended = {each.outcome.name.rpartition("/")[0] for each in told if each.outcome.name.endswith("/all")}

    def is_kept(outcome: Outcome) -> bool:
        is_prefix = outcome.fault.startswith("prefix-")
        return bool(outcome.why) or not is_prefix or outcome.name.rpartition("/")[0] in ended

    return [each for each in told if is_kept(each.outcome)]


def _commit() -> str:
    """The last commit that changed what is tested, and whether it was changed since."""

    def said(*words: str) -> str:
        argv = ["git", "-C", str(REPOSITORY), *words, "--", "daemon", "units", "dbus"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    return said("log", "-1", "--format=%h") + ("-dirty" if said("status", "--porcelain") else "")


def _short(why: str) -> str:
    line = why.partition("\n")[0].removeprefix("AssertionError: ").replace("|", "/")
    return line if len(line) <= WORDS else f"{line[:WORDS]}…"


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
