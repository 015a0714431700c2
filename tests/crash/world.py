"""A machine with a disk of its own and the notes app on it, brought to a step of an update, and looked at from outside.

The long way to a step (list, fetch, verify, unpack) is gone once: the state of the disk when the daemon died in
`preserve` is kept aside, and a cell for a later step begins from there, with a daemon that goes on.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.crash.disk import Disk
from tests.crash.publisher import Moody
from tests.system.container import Container
from tests.system.image import Image
from tests.system.notes import Notes

OLD, NEW, LATER = "1.0", "2.0", "3.0"
BAD = "damage-data"
# The disk as it was at the beginning of a step of an update to a release that does so; `idle` is before any.
STARTS = {
    "fetch": ("fetch", "well"),
    "verify": ("verify", "well"),
    "stage": ("stage", "well"),
    "compare": ("compare", "well"),
    "well": ("preserve", "well"),
    BAD: ("preserve", BAD),
}
FIRED = "/run/slotd-fired"
WITNESS = "/witness/ran"
KEPT = ("/var/lib/slotd", "/var/cache/slotd", "/var/lib/notes")
TIMERS = "slotd-apply.timer slotd-check.timer slotd-prune.timer slotd-push.timer"  # their hour is not among the faults
LONGEST_S = 90.0
ASK_EVERY_S = 0.15  # each question is a handful of processes, which the machines beside it do without
CHECKSUM_ONLY = '[verify]\nrequire = ["sha256"]\nkeys = []\n'
UNIT_DROP_IN = f"""\
[Service]
Environment=NOTES_WITNESS={WITNESS}
TimeoutStopSec=1s
WatchdogSec=1s
StartLimitIntervalSec=0
"""
# Restarts are quick, and the environment of a cell comes from a file: no daemon-reload between two of them.
DAEMON_DROP_IN = """\
[Unit]
StartLimitIntervalSec=0
[Service]
EnvironmentFile=-/run/slotd-cell
RestartSec=50ms
"""
MORE = """\
[backup]
retention = "1d"
[policy]
attempts = 3
[service]
start_timeout = "2s"
[slots]
migrate = [["/bin/true"]]
"""
STOP = """
systemctl kill -s KILL slotd.service 2>/dev/null
systemctl stop slotd.service notes.service
# After slotd: a kill that its stop overtakes is a failure, which starts this.
systemctl stop slotd-recover.service 'slotd-worker-*' 2>/dev/null
systemctl reset-failed
rm -rf /run/slotd-fired /run/slotd-cell /witness
mkdir -p /run/slotd-fired /witness
chown notes: /witness
"""
IDLE = """
test "$(busctl get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs 2>/dev/null)" = 'u 0'
"""
SETTLED = f"{IDLE.strip()} && test -z \"$(systemctl list-jobs --no-legend --plain | grep -v 'No jobs')\""


def _back(name: str) -> str:
    """For the shell: nothing runs, and the disk is what was kept under that name."""
    copies = (f"find {path} -mindepth 1 -delete; cp -a /kept/{name}{path}/. {path}/" for path in KEPT)
    return "\n".join((STOP, *copies))


class World:
    """`with World(image, "ext4") as world: …`. One thread."""

    def __init__(self, image: Image, kind: str, *, disk: Callable[[Container], Disk] | None = None) -> None:
        self.kind = kind
        self.machine = Container(image)
        self.disk = disk(self.machine) if disk else Disk(self.machine, kind)
        self._room = tempfile.TemporaryDirectory(prefix="slotd-publisher-")
        self.publisher = Moody(Path(self._room.name))
        self.notes = Notes(self.machine, self.publisher)
        self.before: dict[str, object] = {}
        self.job = 0  # of the cell at hand
        self.since = ""  # when it began, for the journal: the numbers of jobs come again in the next cell
        self._exit = contextlib.ExitStack()
        self._made: set[str] = set()
        self._packages = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._room)
            stack.callback(self.machine.close)
            stack.enter_context(self.disk)
            stack.enter_context(self.publisher)
            self.machine.boot()
            self._set_up()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _set_up(self) -> None:
        self.machine.write_file("/etc/systemd/system/notes.service.d/crash.conf", UNIT_DROP_IN)
        self.machine.write_file("/etc/systemd/system/slotd.service.d/cell.conf", DAEMON_DROP_IN)
        self.machine.run("mkdir -p /witness && chmod 777 /witness")
        self.notes.set_up(trial="300ms", more=MORE)
        self.checksum_only(True)
        self.machine.run("systemctl enable notes.service 2>/dev/null; slotctl enable notes")
        self.machine.run("systemctl reload slotd")
        self.machine.run(f"systemctl disable --now {TIMERS}")
        self.before = self.notes.install(OLD)
        self.before.pop("version")
        self.publisher.publish(NEW, schema=2)
        self.publisher.publish(LATER, schema=2)
        self.publisher.offer(NEW)
        self._keep("idle")

    def checksum_only(self, on: bool) -> None:
        """Without signatures an update takes half of the time; those cells that are about them have them."""
        path = "/etc/slotd/apps.d/notes.toml.d/verify.toml"
        if on:
            self.machine.write_file(path, CHECKSUM_ONLY)
        else:
            self.machine.run(f"rm -f {path}")

    # -- where a cell begins ----------------------------------------------------------------------

    def _keep(self, name: str) -> None:
        copies = "\n".join(f"mkdir -p /kept/{name}{path} && cp -a {path}/. /kept/{name}{path}/" for path in KEPT)
        self.machine.run(f"{STOP}\n{copies}")
        self._made.add(name)

    def keep_at(self, name: str, start: str, point: str, *, before: str = "") -> None:
        """Keep the disk as the daemon dies at `point`, on its way from `start`, and as Python in `before` leaves it."""
        self.begin(start, points=f"{point}=hang")
        self.wait_fired(point)
        self.machine.run(f"{STOP}\npython3 - <<'EOF'\n{before}EOF")
        self._keep(name)

    def put_back(self, name: str) -> None:
        """The disk as it was kept, and nothing runs."""
        self.since = self.machine.run(f"{_back(name)}\ndate +@%s.%N").stdout.split()[-1]

    def go_on(self) -> None:
        """The app and the daemon come up on what is there."""
        self.machine.run("systemctl start notes.service slotd.service")

    def begin(self, start: str, *, points: str = "", more: str = "", signed: bool = False) -> None:
        """The disk as it was in `start`, the old version up, then a daemon with these failpoints.

        `idle` is before an update; the others are in `STARTS`.
        """
        if start not in self._made:
            self._make(start)
        self.checksum_only(not signed)
        self.publisher.calm()
        self.publisher.offer(NEW)
        cell = f"SLOTD_FAILPOINTS={points}\nSLOTD_FAILPOINTS_DIR={FIRED}\n{more}"
        said = self.machine.run(
            f"{_back(start)}\nset -e\nsync -f /var/lib\ncat >/run/slotd-cell\ndate +@%s.%N\n"
            "systemctl start notes.service slotd.service",
            input=cell,
        ).stdout
        self.since = next(line for line in said.splitlines() if line.startswith("@"))
        self.job = int(self.machine.run("cat /kept/$S/job 2>/dev/null || echo 0", env={"S": start}).stdout)

    def _make(self, start: str) -> None:
        """Bring an update into the step that `start` is about, and keep the disk as the daemon dies there."""
        step, behaviour = STARTS[start]
        self.publisher.publish(NEW, behaviour, schema=2)
        self.begin("idle", points=f"{step}:begin=hang")
        self.update()
        self.wait_fired(f"{step}:begin")
        job = self.job
        self._keep(start)
        self.machine.run(f"echo {job} >/kept/{start}/job")
        self.publisher.publish(NEW, schema=2)

    def update(self) -> None:
        """Begin an update; whoever asked does not wait."""
        said = self.machine.run(
            "busctl call org.slotd1 /org/slotd1 org.slotd1.Manager Update 'sa{sv}' notes 0", timeout_s=30
        ).stdout
        self.job = int(said.strip().strip('"').rpartition("/")[2])

    # -- the fault --------------------------------------------------------------------------------

    def wait_fired(self, point: str, *, timeout_s: float = LONGEST_S) -> None:
        """Until the daemon has come to this failpoint."""
        path = self.machine.path(f"{FIRED}/{point}")
        self.wait(path.exists, f"the failpoint {point} was not reached", timeout_s=timeout_s)

    def let_go(self, point: str) -> None:
        """The step that hangs goes on."""
        path = self.machine.path(f"{FIRED}/{point}")
        if path.exists():
            path.write_text("go")

    def wait(
        self, is_true: Callable[[], bool], else_: str, *, timeout_s: float = LONGEST_S, every_s: float = 0.02
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < deadline, f"{else_} within {timeout_s:.0f} s"
            time.sleep(every_s)

    def settle(self) -> None:
        """Until no job runs any more, whoever runs it: of the daemon, or of systemd."""

        def is_settled() -> bool:
            return self.machine.run(SETTLED, check=False).returncode == 0

        self.wait(is_settled, "a job did not end", every_s=ASK_EVERY_S)

    def sh(self, script: str, *, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.machine.run(script, check=check, timeout_s=timeout_s)

    # -- the package ------------------------------------------------------------------------------

    def next_package(self) -> str:
        """The path, in the container, of the same package with a higher version each time."""
        self._packages += 1
        version, path = f"99.{self._packages}", f"/root/slotd_99.{self._packages}_all.deb"
        self.machine.run(
            "cd /root; test -d unpacked || dpkg-deb -R slotd_[0-9]*_all.deb unpacked; "
            f"sed -i 's/^Version: .*/Version: {version}/' unpacked/DEBIAN/control; "
            f"dpkg-deb -Znone --root-owner-group -b unpacked {path} && echo built"
        )
        return path
