"""The page that a run writes: what was tried, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.vm.cuts import Ended

HEAD = """\
# Power cuts, hangs and worse: what was tried on whole machines

Written by `make vm`. The machines are emulated (QEMU, no KVM): Debian 12, the package, and a small application whose
versions leave their name in its data. One line of the second table is one run of one case.

A power cut is what SIGKILL to the emulator leaves: its disk, without a cache on this side, as it lies at a random
moment of an update. That disk is booted; four in ten machines are killed again on their way up. A machine ended right
if one version answers over HTTP, the active slot and slotd name the same one, the data are to the byte those that this
version had or made, no job and no trial is left open, the history tells the end, every copy is whole and known, and
what the newer version had written is in quarantine when the older one is back.

The clock of a machine counts the instructions that it has run, and the deadlines of the tests count only the seconds in
which the host let it run: how busy the host is changes how long a run takes, and not how it ends.
"""


def write_report(
    path: Path,
    seed: int,
    cuts: Sequence[Ended],
    cases: Sequence[tuple[str, list[str], float]],
    seconds: float,
    not_run: Sequence[str],
) -> None:
    right = sum(not ended.wrong for ended in cuts)
    power = sum(ended.cuts for ended in cuts)
    steps = Counter(ended.step or "before it was known" for ended in cuts)
    lines = [HEAD, f"Seed {seed}; {seconds / 60:.0f} minutes for all of it.", ""]
    lines += ["| power cuts | machines | ended right | on 1.0 | on 2.0 |", "|---|---|---|---|---|"]
    old, new = (sum(ended.version == version for ended in cuts) for version in ("1.0", "2.0"))
    lines += [f"| {power} | {len(cuts)} | {right} | {old} | {new} |", ""]
    lines += ["| step found at boot | machines |", "|---|---|"]
    lines += [f"| `{step}` | {count} |" for step, count in sorted(steps.items())]
    lines += ["", "| case | ended | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {'right' if not wrong else 'WRONG'} | {took:.0f} |" for name, wrong, took in sorted(cases)]
    if not_run:
        lines += ["", f"Not run, for want of time: {', '.join(not_run)}."]
    path.write_text("\n".join(lines) + "\n")
