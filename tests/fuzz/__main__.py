"""`make fuzz TARGET=sums MINUTES=10`: all targets in turn without a name; the corpus and the ledger stay in build/fuzz.

The ledger adds up over runs: seconds, executions, crashes and what of the parser the corpus reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.target import NAMES

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "fuzz"
LEDGER = PLACE / "ledger.json"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_LEAST_S = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", default="", choices=["", *NAMES])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    given = parser.parse_args()
    crashed = 0
    for name in [given.target] if given.target else NAMES:
        crashed += fuzz(name, max(_LEAST_S, round(given.minutes * 60)))
    return 1 if crashed else 0


def fuzz(name: str, seconds: int) -> int:
    """One target, once. The number of inputs that crashed it; they lie in build/fuzz/NAME/crashes."""
    corpus, crashes = PLACE / name / "corpus", PLACE / name / "crashes"
    corpus.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    log = PLACE / name / "log"
    with log.open("wb") as out:
        subprocess.run([*_python("engine"), name, corpus, crashes, str(seconds)], stderr=out, stdout=out, check=False)
    text = log.read_text(errors="replace")
    new = [path for path in crashes.iterdir() if path not in before and path.suffix != ".dict"]
    reach = _reach(name, corpus)
    entry = _add(name, text, seconds, len(new), reach)
    print(
        f"{name}: {_executions(text):,} inputs, {len(new)} crashes; in all {entry['executions']:,} in "
        f"{entry['seconds']:,} s, corpus {entry['inputs']:,}, {entry['covered']} % of the parser's lines and branches",
        flush=True,
    )
    if not new and "stat::number_of_executed_units" not in text:
        sys.exit(f"the fuzzer did not end as it should:\n{text[-2000:]}")
    for path in new:
        said = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|TooMuch|Misconfigured|Failed)\b.*$", text, re.MULTILINE)
        print(f"  {path}: {said[-1][:300] if said else 'see ' + str(log)}")
    return len(new)


def _reach(name: str, corpus: Path) -> dict[str, Any]:
    done = subprocess.run([*_python("coverage_of"), name, corpus], capture_output=True, text=True, check=False)
    try:
        reach: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # an input of the corpus that crashes it has been told already
        return {"inputs": len(list(corpus.iterdir())), "covered": "?"}
    (PLACE / name / "missing.json").write_text(json.dumps(reach.pop("missing"), indent=1))
    return reach


def _add(name: str, text: str, seconds: int, crashes: int, reach: dict[str, Any]) -> dict[str, Any]:
    ledger = json.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    entry: dict[str, Any] = ledger.setdefault(name, {"seconds": 0, "executions": 0, "crashes": 0, "runs": 0})
    done = re.findall(r"^Done \d+ runs in (\d+) second", text, re.MULTILINE)
    entry["seconds"] += int(done[-1]) if done else 0 if crashes else seconds
    entry["executions"] += _executions(text)
    entry["crashes"] += crashes
    entry["runs"] += 1
    entry |= reach
    beside = LEDGER.with_suffix(".new")
    beside.write_text(json.dumps(ledger, indent=1, sort_keys=True) + "\n")
    beside.rename(LEDGER)
    return entry


def _executions(text: str) -> int:
    counts = re.findall(r"^(?:stat::number_of_executed_units: *|#)(\d+)", text, re.MULTILINE)
    return max(map(int, counts), default=0)


def _python(program: str) -> list[str]:
    """A program of this folder, in an environment that has the fuzzer and sees the system's packages."""
    place = PLACE / "venv"
    stamp = place / ".stamp"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--system-site-packages", place], check=True)
        pip = [place / "bin" / "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--only-binary", ":all:", "--requirement", REQUIREMENTS], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    os.environ |= {"PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    return [str(place / "bin" / "python"), "-m", f"tests.fuzz.{program}"]


if __name__ == "__main__":
    sys.exit(main())
