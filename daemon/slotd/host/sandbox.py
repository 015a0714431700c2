"""The sandboxes: what each kind of worker may do, as systemd properties. Nothing that systemd 252 does not know.

| profile | user | network | may execute | writes |
|---|---|---|---|---|
| `network` (list, lists, fetch, small, collect) | a dynamic one | yes | nothing but itself | what it was given |
| `verify` (judge, too) | a dynamic one | no | system programs | a private /tmp |
| `unpack` (unpack, copy) | slotd-worker | no | nothing but itself | the directory or file it was given |
| `command` (prepare, migrate, exec probes, backup commands) | the app's | if asked for | all | what it was given |

Under a user's own manager there is no other user to be. With a user namespace (`NAMESPACES`; a kernel may refuse it)
the rest is the same: no network, an empty home, a read-only system, no way to that user's bus or other processes.
Without one, what is left is what any process may ask for: the system call filter, the limits and the low priority.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final

from slotd.core.schema import Limits

WORKER_USER: Final = "slotd-worker"
NETWORK_VARIABLES: Final = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Profile(StrEnum):
    NETWORK = "network"
    VERIFY = "verify"
    UNPACK = "unpack"
    COMMAND = "command"


class Manager(Enum):
    """Who starts the unit, and what that may ask of the kernel."""

    SYSTEM = "the system's manager"
    NAMESPACES = "a user's manager, on a kernel that lets users have namespaces"
    BARE = "a user's manager, without them"


PROFILES: Final[Mapping[str, Profile]] = {
    "list": Profile.NETWORK,
    "lists": Profile.NETWORK,
    "fetch": Profile.NETWORK,
    "small": Profile.NETWORK,
    "collect": Profile.NETWORK,
    "judge": Profile.VERIFY,
    "verify": Profile.VERIFY,
    "unpack": Profile.UNPACK,
    "copy": Profile.UNPACK,
}

# Filters that the kernel keeps for any process: these hold under a user's manager, too.
_FILTERED: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LimitCORE=0",
    "TimeoutStopSec=5s",
)
_FILTERED_WORKER: Final = (
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources @keyring @memlock @aio @setuid personality userfaultfd",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
    "TasksMax=16",
    "LimitNOFILE=4096",
    # Behind everything else, but never starved: SCHED_IDLE gave a worker no time at all on a busy host.
    "Nice=5",
    "CPUWeight=30",
    "IOSchedulingClass=idle",
    "OOMScoreAdjust=500",
)
# What needs a namespace.
_SHUT: Final = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "PrivateMounts=yes",
    "ProtectSystem=strict",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "KeyringMode=private",
)
_SHUT_WORKER: Final = ("PrivateUsers=yes", "PrivateIPC=yes", "ProtectHome=tmpfs")
# What only the system's manager can do; another's ignores it, or fails.
_SHUT_BY_ROOT: Final = ("DevicePolicy=closed", "ProtectKernelLogs=yes")
_SHUT_WORKER_BY_ROOT: Final = ("ProtectProc=invisible", "ProcSubset=pid", "RemoveIPC=yes")
_NO_NETWORK: Final = ("PrivateNetwork=yes", "IPAddressDeny=any")
# A worker is Python and its libraries; a library is mapped for execution, a program is executed.
_ONLY_ITSELF: Final = (
    "NoExecPaths=/",
    "ExecPaths=-/usr/bin/python3 -/usr/lib -/lib -/lib64 -/usr/lib64 -/usr/local/lib",
)
# Not RestrictAddressFamilies=none: transient units know it only since 253. The one socket it has was given to it.
_NO_SOCKETS: Final = "SystemCallFilter=~socket socketpair connect bind listen accept accept4"

# One's own user's processes could be ended. `verify` is left it: it ends a program that takes too long.
_NO_SIGNALS: Final = "SystemCallFilter=~kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"

_OF: Final[Mapping[Profile, tuple[str, ...]]] = {
    Profile.NETWORK: ("DynamicUser=yes", *_ONLY_ITSELF),
    Profile.VERIFY: ("DynamicUser=yes", *_NO_NETWORK),
    Profile.UNPACK: (f"User={WORKER_USER}", *_NO_NETWORK, *_ONLY_ITSELF, _NO_SOCKETS),
}
_OF_USERS: Final[Mapping[Profile, tuple[str, ...]]] = {
    Profile.NETWORK: (_NO_SIGNALS,),
    Profile.VERIFY: (_NO_SOCKETS,),
    Profile.UNPACK: (_NO_SIGNALS, _NO_SOCKETS),
}
_NAMESPACED: Final[Mapping[Profile, tuple[str, ...]]] = {
    Profile.NETWORK: _ONLY_ITSELF,
    Profile.VERIFY: _NO_NETWORK[:1],
    Profile.UNPACK: (*_NO_NETWORK[:1], *_ONLY_ITSELF),
}
# AF_NETLINK: the resolver asks which addresses this host has. AF_UNIX: it may live behind a socket.
_FAMILIES: Final[Mapping[Profile, str]] = {
    Profile.NETWORK: "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    Profile.VERIFY: "RestrictAddressFamilies=AF_UNIX",
    Profile.UNPACK: "RestrictAddressFamilies=AF_UNIX",
}


def worker_properties(
    profile: Profile,
    *,
    limits: Limits,
    timeout_s: float,
    manager: Manager = Manager.SYSTEM,
    package_root: Path | None = None,
    own: Sequence[Path] = (),
) -> list[str]:
    """The properties of a worker's unit. `package_root`: where slotd lies, if the system's Python does not know it.

    `own`: directories of the user whose manager it is. They are empty for it: there is the bus, where all can be had.
    """
    found = [
        *_FILTERED,
        *_FILTERED_WORKER,
        _families(profile, manager),
        f"MemoryMax={limits.worker_memory}",
        "MemorySwapMax=0",
        f"RuntimeMaxSec={timeout_s:.3f}s",
    ]
    match manager:
        case Manager.SYSTEM:
            found += [*_SHUT, *_SHUT_BY_ROOT, *_SHUT_WORKER, *_SHUT_WORKER_BY_ROOT, *_OF[profile]]
        case Manager.NAMESPACES:
            found += [*_SHUT, *_SHUT_WORKER, *_OF_USERS[profile], *_NAMESPACED[profile]]
            found += [f"TemporaryFileSystem={quote(str(path))}" for path in (*own, Path("/dev/shm"))]
        case Manager.BARE:
            found += _OF_USERS[profile]
    if package_root is not None and manager is not Manager.BARE:
        found.append(f"BindReadOnlyPaths={quote(str(package_root))}")
    return found


def _families(profile: Profile, manager: Manager) -> str:
    """A user's worker could reach that user's programs by sockets that have no path; the resolver does without."""
    allowed = _FAMILIES[profile]
    return allowed if manager is Manager.SYSTEM else allowed.replace("AF_INET6 AF_UNIX", "AF_INET6")


def command_properties(
    *,
    user: str,
    cwd: Path,
    writable: Sequence[Path],
    network: bool,
    timeout_s: float,
    manager: Manager = Manager.SYSTEM,
    hidden: Sequence[Path] = (),
) -> list[str]:
    """The properties of a command's unit: the app's user in a system that is read-only but for `writable`.

    `hidden`: what a user's command must not reach: that user's manager, who would start anything for it.
    """
    found = [*_FILTERED, "UMask=0022", f"RuntimeMaxSec={timeout_s:.3f}s", f"WorkingDirectory={cwd}"]
    if manager is Manager.BARE:
        return found
    found += [*_SHUT, "MemoryMax=75%", "ProtectHome=read-only"]
    if manager is Manager.SYSTEM:
        found += [*_SHUT_BY_ROOT, f"User={user}"]
    else:
        found += ["PrivateUsers=yes", *(f"InaccessiblePaths={quote(f'-{path}')}" for path in hidden)]
    found += [f"ReadWritePaths={quote(str(path))}" for path in writable]
    if network:
        return found
    return [*found, *(_NO_NETWORK if manager is Manager.SYSTEM else _NO_NETWORK[:1])]


def quote(word: str) -> str:
    """A word as systemd reads it in a list."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit_text(profile: Profile, limits: Limits | None = None) -> str:
    """The profile as a unit file, for `systemd-analyze security --offline=true` and for the manual."""
    bounds = limits or Limits()
    if profile is Profile.COMMAND:
        lines = command_properties(
            user="app", cwd=Path("/"), writable=[Path("/var/lib/slotd/apps/app/a")], network=False, timeout_s=60
        )
    else:
        lines = worker_properties(profile, limits=bounds, timeout_s=60)
    return "\n".join(["[Service]", "ExecStart=/usr/bin/python3 -I -m slotd.worker", *lines]) + "\n"
