"""The other end of `tests/tuf_lab.py`, for a Python that has no python-tuf."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
EXTRAS = REPO / "build" / "extras"


class Lab:
    """The other end of `tests/tuf_lab.py`."""

    def __init__(self) -> None:
        command = ["/usr/bin/python3", "-B", str(REPO / "tests" / "tuf_lab.py")]
        environment = {"PYTHONPATH": f"{EXTRAS}:{REPO / 'daemon'}", "PATH": "/usr/bin:/bin"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, what: str, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, arguments, keywords]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
