"""The door to the journal: native fields, one MESSAGE_ID per event kind, and the app's own unit as the object."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from slotd.core.events import EventKind
from slotd.errors import for_user_manager

_log = logging.getLogger("slotd")


def send(kind: EventKind, message: str, *, fields: Mapping[str, str], units: Sequence[str] = ()) -> None:
    """Write one entry that shows in `journalctl -u UNIT` of every unit: a field may be there more than once.

    A journal that is away harms nothing (promise 7).
    """
    own = "MANAGERPID" in os.environ  # set by a user's manager
    record = {
        "MESSAGE": for_user_manager(message) if own else message,
        "MESSAGE_ID": kind.id,
        "PRIORITY": str(kind.priority),
    }
    record |= {"SYSLOG_IDENTIFIER": "slotd", "SLOTD_EVENT": kind.name}
    # The catalogue, one for the system and all its users, is filled in with the programs that this reader has to run.
    record |= {f"SLOTD_{tool.upper()}": f"{tool} --user" if own else tool for tool in ("slotctl", "systemctl")}
    record |= {key: value for key, value in fields.items() if value}
    try:
        from systemd import journal  # late: `slotctl` and the tests of pure rules do without

        object_field = "OBJECT_SYSTEMD_USER_UNIT" if own else "OBJECT_SYSTEMD_UNIT"
        lines = [f"{key}={value}" for key, value in record.items()]
        journal.sendv(*lines, *(f"{object_field}={unit}" for unit in units))
    except Exception as error:
        sys.stderr.write(f"{message} (journal: {error})\n")


def setup_logging(*, debug: bool = False) -> None:
    """Diagnostics of the daemon itself go to stderr, which systemd reads; the story of an update goes by `send`."""
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if debug else logging.INFO, format="%(message)s")
    _log.debug("logging is set up")
