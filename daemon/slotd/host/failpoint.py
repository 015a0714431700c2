"""Places where a test may break the program on purpose; nothing at all in production.

`$SLOTD_FAILPOINTS` is `name=action[,name=action…]`, read once at import. Actions: `kill` (SIGKILL to this process),
`eio` and `enospc` (an OSError of that number), `hang` (for ever); `name=kill*3` acts at the third hit only. With
`$SLOTD_FAILPOINTS_DIR` a file there remembers each one that fired, so that it fires once across restarts.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping

ACTIONS = ("kill", "eio", "enospc", "hang")


def parse(text: str) -> dict[str, tuple[str, int]]:
    """`name=action*N,…` as `{name: (action, N)}`; N is 1 when not given. Raises ValueError for anything else."""
    points: dict[str, tuple[str, int]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, rest = item.partition("=")
        action, star, count = rest.partition("*")
        if not (name and equals and action in ACTIONS) or (star and not count.isdigit()):
            raise ValueError(f"failpoint {item!r} is not name=action or name=action*N with one of {', '.join(ACTIONS)}")
        points[name] = (action, int(count) if star else 1)
    return points


_POINTS: Mapping[str, tuple[str, int]] = parse(os.environ.get("SLOTD_FAILPOINTS", ""))
_FIRED_DIR = os.environ.get("SLOTD_FAILPOINTS_DIR", "")
_hits: Counter[str] = Counter()
_lock = threading.Lock()


def hit(name: str) -> None:
    """Do what `$SLOTD_FAILPOINTS` asks for at `name`; otherwise nothing. Raises OSError for `eio` and `enospc`."""
    if not _POINTS or name not in _POINTS:
        return
    action, at = _POINTS[name]
    with _lock:
        _hits[name] += 1
        if _hits[name] != at or not _first_time(name):
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in ("kill", "hang"):
        while True:
            time.sleep(3600)
    number = errno.EIO if action == "eio" else errno.ENOSPC
    raise OSError(number, os.strerror(number), f"failpoint {name}")


def _first_time(name: str) -> bool:
    if not _FIRED_DIR:
        return True
    try:
        os.close(os.open(os.path.join(_FIRED_DIR, name.replace("/", "_")), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True
