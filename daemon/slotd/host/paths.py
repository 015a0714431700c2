"""Where slotd's files are: directories of the system, of systemd's environment, or of a user. And a user's bus."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slotd.errors import Failed


@dataclass(frozen=True, slots=True)
class Paths:
    """`config`: directories with `apps.d`, `keys.d` and `slotd.toml`, low to high priority: the later one wins.

    `owner`: the name of the one user whose apps these are, and who all of them run as; empty for the system's.
    """

    config: tuple[Path, ...] = (Path("/usr/lib/slotd"), Path("/run/slotd"), Path("/etc/slotd"))
    state: Path = Path("/var/lib/slotd")
    cache: Path = Path("/var/cache/slotd")
    runtime: Path = Path("/run/slotd")
    owner: str = ""

    @property
    def database(self) -> Path:
        return self.state / "state.db"

    def copy(self, kind: str, app: str, copy_id: str) -> Path:
        """Where a backup (`backups`) or quarantine (`quarantine`) lies."""
        return self.state / kind / app / copy_id

    @classmethod
    def from_environment(cls, user: bool, environ: Mapping[str, str]) -> Paths:
        """systemd's `$CONFIGURATION_DIRECTORY` and its like go before the defaults; with `user` those are the XDG ones.

        `$CONFIGURATION_DIRECTORY` stands for the administrator's directory only: the vendor's stays below it.
        Raises `Failed` if a user's directories cannot be told.
        """
        default = _of_user(environ) if user else cls()
        runtime = _one(environ, "RUNTIME_DIRECTORY") or default.runtime
        own = _many(environ, "CONFIGURATION_DIRECTORY") or default.config[-1:]
        vendor = tuple(path for path in default.config[:-1] if path != default.runtime)
        return cls(
            config=tuple(dict.fromkeys((*vendor, runtime, *own))),
            state=_one(environ, "STATE_DIRECTORY") or default.state,
            cache=_one(environ, "CACHE_DIRECTORY") or default.cache,
            runtime=runtime,
            owner=default.owner,
        )


def runtime_of_user(environ: Mapping[str, str]) -> Path:
    """The directory with the sockets of this user's manager and bus.

    Raises `Failed`, with the way to get them, if they are not there or someone else's, as they are after su and sudo.
    """
    uid = os.getuid()
    own = Path(f"/run/user/{uid}")
    runtime = _absolute(environ, "XDG_RUNTIME_DIR") or own
    try:
        owner = runtime.stat().st_uid
    except OSError:
        raise Failed(f"cannot reach your user manager: there is no {runtime}.", hint=_way_in(environ)) from None
    if owner != uid:
        raise Failed(
            f"cannot reach your user manager: $XDG_RUNTIME_DIR is {runtime}, which belongs to {_name(owner)}.",
            hint=f"Try `export XDG_RUNTIME_DIR={own}`." if own.is_dir() else _way_in(environ),
        )
    return runtime


def _way_in(environ: Mapping[str, str]) -> str:
    name = _name(os.getuid())
    if name == "root" and environ.get("SUDO_USER"):
        return f"--user is for your own applications: run it as {environ['SUDO_USER']}, without sudo."
    return (
        f"Log in as {name} with a session of its own: by ssh, or with `sudo machinectl shell {name}@`; su is none.\n"
        f"`sudo loginctl enable-linger {name}` keeps your manager, and your applications, running without one."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _of_user(environ: Mapping[str, str]) -> Paths:
    """The XDG Base Directory Specification: a relative path in one of its variables counts as not set."""
    runtime = (_absolute(environ, "XDG_RUNTIME_DIR") or Path(f"/run/user/{os.getuid()}")) / "slotd"
    dirs = [Path(part) for part in environ.get("XDG_CONFIG_DIRS", "").split(":") if part.startswith("/")]
    system = [path / "slotd" for path in reversed(dirs or [Path("/etc/xdg")])]
    return Paths(
        config=(*system, runtime, _home(environ, "XDG_CONFIG_HOME", ".config")),
        state=_home(environ, "XDG_STATE_HOME", ".local/state"),
        cache=_home(environ, "XDG_CACHE_HOME", ".cache"),
        runtime=runtime,
        owner=_name(os.getuid()),
    )


def _home(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    given = _absolute(environ, variable)
    if given is not None:
        return given / "slotd"
    home = _absolute(environ, "HOME")
    if home is None:
        raise Failed(
            f"cannot tell where this user's files are: neither ${variable} nor $HOME is an absolute path.",
            hint="Set $HOME.",
        )
    return home / below_home / "slotd"


def _absolute(environ: Mapping[str, str], variable: str) -> Path | None:
    text = environ.get(variable, "")
    return Path(text) if text.startswith("/") else None


def _many(environ: Mapping[str, str], variable: str) -> tuple[Path, ...]:
    """systemd gives several directories with colons between them, low to high as the unit lists them."""
    return tuple(Path(part) for part in environ.get(variable, "").split(":") if part.startswith("/"))


def _one(environ: Mapping[str, str], variable: str) -> Path | None:
    return next(iter(_many(environ, variable)), None)
