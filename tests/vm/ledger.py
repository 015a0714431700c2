"""What the runs of one seed have come to, kept on disk: a run that was ended goes on where it stopped.

A line of JSON for each machine, with the build it was tried on: a digest over the package and over these tests. What
was tried on another build does not count, unless it ended right and the caller says that it shall; the page names the
builds.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Ended:
    """How one machine ended. `name`: of a case, or `cut N`. `wrong` empty: right. A case has no step and no version."""

    name: str
    build: str
    seconds: float
    wrong: tuple[str, ...]
    kind: str = ""
    seed: int = 0
    after_s: float = 0.0
    cuts: int = 0
    step: str = ""
    version: str = ""

    @property
    def is_cut(self) -> bool:
        return self.name.startswith("cut ")


def build_of(deb: Path) -> str:
    """Of the package's bytes, and of all that judges it."""
    sources = [*sorted(HERE.glob("*.py")), HERE.parents[1] / "tests/apps/notes.py"]
    told = hashlib.sha256(deb.read_bytes())
    for path in sources:
        if path.name not in ("__main__.py", "ledger.py", "report.py", "test_ledger.py"):  # these try and judge nothing
            told.update(path.read_bytes())
    return told.hexdigest()[:12]


class Ledger:
    """`keep_right`: what ended right on another build counts, too."""

    def __init__(self, path: Path, build: str, *, keep_right: bool) -> None:
        self.path, self.build = path, build
        self._lock = threading.Lock()
        self._ended: dict[str, Ended] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            found = json.loads(line)
            ended = Ended(**{**found, "wrong": tuple(found["wrong"])})
            if ended.build == build or (keep_right and not ended.wrong):
                self._ended[ended.name] = ended

    def __contains__(self, name: str) -> bool:
        return name in self._ended

    def add(self, ended: Ended) -> None:
        with self._lock:
            self._ended[ended.name] = ended
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(ended)) + "\n")

    def forget(self, name: str) -> Ended | None:
        return self._ended.pop(name, None)

    @property
    def cuts(self) -> list[Ended]:
        return [ended for ended in self._ended.values() if ended.is_cut]

    @property
    def cases(self) -> list[Ended]:
        return [ended for ended in self._ended.values() if not ended.is_cut]
