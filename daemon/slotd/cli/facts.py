"""What `slotctl doctor` looks at: systemd, the journal, the clock, definitions, keys, slots, the room on the disks."""

from __future__ import annotations

import math
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from slotd import enable as enabling
from slotd import engines
from slotd.core.diagnosis import AppFacts, Facts, Place, Room, UnitFacts
from slotd.core.schema import App, Settings
from slotd.data import DataSpec, make_data_store
from slotd.errors import SlotdError
from slotd.host import definitions, files
from slotd.host.paths import Paths
from slotd.recipes.space import OWN_BYTES, RESERVE_BYTES
from slotd.verify import KeyFile, openpgp
from slotd.verify.expiry import standings
from slotd.verify.work import describe_keys

T = TypeVar("T")

COMMAND_S = 20.0
BUS_SERVICES = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
POLICY = "/usr/share/polkit-1/actions/org.slotd1.policy"
_SPAN = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNIT = ("LoadState", "UnitFileState", "NeedDaemonReload", "Restart", "RestartUSec", "StartLimitIntervalUSec",
         "StartLimitBurst", "Type", "TimeoutStartUSec")  # fmt: skip
_DONE_AT_ONCE = ("simple", "exec", "idle", "")  # types whose start waits for nothing that the app does
OWN_UNITS = ("slotd-boot.service", "slotd.service", "slotd-check.timer", "slotd-apply.timer", "slotd-prune.timer")


class Look:
    """One look at a host. What cannot be seen is noted in `unseen`, and is no finding."""

    def __init__(self, paths: Paths, *, user: bool) -> None:
        self.paths, self.user = paths, user
        self.unseen: list[str] = []

    def try_to(self, what: str, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except (OSError, ValueError, SlotdError, subprocess.SubprocessError) as error:
            denied = next((each for each in (error, error.__cause__) if isinstance(each, PermissionError)), None)
            if denied is None:
                self.unseen.append(f"{what}: {error}")
            else:
                said = (
                    error.message.rstrip(".")
                    if isinstance(error, SlotdError)
                    else f"{denied.filename}: {denied.strerror}"
                )
                self.unseen.append(f"{what}: {said}; run it as root.")
        return None

    def show(self, *words: str) -> dict[str, str]:
        """Properties, as systemctl prints them; of the manager itself without a unit."""
        line = ["systemctl", *(["--user"] if self.user else []), "show", "--no-pager", *words]
        return _assignments(_run(line))

    def facts(self) -> Facts:
        loaded = definitions.load(self.paths)
        apps = tuple(self.app(app, loaded.settings) for _, app in sorted(loaded.apps.items()))
        manager = self.try_to("The service manager", lambda: self.show("--property=RuntimeWatchdogUSec")) or {}
        clock = None if self.user else self.try_to("The clock", _clock)
        return Facts(
            now=time.time(),
            user=self.user,
            watchdog_s=seconds(manager.get("RuntimeWatchdogUSec", "30s")),
            watchdog_devices=tuple(sorted(str(path) for path in Path("/dev").glob("watchdog?*"))),
            journal_kept=self.user or self.try_to("The journal", journal_kept) is not False,
            journal_storage=("" if self.user else self.try_to("journald.conf", _journal_storage)) or "auto",
            clock_synchronised=clock is None or clock.get("NTPSynchronized") != "no",
            polkit=os.path.exists(BUS_SERVICES),
            policy_installed=os.path.exists(POLICY),
            lingers=not self.user or os.path.exists(f"/var/lib/systemd/linger/{self.paths.owner}"),
            own_units=self.try_to("slotd's own units", self.own_units) or {},
            places=tuple(self.places()),
            broken_stores=tuple(sorted(str(p) for p in self.paths.state.glob("state.db.broken.*[0-9]"))),
            broken_definitions={name: tuple(error.problems) for name, error in sorted(loaded.broken.items())},
            settings_problems=tuple(loaded.settings_problems),
            idle_files=tuple(loaded.warnings),
            apps=apps,
            unseen=tuple(self.unseen),
        )

    def own_units(self) -> Mapping[str, tuple[str, str]]:
        found = {}
        for unit in OWN_UNITS:
            shown = self.show("--property=UnitFileState,ActiveState", "--", unit)
            found[unit] = (shown.get("UnitFileState", ""), shown.get("ActiveState", ""))
        return found

    def places(self) -> Iterable[Place]:
        state, shared = self.paths.state, 0o700 if self.user else 0o755
        wanted = {state: shared, state / "apps": shared, state / "backups": 0o700, state / "quarantine": 0o700}
        wanted |= {self.paths.cache: 0o700, state / "state.db": 0o600}
        wanted |= dict.fromkeys(self.paths.config[-1:], 493)
        for path, mode in wanted.items():
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue  # slotd makes it when it starts
            except OSError as error:
                self.unseen.append(f"{path}: {error.strerror}; run it as root.")
                continue
            yield Place(str(path), stat.S_IMODE(found.st_mode), mode, found.st_uid, os.getuid() if self.user else 0)

    # -- an app -----------------------------------------------------------------------------------

    def app(self, app: App, settings: Settings) -> AppFacts:
        root = Path(app.slots.root) if app.slots.root else self.paths.state / "apps" / app.name
        units = [self.try_to(f"The unit {unit}", partial(self.unit, unit, app)) for unit in app.service.units]
        slots = (root, root / "a", root / "b")
        devices = self.try_to(f"{root}", lambda: {str(p): p.stat().st_dev for p in slots if p.exists()}) or {}
        problems: list[str] = []
        keys = [found for name in app.verify.keys for found in self.key(name, problems)]
        rooms = self.try_to(f"The room for {app.name}", lambda: self.rooms(app, root, settings)) or ()
        return AppFacts(app.name, tuple(u for u in units if u), devices, rooms, tuple(keys), tuple(problems))

    def unit(self, name: str, app: App) -> UnitFacts:
        shown = self.show(f"--property={','.join(_UNIT)}", "--", name)
        burst = shown.get("StartLimitBurst", "")
        return UnitFacts(
            name=name,
            exists=shown.get("LoadState") not in ("not-found", "masked") or shown.get("UnitFileState") == "masked",
            enabled=shown.get("UnitFileState", ""),
            drop_in=enabling.state_of(name, app, user=self.user),
            needs_reload=shown.get("NeedDaemonReload") == "yes",
            restarts=shown.get("Restart", "no") != "no",
            delay_s=seconds(shown.get("RestartUSec", "100ms")),
            start_s=0.0 if shown.get("Type", "") in _DONE_AT_ONCE else seconds(shown.get("TimeoutStartUSec", "0")),
            interval_s=seconds(shown.get("StartLimitIntervalUSec", "10s")),
            burst=int(burst) if burst.isdigit() else 0,
        )

    def key(self, name: str, problems: list[str]) -> list[tuple[str, float]]:
        try:
            key = KeyFile(name, definitions.read_keys(self.paths, [name])[name])
            kinds = {kind for _, kind, _, _ in describe_keys([key])}
            if not kinds:
                problems.append(f"cannot use the key file {name}: there is no public key in it.")
            if openpgp.KIND in kinds:  # minisign's never end
                found = standings(openpgp.public_keys(key))
                problems += [f"keys.d/{name}: {each.problem(0.0)}" for each in found if each.is_revoked]
                return [(name, each.ends) for each in found if not each.is_revoked]
        except SlotdError as error:
            problems.append(error.message)
        except (ValueError, IndexError) as error:
            problems.append(f"cannot use the key file {name}: {error}.")
        return []

    def rooms(self, app: App, root: Path, settings: Settings) -> tuple[Room, ...]:
        """As an update would count it, for a release as large as the one that is installed."""
        active = engines.create(app, root, settings.limits, user_mode=self.user).active()
        slot = files.tree_size(root / active) if active else 0
        spec = DataSpec(paths=tuple(Path(p) for p in app.data.paths), exclude=app.data.exclude, sqlite=app.data.sqlite)
        backup = app.backup.enabled and any(_is_there(path) for path in app.data.paths)
        data = make_data_store().needs(spec, None) if backup else 0
        state = self.paths.state
        wanted = [
            ("its files", root, slot),
            ("the download", self.paths.cache, slot),
            ("a backup of its data", state, data),
            ("the way back", Path(app.data.paths[0]).parent if backup else state, data + OWN_BYTES),
        ]
        found = [Room(what, str(path), _device(path), count, files.free_bytes(path)) for what, path, count in wanted]
        reserve = {
            room.device: Room("the running apps", room.path, room.device, RESERVE_BYTES, room.free) for room in found
        }
        return (*found, *reserve.values())


def _device(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.stat().st_dev


def _is_there(path: str) -> bool:
    """Raises `PermissionError` where it cannot be known, which `os.path.lexists` takes for no."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _run(line: list[str]) -> str:
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.strip() or f"`{' '.join(line)}` ended with {done.returncode}")
    return done.stdout


def _assignments(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _clock() -> dict[str, str]:
    return _assignments(_run(["timedatectl", "show", "--property=NTPSynchronized"]))


def journal_kept(root: Path = Path("/")) -> bool:
    """Whether the journal of this machine is written below /var/log now.

    A file that lies there may be of another time; so may one below /run, which only a flush takes away. What is written
    now is the one that was written last.
    """
    machine = (root / "etc/machine-id").read_text().strip()
    lasting, passing = (_changed(root / where / "log/journal" / machine / "system.journal") for where in ("var", "run"))
    return lasting > 0 and lasting >= passing


def _changed(path: Path) -> int:
    """When a file was written last, in ns; 0 if there is none. Raises `PermissionError` where that cannot be seen."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _journal_storage() -> str:
    return storage_of(_run(["systemd-analyze", "cat-config", "systemd/journald.conf"]))


def storage_of(conf: str) -> str:
    """What `Storage=` comes to in journald.conf and its drop-ins, one after the other: the last one holds."""
    section, storage = "", ""
    for line in map(str.strip, conf.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Journal]" and (found := re.match(r"Storage\s*=\s*(.*)", line)):
            storage = found[1].lower()
    return storage or "auto"


def seconds(text: str) -> float:
    """A span as systemctl prints it: "1min 30s", "infinity"; 0 for what is none."""
    if text == "infinity":
        return math.inf
    return sum(float(number) * _SPAN.get(unit, 0.0) for number, unit in re.findall(r"([\d.]+)([a-z]+)", text))
