"""The door to other programs: trusted tools, workers on foreign bytes, and the commands of a definition.

Workers and commands are transient units (`systemd-run --pipe --wait`), so that the sandbox, the limits and the end of
all their processes are systemd's business. A worker's answer is checked for its form here, for its truth by the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pwd
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from slotd import errors
from slotd.core.schema import Limits
from slotd.core.words import last_words
from slotd.errors import Failed, SlotdError, SourceFailed, VerificationFailed
from slotd.host import failpoint, frames, sandbox
from slotd.host.process import Completed, run, to_its_end
from slotd.host.sandbox import Manager, Profile
from slotd.host.unit import SAID_BYTES, START_S, Running, clean

__all__ = ["Completed", "Workers", "run", "unit_name"]

log = logging.getLogger(__name__)

UNIT_PREFIX: Final = "slotd-worker-"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MESSAGE_CHARS: Final = 4000
PACE_S: Final = 0.01  # a worker that floods progress is read no faster than this
LATEST: Final = 253_402_300_800  # seconds since the epoch: the year 10000
_ERRORS: Final = ("VerificationFailed", "SourceFailed", "NoSpace", "Misconfigured", "Failed")

# systemd's exit statuses for a unit that the kernel refused a namespace: USER CAPABILITIES NETWORK NAMESPACE
_REFUSED: Final = (217, 218, 225, 226)

OnProgress = Callable[[Mapping[str, Any]], None]


def unit_name(app: str, job: int, verb: str) -> str:
    """The name of a worker's unit, without its suffix."""
    return _escape(f"{UNIT_PREFIX}{app}-{job}-{verb}")


class Workers:
    """Starts workers and commands. `sandbox=False`, for machines without systemd, runs them as plain processes.

    `package_root` is the directory that holds the package `slotd`; by default, where this file lies.
    """

    def __init__(
        self,
        *,
        user_manager: bool = False,
        limits: Limits,
        sandbox: bool = True,
        package_root: Path | None = None,
    ) -> None:
        self._user_manager, self._limits, self._sandbox = user_manager, limits, sandbox
        root = package_root or Path(__file__).resolve().parents[2]
        self._root = None if root.name == "dist-packages" else root
        self._numbers = itertools.count(1)
        self._manager = ["--user"] if user_manager else []
        self._kind: asyncio.Task[Manager] | None = None
        home, runtime = (Path(os.environ.get(key) or "/nonexistent") for key in ("HOME", "XDG_RUNTIME_DIR"))
        # In other places than those that are hidden for every worker, see `sandbox`.
        own = [path for path in (home, runtime) if path.is_dir() and not path.is_relative_to("/home")]
        self._own = own if user_manager else []
        self._hidden = [runtime / "bus", runtime / "systemd"] if user_manager else []

    async def call(
        self,
        verb: str,
        request: Mapping[str, Any],
        fds: Sequence[int] = (),
        *,
        unit: str,
        timeout_s: float,
        on_progress: OnProgress | None = None,
        shown: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """Has a worker do `verb` and gives what it claims. The descriptors stay the caller's.

        `shown` are paths that it may read, wherever they lie.

        Raises the worker's own error (one of those a worker may raise), `SourceFailed` if a worker on the network
        took too long, `Failed` if it died or said what cannot be understood. A cancelled call ends the unit, and
        waits until it is gone, before it raises.
        """
        profile = sandbox.PROFILES[verb]
        name, manager = self._name(unit), await self._manager_kind()
        wanted = sandbox.worker_properties(
            profile,
            limits=self._limits,
            timeout_s=timeout_s,
            manager=manager,
            package_root=self._root,
            own=self._own,
        )
        if manager is not Manager.BARE:  # which hides nothing, and cannot mount anything
            wanted += [f"BindReadOnlyPaths={sandbox.quote(f'-{path}')}" for path in shown]
        kept = {key: os.environ[key] for key in sandbox.NETWORK_VARIABLES if key in os.environ}
        setenv = (kept if profile is Profile.NETWORK else {}) | failpoint.hand_out(verb)
        argv = self._worker_argv(verb)
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                start = self._start(name, wanted, setenv, argv, stdin=theirs.fileno())
                unit_of = await self._started(start, name)
            async with unit_of as running:
                result = await self._talk(running, ours, request, fds, timeout_s, on_progress)
                ours.close()  # the worker has nothing more to say
                if not await running.ended(START_S):
                    await running.stop()
        if result is None:
            raise self._death(verb, profile, running, timeout_s)
        if "ok" in result and isinstance(result["ok"], dict):
            return result["ok"]
        raise error_of(result.get("error"), verb)

    async def command(
        self,
        argv: Sequence[str],
        *,
        unit: str,
        user: str,
        cwd: Path,
        writable: Sequence[Path],
        network: bool,
        timeout_s: float,
        environment: Mapping[str, str] = {},
    ) -> Completed:
        """Runs a definition's command as `user`, in a system where only `writable` (and a private /tmp) is writable.

        `HOME` is a temporary directory. Raises `Failed` if the unit could not be set up: no such user, no such
        directory. A command that is not found ends with status 127, as in a shell.
        """
        name, line = self._name(unit), shlex.join(argv)
        with contextlib.ExitStack() as stack:
            manager, home = await self._manager_kind(), "/tmp"
            if manager is Manager.BARE or not self._sandbox:
                home = stack.enter_context(tempfile.TemporaryDirectory(prefix="slotd-command-"))
            assigned = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, **environment}
            wanted = sandbox.command_properties(
                user=user,
                cwd=cwd,
                writable=writable,
                network=network,
                timeout_s=timeout_s,
                manager=manager,
                hidden=self._hidden,
            )
            # The shell joins the command's two outputs; what systemd-run itself says stays apart.
            shell = ["/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *argv]
            start = self._start(name, wanted, assigned, shell, cwd=cwd, user=user)
            async with await self._started(start, name) as running:
                late = not await running.ended(timeout_s + START_S)
                if late:
                    await running.stop()
        timed_out = late or running.result == "timeout"
        if running.is_setup_failure and not timed_out:
            raise Failed(
                f"cannot run `{line}`: its unit {name} could not be set up: {running.how}.",
                hint="See `journalctl -u slotd`, and user, data.paths and slots of the definition.",
            )
        if running.status or timed_out:
            log.info("command ended with %s: %s", "timeout" if timed_out else running.status, line)
        return Completed(running.status or (124 if timed_out else 0), running.output, timed_out, line)

    async def stop_leftovers(self) -> list[str]:
        """Stops every worker that an earlier daemon left behind; gives their units' names."""
        if not self._sandbox:
            return []
        pattern = f"{UNIT_PREFIX}*.service"
        found = await run(
            ["systemctl", *self._manager, "list-units", "--all", "--full", "--plain", "--no-legend", "--", pattern],
            timeout_s=START_S,
        )
        units = [line.split()[0] for line in found.output.splitlines() if line.startswith(UNIT_PREFIX)]
        if units:
            await run(["systemctl", *self._manager, "stop", "--", *units], timeout_s=2 * START_S)
            await run(["systemctl", *self._manager, "reset-failed", "--", *units], timeout_s=START_S)
        return units

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────

    def _name(self, unit: str) -> str:
        """A name of its own for every start: the one before may not be unloaded yet."""
        if not unit.startswith(UNIT_PREFIX):
            raise ValueError(f"{unit!r} does not begin with {UNIT_PREFIX!r}")
        return f"{_escape(unit)}-{next(self._numbers)}.service"

    async def _manager_kind(self) -> Manager:
        """What the units of this manager can be shut off with; found out once."""
        if not self._user_manager or not self._sandbox:
            return Manager.SYSTEM
        if self._kind is None or (self._kind.done() and (self._kind.cancelled() or self._kind.exception())):
            self._kind = asyncio.create_task(self._try_namespaces())
        return await asyncio.shield(self._kind)

    async def _try_namespaces(self) -> Manager:
        wanted = sandbox.worker_properties(
            Profile.VERIFY, limits=self._limits, timeout_s=START_S, manager=Manager.NAMESPACES, own=self._own
        )
        line = ["systemd-run", *self._manager, "--quiet", "--wait", "--collect", f"--unit={self._name(UNIT_PREFIX)}"]
        tried = await run([*line, *(f"--property={each}" for each in wanted), "--", "/bin/true"], timeout_s=START_S)
        if tried.status == 0:
            return Manager.NAMESPACES
        if tried.status not in _REFUSED:
            raise Failed(
                f"cannot start workers: systemd says: {clean(tried.output).strip()}", hint="See `journalctl --user`."
            )
        log.warning(
            "This host lets no user have a namespace: workers are not shut off from your files and from the network."
        )
        return Manager.BARE

    def _worker_argv(self, verb: str) -> list[str]:
        if self._root is None:
            return ["/usr/bin/python3", "-I", "-m", "slotd.worker", verb]
        code = f"import sys; sys.path.insert(0, {str(self._root)!r}); from slotd.worker import main; main()"
        return ["/usr/bin/python3" if self._sandbox else sys.executable, "-I", "-B", "-c", code, verb]

    async def _start(
        self,
        name: str,
        properties: Sequence[str],
        environment: Mapping[str, str],
        argv: Sequence[str],
        *,
        stdin: int = asyncio.subprocess.DEVNULL,
        cwd: Path | None = None,
        user: str = "",
    ) -> Running:
        pipe = asyncio.subprocess.PIPE
        line = list(argv)
        # Without a sandbox they are the worker's own.
        variables = {**os.environ, "PATH": PATH, **({} if self._sandbox else environment)}
        extra: dict[str, Any] = {"env": variables}
        if self._sandbox:
            line = ["systemd-run", *self._manager, "--pipe", "--wait", "--collect", f"--unit={name}"]
            line += [f"--description=slotd: {name}", *(f"--property={each}" for each in properties)]
            line += [f"--setenv={key}={value}" for key, value in environment.items()]
            # Arguments are for the program alone: systemd would put variables in.
            line += ["--", argv[0], *(each.replace("$", "$$") for each in argv[1:])]
        elif cwd is not None:
            extra = {"env": dict(environment), "cwd": cwd, **_identity(user)}
        log.debug("starting %s: %s", name, shlex.join(line))
        try:
            process = await asyncio.create_subprocess_exec(
                *line, stdin=stdin, stdout=pipe, stderr=pipe, start_new_session=True, **extra
            )
        except OSError as error:
            raise Failed(
                f"cannot run `{shlex.join(line[:1])}`: {error.strerror}.",
                hint="slotd needs systemd to run its workers.",
            ) from error
        keep = self._limits.output_bytes if cwd is not None else SAID_BYTES
        return Running(name, process, self._manager if self._sandbox else None, keep)

    async def _started(self, start: Awaitable[Running], name: str) -> contextlib.AbstractAsyncContextManager[Running]:
        """The unit, to be entered at once: leaving it by an exception ends it. A cancelled start ends it, too."""
        task = asyncio.ensure_future(start)
        try:
            running = await asyncio.shield(task)
        except asyncio.CancelledError:
            with contextlib.suppress(SlotdError):
                await to_its_end((await to_its_end(task)).stop())
            raise
        return running.guard()

    # ── talking ──────────────────────────────────────────────────────────────────────────────────────

    async def _talk(
        self,
        running: Running,
        ours: socket.socket,
        request: Mapping[str, Any],
        fds: Sequence[int],
        timeout_s: float,
        on_progress: OnProgress | None,
    ) -> dict[str, Any] | None:
        """The worker's result frame, None if it died or took too long."""
        loop = asyncio.get_running_loop()
        message = frames.encode(request)
        try:
            async with asyncio.timeout(timeout_s + START_S):
                socket.send_fds(ours, [message[: frames.HEAD.size]], list(fds))
                await loop.sock_sendall(ours, message[frames.HEAD.size :])
                while True:
                    body = await _exactly(ours, frames.length(await _exactly(ours, frames.HEAD.size)))
                    said = frames.decode(body)
                    if "progress" not in said:
                        return said
                    if not isinstance(said["progress"], dict) or len(body) > frames.PROGRESS_BYTES:
                        raise frames.FrameError("progress of an odd form")
                    if on_progress is not None:
                        on_progress(said["progress"])
                    await asyncio.sleep(PACE_S)  # flow control: what it says in between waits in the socket
        except TimeoutError:
            running.is_late = True
        except (OSError, EOFError):
            pass
        except frames.FrameError as error:
            raise Failed(
                f"cannot trust the worker {running.name}: {error}.", hint="See `journalctl -u slotd`."
            ) from error
        await running.stop() if running.is_late else await running.ended(START_S)
        return None

    def _death(self, verb: str, profile: Profile, running: Running, timeout_s: float) -> SlotdError:
        said = f" {last_words(running.output)}".rstrip()
        if running.is_late or running.result == "timeout":
            message = f"cannot {verb}: the worker {running.name} took longer than {timeout_s:g} s.{said}"
            kind = SourceFailed if profile is Profile.NETWORK else Failed
            return kind(message, hint="Try again, or raise the bound in [limits].")
        if running.result == "oom-kill":
            return Failed(
                f"cannot {verb}: {running.name} needed more than {self._limits.worker_memory} bytes of memory.",
                hint="If the release is right, raise limits.worker_memory.",
            )
        return Failed(
            f"cannot {verb}: the worker {running.name} ended without a result ({running.how}).{said}",
            hint=f"See `journalctl -u {running.name}`.",
        )


def _identity(user: str) -> dict[str, Any]:
    if os.geteuid() != 0 or not user or user == "root":
        return {}
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"cannot run a command as {user!r}: there is no such user.", hint="See [service] user.") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = bytearray()
    while len(found) < count:
        piece = await loop.sock_recv(sock, min(count - len(found), 256 * 1024))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def _escape(name: str) -> str:
    escaped = re.sub(r"[^A-Za-z0-9:_.\-]", lambda m: "".join(f"\\x{b:02x}" for b in m[0].encode()), name)
    return escaped[:200]


def _line(text: str) -> str:
    """A worker's words as one line: what stands at the beginning of a line in the journal is ours to say."""
    return clean(text)[:MESSAGE_CHARS].replace("\n", " ").strip()


def error_of(said: object, verb: str) -> SlotdError:
    """The error that a worker reported, bounded and of a kind that a worker may report."""
    told = said if isinstance(said, dict) else {}
    name, message, hint = told.get("name"), told.get("message"), told.get("hint")
    if name not in _ERRORS or not isinstance(message, str) or not message:
        return Failed(
            f"cannot {verb}: the worker gave neither a result nor an error.", hint="See `journalctl -u slotd`."
        )
    error = errors.from_name(str(name), _line(message))
    error.hint = _line(hint) if isinstance(hint, str) else ""
    if isinstance(error, VerificationFailed):
        error.forged = told.get("forged") is True
    retry_at = told.get("retry_at")
    if isinstance(error, SourceFailed) and isinstance(retry_at, int | float) and not isinstance(retry_at, bool):
        error.retry_at = float(retry_at) if 0 < retry_at < LATEST else 0.0  # a comparison: float() of a huge int fails
    return error
