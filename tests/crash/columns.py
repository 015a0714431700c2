"""All columns, in the order of the table."""

from __future__ import annotations

from tests.crash import apps, clock, faults, network, people
from tests.crash.faults import Fault, only_begin, points_of, with_seams

FAULTS: tuple[Fault, ...] = (
    Fault("kill", "SIGKILL of the daemon", with_seams, faults.kill),
    Fault("worker", "SIGKILL of a worker", faults.worker_points, faults.kill_worker),
    Fault("cut", "power cut", with_seams, faults.cut),
    Fault("unsynced", "power cut, all of it written by this run", faults.unsynced_points, faults.cut_unsynced),
    Fault("dies", "the disk dies, then a power cycle", only_begin, faults.disk_dies),
    Fault("full", "full disk", only_begin, faults.disk_full),
    Fault("eio", "an I/O error", points_of, faults.failing("eio")),
    Fault("enospc", "no space, once", only_begin, faults.failing("enospc")),
    Fault("damage", "the database of the state damaged", faults.damage_points, faults.damaged),
    *(
        Fault(f"net-{mood}", title, network.points_for(mood), network.striking(mood))
        for mood, title in network.TITLES.items()
    ),
    Fault("forged", "forged signature", network.forged_points, network.forged),
    Fault("app", "an app that misbehaves", apps.points, apps.strike),
    Fault("clock", "the clock set back and forth", clock.points, clock.strike),
    Fault("second", "a second caller", only_begin, people.second_caller),
    Fault("edited", "definition edited", only_begin, people.edited),
    Fault("deleted", "definition deleted", only_begin, people.deleted),
    Fault("upgraded", "the daemon upgraded by dpkg", only_begin, people.upgraded),
    Fault("reboot", "orderly reboot", only_begin, people.rebooted),
    Fault("restart", "the administrator restarts the app", only_begin, people.app_restarted),
    Fault("stop", "the administrator stops the app", only_begin, people.app_stopped),
)
