"""The page that a run writes: what was tried, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.vm.ledger import Ended, Ledger

HEAD = """\
# Power cuts, hangs and worse: what was tried on whole machines

Written by `make vm`. The machines are emulated (QEMU, no KVM): Debian 12, the package, and a small application whose
versions leave their name in its data. One line of the last table is one run of one case.

A power cut is what SIGKILL to the emulator leaves: its disk, without a cache on this side, as it lies at a random
moment of an update. That disk is booted; four in ten machines are killed again on their way up. A machine ended right
if one version answers over HTTP, the active slot and slotd name the same one, the data are to the byte those that this
version had or made, no job and no trial is left open, the history tells the end, every copy is whole and known, and
what the newer version had written is in quarantine when the older one is back.

The clock of a machine counts the instructions that it has run, and the deadlines of the tests count only the seconds in
which the host let it run: how busy the host is changes how long a run takes, and not how it ends.

A run that was ended goes on where it stopped, with the same command and the same SEED; `ARGS=--keep-right` counts what
ended right on an earlier build, too. A build is a digest over the package and over these tests.
"""


def write_report(path: Path, seed: int, ledger: Ledger, not_run: Sequence[str]) -> None:
    cuts = ledger.cuts
    right = sum(not ended.wrong for ended in cuts)
    hours = sum(ended.seconds for ended in (*cuts, *ledger.cases)) / 3600
    lines = [HEAD, f"Seed {seed}; all machines together were on for {hours:.1f} hours.", ""]
    builds = Counter(ended.build for ended in (*cuts, *ledger.cases))
    if len(builds) > 1:
        shares = ", ".join(f"{count} on {build}" for build, count in builds.items())
        lines += [f"Tried on {len(builds)} builds, one after another: {shares}.", ""]
    lines += ["| power cuts | machines | ended right | on 1.0 | on 2.0 |", "|---|---|---|---|---|"]
    old, new = (sum(ended.version == version for ended in cuts) for version in ("1.0", "2.0"))
    lines += [f"| {sum(ended.cuts for ended in cuts)} | {len(cuts)} | {right} | {old} | {new} |", ""]
    lines += ["| what 2.0 is like | machines | ended right | on 1.0 | on 2.0 |", "|---|---|---|---|---|"]
    for kind in sorted({ended.kind for ended in cuts}):
        of_it = [ended for ended in cuts if ended.kind == kind]
        good = sum(not ended.wrong for ended in of_it)
        old, new = (sum(ended.version == version for ended in of_it) for version in ("1.0", "2.0"))
        lines += [f"| {kind} | {len(of_it)} | {good} | {old} | {new} |"]
    steps = Counter(ended.step or "before it was known" for ended in cuts)
    lines += ["", "| step found at boot | machines |", "|---|---|"]
    lines += [f"| `{step}` | {count} |" for step, count in sorted(steps.items())]
    lines += ["", "| case | ended | seconds |", "|---|---|---|"]
    lines += [f"| {case.name} | {_how(case)} | {case.seconds:.0f} |" for case in sorted(ledger.cases, key=_name)]
    for ended in sorted((*cuts, *ledger.cases), key=_name):
        lines += ["", f"{ended.name} ended wrong: {'; '.join(ended.wrong)}"] if ended.wrong else []
    if not_run:
        lines += ["", f"Not run, for want of time: {', '.join(not_run)}."]
    path.write_text("\n".join(lines) + "\n")


def _name(ended: Ended) -> str:
    return ended.name


def _how(ended: Ended) -> str:
    return "WRONG" if ended.wrong else "right"
