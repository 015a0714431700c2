"""A command of the administrator's, run as the app's user in a unit of its own: exit status 0 is healthy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from slotd.core.schema import Health
from slotd.core.words import one_line
from slotd.errors import SlotdError
from slotd.probes import Outcome, Target
from slotd.probes.ask import expand, within

# For the unit to be stopped after its own timeout; only then is waiting for it given up.
_GRACE_S = 10.0


class ExecProbe:
    """The command may use {slot} and {version}, and the network: it is there to ask the app."""

    async def check(self, health: Health, target: Target) -> Outcome:
        what = health.command[0] if health.command else "the command"
        return await within(health.timeout_s + _GRACE_S, what, self._ask(health, target))

    async def _ask(self, health: Health, target: Target) -> Outcome:
        argv = [expand(each, target) for each in health.command]
        # Of one name per probe: a probe that still runs when it is asked again is a mistake that shows.
        name = hashlib.sha256(repr(health).encode()).hexdigest()[:8]
        try:
            done = await target.workers.command(
                argv,
                unit=f"slotd-worker-{target.app}-probe-{name}",
                user=target.user,
                cwd=Path(target.slot or "/"),
                writable=(),
                network=True,
                timeout_s=health.timeout_s,
            )
        except SlotdError as error:
            return Outcome(False, error.message)
        except OSError as error:
            return Outcome(False, f"cannot run {argv[0]}: {error.strerror or error}")
        if done.timed_out:
            return Outcome(False, f"{argv[0]} did not end within {health.timeout_s:g} s")
        if done.status != 0:
            last = done.output.strip().rpartition("\n")[2]
            return Outcome(
                False, f"{argv[0]} exited with status {done.status}" + (f": {one_line(last)}" if last else "")
            )
        return Outcome(True, f"{argv[0]} exited with status 0")
