"""The door to the journal: native fields, one MESSAGE_ID per event kind, and the app's own unit as the object."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence

from slotd.core.events import EventKind

_log = logging.getLogger("slotd")


def send(kind: EventKind, message: str, *, fields: Mapping[str, str], units: Sequence[str] = ()) -> None:
    """Write one entry per unit, so that it shows in `journalctl -u UNIT`.

    A journal that is away harms nothing (promise 7).
    """
    record = {"SYSLOG_IDENTIFIER": "slotd", "PRIORITY": str(kind.priority), "SLOTD_EVENT": kind.name}
    record |= {key: value for key, value in fields.items() if value}
    try:
        from systemd import journal  # late: `slotctl` and the tests of pure rules do without

        if units:
            # The first carries the message for `journalctl -u slotd`, too: one entry can name only one object.
            for unit in units:
                journal.send(message, MESSAGE_ID=kind.id, OBJECT_SYSTEMD_UNIT=unit, **record)
        else:
            journal.send(message, MESSAGE_ID=kind.id, **record)
    except Exception as error:
        sys.stderr.write(f"{message} (journal: {error})\n")


def setup_logging(*, debug: bool = False) -> None:
    """Diagnostics of the daemon itself go to stderr, which systemd reads; the story of an update goes by `send`."""
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if debug else logging.INFO, format="%(message)s")
    _log.debug("logging is set up")
