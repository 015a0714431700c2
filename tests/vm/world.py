"""The notes app on guests: one disk on which its first version is installed, and what the next versions are like."""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import keys
from tests.keys import OpenPGPKey
from tests.system import notes as notes_app
from tests.system.image import _cached, _digest
from tests.system.notes import APP, Notes, Publisher
from tests.vm.disk import APP_PORT, RELEASES_PORT, Disk
from tests.vm.guest import Guest, GuestError

HERE = Path(__file__).parent
LOOK = "/usr/local/lib/look.py"
SETTLE_S = 1500.0  # an update from its beginning, on a machine that others use, too
LEFT = {
    "journal": "journalctl --no-pager -o short-iso",
    "events": "sqlite3 -readonly /var/lib/slotd/state.db 'SELECT * FROM events'",
    "jobs": "sqlite3 -readonly -line /var/lib/slotd/state.db 'SELECT * FROM jobs'; slotctl status notes",
}
# Times that suit a machine which is twenty times slower than the one that the tests of the containers run on.
SLOW = """
sed -i 's/^start_timeout.*/start_timeout = "90s"/; s/^timeout.*/timeout = "20s"/; s/^grace.*/grace = "60s"/;
    s/^interval.*/interval = "2s"/' /etc/slotd/apps.d/notes.toml
sed -i 's/^WatchdogSec.*/WatchdogSec=60s/; s/^Type=notify/Type=notify\\nTimeoutStartSec=90s/' \\
    /etc/systemd/system/notes.service
systemctl daemon-reload
systemctl enable --quiet notes.service && slotctl enable notes && systemctl restart slotd
"""


class GuestPublisher(Publisher):
    """Seen from a guest, the releases are at a port of its own loopback."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{RELEASES_PORT}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def publish_once(self, behaviour: str, stored: Path) -> None:
        """2.0 of this behaviour: the same bytes in every run, for a disk that is booted later may hold some."""
        at = stored / behaviour.replace(" ", "-")
        if not at.is_dir():
            self.publish("2.0", f"signing {behaviour}", schema=2)
            shutil.copytree(self.directory, at)
            return
        shutil.copytree(at, self.directory, dirs_exist_ok=True)
        self._releases = json.loads((at / "index.json").read_text())["releases"]


class GuestNotes(Notes):
    """The app in a guest. Its port in there is always the same; outside it is the guest's."""

    machine: Guest  # type: ignore[assignment]

    def __init__(self, guest: Guest, publisher: Publisher) -> None:
        super().__init__(guest, publisher, port=APP_PORT)  # type: ignore[arg-type]

    def set_up(self, **more: Any) -> None:
        super().set_up(**more)
        self.machine.run(SLOW)
        self.machine.write_file(LOOK, (HERE / "look.py").read_text())
        self.port = self.machine.app_port

    def slotctl(self, *args: str, status: int | None = 0, timeout_s: float = SETTLE_S) -> str:
        return super().slotctl(*args, status=status, timeout_s=timeout_s)

    def look(self) -> dict[str, Any]:
        """What lies on the guest's disk, see `look.py`."""
        return dict(json.loads(self.machine.run(["python3", "-I", LOOK]).stdout))

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
            return dict(json.load(answer))

    def wait_state(self, *, timeout_s: float = 300.0) -> dict[str, Any]:
        """As the app says it, when it does; the time is the machine's."""
        deadline = self.machine.had_s() + timeout_s
        while True:
            try:
                return self.state()
            except (OSError, ValueError) as error:
                if self.machine.had_s() > deadline:
                    raise GuestError(f"the app does not answer within {timeout_s:g} s: {error}") from None
                time.sleep(1)

    def wait_settled(self, *, timeout_s: float = SETTLE_S) -> None:
        """Waits until no job is unfinished and no trial open."""
        unfinished = (
            "SELECT (SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')) + (SELECT count(*) FROM trials)"
        )
        self.wait_found(unfinished, "0", timeout_s=timeout_s)

    def wait_found(self, sql: str, wanted: str, *, timeout_s: float) -> None:
        """Waits until slotd's state says so; a machine that does not answer, for it hangs or boots, is asked again."""
        deadline = self.machine.had_s() + timeout_s
        while True:
            try:
                found = self.machine.ask_state(sql, timeout_s=20)
            except GuestError as error:
                found = str(error)
            if found == wanted:
                return
            if self.machine.had_s() > deadline:
                raise GuestError(f"`{sql}` gave {found} and not {wanted} for {timeout_s:g} s")
            self.machine.sleep(1)

    def now_at(self) -> str:
        """The step of the newest job, and its state; empty if there is none."""
        return self.machine.ask_state("SELECT step, state FROM jobs ORDER BY id DESC LIMIT 1")


@dataclass
class World:
    """All that the cases of one run share. `directory` is the run's; what is in it goes with it."""

    disk: Disk
    directory: Path
    deb: Path
    kept: Path = Path()  # what a machine that ended wrong leaves to look at
    installed: Path = Path()  # a disk
    boot_s: float = 30.0  # what such a machine needs to come up
    before: dict[str, Any] = field(default_factory=dict)  # what lies on the installed disk
    _key_of_all: OpenPGPKey | None = None
    _publishers: dict[str, GuestPublisher] = field(default_factory=dict)
    _exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> World:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._take(_cached(f"notes-{self._key()}", self._install))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _key(self) -> str:
        """Of all that makes the installed disk. A layer knows the one below only by its place: its time counts, too."""
        made_by = [inspect.getsource(each) for each in (World._install, GuestNotes.set_up, notes_app)]
        files = [path.read_text() for path in (HERE / "look.py", APP)]
        return _digest(str(self.disk.raw), str(self.disk.raw.stat().st_mtime_ns), SLOW, *made_by, *files)

    def _install(self, target: Path) -> None:
        """1.0 installed on a disk, what lies on it, and the key of those who sign."""
        publisher = self.publisher("")
        with self.guest("installing", publisher, base=None) as notes:
            begun = notes.machine.had_s()
            notes.machine.boot()
            boot_s = notes.machine.had_s() - begun
            notes.set_up(trial="4s")
            notes.install("1.0")
            said = {"boot_s": boot_s, "before": notes.look(), "fingerprint": publisher.key.fingerprint}
            notes.machine.power_off()
            shutil.copyfile(notes.machine.layer, target / "installed.qcow2")
        keys.stop_agents([publisher.key.home])
        shutil.copytree(publisher.key.home, target / "gnupg", ignore=shutil.ignore_patterns("S.*", "*.lock"))
        (target / "said.json").write_text(json.dumps(said))

    @property
    def made(self) -> Path:
        """The disks of this seed that stand on the installed one, beside it: they go with it."""
        return self.installed.parent / self.kept.name

    def _take(self, cached: Path) -> None:
        said = json.loads((cached / "said.json").read_text())
        self.installed, self.boot_s, self.before = cached / "installed.qcow2", said["boot_s"], said["before"]
        shutil.copytree(cached / "gnupg", self.directory / "gnupg")
        self._key_of_all = OpenPGPKey(self.directory / "gnupg", said["fingerprint"])

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def publisher(self, behaviour: str) -> GuestPublisher:
        """Who serves 1.0, and 2.0 of this behaviour unless it is empty. All sign with one key."""
        with self._lock:
            if behaviour not in self._publishers:
                directory = self.directory / f"publisher{len(self._publishers)}"
                directory.mkdir()
                publisher = self._exit.enter_context(GuestPublisher(directory))
                publisher.key = self._key_of_all or publisher.key
                publisher.publish("1.0")
                if behaviour:
                    publisher.publish_once(behaviour, self.installed.parent / "releases")
                self._publishers[behaviour] = publisher
            return self._publishers[behaviour]

    @contextlib.contextmanager
    def guest(self, name: str, publisher: GuestPublisher, *, base: Path | None) -> Iterator[GuestNotes]:
        """A machine that is off, over the disk `base`, with the app's port outside."""
        with Guest(self.disk, self.directory / name, releases_port=publisher.port, base=base) as guest:
            notes = GuestNotes(guest, publisher)
            if base is not None:
                notes.port = guest.app_port
            yield notes

    def keep(self, notes: GuestNotes, name: str) -> None:
        """What is needed to understand a machine that ended wrong, where it outlives the run; it is off then."""
        kept = self.kept / name
        kept.mkdir(parents=True, exist_ok=True)
        if notes.machine.is_on():
            for file, command in LEFT.items():
                try:
                    (kept / file).write_text(notes.machine.run(command, check=False, timeout_s=60).stdout)
                except GuestError as error:  # one that hangs says so in its console
                    (kept / file).write_text(str(error))
        notes.machine.cut()
        shutil.copyfile(notes.machine.console, kept / "console")


def begin_update(notes: GuestNotes) -> None:
    """Starts the update to 2.0 and returns."""
    notes.slotctl("--no-wait", "update", "notes", timeout_s=300)


def wait_trial(notes: GuestNotes, *, timeout_s: float = SETTLE_S) -> None:
    """Waits until 2.0 is on trial, or the job has ended."""
    deadline = notes.machine.had_s() + timeout_s
    while not notes.now_at().startswith("trial|"):
        if notes.machine.had_s() > deadline or notes.now_at().endswith(("|done", "|failed")):
            raise GuestError(f"2.0 did not come on trial: the job is at {notes.now_at()}")
        time.sleep(1)
