"""The unit is active, says systemd. The probe of every app that names none."""

from __future__ import annotations

from slotd.core.health import describe_failure, is_up
from slotd.core.schema import Health
from slotd.errors import SlotdError
from slotd.probes import Outcome, Target
from slotd.probes.ask import within


class UnitProbe:
    """`unit` if given, else all units of the app."""

    async def check(self, health: Health, target: Target) -> Outcome:
        units = (health.unit,) if health.unit else target.units
        return await within(health.timeout_s, f"asking systemd about {', '.join(units)}", self._ask(units, target))

    async def _ask(self, units: tuple[str, ...], target: Target) -> Outcome:
        if not units:
            return Outcome(False, "there is no unit to look at")
        said = []
        for unit in units:
            try:
                status = await target.systemd.show(unit)
            except SlotdError as error:
                return Outcome(False, f"systemd does not tell about {unit}: {error.message}")
            said.append(describe_failure(status))
            if not is_up(status):
                return Outcome(False, said[-1])
        return Outcome(True, ", ".join(said))
