"""systemd over D-Bus, for the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from slotd.core.health import UnitStatus, describe_failure
from slotd.errors import Failed
from slotd.host.bus import Bus, BusFailed
from slotd.host.systemd import Change, Told

_DESTINATION = "org.freedesktop.systemd1"
_ROOT = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_SERVICE = "org.freedesktop.systemd1.Service"
_PROPERTIES = "org.freedesktop.DBus.Properties"

ASK_AGAIN_S = 30.0  # for so long, while systemd is not on the bus
LEAVING_S = 60.0  # for a daemon that has lost its bus to go down
_NOT_THERE = ("NoReply", "Disconnected", "NameHasNoOwner", "ServiceUnknown")  # and `Spawn.`

# Units that need this one to run: stopping it stops them, and systemd does not start them again by itself.
_DEPENDENTS = ("RequiredBy", "BoundBy", "ConsistsOf")


class BusSystemd:
    """systemd over D-Bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._own_jobs: set[str] = set()

    async def _call(
        self, member: str, signature: str = "", *body: Any, path: str = _ROOT, interface: str = _MANAGER
    ) -> Any:
        """Ask systemd; again while it is away from the bus, as it is for a moment when it executes itself anew.

        All that is asked here may be asked twice.
        """
        loop, pause_s = asyncio.get_running_loop(), 0.05
        until = loop.time() + ASK_AGAIN_S
        while True:
            try:
                answer = await self._bus.call(_DESTINATION, path, interface, member, signature, list(body))
                return answer[0] if answer else None
            except BusFailed as error:
                if not self._bus.is_connected:
                    # The daemon goes down for it, and its jobs with it: what is well is not taken back because of that.
                    await asyncio.sleep(LEAVING_S)
                    raise
                if not _is_away(error) or loop.time() >= until:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    async def subscribe(self) -> None:
        """Ask systemd to send signals at all; once per connection."""
        await self._call("Subscribe")

    async def show(self, unit: str) -> UnitStatus:
        path = await self._call("LoadUnit", "s", unit)
        own = await self._call("GetAll", "s", _UNIT, path=path, interface=_PROPERTIES)
        service: dict[str, Any] = {}
        if unit.endswith(".service"):
            service = await self._call("GetAll", "s", _SERVICE, path=path, interface=_PROPERTIES)
        return UnitStatus(
            name=unit,
            load_state=str(own.get("LoadState", "")),
            active_state=str(own.get("ActiveState", "")),
            sub_state=str(own.get("SubState", "")),
            invocation_id=bytes(own.get("InvocationID", b"")).hex(),
            result=str(service.get("Result", "success")),
            n_restarts=int(service.get("NRestarts", 0)),
            exec_main_code=int(service.get("ExecMainCode", 0)),
            exec_main_status=int(service.get("ExecMainStatus", 0)),
            exec_main_pid=int(service.get("ExecMainPID", 0)),
            status_text=str(service.get("StatusText", "")),
        )

    async def start(self, unit: str, *, timeout_s: float) -> str:
        return await self._job("StartUnit", unit, timeout_s)

    async def stop(self, unit: str, *, timeout_s: float) -> str:
        return await self._job("StopUnit", unit, timeout_s)

    async def _job(self, member: str, unit: str, timeout_s: float) -> str:
        # Subscribed before the call: a job that is done at once is not missed.
        removed: dict[str, str] = {}
        changed = asyncio.Event()

        def on_removed(_path: str, _member: str, body: Sequence[Any]) -> None:
            removed[str(body[1])] = str(body[3])
            changed.set()

        unsubscribe = await self._bus.on_signal(
            on_removed, sender=_DESTINATION, path=_ROOT, interface=_MANAGER, member="JobRemoved"
        )
        try:
            try:
                job = str(await self._call(member, "ss", unit, "replace"))
            except Failed as error:
                if getattr(error, "remote_name", "").endswith("NoSuchUnit") and member == "StopUnit":
                    return "done"
                raise Failed(
                    f"cannot {member.removesuffix('Unit').lower()} {unit}: {error.message}",
                    hint=f"See `systemctl status {unit}`.",
                ) from error
            async with asyncio.timeout(timeout_s):
                while job not in removed:
                    changed.clear()
                    await changed.wait()
            return removed[job]
        except TimeoutError:
            return "timeout"
        finally:
            await unsubscribe()

    async def kill(self, unit: str) -> None:
        try:
            await self._call("KillUnit", "ssi", unit, "all", 9)
        except Failed:
            return  # nothing left to kill

    async def reset_failed(self, unit: str) -> None:
        try:
            await self._call("ResetFailedUnit", "s", unit)
        except Failed:
            return  # not loaded, so not failed

    async def active_dependents(self, unit: str) -> list[str]:
        path = await self._call("LoadUnit", "s", unit)
        own = await self._call("GetAll", "s", _UNIT, path=path, interface=_PROPERTIES)
        names = {str(name) for key in _DEPENDENTS for name in own.get(key, [])}
        # Targets and slices are groupings, not programs.
        services = sorted(n for n in names if not n.endswith((".target", ".slice", ".device", ".swap")))
        return [
            name for name in services if (await self.show(name)).active_state in ("active", "activating", "reloading")
        ]

    async def reload(self) -> None:
        await self._call("Reload")

    @asynccontextmanager
    async def watch(self, units: Sequence[str], told: Told) -> AsyncIterator[None]:
        undo: list[Callable[[], Awaitable[None]]] = []

        def on_removed(_path: str, _member: str, body: Sequence[Any]) -> None:
            if str(body[2]) in units:
                told(Change(str(body[2]), by_job=True))

        try:
            undo.append(
                await self._bus.on_signal(
                    on_removed, sender=_DESTINATION, path=_ROOT, interface=_MANAGER, member="JobRemoved"
                )
            )
            for unit in units:
                path = await self._call("LoadUnit", "s", unit)

                def on_changed(_path: str, _member: str, body: Sequence[Any], unit: str = unit) -> None:
                    told(Change(unit, failure=_failure(unit, body[1])))

                undo.append(
                    await self._bus.on_signal(
                        on_changed, sender=_DESTINATION, path=path, interface=_PROPERTIES, member="PropertiesChanged"
                    )
                )
            yield
        finally:
            for unsubscribe in undo:
                await unsubscribe()


def _is_away(error: BusFailed) -> bool:
    kind = error.remote_name.removeprefix("org.freedesktop.DBus.Error.")
    return kind in _NOT_THERE or kind.startswith("Spawn.")


def _failure(unit: str, changed: Mapping[str, Any]) -> str:
    """How a unit ended, from the signal itself: a look would come too late, a restart sets it all back."""
    result = str(changed.get("Result", "success"))
    if result == "success":
        return ""
    return describe_failure(
        UnitStatus(
            name=unit,
            active_state="failed",
            result=result,
            exec_main_code=int(changed.get("ExecMainCode", 0)),
            exec_main_status=int(changed.get("ExecMainStatus", 0)),
        )
    )
