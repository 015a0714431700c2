"""`preserve`, `stop`, `snapshot`: the data are copied hot, the app is stopped, the copy is completed and sealed."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from slotd.core.health import UnitStatus
from slotd.core.plain import to_plain
from slotd.data.mounts import require_mounted
from slotd.errors import Failed, NoSuchBackup, SlotdError
from slotd.host import failpoint, holdback
from slotd.host.offloop import off_loop
from slotd.host.systemd import Systemd
from slotd.model import Backup
from slotd.recipes import hooks, soundness
from slotd.recipes.context import Work

_UP = ("active", "activating", "reloading", "refreshing")


def new_copy_id(work: Work, kind: str = "backup") -> str:
    """Sortable, readable, unique: the time, the job's number, and what kind of copy of that job it is.

    A job may make a backup and a quarantine in one second; they must never be taken for each other.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(work.host.clock.now()))
    return f"{stamp}-{work.job.id}" + ("" if kind == "backup" else f"-{kind}")


async def require_units(work: Work) -> None:
    """A unit or a user that is not there is told before anything is downloaded, let alone stopped.

    A link counts as a unit: it may lead into the slot that is still empty.
    """
    service = work.app.service
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    linked = f"{config}/systemd/user" if work.host.user_mode else "/etc/systemd/system"
    for unit in service.units:
        state = (await work.host.systemd.show(unit)).load_state
        if state == "masked" or (state == "not-found" and not os.path.islink(f"{linked}/{unit}")):
            what = "is masked" if state == "masked" else "does not exist"
            raise Failed(
                f"cannot update {work.app.name}: its unit {unit} {what}.",
                hint="Write it and `systemctl daemon-reload` (or unmask it), or mend `units` under [service].",
            )
    try:
        if service.user and not work.host.user_mode:
            await off_loop(pwd.getpwnam, service.user)
    except KeyError:
        raise Failed(
            f"cannot update {work.app.name}: its user {service.user!r} does not exist.",
            hint=f"Create it (`useradd --system {service.user}`), or mend `user` under [service].",
        ) from None


def wants_backup(work: Work) -> bool:
    return work.app.backup.enabled and any(os.path.lexists(path) for path in work.app.data.paths)


def missing_data(work: Work) -> list[str]:
    """The paths of the definition's data that are not there: nothing of them is saved, or goes back."""
    return [path for path in work.app.data.paths if not os.path.lexists(path)]


async def copy_hot(work: Work) -> None:
    """The long part of the backup, with the app running."""
    base = await newest_sealed(work)
    if work.app.backup.enabled:
        await off_loop(require_mounted, work.data_spec, base)
    if not await off_loop(wants_backup, work):
        return
    if not work.plan.backup:
        await work.remember(backup=new_copy_id(work), restore=True)
    await failpoint.reach("preserve:remembered")
    backup = await record_backup(work, reason="update")
    await failpoint.reach("preserve:recorded")
    await hooks.run_around_backup(work, "before")
    await off_loop(work.data.remove, Path(backup.path))  # a copy that a crash left half-made is not trusted
    await failpoint.reach("preserve:cleared")
    stats = await off_loop(work.data.hot, work.data_spec, Path(backup.path), base, work.is_to_stop)
    await failpoint.reach("preserve:copied")
    for note in (*stats.notes, *(f"{name} is a socket or a fifo and is not copied" for name in stats.skipped[:20])):
        await work.tell("backup-note", f"backup: {note}")
    await soundness.look(work, backup, base)


async def record_backup(work: Work, *, reason: str) -> Backup:
    """The backup's row, committed before its first byte, so that a half-made one is known and removed."""
    backup = Backup(
        id=work.plan.backup,
        app=work.app.name,
        kind="backup",
        version=work.plan.old_version,
        reason=reason,
        created_at=work.host.clock.now(),
        path=str(work.host.copy_path("backups", work.app.name, work.plan.backup)),
        job=work.job.id,
    )
    await off_loop(work.host.store.save, backup)
    return backup


async def newest_sealed(work: Work) -> Path | None:
    """What a new copy may share files with. A copy that was found damaged would hand its damage on."""
    for backup in await off_loop(work.host.store.backups, work.app.name):
        if os.path.exists(f"{backup.path}/{soundness.DAMAGED}"):
            continue
        if backup.kind == "backup" and backup.sealed and await off_loop(work.data.is_sealed, Path(backup.path)):
            return Path(backup.path)
    return None


async def drop_copy(work: Work) -> None:
    """Remove a backup that no version needs: the update did not get as far as the switch."""
    if not work.plan.backup:
        return
    try:
        backup = await off_loop(work.host.store.backup, work.app.name, work.plan.backup)
    except NoSuchBackup:
        return
    await off_loop(work.data.remove, Path(backup.path))
    await failpoint.reach("preserve:dropped")
    await off_loop(work.host.store.forget, backup)


async def stop_units(work: Work) -> None:
    """Stop last to first, after remembering who else runs because of them."""
    if not work.plan.old_version:
        await stop_all(work)  # nothing of ours runs yet; what else the unit may start must not touch the data
        return
    if not work.plan.stopped_at:
        await work.remember(resting=await stopped_by_somebody(work), dependents=tuple(await dependents_of(work)))
    await failpoint.reach("stop:remembered")
    await work.remember(stopped_at=work.host.clock.now())
    await failpoint.reach("stop:dated")
    await stop_all(work)
    await failpoint.reach("stop:stopped")
    if not work.plan.resting:
        await work.tell("app-stopped", f"stopped {', '.join(work.app.service.units)} for the {work.job.kind}")
    else:
        again = "it runs for the trial of the new version, and is stopped again"
        await work.tell("app-stopped", f"{work.app.name} was stopped already: {again}")


async def dependents_of(work: Work) -> list[str]:
    own = set(work.app.service.units)
    found: list[str] = []
    for unit in work.app.service.units:
        found += [name for name in await work.host.systemd.active_dependents(unit) if name not in own]
    return sorted(set(found))


async def stop_all(work: Work) -> None:
    """Every unit down, by force if need be: data are never copied under a running app."""
    systemd, timeout = work.host.systemd, work.app.service.start_timeout_s
    for unit in reversed(work.app.service.units):
        if unit.endswith(".socket"):
            continue  # sockets keep listening: clients wait instead of being refused
        result = await systemd.stop(unit, timeout_s=timeout)
        status = await systemd.show(unit)
        if status.active_state not in ("inactive", "failed"):
            await systemd.kill(unit)
            result = await systemd.stop(unit, timeout_s=timeout)
            status = await systemd.show(unit)
        if status.active_state not in ("inactive", "failed"):
            raise Failed(
                f"cannot stop {unit}: it is {status.active_state} ({result}) even after SIGKILL.",
                hint=f"See `systemctl status {unit}`.",
            )


async def start_old(work: Work) -> None:
    """Undo of `stop`: what ran before the update runs again."""
    if not work.plan.stopped_at or not work.plan.old_version:
        return
    await start_all(work)


async def start_all(work: Work) -> None:
    """Start first to last, then what was stopped along with them. Raises for the first that does not, after all.

    What a person had stopped before stays stopped; but nothing of slotd's keeps them from starting it any more.
    """
    systemd = work.host.systemd
    problem: SlotdError | None = None
    for unit in work.app.service.units:
        try:
            await off_loop(holdback.let_start, work.host.paths, unit)
            if unit in work.plan.resting:
                continue
            await systemd.reset_failed(unit)
            result = await systemd.start(unit, timeout_s=work.app.service.start_timeout_s)
        except SlotdError as error:
            problem = problem or error
            continue
        if result not in ("done", "skipped"):
            problem = problem or Failed(
                f"cannot start {unit}: its start job ended as {result!r}.", hint=f"See `journalctl -u {unit}`."
            )
    await start_dependents(work)
    if problem is not None:
        raise problem


async def hold_back(work: Work) -> None:
    """None of the app's units starts until slotd itself starts it. Needs the drop-ins of `slotctl enable`."""
    await off_loop(holdback.hold_back, work.host.paths, *work.app.service.units)


async def hold_back_over_boots(work: Work) -> None:
    """The same until it is unheld, or a job has mended it."""
    await off_loop(holdback.hold_back_over_boots, work.host.paths, *work.app.service.units)


async def let_start(work: Work) -> None:
    await off_loop(holdback.let_start, work.host.paths, *work.app.service.units)


async def start_again(work: Work) -> None:
    """Start what was stopped, as far as it can be; what cannot is told."""
    try:
        await start_all(work)
    except SlotdError as error:
        await work.tell("warning", f"the app does not run again: {error}")


async def start_dependents(work: Work) -> None:
    for unit in work.plan.dependents:
        result = await work.host.systemd.start(unit, timeout_s=work.app.service.start_timeout_s)
        if result not in ("done", "skipped"):
            await work.tell("warning", f"{unit}, which was stopped along with the app, did not start again: {result}")


async def seal_copy(work: Work) -> None:
    """With the app stopped: copy what changed, seal, and only now is it a backup (promise 5)."""
    if not work.plan.backup and work.app.backup.enabled and work.app.data.paths:
        # No data were there before. What came since is saved now; if none did, going back means: none again.
        come_since = new_copy_id(work) if await off_loop(wants_backup, work) else ""
        await work.remember(backup=come_since, restore=True)
        if come_since:
            await record_backup(work, reason="update")
    if work.plan.backup:
        backup = await off_loop(work.host.store.backup, work.app.name, work.plan.backup)
        await copy_cold(work, backup)
        await soundness.require(work, backup)
        sealed = await seal(work, backup)
        await require_down(work)
        whose = f"of {sealed.version}" if sealed.version else "that were there before it"
        await work.tell("backup-made", f"saved the data {whose} as backup {sealed.id}")


async def require_down(work: Work) -> None:
    """What was saved must be what the app left: nobody (a socket, a timer, a person) started it meanwhile."""
    if await is_up(work):
        raise Failed(
            f"cannot trust the backup: {work.app.name} was started by someone else while its data were copied.",
            hint=f"See `journalctl -u {work.app.service.units[0]}` for when, then try again.",
        )


async def resting_units(work: Work) -> tuple[str, ...]:
    """The units that do not run, and that nobody wants to: one that failed is not meant to stay down."""
    states = {unit: (await work.host.systemd.show(unit)).active_state for unit in work.app.service.units}
    return tuple(unit for unit, state in states.items() if state == "inactive")


async def stopped_by_somebody(work: Work) -> tuple[str, ...]:
    """All units of an app that nobody wants to run; none of one that is in use, if only by a socket or a timer."""
    units = work.app.service.units
    return units if await are_left_down(work.host.systemd, units) else ()


async def are_left_down(systemd: Systemd, units: Sequence[str]) -> bool:
    """Whether somebody has stopped all of these units, so that none is to run."""
    return all([(await systemd.show(unit)).active_state == "inactive" for unit in units])


async def rest_again(work: Work) -> None:
    """What somebody had stopped before the update ran for its trial, and is stopped again."""
    if work.plan.resting:
        await stop_all(work)
        await work.tell("app-stopped", f"stopped {', '.join(work.plan.resting)} again, as before the {work.job.kind}")


async def _shown(work: Work) -> list[UnitStatus]:
    """The app's units as they are, without sockets, which are never stopped."""
    units = [unit for unit in work.app.service.units if not unit.endswith(".socket")]
    return [await work.host.systemd.show(unit) for unit in units]


async def is_up(work: Work) -> bool:
    """Whether any unit of the app runs, or is about to. Sockets do not count."""
    return any(unit.active_state in _UP for unit in await _shown(work))


async def last_runs(work: Work) -> dict[str, str]:
    """systemd's id of each unit's last run; empty if it has none. Without sockets."""
    return {unit.name: unit.invocation_id for unit in await _shown(work)}


async def was_started(work: Work) -> bool:
    """Whether a unit runs, or has run, since `runs` was remembered: by a socket's doing, or a person's."""
    return await were_started(work, work.plan.runs)


async def were_started(work: Work, runs: Mapping[str, str]) -> bool:
    """The same since `runs`, of this job or of one before it."""

    def has_run(unit: UnitStatus) -> bool:
        now = unit.invocation_id
        return bool(now) and runs.get(unit.name, now) != now

    return any(unit.active_state in _UP or has_run(unit) for unit in await _shown(work))


async def copy_cold(work: Work, backup: Backup) -> None:
    """The dumps and the cold pass: all of a backup that needs the app to be down."""
    await hooks.run_around_backup(work, "dump")
    await off_loop(work.data.cold, work.data_spec, Path(backup.path))
    await failpoint.reach("snapshot:copied")
    await hooks.run_around_backup(work, "after")
    await failpoint.reach("snapshot:hooked")


async def seal(work: Work, backup: Backup) -> Backup:
    """Put the copy on disk and make it a backup, in its row too. Gives the sealed backup."""
    header = {
        "app": backup.app,
        "id": backup.id,
        "kind": backup.kind,
        "version": backup.version,
        "reason": backup.reason,
        "created_at": backup.created_at,
        "job": backup.job,
        "said": to_plain(work.plan.said),
    }
    size = await off_loop(work.data.seal, Path(backup.path), header)
    await failpoint.reach("snapshot:sealed")
    sealed = Backup(**{name: getattr(backup, name) for name in Backup.__slots__} | {"bytes": size, "sealed": True})
    await off_loop(work.host.store.save, sealed)
    await failpoint.reach("snapshot:saved")
    return sealed
