"""`slotctl doctor` finds each thing that is made wrong on a booted host, says how it is mended, and then it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.keys import OpenPGPKey, openpgp_key, stop_agents
from tests.system.container import Container
from tests.system.notes import Notes, Publisher

WATCHDOG = "/etc/systemd/system.conf.d/50-watchdog.conf"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    """A host on which all is as it should be. It has no watchdog device: a file of that name stands for one."""
    with Publisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="300ms")
        app.install("1.0")
        app.slotctl("enable", "notes")
        container.run("systemctl enable notes slotd")
        container.run("touch /dev/watchdog0")
        container.write_file(WATCHDOG, "[Manager]\nRuntimeWatchdogSec=30s\n")
        container.run("systemctl daemon-reexec")
        keep_journal(container)
        yield app


def keep_journal(machine: Container) -> None:
    machine.run("mkdir -p /var/log/journal && systemctl restart systemd-journald && journalctl --flush")
    machine.wait_for("ls /var/log/journal/$(cat /etc/machine-id)/*.journal")


def clock_is_wrong(machine: Container) -> bool:
    """The kernel's, which a container cannot change."""
    return "NTPSynchronized=no" in machine.run("timedatectl show").stdout


def checks(notes: Notes) -> set[tuple[str, str]]:
    """(check, severity) of what is found, but for the clock."""
    done = notes.run("slotctl --json doctor", check=False)
    found = {(f["check"], f["severity"]) for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == (1 if {kind for _, kind in found} - {"note"} else 0)
    assert (("clock", "warning") in found) == clock_is_wrong(notes.machine)
    return found - {("clock", "warning")}


def test_a_host_as_it_should_be_is_said_to_be(notes: Notes) -> None:
    assert checks(notes) == set()
    if not clock_is_wrong(notes.machine):
        assert "nothing is wrong with this host" in notes.slotctl("doctor")


@dataclass(frozen=True)
class Case:
    """`breaks` and `mends` are shell lines; `says` stands in what is printed, `how` in its command."""

    check: str
    severity: str
    breaks: str
    mends: str
    says: str
    how: str


LOOP = "/etc/systemd/system/notes.service.d/60-loop.conf"
CASES = {
    "watchdog off": Case(
        "watchdog", "warning",
        f"mv {WATCHDOG} /root/; systemctl daemon-reexec",
        f"mv /root/50-watchdog.conf {WATCHDOG}; systemctl daemon-reexec",
        "The hardware watchdog is off", "RuntimeWatchdogSec=30s",
    ),
    "no watchdog": Case(
        "watchdog", "warning", "rm /dev/watchdog0", "touch /dev/watchdog0", "no watchdog device", "modprobe",
    ),
    "volatile journal": Case(
        "journal", "warning", "rm -rf /var/log/journal; systemctl restart systemd-journald",
        "mkdir -p /var/log/journal && systemctl restart systemd-journald && journalctl --flush"
        " && until ls /var/log/journal/*/*.journal; do sleep 0.1; done",
        "The journal is volatile", "mkdir -p /var/log/journal",
    ),
    "journal made volatile": Case(
        "journal", "warning",
        "mkdir -p /etc/systemd/journald.conf.d; printf '[Journal]\\nStorage=volatile\\n'"
        " >/etc/systemd/journald.conf.d/lost.conf; systemctl restart systemd-journald;"
        " ls /var/log/journal/*/system.journal",
        "rm /etc/systemd/journald.conf.d/lost.conf /run/systemd/journal/flushed"
        " && systemctl restart systemd-journald && journalctl --flush"
        " && until ls /var/log/journal/*/*.journal; do sleep 0.1; done",
        "journald.conf says Storage=volatile", "set Storage=persistent",
    ),
    "hanging starts": Case(
        "start-limit", "warning",
        f"printf '[Unit]\\nStartLimitIntervalSec=10s\\n[Service]\\nTimeoutStartSec=90s\\n' >{LOOP};"
        " systemctl daemon-reload",
        f"rm {LOOP}; systemctl daemon-reload; slotctl enable notes",
        "counts crashes, but no start that hangs until its timeout", "slotctl enable notes",
    ),
    "start limit": Case(
        "start-limit", "error",
        f"printf '[Unit]\\nStartLimitIntervalSec=5s\\nStartLimitBurst=5\\n[Service]\\nRestartSec=2s\\n' >{LOOP};"
        " systemctl daemon-reload; slotctl enable notes",
        f"rm {LOOP}; systemctl daemon-reload; slotctl enable notes",
        "5 starts with 2 s between them take longer than 5 s", "slotctl enable notes",
    ),
    "no start limit": Case(
        "start-limit", "error",
        f"printf '[Unit]\\nStartLimitIntervalSec=0\\n' >{LOOP}; systemctl daemon-reload",
        f"rm {LOOP}; systemctl daemon-reload", "start limit of notes.service is off", "slotctl enable notes",
    ),
    "two file systems": Case(
        "slots", "error", "mkdir -p /var/lib/slotd/apps/notes/b && mount -t tmpfs none /var/lib/slotd/apps/notes/b",
        "umount /var/lib/slotd/apps/notes/b", "slots lie on 2 file systems", "umount",
    ),
    "full disk": Case(
        "space", "error", "mount -t tmpfs -o size=20m,mode=0700 none /var/cache/slotd", "umount /var/cache/slotd",
        "/var/cache/slotd is too full for the next update: 20 MiB are free", "du -xh",
    ),
    "not in slotd's care": Case(
        "hooks", "error", "slotctl disable notes", "slotctl enable notes", "is not in slotd's care",
        "slotctl enable notes",
    ),
    "edited drop-in": Case(
        "hooks", "warning",
        "echo '# mine' >>/etc/systemd/system/notes.service.d/50-slotd.conf; systemctl daemon-reload",
        "slotctl enable notes", "is not what slotd writes today", "slotctl enable notes",
    ),
    "unit disabled": Case(
        "units", "warning", "systemctl disable notes", "systemctl enable notes", "notes.service is disabled",
        "systemctl enable notes.service",
    ),
    "unit changed": Case(
        "units", "warning", "touch -d '+2 seconds' /etc/systemd/system/notes.service", "systemctl daemon-reload",
        "has changed on disk", "systemctl daemon-reload",
    ),
    "boot check off": Case(
        "own-units", "error", "systemctl disable slotd-boot.service", "systemctl enable slotd-boot.service",
        "slotd-boot.service is disabled", "systemctl enable --now slotd-boot.service",
    ),
    "timer stopped": Case(
        "own-units", "warning", "systemctl stop slotd-check.timer", "systemctl start slotd-check.timer",
        "slotd-check.timer is inactive", "systemctl start slotd-check.timer",
    ),
    "no polkit": Case(
        "polkit", "warning",
        "mv /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service /root/",
        "mv /root/org.freedesktop.PolicyKit1.service /usr/share/dbus-1/system-services/",
        "polkit is not installed", "apt-get install polkitd",
    ),
    "open backups": Case(
        "permissions", "error", "chmod 0755 /var/lib/slotd/backups", "chmod 0700 /var/lib/slotd/backups",
        "/var/lib/slotd/backups has mode 0755", "chmod 0700 /var/lib/slotd/backups",
    ),
    "somebody else's state": Case(
        "permissions", "error", "chown notes: /var/lib/slotd", "chown root: /var/lib/slotd",
        "/var/lib/slotd belongs to user", "chown 0: /var/lib/slotd",
    ),
    "a definition": Case(
        "definitions", "error", "echo 'nonsense = 1' >/etc/slotd/apps.d/other.toml", "rm /etc/slotd/apps.d/other.toml",
        "Its definition cannot be used", "slotctl verify other",
    ),
    "slotd.toml": Case(
        "definitions", "error", "echo 'nonsense = 1' >/etc/slotd/slotd.toml", "rm /etc/slotd/slotd.toml",
        "slotd.toml cannot be used", "slotctl verify",
    ),
    "a damaged state": Case(
        "state", "warning", "touch /var/lib/slotd/state.db.broken.1700000000",
        "rm /var/lib/slotd/state.db.broken.1700000000", "A damaged state was set aside", "journalctl -k",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_with_what_mends_it_and_is_gone_then(notes: Notes, name: str) -> None:
    case = CASES[name]
    notes.run(case.breaks)
    try:
        assert (case.check, case.severity) in checks(notes)
        printed = notes.slotctl("doctor", status=1)
        lines = [line.strip() for line in printed.splitlines()]
        (at,) = [number for number, line in enumerate(lines) if case.says in line]
        assert lines[at].startswith(f"{case.severity}: ")
        assert case.how in lines[at + 2]
    finally:
        notes.run(case.mends)
    assert checks(notes) == set()


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, OpenPGPKey]]:
    homes = tmp_path_factory.mktemp("k")
    found = {"expired": openpgp_key(homes / "a", expired=True), "soon": openpgp_key(homes / "b", lasts="10d")}
    yield found
    stop_agents([key.home for key in found.values()])


@pytest.mark.parametrize(
    ("which", "severity", "says"),
    [("expired", "error", "has expired"), ("soon", "warning", "expires in 9 days")],
)
def test_a_key_that_ends_is_told_before_releases_are_refused(
    notes: Notes, ending: dict[str, OpenPGPKey], which: str, severity: str, says: str
) -> None:
    good = notes.publisher.key.public()
    notes.machine.write_file("/etc/slotd/keys.d/publisher.gpg", ending[which].public())
    assert checks(notes) == {("keys", severity)}
    assert says in notes.slotctl("doctor", status=1)
    notes.machine.write_file("/etc/slotd/keys.d/publisher.gpg", good)
    assert checks(notes) == set()


def test_a_key_that_is_none_is_an_error(notes: Notes) -> None:
    good = notes.publisher.key.public()
    notes.machine.write_file("/etc/slotd/keys.d/publisher.gpg", "no key at all")
    assert checks(notes) == {("keys", "error")}
    printed = notes.slotctl("doctor", status=1)
    assert "cannot use the key file publisher.gpg" in printed
    assert "slotctl verify notes" in printed
    notes.machine.write_file("/etc/slotd/keys.d/publisher.gpg", good)
    assert checks(notes) == set()


def test_who_is_not_root_is_told_what_could_not_be_seen(notes: Notes) -> None:
    notes.machine.run("useradd --create-home nobodys", check=False)
    notes.machine.run("chmod 0700 /var/lib/notes")
    done = notes.machine.run("slotctl doctor", user="nobodys", check=False)
    notes.machine.run("chmod 0755 /var/lib/notes")
    assert "Traceback" not in done.stderr
    assert "note: The room for notes: /var/lib/notes/data: Permission denied; run it as root." in done.stdout


def test_who_is_not_root_and_may_see_all_is_told_as_root_is(notes: Notes) -> None:
    notes.machine.run("useradd --create-home nobodys", check=False)
    done = notes.machine.run("slotctl doctor", user="nobodys", check=False)
    assert done.stdout == notes.slotctl("doctor", status=None)


def test_an_app_that_is_not_there_is_told(notes: Notes) -> None:
    assert "cannot find a definition named wiki" in notes.slotctl("doctor", "wiki", status=1)
