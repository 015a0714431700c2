"""The package on a running machine: what apt puts there, what it starts, what it leaves when it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.container import Container
from tests.system.image import Image

TIMERS = ("slotd-apply.timer", "slotd-check.timer", "slotd-prune.timer")
ACTIONS = (
    "adopt approve backup cancel check hold import inspect-backup mark-good reload restore rollback set-mode update "
    "update-to-version"
)
APT = "DEBIAN_FRONTEND=noninteractive apt-get --yes --no-install-recommends"
OFFLINE = "-o Acquire::http::Proxy=http://127.0.0.1:9 -o Acquire::https::Proxy=http://127.0.0.1:9"

# Keeps running whatever happens to slotd, from a slot, with data of its own.
DEMO = """
[Unit]
Description=an application
[Service]
ExecStart=/var/lib/slotd/apps/demo/current/run
User=alice
"""


@pytest.fixture(scope="module")
def machine(bare_image: Image, deb: Path) -> Iterator[Container]:
    """A machine on which the package was installed with apt while it ran, without a network."""
    with Container(bare_image) as machine:
        machine.copy_in(deb, "/root/slotd.deb")
        machine.run(f"{APT} {OFFLINE} install /root/slotd.deb", timeout_s=300)
        yield machine


def test_apt_installs_it_from_what_debian_has(machine: Container) -> None:
    assert machine.run("dpkg-query -W -f '${db:Status-Status}' slotd").stdout == "installed"


def test_the_timers_run_and_start_again_at_boot(machine: Container) -> None:
    for timer in TIMERS:
        shown = machine.show(timer, "UnitFileState", "ActiveState")
        assert shown == {"UnitFileState": "enabled", "ActiveState": "active"}, timer


def test_the_daemon_and_the_boot_check_are_enabled(machine: Container) -> None:
    for unit in ("slotd.service", "slotd-boot.service"):
        assert machine.show(unit, "UnitFileState")["UnitFileState"] == "enabled", unit


def test_the_boot_check_did_not_run_at_installation(machine: Container) -> None:
    # A boot that it counts must be one.
    shown = machine.show("slotd-boot.service", "ActiveState", "ExecMainStartTimestampMonotonic")
    assert shown == {"ActiveState": "inactive", "ExecMainStartTimestampMonotonic": "0"}


def test_systemd_verifies_the_installed_units(machine: Container) -> None:
    names = machine.run("dpkg -L slotd | grep /systemd/system/ | sed 's,.*/,,; s,@\\.,@demo.,'").stdout.split()
    assert len(names) > 8
    done = machine.run(["systemd-analyze", "verify", "--man=no", *names], check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "slotd" in line]
    assert done.returncode == 0
    assert not complaints


def test_manual_pages_and_completions_are_where_they_are_looked_for(machine: Container) -> None:
    installed = machine.run("dpkg -L slotd").stdout.splitlines()
    share = "/usr/share"
    for page in (
        "man1/slotctl.1",
        "man5/slotd.toml.5",
        "man5/slotd-app.toml.5",
        "man8/slotd.8",
        "man8/slotd.service.8",
    ):
        assert f"{share}/man/{page}.gz" in installed
    assert f"{share}/bash-completion/completions/slotctl" in installed
    assert f"{share}/zsh/vendor-completions/_slotctl" in installed
    assert f"{share}/fish/vendor_completions.d/slotctl.fish" in installed


def test_polkit_knows_every_action(machine: Container) -> None:
    known = machine.run("pkaction").stdout.split()
    assert [name.removeprefix("org.slotd1.") for name in known if name.startswith("org.slotd1.")] == ACTIONS.split()


def test_looking_for_releases_asks_nobody_at_the_machine_for_a_password(machine: Container) -> None:
    assert "implicit active:   yes" in machine.run("pkaction --verbose --action-id org.slotd1.check").stdout
    assert (
        "implicit active:   auth_admin_keep" in machine.run("pkaction --verbose --action-id org.slotd1.update").stdout
    )


def test_the_bus_gives_the_name_to_root_only(machine: Container) -> None:
    request = "busctl call org.freedesktop.DBus / org.freedesktop.DBus RequestName su org.slotd1 0"
    refused = machine.run(request, user="alice", check=False)
    assert refused.returncode != 0
    assert "Access denied" in refused.stderr


def test_the_bus_knows_how_to_start_the_daemon(machine: Container) -> None:
    assert "org.slotd1" in machine.run("busctl list --activatable --no-legend").stdout


def test_directories_are_readable_by_those_who_should(machine: Container) -> None:
    modes = {
        "/etc/slotd/apps.d": "755",
        "/etc/slotd/keys.d": "755",
        "/var/lib/slotd": "755",
        "/var/lib/slotd/apps": "755",
        "/var/lib/slotd/backups": "700",
        "/var/lib/slotd/quarantine": "700",
        "/var/cache/slotd": "700",
    }
    for path, mode in modes.items():
        assert machine.run(["stat", "-c", "%a %U", path]).stdout.split() == [mode, "root"], path


def test_the_workers_user_owns_nothing_and_cannot_log_in(machine: Container) -> None:
    entry = machine.run("getent passwd slotd-worker").stdout.strip().split(":")
    assert int(entry[2]) < 1000
    assert entry[6].endswith("nologin")
    assert machine.run("find / -xdev -user slotd-worker -not -path '/proc/*'").stdout == ""


@pytest.mark.attack
def test_the_programs_do_not_read_the_callers_python_path(machine: Container) -> None:
    machine.write_file("/tmp/evil/slotd/__init__.py", "open('/tmp/evil/was-run', 'w')\n")
    environment = {"PYTHONPATH": "/tmp/evil", "PYTHONSTARTUP": "/tmp/evil/slotd/__init__.py"}
    for program in ("slotctl --help", "slotd --help"):
        machine.run(f"cd /tmp/evil && {program}", env=environment)
    assert not machine.exists("/tmp/evil/was-run")


def test_removal_leaves_apps_running_and_data_in_place(machine: Container) -> None:
    slot = "/var/lib/slotd/apps/demo"
    machine.write_file(f"{slot}/a/run", "#!/bin/sh\nexec sleep infinity\n", mode=0o755)
    machine.run(f"ln -s a {slot}/current")
    machine.write_file("/etc/slotd/apps.d/demo.toml", "")
    machine.write_file("/var/lib/slotd/backups/demo/1/data", "precious")
    machine.write_file("/var/cache/slotd/demo/release", "big")
    machine.write_file("/etc/systemd/system/demo.service", DEMO)
    ours = "/etc/systemd/system/demo.service.d/50-slotd.conf"
    theirs = "/etc/systemd/system/dbus.service.d/50-slotd.conf"
    machine.write_file(ours, "# Written by slotctl enable for demo: `slotctl disable demo` removes it.\n[Unit]\n")
    machine.write_file(theirs, "[Unit]\nDescription=someone else's\n")
    machine.run("systemctl daemon-reload && systemctl start demo.service")
    before = machine.show("demo.service", "MainPID", "ActiveState")
    assert before["ActiveState"] == "active"

    machine.run(f"{APT} remove slotd", timeout_s=300)
    assert machine.show("demo.service", "MainPID", "ActiveState") == before
    assert machine.show("slotd.service", "LoadState")["LoadState"] == "not-found"
    assert machine.read_file("/var/lib/slotd/backups/demo/1/data") == "precious"
    assert machine.exists(ours)
    assert not machine.exists("/usr/lib/python3/dist-packages/slotd")

    machine.run(f"{APT} purge slotd", timeout_s=300)
    assert machine.show("demo.service", "MainPID", "ActiveState") == before
    assert machine.exists(f"{slot}/current/run")
    assert machine.read_file("/var/lib/slotd/backups/demo/1/data") == "precious"
    assert machine.exists("/etc/slotd/apps.d/demo.toml")
    assert not machine.exists("/var/cache/slotd")
    assert not machine.exists(ours)
    assert machine.exists(theirs)
    assert not machine.run("ls /etc/systemd/system/*.wants | grep slotd", check=False).stdout
    assert machine.run("systemctl --failed --no-legend").stdout == ""
