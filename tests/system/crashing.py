"""Breaking the daemon at a failpoint, and what must hold when it has come back."""

from __future__ import annotations

from typing import Any

from tests.system.notes import Notes

PACKAGES = "/usr/lib/python3/dist-packages"
# What only goes forward, or talks to somebody.
BREAKABLE = ("slotd/service/daemon", "slotd/recipes/fetching", "slotd/sources/work", "dbus_fast/__init__")


def crash_at(notes: Notes, point: str, action: str = "kill") -> None:
    """Arm a failpoint for the next daemon; it fires once, also across restarts."""
    arm(notes, f"{point}={action}")


def arm(notes: Notes, points: str, *, start_limit: str = "0", wait: str = "50ms") -> None:
    """Arm failpoints, as `$SLOTD_FAILPOINTS` has them, for the next daemon; they are counted across restarts.

    `start_limit`: in so long only five of its starts may end badly; "0" is no limit. `wait`: before each next start.
    """
    notes.machine.run("rm -rf /run/slotd-fired; mkdir -p /run/slotd-fired /run/systemd/system/slotd.service.d")
    notes.machine.write_file(
        "/run/systemd/system/slotd.service.d/failpoint.conf",
        f"[Unit]\nStartLimitIntervalSec={start_limit}\n"
        f"[Service]\nEnvironment=SLOTD_FAILPOINTS={points} SLOTD_FAILPOINTS_DIR=/run/slotd-fired\n"
        f"RestartSec={wait}\n",
    )
    notes.machine.run("systemctl daemon-reload; systemctl reset-failed slotd; systemctl restart slotd")


def fired(notes: Notes, point: str) -> bool:
    return notes.machine.exists(f"/run/slotd-fired/{point}")


def wait_until_done(notes: Notes) -> None:
    """Until no job runs any more, whoever runs it."""
    notes.machine.wait_for(
        "systemctl is-active --quiet slotd || systemctl start slotd; "
        "test \"$(busctl get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs)\" = 'u 0'",
        timeout_s=60,
    )


def check_promises(notes: Notes, before: dict[str, Any], new: str) -> None:
    """One whole version answers, on the data that it had or made; store, link and app agree."""
    state = notes.wait_state()
    assert state["version"] in (before["version"], new)
    assert state["digest"] == before["digest"]
    shown = notes.json("status", "notes")
    assert shown["version"] == state["version"]
    assert shown["trial"] is None
    assert shown["state"] not in ("updating", "trial", "rolling-back", "failed", "held")
    link = notes.machine.run("readlink /var/lib/slotd/apps/notes/current").stdout.strip()
    assert notes.machine.read_file(f"/var/lib/slotd/apps/notes/{link}/VERSION") == state["version"]
    assert notes.machine.run("systemctl is-active notes").stdout.strip() == "active"


def break_build(notes: Notes) -> None:
    """As an upgrade that went wrong leaves it: slotd itself cannot be loaded any more, nor can slotctl."""
    for name in BREAKABLE:
        notes.machine.run(f"cp -a {PACKAGES}/{name}.py {PACKAGES}/{name}.whole")
        notes.machine.write_file(f"{PACKAGES}/{name}.py", "raise ImportError('this build is broken')\n")


def mend_build(notes: Notes) -> None:
    for name in BREAKABLE:
        notes.machine.run(f"mv {PACKAGES}/{name}.whole {PACKAGES}/{name}.py")
