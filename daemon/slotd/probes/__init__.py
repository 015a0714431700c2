"""How an app's health is asked for. One file per kind of probe, one line in `PROBES`.

A probe answers for this moment; what its answers mean together is `slotd.core.health`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slotd.core.schema import Health

if TYPE_CHECKING:
    from slotd.host.run import Workers
    from slotd.host.systemd import Systemd


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer: healthy or not, and why in a few words (`GET … gave 503`)."""

    healthy: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed: the app, the version it must show, its units and user, and the doors to reach it."""

    app: str
    version: str
    units: tuple[str, ...]
    user: str
    slot: str
    systemd: Systemd
    workers: Workers


class Probe(Protocol):
    async def check(self, health: Health, target: Target) -> Outcome:
        """Ask once, within `health.timeout_s`. Never raises for an unhealthy app."""
        ...


PROBES: dict[str, str] = {
    "unit": "slotd.probes.unit:UnitProbe",
    "http": "slotd.probes.http:HttpProbe",
    "tcp": "slotd.probes.tcp:TcpProbe",
    "exec": "slotd.probes.exec:ExecProbe",
}
