"""`slotctl enable`: ties the units of an app to slotd at boot and on failure, by one drop-in for each unit.

Without it updates work too; with it a host whose new version keeps it from coming up rolls back at boot, before the app
starts, and a unit that systemd gave up is reported (design: "The host does not come up").
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slotd.core import schema
from slotd.data.places import real_of
from slotd.errors import Failed, Misconfigured
from slotd.host import files, holdback, mounts
from slotd.host.paths import runtime_of_user

FILE = "50-slotd.conf"
# The package's removal looks for this line too: what has it is slotd's own.
MARKER = "# Written by slotctl enable"
# Enabled with the first app; the package's presets have them on already.
SYSTEM_UNITS = ("slotd-boot.service", "slotd-check.timer", "slotd-apply.timer")
# A package switches nothing on for its users: here all of them are, so that a trial goes on after a login, too.
USER_UNITS = (*SYSTEM_UNITS, "slotd.service", "slotd-prune.timer")
LEAST_BURST = 5  # systemd's own default
FILE_BYTES = 64 * 1024
SYSTEMCTL_S = 60.0
# From here on OnFailure= fires at every crash unless restarts are "direct"; older ones warn at a key they do not know.
RESTART_MODE_SINCE = 254


@dataclass(frozen=True, slots=True)
class Restart:
    """What a unit says of its restarts. Seconds."""

    delay_s: float = 0.1
    start_timeout_s: float = 90.0


def render(app: schema.App, unit: str, restart: Restart, systemd: int) -> str:
    """The drop-in for one unit. `systemd` is the manager's version.

    The start limit is one that a crash loop reaches: systemd's default of 5 in 10 s never is with `RestartSec=2s`, and
    a loop without end never fires `OnFailure=`. One start more than a trial allows: slotd's own count comes first.
    """
    lines = [
        f"{MARKER} for {app.name}: `slotctl disable {app.name}` removes it.",
        "[Unit]",
        "# At boot slotd may have to take the app back before it starts.",
        "After=slotd-boot.service",
        "OnFailure=slotd-failed@%n.service",
    ]
    if unit.endswith(".service"):
        burst = max(LEAST_BURST, app.policy.attempts + 1)
        each_s = restart.delay_s + max(restart.start_timeout_s, app.service.start_timeout_s)
        lines += [
            "# Held back while its data are half restored, or because its definition wants it stopped after a failure.",
            holdback.ASSERTION,
            "# A crash loop ends: longer than so many starts can take, each with its wait.",
            f"StartLimitIntervalSec={math.ceil(burst * each_s) + 10}s",
            f"StartLimitBurst={burst}",
        ]
        if systemd >= RESTART_MODE_SINCE:
            lines += ["", "[Service]", "# OnFailure= only once restarts are spent.", "RestartMode=direct"]
    return "\n".join(lines) + "\n"


def render_mount(app: schema.App) -> str:
    """The drop-in for a file system that data lie on: a way back at boot needs them, `nofail` and far ones too.

    Only an order: a disk that is missing keeps neither slotd nor the other apps from coming up.
    """
    lines = [
        f"{MARKER} for {app.name}: `slotctl disable {app.name}` removes it.",
        "[Unit]",
        "# Its data lie here, and are what slotd takes back at boot.",
        "Before=slotd-boot.service slotd.service",
    ]
    return "\n".join(lines) + "\n"


def _mounts(app: schema.App, root: Path) -> list[str]:
    """The units of the file systems that the app's data lie on, as far as these are declared; not the root's."""
    paths = [real for path in map(Path, app.data.paths) for real in (path, real_of(path))]
    wanted = {each.where for each in mounts.declared(root) if any(each.where in (p, *p.parents) for p in paths)}
    return sorted(mounts.unit_of(where) for where in wanted if where != Path("/"))


def enable(app: schema.App, *, root: Path = Path("/"), user: bool = False) -> list[str]:
    """Writes the drop-ins and enables slotd's own units; gives a line for each thing that was done.

    `root` other than "/" is an offline tree (an image being built): its service manager is not asked for anything.
    Raises `Misconfigured` if the app has no units, `Failed` if a file of that name is there that slotd did not write:
    then nothing was changed.
    """
    if not app.service.units:
        raise Misconfigured(
            f"cannot enable {app.name}: its definition names no units.", hint='Give it `[service] units = ["…"]`.'
        )
    targets = {unit: _directory(root, user) / f"{unit}.d" / FILE for unit in app.service.units}
    before = [] if user else [_directory(root, user) / f"{unit}.d" / _own_file(app) for unit in _mounts(app, root)]
    for path in targets.values():
        _owner(path)
    online = root == Path("/")
    version = _systemd_version(user) if online else 0
    done = []
    for unit, path in targets.items():
        text = render(app, unit, _restart(unit, user) if online else Restart(), version).encode()
        if _read(path) == text:
            continue
        _make_directories(path.parent)
        files.write_atomic(path, text)
        done.append(f"wrote {path}")
    for path in before:
        if _read(path) != (text := render_mount(app).encode()):
            _make_directories(path.parent)
            files.write_atomic(path, text)
            done.append(f"wrote {path}")
    if not online:
        return done
    if done:
        _systemctl(user, "daemon-reload")
    own = USER_UNITS if user else SYSTEM_UNITS
    wanted = [unit for unit in own if not _is_enabled(unit, user)]
    if wanted:
        _systemctl(user, "enable", *wanted)
        _systemctl(user, "start", *(unit for unit in own if unit.endswith(".timer")))
        done += [f"enabled {unit}" for unit in wanted]
    return done


def disable(app: schema.App, *, root: Path = Path("/"), user: bool = False) -> list[str]:
    """Removes the drop-ins that `enable` wrote for this app, and no others; gives a line for each.

    slotd's own timers stay as they are: they are for all apps.
    """
    done = []
    for path in sorted(each for name in (FILE, _own_file(app)) for each in _directory(root, user).glob(f"*.d/{name}")):
        if _owner(path, strict=False) == app.name:
            with files.explaining(f"cannot remove {path}"):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
            done.append(f"removed {path}")
    if done and root == Path("/"):
        _systemctl(user, "daemon-reload")
    return done


def _own_file(app: schema.App) -> str:
    """For a unit that several apps may need."""
    return f"50-slotd-{app.name}.conf"


def _directory(root: Path, user: bool) -> Path:
    if not user:
        return root / "etc/systemd/system"
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return root / home.lstrip("/") / "systemd/user"


def _owner(path: Path, *, strict: bool = True) -> str:
    """The app that a drop-in was written for, or "". With `strict`, a file of someone else is an error."""
    data = _read(path)
    if data is None:
        return ""
    first = data.decode(errors="replace").partition("\n")[0]
    found = re.match(rf"{re.escape(MARKER)} for ([a-z0-9][a-z0-9._-]*): ", first)
    if found is None and strict:
        raise Failed(
            f"cannot write {path}: it is there already, and slotd did not write it.",
            hint="Move what it says into a drop-in of another name.",
        )
    return found[1] if found else ""


def _read(path: Path) -> bytes | None:
    try:
        return files.read_bounded(path, FILE_BYTES)
    except FileNotFoundError:
        return None


def _make_directories(path: Path) -> None:
    with files.explaining(f"cannot make {path}"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.fsync_dir(path.parent)


def _restart(unit: str, user: bool) -> Restart:
    """What the unit as loaded says; systemd's defaults for one that is not there yet."""
    properties = ["--property=RestartUSec", "--property=TimeoutStartUSec"]
    shown = _systemctl(user, "show", *properties, "--", unit)
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    default = Restart()
    return Restart(
        _seconds(values.get("RestartUSec", ""), default.delay_s),
        _seconds(values.get("TimeoutStartUSec", ""), default.start_timeout_s),
    )


# As systemctl prints spans: "1min 30s", "100ms", "infinity".
_SPAN = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _seconds(text: str, otherwise: float) -> float:
    """A span that systemctl printed; `otherwise` for one without end or in a form that is not known."""
    parts = re.findall(r"([\d.]+)([a-z]+)", text)
    if not parts or any(unit not in _SPAN for _, unit in parts):
        return otherwise
    return sum(float(number) * _SPAN[unit] for number, unit in parts)


def _systemd_version(user: bool) -> int:
    found = re.match(r"v?(\d+)", _systemctl(user, "show", "--property=Version", "--value"))
    return int(found[1]) if found else 0


def _is_enabled(unit: str, user: bool) -> bool:
    return _systemctl(user, "is-enabled", unit, check=False).strip() == "enabled"


def _systemctl(user: bool, *words: str, check: bool = True) -> str:
    """What systemctl prints. With `check`, raises `Failed` with what it said."""
    argv: Sequence[str] = ["systemctl", *(["--user"] if user else []), "--no-pager", *words]
    line = " ".join(argv)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime_of_user(os.environ))} if user else None
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_S,
            check=False,
            env=environ,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"cannot run `{line}`: {error}") from error
    if check and done.returncode:
        raise Failed(f"cannot run `{line}`: {done.stderr.strip() or f'it ended with {done.returncode}'}")
    return done.stdout


def state_of(unit: str, app: schema.App, *, user: bool = False) -> str:
    """How a unit's drop-in is: `current` as `enable` would write it now, `edited`, `missing`, `foreign`."""
    found = _read(_directory(Path("/"), user) / f"{unit}.d" / FILE)
    if found is None:
        return "missing"
    if found == render(app, unit, _restart(unit, user), _systemd_version(user)).encode():
        return "current"
    return "edited" if found.startswith(MARKER.encode()) else "foreign"
