"""The door to systemd: units are started, stopped and looked at here, and nowhere else.

Two implementations of one Protocol: over the bus for the daemon (`slotd.host.bus_systemd`), and through `systemctl` for
the ways back, which must work without a bus and the library for it (promise 10).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from slotd.core.health import UnitStatus
from slotd.host.run import run


@dataclass(frozen=True, slots=True)
class Change:
    """What a unit was said to have done. `by_job`: someone started or stopped it; `failure`: how it ended, a clause."""

    unit: str
    by_job: bool = False
    failure: str = ""


Told = Callable[[Change], None]


class Systemd(Protocol):
    """What slotd asks of the service manager."""

    async def show(self, unit: str) -> UnitStatus: ...

    async def start(self, unit: str, *, timeout_s: float) -> str:
        """Start and wait for the job: `done`, or why not (`failed`, `timeout`, `dependency`, `canceled`, `skipped`)."""
        ...

    async def stop(self, unit: str, *, timeout_s: float) -> str: ...

    async def kill(self, unit: str) -> None:
        """SIGKILL to everything in the unit, for a unit that does not stop."""
        ...

    async def reset_failed(self, unit: str) -> None: ...

    async def active_dependents(self, unit: str) -> list[str]:
        """Active units that stopping `unit` would stop as well."""
        ...

    async def reload(self) -> None:
        """daemon-reload."""
        ...

    def watch(self, units: Sequence[str], told: Told) -> AbstractAsyncContextManager[None]:
        """Within it `told` is called whenever one of the units changes, or someone started or stopped it."""
        ...


class CommandSystemd:
    """systemd through `systemctl`, which as root reaches PID 1 without a bus. For `slotd recover`."""

    def __init__(self, *, user_manager: bool = False) -> None:
        self._systemctl = ["systemctl", "--user"] if user_manager else ["systemctl"]

    async def _run(self, *args: str, timeout_s: float = 30.0) -> tuple[int, str]:
        done = await run([*self._systemctl, *args], timeout_s=timeout_s)
        return done.status, done.output

    async def show(self, unit: str) -> UnitStatus:
        keys = (
            "LoadState,ActiveState,SubState,InvocationID,Result,NRestarts,"
            "ExecMainCode,ExecMainStatus,ExecMainPID,StatusText"
        )
        _, text = await self._run("show", f"--property={keys}", "--", unit)
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

        def number(key: str) -> int:
            return int(said.get(key) or 0)

        return UnitStatus(
            name=unit,
            load_state=said.get("LoadState", ""),
            active_state=said.get("ActiveState", ""),
            sub_state=said.get("SubState", ""),
            invocation_id=said.get("InvocationID", ""),
            result=said.get("Result", "success"),
            n_restarts=number("NRestarts"),
            exec_main_code=number("ExecMainCode"),
            exec_main_status=number("ExecMainStatus"),
            exec_main_pid=number("ExecMainPID"),
            status_text=said.get("StatusText", ""),
        )

    async def start(self, unit: str, *, timeout_s: float) -> str:
        status, _ = await self._run("start", "--", unit, timeout_s=timeout_s)
        return "done" if status == 0 else "failed"

    async def stop(self, unit: str, *, timeout_s: float) -> str:
        status, _ = await self._run("stop", "--", unit, timeout_s=timeout_s)
        return "done" if status in (0, 5) else "failed"  # 5: not loaded

    async def kill(self, unit: str) -> None:
        await self._run("kill", "--signal=KILL", "--", unit)

    async def reset_failed(self, unit: str) -> None:
        await self._run("reset-failed", "--", unit)

    async def active_dependents(self, unit: str) -> list[str]:
        return []  # the way back starts the app itself; its dependents were recorded by the daemon

    async def reload(self) -> None:
        await self._run("daemon-reload")

    @asynccontextmanager
    async def watch(self, units: Sequence[str], told: Told) -> AsyncIterator[None]:
        yield  # without a bus nothing is told; the caller looks at its own pace
