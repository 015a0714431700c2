"""Alice, who is not root, and her notes: her own user manager, bus, units, definition, slots and data."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from tests.system import notes
from tests.system.container import Container, ContainerError
from tests.system.notes import Notes, Publisher

HOME = "/home/alice"
SLOTS = f"{HOME}/.local/state/slotd/apps/notes"
DATA = f"{HOME}/.local/share/notes"


class AlicesNotes(Notes):
    """The app in her home."""

    program = ("slotctl", "--user")
    config = f"{HOME}/.config/slotd"
    reload = "systemctl --user reload-or-restart slotd"

    def __init__(self, machine: Container, publisher: Publisher) -> None:
        super().__init__(machine, publisher)
        machine.run("id alice || useradd --create-home --shell /bin/bash alice")
        self.uid = int(machine.run("id -u alice").stdout)
        self.linger()

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_RUNTIME_DIR": f"/run/user/{self.uid}"}

    def linger(self) -> None:
        self.machine.run("loginctl enable-linger alice")
        self.machine.wait_for(f"systemctl is-active user@{self.uid} && test -S /run/user/{self.uid}/bus")

    def run(
        self, cmd: str | Sequence[str], *, check: bool = True, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """A command as alice, with a session of hers."""
        done = self.machine.run(cmd, user="alice", env=self.environment, check=False, timeout_s=timeout_s)
        if check and done.returncode:
            raise ContainerError(f"{cmd} as alice gave {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def write_file(self, path: str, content: str | bytes) -> None:
        """A file of hers, in directories of hers."""
        self.run(["mkdir", "-p", path.rpartition("/")[0]])
        self.machine.write_file(path, content, owner="alice")

    def set_up(self, *, mode: str = "approve", trial: str = "2s", more: str = "", settings: str = "") -> None:
        unit = notes.UNIT.format(port=self.port).replace("User=notes\n", "")
        unit = unit.replace("/var/lib/slotd/apps/notes", "%h/.local/state/slotd/apps/notes")
        unit = unit.replace(f"NOTES_PORT={self.port}", f"NOTES_PORT={self.port} NOTES_DATA=%h/.local/share/notes")
        unit = unit.replace("multi-user.target", "default.target")
        self.write_file(f"{HOME}/.config/systemd/user/notes.service", unit)
        self.write_file(f"{self.config}/keys.d/publisher.gpg", self.publisher.key.public())
        text = notes.DEFINITION.format(url=self.publisher.url, port=self.port, mode=mode, trial=trial)
        text = text.replace('user = "notes"\n', "").replace("/var/lib/notes/data", DATA)
        self.write_file(f"{self.config}/apps.d/notes.toml", text)
        if more:
            self.write_file(f"{self.config}/apps.d/notes.toml.d/more.toml", more)
        if settings:
            self.write_file(f"{self.config}/slotd.toml", settings)
        self.run("mkdir -p ~/.local/share/notes && systemctl --user daemon-reload && systemctl --user enable notes")

    def wait_idle(self) -> None:
        """Until no job runs any more, whoever runs it."""
        self.machine.wait_for(
            'systemctl --user --machine=alice@.host start slotd && test "$(busctl --user --machine=alice@.host'
            " get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs)\" = 'u 0'",
            timeout_s=60,
        )

    def wait_unit(self, unit: str) -> None:
        """Until a unit of hers is active. Her manager may be about to start."""
        self.machine.wait_for(f"systemctl --user --machine=alice@.host is-active --quiet {unit}")

    def wait_status(self, key: str, value: str | None, *, timeout_s: float = 30.0) -> None:
        """Until `slotctl status` says so."""
        deadline = time.monotonic() + timeout_s
        while (found := self.json("status", "notes")[key]) != value:
            assert time.monotonic() < deadline, f"{key} is {found!r} and never became {value!r}"
            time.sleep(0.1)
