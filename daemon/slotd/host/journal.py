"""The door to the journal: native fields, one MESSAGE_ID per event kind, and the app's own unit as the object."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from slotd.core.events import EventKind

_log = logging.getLogger("slotd")


def send(kind: EventKind, message: str, *, fields: Mapping[str, str], units: Sequence[str] = ()) -> None:
    """Write one entry that shows in `journalctl -u UNIT` of every unit: a field may be there more than once.

    A journal that is away harms nothing (promise 7).
    """
    record = {"MESSAGE": message, "MESSAGE_ID": kind.id, "PRIORITY": str(kind.priority)}
    record |= {"SYSLOG_IDENTIFIER": "slotd", "SLOTD_EVENT": kind.name}
    record |= {key: value for key, value in fields.items() if value}
    try:
        from systemd import journal  # late: `slotctl` and the tests of pure rules do without

        lines = [f"{key}={value}" for key, value in record.items()]
        journal.sendv(*lines, *(f"{_object_field()}={unit}" for unit in units))
    except Exception as error:
        sys.stderr.write(f"{message} (journal: {error})\n")


def _object_field() -> str:
    """`$MANAGERPID` is set by a user's manager: what that starts speaks of that user's units."""
    return "OBJECT_SYSTEMD_USER_UNIT" if "MANAGERPID" in os.environ else "OBJECT_SYSTEMD_UNIT"


def setup_logging(*, debug: bool = False) -> None:
    """Diagnostics of the daemon itself go to stderr, which systemd reads; the story of an update goes by `send`."""
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if debug else logging.INFO, format="%(message)s")
    _log.debug("logging is set up")
