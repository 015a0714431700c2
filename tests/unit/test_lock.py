"""Two slotd on one state would take up the same job side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slotd.errors import Busy
from slotd.host.lock import only_one, only_one_on


def test_a_second_one_is_refused_at_once_and_let_in_after(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(Busy), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_the_lock_goes_with_its_holder_and_not_with_what_that_started(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from slotd.host.lock import only_one\n"
        "with only_one(Path(sys.argv[1])):\n"
        "    subprocess.Popen(['sleep', '30'], stdout=subprocess.DEVNULL); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2] / "daemon"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": str(root)}, check=False)
    with only_one(tmp_path):
        pass


def test_an_app_is_locked_by_itself(tmp_path: Path) -> None:
    with only_one(tmp_path), only_one_on(tmp_path, "notes"), only_one_on(tmp_path, "wiki"):
        with pytest.raises(Busy, match="locks/notes"), only_one_on(tmp_path, "notes"):
            pass
    with only_one_on(tmp_path, "notes"):
        pass
