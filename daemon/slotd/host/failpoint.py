"""Places where a test may break the program on purpose; nothing at all in production.

`$SLOTD_FAILPOINTS` is `name=action[,name=action…]`, read once at import. Actions: `kill` (SIGKILL to this process),
`eio` and `enospc` (an OSError of that number), `hang` (for ever); `name=kill*3` acts at the third hit only. With
`$SLOTD_FAILPOINTS_DIR` a file there remembers each one that fired, so that it fires once across restarts, and a `hang`
ends when that file holds a word: whoever waits for the file does what it has to do meanwhile, and lets go.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping

from slotd.host.offloop import off_loop

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
        while not _let_go(name):
            time.sleep(0.01)
        return
    number = errno.EIO if action == "eio" else errno.ENOSPC
    raise OSError(number, os.strerror(number), f"failpoint {name}")


async def reach(name: str) -> None:
    """`hit` beside the event loop: while a step hangs, the daemon still answers."""
    if name in _POINTS:
        await off_loop(hit, name)


def _fired(name: str) -> str:
    return os.path.join(_FIRED_DIR, name.replace("/", "_"))


def _let_go(name: str) -> bool:
    return bool(_FIRED_DIR) and os.stat(_fired(name)).st_size > 0


def _first_time(name: str) -> bool:
    if not _FIRED_DIR:
        return True
    try:
        os.close(os.open(_fired(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True
