"""What the benchmarks measured, and the page that is made of it.

    from tests.bench.ledger import Aim, Samples, record

    ours, theirs = Samples(times_s, "s"), Samples(other_times_s, "s")
    record(
        "install",
        "Installing a release",
        "What was measured, against what, and where. Markdown.",
        ["", "time", "against the opponent"],
        [["slotd", ours, ours.against(theirs)], ["curl, tar, sync", theirs, "1.00"]],
        aims=[Aim("time against curl + tar + sync", ours.median / theirs.median, 1.15, "times")],
    )

A record lies in `build/bench/KEY.json` until it is measured anew. `write_page()` makes `docs/performance.md` from all
of them; `record` calls it, so that a benchmark that is run alone replaces its own section and no other.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDS = Path(os.environ.get("SLOTD_BENCH_RECORDS", REPOSITORY / "build" / "bench"))
PAGE = Path(os.environ.get("SLOTD_BENCH_PAGE", REPOSITORY / "docs" / "performance.md"))

# The order of the page; a record of another key comes after these.
ORDER = ("install", "delta", "downtime", "backup", "bus", "attacks", "cli", "apps", "checks", "memory")

HEAD = """\
# How fast slotd is, and how much it takes

Each figure stands beside its opponent: what a careful administrator would run instead, or the program that does the
nearest thing, in the same run, on the same machine, over the same bytes. Measure it yourself, as root on Debian 12:

```console
# make bench                              # all of it, about 25 minutes, writes this page
# make bench BENCH=downtime               # one benchmark; its section alone is replaced
# make bench BENCH=install QUICK=1        # smaller, to see that it runs; its figures say that they are small ones
```

How to read it: a figure is the median of n runs, then the least and the most of them. Runs of the two sides take
turns, so that a busy moment of the machine hits both. *Against* is our median divided by the opponent's: below 1.00
slotd is faster. An aim is what slotd was built to reach; each table says whether it was met. No test asserts any of it:
a slow machine is no defect. Ratios carry over to other machines better than seconds do.
"""


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured values of one thing. `unit` is what they are in: `s`, `ms`, `MB`, `calls/s` …"""

    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def against(self, other: Samples) -> str:
        """Our median divided by the other's."""
        return f"{self.median / other.median:.2f}"

    def __str__(self) -> str:
        text = f"{shown(self.median)} {self.unit}"
        if len(self.values) == 1:
            return f"{text} (one run)"
        return f"{text} ({shown(min(self.values))} to {shown(max(self.values))}, n={len(self.values)})"


@dataclass(frozen=True, slots=True)
class Aim:
    """`measured` was meant to be at most `limit` (at least, with `at_least`); both in `unit`."""

    what: str
    measured: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        said = "met" if self.is_met else "**MISSED**"
        return f"{said}: {self.what}, {bound} {shown(self.limit)} {self.unit}, measured {shown(self.measured)}".strip()


@dataclass(frozen=True, slots=True)
class Record:
    """One section of the page, as it is stored."""

    key: str
    title: str
    intro: str
    columns: list[str]
    rows: list[list[str]]
    aims: list[str]
    notes: list[str]
    machine: str
    taken: str
    missed: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)


def record(
    key: str,
    title: str,
    intro: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    aims: Sequence[Aim] = (),
    notes: Sequence[str] = (),
) -> None:
    """Stores a section (the one of this `key` is replaced), prints it, and writes the page anew.

    `rows` hold strings, numbers or `Samples`; the single values of those are kept in the JSON file. `notes` are
    sentences for below the table: what could not be measured and why, what explains a missed aim.
    """
    values = {
        f"{row[0]} / {column}": list(cell.values)
        for row in rows
        for column, cell in zip(columns, row, strict=True)
        if isinstance(cell, Samples)
    }
    made = Record(
        key=key,
        title=title,
        intro=intro.strip(),
        columns=list(columns),
        rows=[[shown(cell) if isinstance(cell, (int, float)) else str(cell) for cell in row] for row in rows],
        aims=[str(aim) for aim in aims],
        notes=list(notes),
        machine=machine(),
        taken=time.strftime("%Y-%m-%d", time.gmtime()),
        missed=sum(not aim.is_met for aim in aims),
        values=values,
    )
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{key}.json"
    path.with_suffix(".new").write_text(json.dumps(asdict(made), indent=2, ensure_ascii=False) + "\n")
    path.with_suffix(".new").rename(path)
    print(f"\n{_section(made)}", flush=True)
    write_page()


def records() -> list[Record]:
    """All that is stored, in the page's order."""
    found = [Record(**json.loads(path.read_text())) for path in RECORDS.glob("*.json")]
    return sorted(found, key=lambda r: (ORDER.index(r.key) if r.key in ORDER else len(ORDER), r.key))


def write_page() -> None:
    """`docs/performance.md` from all records. A section that was not measured here stays as the page has it."""
    old = _sections_of(PAGE.read_text()) if PAGE.exists() else {}
    new = {made.key: _section(made) for made in records()}
    keys = sorted({*old, *new}, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))
    PAGE.write_text("\n".join([HEAD, *(_marked(key, new.get(key) or old[key]) for key in keys)]))


def shown(value: float) -> str:
    """A number with three digits that mean something."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> str:
    """One line: processors, memory, kernel, distribution, the file system of this tree, and how busy it was."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "an unknown distribution")
    return (
        f"{os.cpu_count()} x {cpu}, {memory:.0f} GiB of memory, Linux {platform.release()}, {release}, "
        f"{file_system(REPOSITORY)}, load {os.getloadavg()[0]:.1f} at the end"
    )


def file_system(path: Path) -> str:
    """The type of the file system that `path` is on."""
    device = path.stat().st_dev
    kind = "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            kind = rest.split()[0]
    return kind


def _section(made: Record) -> str:
    lines = [f"## {made.title}", "", made.intro, "", _row(made.columns), _row(["---"] * len(made.columns))]
    lines += [_row(row) for row in made.rows]
    if made.aims:
        lines += ["", *(f"- Aim {aim}." for aim in made.aims)]
    for note in made.notes:
        lines += ["", note]
    lines += ["", f"*{made.taken}, {made.machine}.*", ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _marked(key: str, text: str) -> str:
    return f"<!-- bench: {key} -->\n{text.strip()}\n<!-- /bench -->\n"


def _sections_of(page: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in page.split("<!-- bench: ")[1:]:
        key, _, rest = part.partition(" -->\n")
        found[key] = rest.partition("\n<!-- /bench -->")[0]
    return found
