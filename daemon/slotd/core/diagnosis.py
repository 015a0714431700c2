"""What keeps slotd's promises from holding on a host: facts in, findings out. `slotctl doctor` gathers the facts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

KEY_SOON_S = 30 * 86400.0
VOLATILE = ("volatile", "none")  # what journald.conf may say: nothing of it outlives a boot


class Severity(StrEnum):
    ERROR = "error"  # an update or the way back will fail, or is not there
    WARNING = "warning"  # one thing less stands between a bad release and an outage
    NOTE = "note"  # could not be looked at, or not worth a bad exit code


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is there, `why` it matters, `mend`: the command. `check`: its name; `app` empty for the host."""

    check: str
    severity: Severity
    what: str
    why: str
    mend: str
    app: str = ""


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """One unit of an app. Spans in seconds; infinite ones are `inf`. `drop_in`: current, edited, missing, foreign.

    `start_s`: how long a start may hang until systemd gives it up; 0 where a start is done as soon as it is made.
    """

    name: str
    exists: bool = True
    enabled: str = "enabled"
    drop_in: str = "current"
    needs_reload: bool = False
    restarts: bool = True
    delay_s: float = 0.1
    start_s: float = 0.0
    interval_s: float = 10.0
    burst: int = 5


@dataclass(frozen=True, slots=True)
class Room:
    """What the next update may take on one file system."""

    what: str
    path: str
    device: int
    wanted: int
    free: int


@dataclass(frozen=True, slots=True)
class Place:
    """A file or directory of slotd's own: what it is, and what it should be. Modes are of the permission bits."""

    path: str
    mode: int
    wanted: int
    owner: int
    wanted_owner: int


@dataclass(frozen=True, slots=True)
class AppFacts:
    name: str
    units: tuple[UnitFacts, ...] = ()
    slot_devices: Mapping[str, int] = field(default_factory=dict)  # path -> device
    rooms: tuple[Room, ...] = ()
    keys: tuple[tuple[str, float], ...] = ()  # file, when it expires; 0 never
    key_problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """A host as slotd needs it. What could not be looked at is in `unseen`, a sentence each."""

    now: float
    user: bool = False
    watchdog_s: float = 30.0
    watchdog_devices: tuple[str, ...] = ("/dev/watchdog0",)
    journal_kept: bool = True
    journal_storage: str = "auto"  # as journald.conf says
    clock_synchronised: bool = True
    polkit: bool = True
    policy_installed: bool = True
    lingers: bool = True
    own_units: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name -> (enabled, active)
    places: tuple[Place, ...] = ()
    broken_stores: tuple[str, ...] = ()
    broken_definitions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings_problems: tuple[str, ...] = ()
    idle_files: tuple[str, ...] = ()
    apps: tuple[AppFacts, ...] = ()
    unseen: tuple[str, ...] = ()


def diagnose(facts: Facts) -> list[Finding]:
    """Every finding, errors first."""
    found = [*_host(facts), *_definitions(facts)]
    for app in facts.apps:
        found += [*_units(app, facts.user), *_slots(app), *_room(app), *_keys(app, facts.now)]
    found += [Finding("unseen", Severity.NOTE, each, "It was not looked at.", "") for each in facts.unseen]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _host(facts: Facts) -> Iterator[Finding]:
    error, warning = Severity.ERROR, Severity.WARNING
    systemctl = "systemctl --user" if facts.user else "systemctl"
    if not facts.user:
        yield from _watchdog(facts)
        yield from _journal(facts)
        if not facts.clock_synchronised:
            why = "Signatures, keys, certificates and the age of releases are judged by the clock."
            what = "The clock is not synchronised."
            yield Finding("clock", warning, what, why, "timedatectl set-ntp true; timedatectl timesync-status")
        if not facts.polkit:
            why = "Without it only root may change anything; nobody else can be allowed to."
            yield Finding("polkit", warning, "polkit is not installed.", why, "apt-get install polkitd")
        elif not facts.policy_installed:
            why = "Without it every request of somebody else than root is denied."
            what = "slotd's polkit actions are not installed."
            yield Finding("polkit", warning, what, why, "apt-get install --reinstall slotd")
    elif not facts.lingers:
        why = "Your manager, your applications and an open trial end with your last session."
        yield Finding("linger", warning, "Your manager does not outlive your sessions.", why, "loginctl enable-linger")
    for unit, (enabled, active) in facts.own_units.items():
        kind = error if unit == "slotd-boot.service" else warning
        if enabled not in ("enabled", "enabled-runtime", "static"):
            what = f"{unit} is {enabled or 'not there'}."
            yield Finding("own-units", kind, what, _WITHOUT[unit], f"{systemctl} enable --now {unit}")
        elif unit.endswith(".timer") and active != "active":
            what = f"{unit} is {active}."
            yield Finding("own-units", kind, what, _WITHOUT[unit], f"{systemctl} start {unit}")
    for place in facts.places:
        if place.owner != place.wanted_owner:
            what = f"{place.path} belongs to user {place.owner}."
            why = "Who owns it decides what is installed, restored and run as root."
            yield Finding("permissions", error, what, why, f"chown {place.wanted_owner}: {place.path}")
        if place.mode & ~place.wanted:
            what = f"{place.path} has mode {place.mode:04o}, and should have {place.wanted:04o}."
            why = "Others could read the data of apps, or change what is installed."
            yield Finding("permissions", error, what, why, f"chmod {place.wanted:04o} {place.path}")
        elif place.wanted & ~place.mode:
            what = f"{place.path} has mode {place.mode:04o}, and should have {place.wanted:04o}."
            why = "Apps cannot reach their slots, or slotd its own files."
            yield Finding("permissions", error, what, why, f"chmod {place.wanted:04o} {place.path}")
    for path in facts.broken_stores:
        what = f"A damaged state was set aside: {path}."
        why = "Holds, modes and approvals of that time are lost. The disk may be failing."
        yield Finding("state", warning, what, why, f"journalctl -k -p err; then rm {path}*")


_WITHOUT = {
    "slotd.service": "An open trial is not watched again until somebody calls slotd.",
    "slotd-boot.service": "A version that keeps the host from coming up is not taken back.",
    "slotd-check.timer": "Nobody looks for new releases.",
    "slotd-apply.timer": "What is approved, or automatic, is not applied.",
    "slotd-prune.timer": "Old backups and downloads stay until the disk is full.",
}


def _watchdog(facts: Facts) -> Iterator[Finding]:
    why = "A host that hangs in a trial stays as it is: only a watchdog makes the boot that takes the version back."
    configure = (
        "mkdir -p /etc/systemd/system.conf.d && printf '[Manager]\\nRuntimeWatchdogSec=30s\\n'"
        " >/etc/systemd/system.conf.d/50-watchdog.conf && systemctl daemon-reexec"
    )
    if not 0 < facts.watchdog_s < float("inf"):
        what = "The hardware watchdog is off (RuntimeWatchdogSec=)."
        yield Finding("watchdog", Severity.WARNING, what, why, configure)
    if not facts.watchdog_devices:
        what = "This host has no watchdog device (/dev/watchdog0)."
        yield Finding("watchdog", Severity.WARNING, what, why, "modprobe softdog, or the driver of the board's own")


def _definitions(facts: Facts) -> Iterator[Finding]:
    for app, problems in facts.broken_definitions.items():
        what = f"Its definition cannot be used: {problems[0] if problems else 'see slotctl verify'}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        why = "The app is not updated, and not taken back either."
        yield Finding("definitions", Severity.ERROR, what + more, why, f"slotctl verify {app}", app)
    for problem in facts.settings_problems:
        what = f"slotd.toml cannot be used: {problem}"
        yield Finding("definitions", Severity.ERROR, what, "The defaults hold instead.", "slotctl verify")
    for idle in facts.idle_files:
        yield Finding("definitions", Severity.WARNING, idle, "It has no effect.", "slotctl verify")


def _journal(facts: Facts) -> Iterator[Finding]:
    why = "After a failed night nobody can read what happened: the entries of the last boot are gone."
    again = "systemctl restart systemd-journald && journalctl --flush"
    if facts.journal_storage in VOLATILE:
        what = f"The journal is volatile: journald.conf says Storage={facts.journal_storage}."
        mend = f"set Storage=persistent where `systemd-analyze cat-config systemd/journald.conf` shows it, then {again}"
        yield Finding("journal", Severity.WARNING, what, why, mend)
    elif not facts.journal_kept:
        mend = f"mkdir -p /var/log/journal && {again}"
        yield Finding("journal", Severity.WARNING, "The journal is volatile.", why, mend)


def _units(app: AppFacts, user: bool) -> Iterator[Finding]:
    systemctl, enable = ("systemctl --user" if user else "systemctl"), f"slotctl enable {app.name}"
    if user:
        enable = f"slotctl --user enable {app.name}"
    for unit in app.units:
        if not unit.exists:
            what, why = f"There is no unit {unit.name}.", "slotd cannot start or stop the app: no update begins."
            yield Finding("units", Severity.ERROR, what, why, f"systemctl edit --force --full {unit.name}", app.name)
            continue
        if unit.enabled in ("disabled", "masked", "masked-runtime"):
            what, why = f"{unit.name} is {unit.enabled}.", "The app does not run after the next boot."
            verb = "unmask" if unit.enabled.startswith("masked") else "enable"
            yield Finding("units", Severity.WARNING, what, why, f"{systemctl} {verb} {unit.name}", app.name)
        why = "A version that crashes at boot starts before slotd can take it back, and nobody tells slotd of it."
        if unit.drop_in == "missing":
            what = f"{unit.name} is not in slotd's care."
            yield Finding("hooks", Severity.ERROR, what, why, enable, app.name)
        elif unit.drop_in == "edited":
            what = f"The drop-in 50-slotd.conf of {unit.name} is not what slotd writes today."
            yield Finding("hooks", Severity.WARNING, what, why, enable, app.name)
        elif unit.drop_in == "foreign":
            what = f"The drop-in 50-slotd.conf of {unit.name} was written by somebody else."
            mend = f"move what it says into a drop-in of another name, then {enable}"
            yield Finding("hooks", Severity.WARNING, what, why, mend, app.name)
        if unit.needs_reload:
            what, why = f"{unit.name} has changed on disk.", "systemd still goes by the old one."
            yield Finding("units", Severity.WARNING, what, why, f"{systemctl} daemon-reload", app.name)
        yield from _start_limit(app.name, unit, enable)


def _start_limit(app: str, unit: UnitFacts, enable: str) -> Iterator[Finding]:
    if not unit.restarts:
        return
    why = "A crash loop goes on for ever: OnFailure= never fires, and nobody is told."
    each = f"{unit.burst} starts with {unit.delay_s:g} s between them"
    crashes_s, hangs_s = unit.burst * unit.delay_s, unit.burst * (unit.delay_s + unit.start_s)
    if unit.interval_s <= 0 or unit.burst <= 0:
        what = f"The start limit of {unit.name} is off."
    elif crashes_s >= unit.interval_s:
        what = f"The start limit of {unit.name} cannot be reached: {each} take longer than {unit.interval_s:g} s."
    elif math.isinf(unit.start_s):
        what = f"A start of {unit.name} that hangs is never given up: its TimeoutStartSec= is infinity."
        why = "A version that hangs as it starts, in a trial or years after it, is down, and nobody is told."
        enable = f"give it a TimeoutStartSec= (systemctl edit {unit.name}), then {enable}"
        yield Finding("start-limit", Severity.WARNING, what, why, enable, app)
        return
    elif hangs_s >= unit.interval_s:
        what = (
            f"The start limit of {unit.name} counts crashes, but no start that hangs until its timeout: {each}, and up"
            f" to {unit.start_s:g} s for each, may take {hangs_s:g} s, and it looks at {unit.interval_s:g} s."
        )
        why = "A version that hangs as it starts is started for ever: OnFailure= never fires, and nobody is told."
        yield Finding("start-limit", Severity.WARNING, what, why, enable, app)
        return
    else:
        return
    yield Finding("start-limit", Severity.ERROR, what, why, enable, app)


def _slots(app: AppFacts) -> Iterator[Finding]:
    if len(set(app.slot_devices.values())) > 1:
        by_device: dict[int, list[str]] = defaultdict(list)
        for path, device in app.slot_devices.items():
            by_device[device].append(path)
        what = (
            f"Its slots lie on {len(by_device)} file systems: {' | '.join(', '.join(p) for p in by_device.values())}."
        )
        why = "What is written to one is not on disk when the link on the other says so: a power cut may break the app."
        mend = f"systemctl stop the app, umount what is mounted there, then slotctl update {app.name} --force"
        yield Finding("slots", Severity.ERROR, what, why, mend, app.name)


def _room(app: AppFacts) -> Iterator[Finding]:
    by_device: dict[int, list[Room]] = defaultdict(list)
    for room in app.rooms:
        by_device[room.device].append(room)
    for rooms in by_device.values():
        wanted, free, path = sum(room.wanted for room in rooms), rooms[0].free, rooms[0].path
        if wanted > free:
            parts = ", ".join(f"{_mib(room.wanted)} for {room.what}" for room in rooms if room.wanted)
            full = f"The file system of {path} is too full for the next update"
            what = f"{full}: {_mib(free)} are free, and it may take {parts}."
            why = "The update will be refused before anything is stopped."
            yield Finding("space", Severity.ERROR, what, why, f"du -xh --max-depth=2 {path} | sort -h | tail", app.name)


def _mib(count: int) -> str:
    return f"{-(-count >> 20)} MiB"


def _keys(app: AppFacts, now: float) -> Iterator[Finding]:
    why = "Releases that it signs will not be installed."
    for problem in app.key_problems:
        mend = f"slotctl verify {app.name}"
        yield Finding("keys", Severity.ERROR, problem, "No release can be verified.", mend, app.name)
    for name, expires in app.keys:
        mend = f"get the publisher's new key, and put it into keys.d/{name}"
        if expires and expires <= now:
            yield Finding("keys", Severity.ERROR, f"The key in {name} has expired.", why, mend, app.name)
        elif expires and expires - now < KEY_SOON_S:
            days = int((expires - now) // 86400)
            what = f"The key in {name} expires in {days} days."
            yield Finding("keys", Severity.WARNING, what, why, mend, app.name)
