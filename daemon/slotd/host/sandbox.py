"""The sandboxes: what each kind of worker may do, as systemd properties. Nothing that systemd 252 does not know.

| profile | user | network | may execute | writes |
|---|---|---|---|---|
| `network` (list, fetch, small) | a dynamic one | yes | nothing but itself | the descriptor it was given |
| `verify` | a dynamic one | no | system programs | a private /tmp |
| `unpack` | slotd-worker | no | nothing but itself | the directory it was given |
| `command` (prepare, migrate, exec probes, backup commands) | the app's | if asked for | all | what it was given |

Under a user's own manager there is no other user to be and no mount to make: what is left is the system call filter,
the limits and the low priority.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
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


PROFILES: Final[Mapping[str, Profile]] = {
    "list": Profile.NETWORK,
    "fetch": Profile.NETWORK,
    "small": Profile.NETWORK,
    "verify": Profile.VERIFY,
    "unpack": Profile.UNPACK,
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
# What only the system's manager can do.
_SHUT: Final = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "PrivateTmp=yes",
    "PrivateMounts=yes",
    "ProtectSystem=strict",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "KeyringMode=private",
)
_SHUT_WORKER: Final = (
    "PrivateUsers=yes",
    "PrivateIPC=yes",
    "ProtectHome=tmpfs",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RemoveIPC=yes",
)
_NO_NETWORK: Final = ("PrivateNetwork=yes", "IPAddressDeny=any")
# A worker is Python and its libraries; a library is mapped for execution, a program is executed.
_ONLY_ITSELF: Final = (
    "NoExecPaths=/",
    "ExecPaths=-/usr/bin/python3 -/usr/lib -/lib -/lib64 -/usr/lib64 -/usr/local/lib",
)
# Not RestrictAddressFamilies=none: transient units know it only since 253. The one socket it has was given to it.
_NO_SOCKETS: Final = "SystemCallFilter=~socket socketpair connect bind listen accept accept4"

_OF: Final[Mapping[Profile, tuple[str, ...]]] = {
    Profile.NETWORK: ("DynamicUser=yes", *_ONLY_ITSELF),
    Profile.VERIFY: ("DynamicUser=yes", *_NO_NETWORK),
    Profile.UNPACK: (f"User={WORKER_USER}", *_NO_NETWORK, *_ONLY_ITSELF, _NO_SOCKETS),
}
# AF_NETLINK: the resolver asks which addresses this host has. AF_UNIX: it may live behind a socket.
_FAMILIES: Final[Mapping[Profile, str]] = {
    Profile.NETWORK: "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    Profile.VERIFY: "RestrictAddressFamilies=AF_UNIX",
    Profile.UNPACK: "RestrictAddressFamilies=AF_UNIX",
}


def worker_properties(
    profile: Profile, *, limits: Limits, timeout_s: float, user_manager: bool = False, package_root: Path | None = None
) -> list[str]:
    """The properties of a worker's unit. `package_root`: where slotd lies, if the system's Python does not know it."""
    found = [
        *_FILTERED,
        *_FILTERED_WORKER,
        _FAMILIES[profile],
        f"MemoryMax={limits.worker_memory}",
        "MemorySwapMax=0",
        f"RuntimeMaxSec={timeout_s:.3f}s",
    ]
    if not user_manager:
        found += [*_SHUT, *_SHUT_WORKER, *_OF[profile]]
        if package_root is not None:
            found.append(f"BindReadOnlyPaths={quote(str(package_root))}")
    return found


def command_properties(
    *,
    user: str,
    cwd: Path,
    writable: Sequence[Path],
    network: bool,
    timeout_s: float,
    user_manager: bool = False,
) -> list[str]:
    """The properties of a command's unit: the app's user in a system that is read-only but for `writable`."""
    found = [*_FILTERED, "UMask=0022", f"RuntimeMaxSec={timeout_s:.3f}s", f"WorkingDirectory={cwd}"]
    if user_manager:
        return found
    found += [*_SHUT, f"User={user}", "MemoryMax=75%", "ProtectHome=read-only"]
    found += [f"ReadWritePaths={quote(str(path))}" for path in writable]
    return found if network else [*found, *_NO_NETWORK]


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
