"""Definitions and settings, as files: what an administrator may write, and what a program may write for him."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

from tests.fuzz import mutate
from tests.fuzz.target import Target

from slotd.core.config import parse_settings
from slotd.errors import Misconfigured
from slotd.host.confdir import Unusable, read_toml
from slotd.host.definitions import load_file

_EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
_PLACE = Path(tempfile.mkdtemp(prefix="slotd-fuzz-", dir="/dev/shm"))
atexit.register(shutil.rmtree, _PLACE, ignore_errors=True)
_PLACE.chmod(0o755)
_FILE = _PLACE / "astrbot.toml"
_WHOLE = (Path(__file__).resolve().parents[1] / "unit" / "test_config.py").read_text().split('"""')
_ODD = (
    *(b'k = ""', b'k = "\\u202e"', b"k = 0", b"k = -1", b"k = nan", b"k = inf", b"k = 99999999999999999999"),
    *(b"k = []", b"k = {}", b"k = [[]]", b"k = [{}]", b"k = 1979-05-27", b"k = 1979-05-27T07:32:00Z", b"k = true"),
    *(b'k = "{slot}"', b'k = "{"', b'k = "../x"', b'k = "/"', b'k = "/etc"', b'k = ["-rf", "/"]', b'k = "0"'),
    *(b'k = "1h 30min"', b'k = "999999999y"', b'k = "4G"', b'k = "1e9"', b'k = ">=1,<2"', b'k = "latest"'),
    *(b'k = "http://[::1"', b'k = "https://user:secret@host/"', b'k = "https://h/?a=b#c"', b"[k]", b"[[k]]"),
)  # fmt: skip


def one(data: bytes) -> None:
    """The same bytes as settings and as a definition: both say all that is wrong, in sentences, or can be used."""
    _FILE.write_bytes(data)
    _FILE.chmod(0o644)
    try:
        parse_settings([(str(_FILE), read_toml(_FILE) or {})])
    except (Unusable, Misconfigured) as error:
        _require_shown(error)
    try:
        load_file(_FILE)
    except Misconfigured as error:
        _require_shown(error)
        raise


def _require_shown(error: Unusable | Misconfigured) -> None:
    """A lone half of a character, or one that moves a cursor, must not reach a terminal or the journal."""
    problems = error.problems if isinstance(error, Misconfigured) else (str(error),)
    assert problems
    assert all(problem.isprintable() and problem.encode() for problem in problems), problems


def _lines() -> tuple[bytes, ...]:
    rows = {row.encode() for text in _seeds() for row in text.decode().split("\n") if re.match(r"\s*[\w\[]", row)}
    return (*sorted(rows), *_ODD)


def _seeds() -> tuple[bytes, ...]:
    examples = [path.read_bytes() for path in sorted(_EXAMPLES.rglob("*.toml"))]
    return (*examples, *(text.encode() for text in _WHOLE if "[service]" in text and "[source]" in text))


TARGET = Target(
    "definition",
    one,
    (Misconfigured,),
    seeds=_seeds(),
    modules=tuple(
        f"slotd.core.{name}" for name in ("config", "validate", "sections", "forms", "consistency", "timespan")
    ),
    words=(
        '"""',
        "'''",
        "[[",
        "]]",
        " = ",
        "{version}",
        "{slot}",
        "\\u202e",
        "0x",
        "inf",
        "nan",
        "1979-05-27T07:32:00Z",
    ),
    mutate=partial(mutate.lines, values=_lines()),
)
