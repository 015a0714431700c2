"""The linters, as tests: what they find fails like anything else."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import slotd

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "build" / "venv" / "bin"
UNITS = REPOSITORY / "units"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
USER_UNITS = UNITS / "user"
# `systemd-analyze security --offline`: 0 is locked up, 10 is open. The daemon's is the design's bound.
EXPOSURE = {
    "slotd.service": 2.5,
    "slotd-boot.service": 1.6,  # without PrivateDevices=, which needs a /tmp
    "slotd-prune.service": 1.7,
    "slotd-push.service": 2.5,  # it goes out to the network, as root, for data that are root's
    "slotd-recover.service": 2.7,  # likewise, and it asks the probes of local apps
}  # fmt: skip
CLIENT_EXPOSURE = 0.8
MAKES_MOUNTS = {
    *("BindPaths", "CacheDirectory", "DynamicUser", "LogsDirectory", "ProtectHome", "ReadOnlyPaths", "ReadWritePaths"),
    *("RootDirectory", "StateDirectory", "TemporaryFileSystem"),
}
PACKAGING = REPOSITORY / "packaging"
SCRIPTS = [PACKAGING / name for name in ("bootstrap", "build-deb", "debian/slotd.postinst", "debian/slotd.postrm")]
TARGETS = (
    "basic",
    "local-fs",
    "multi-user",
    "network-online",
    "shutdown",
    "sysinit",
    "time-set",
    "time-sync",
    "timers",
)
BUS_FILES = sorted([*PACKAGING.glob("org.slotd1.*"), *REPOSITORY.glob("dbus/*.xml")])


def run(*argv: str | Path, cwd: Path = REPOSITORY, **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def tool(name: str) -> Path:
    path = TOOLS / name
    assert path.exists(), f"{path} is not there: run packaging/bootstrap"
    return path


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "--no-cache", ".")


def test_the_code_is_formatted() -> None:
    run(tool("ruff"), "format", "--check", ".")


@pytest.mark.slow
def test_strict_mypy_finds_nothing() -> None:
    run(tool("mypy"))


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_the_shell_scripts_parse(script: Path) -> None:
    run("sh", "-n", script)


PROGRAMS = ("usr/sbin/slotd", "usr/bin/slotctl", "usr/bin/systemctl", "usr/bin/busctl", "bin/rm")


def a_place_for_units(root: Path, units: Path, source: Path) -> list[str]:
    """Copies units to where the programs that they start exist, and the units that they name. Gives their names."""
    units.mkdir(parents=True)
    for program in PROGRAMS:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/sh\n")
        (root / program).chmod(0o755)
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    (units / "dbus.service").write_text("[Service]\nExecStart=/usr/bin/busctl\n")
    (units / "dbus.socket").write_text("[Socket]\nListenStream=%t/bus\n")
    paths = sorted(path for path in source.iterdir() if path.is_file())
    for path in paths:
        (units / path.name).write_text(path.read_text())
    return [path.name.replace("@.", "@demo.") for path in paths]


def complaints(output: str) -> list[str]:
    return [line for line in output.splitlines() if "slotd" in line]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    names = a_place_for_units(tmp_path, tmp_path / "usr/lib/systemd/system", UNITS)
    assert not complaints(run("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *names))


def test_a_users_systemd_accepts_the_units(tmp_path: Path) -> None:
    """It takes no `--root`: the programs' paths are put below it in the copies."""
    units = tmp_path / "units"
    names = a_place_for_units(tmp_path, units, USER_UNITS)
    for path in units.glob("*.service"):
        path.write_text(re.sub(r"^(Exec\w+=)(?=/)", rf"\1{tmp_path}", path.read_text(), flags=re.MULTILINE))
    paths = {"XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_UNIT_PATH": str(units)}
    assert not complaints(run("systemd-analyze", "--user", "verify", "--man=no", *names, **paths))


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_as_locked_up_as_promised(unit: str) -> None:
    output = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"./{unit}", cwd=UNITS)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
    assert found is not None
    assert float(found[1]) <= EXPOSURE.get(unit, CLIENT_EXPOSURE)


def test_every_timer_has_its_service() -> None:
    for timer in UNITS.rglob("*.timer"):
        assert timer.with_suffix(".service").exists(), timer.name


def test_a_user_has_every_unit_that_the_system_has() -> None:
    assert {path.name for path in USER_UNITS.iterdir()} == {path.name for path in UNITS.iterdir() if path.is_file()}


@pytest.mark.parametrize("path", sorted(USER_UNITS.glob("*.service")), ids=lambda path: path.name)
def test_a_users_unit_promises_only_what_any_users_manager_can_keep(path: Path) -> None:
    """A namespace that the kernel does not let a user have would keep the unit from starting."""
    settings = set(re.findall(r"^(\w+)=", path.read_text(), re.MULTILINE))
    privileged = {"CapabilityBoundingSet", "AmbientCapabilities", "DevicePolicy", "IPAddressDeny", "OOMScoreAdjust"}
    mounts = {key for key in settings if key.startswith(("Private", "Protect", "Bind"))} | MAKES_MOUNTS
    assert not settings & (privileged | mounts)
    assert {"NoNewPrivileges", "SystemCallFilter", "RestrictNamespaces"} <= settings
    assert all(" --user" in line for line in re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE))


def test_no_service_makes_mounts_that_break_a_rename() -> None:
    """A rename between two bind mounts is EXDEV: slots, backups and data must stay within one."""
    for name in ("slotd.service", "slotd-boot.service", "slotd-recover.service", "slotd-prune.service"):
        text = (UNITS / name).read_text()
        settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
        assert settings["ProtectSystem"] == "full", name
        assert not MAKES_MOUNTS & set(settings), name


@pytest.mark.parametrize("path", BUS_FILES, ids=lambda path: path.name)
def test_bus_and_polkit_files_are_well_formed(path: Path) -> None:
    if path.suffix == ".service":
        parser = configparser.RawConfigParser()
        parser.read(path)
        assert parser.get("D-BUS Service", "SystemdService") == "slotd.service"
    else:
        ElementTree.parse(path)


def test_the_bus_lets_through_exactly_the_members_that_the_interfaces_have() -> None:
    """A method that the policy forgets is dead; one that it names in vain is a typing error."""
    policy = ElementTree.parse(PACKAGING / "org.slotd1.conf")
    allowed = {
        (rule.get("send_interface"), rule.get("send_member"))
        for rule in policy.iter("allow")
        if rule.get("send_member")
    }
    described = {
        (interface.get("name"), method.get("name"))
        for path in REPOSITORY.glob("dbus/*.xml")
        for interface in ElementTree.parse(path).iter("interface")
        for method in interface.iter("method")
    }
    ours = {pair for pair in allowed if str(pair[0]).startswith("org.slotd1.")}
    assert ours == {pair for pair in described if str(pair[0]).startswith("org.slotd1.")}


def test_the_package_has_the_version_of_the_code() -> None:
    first = (PACKAGING / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"slotd ({slotd.__version__}-")


@pytest.mark.parametrize("name", ["slotd.service", "slotd-boot.service", "slotd-recover.service", "slotd-push.service"])
def test_whoever_brings_data_back_may_give_files_the_capabilities_that_they_had(name: str) -> None:
    assert re.search(r"^CapabilityBoundingSet=.*\bCAP_SETFCAP\b", (UNITS / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["slotd.service", "slotd-recover.service"])
def test_whoever_asks_probes_is_on_the_host_s_own_loopback(name: str) -> None:
    text = (UNITS / name).read_text()
    assert "PrivateNetwork=yes" not in text
    assert re.search(r"^RestrictAddressFamilies=.*\bAF_INET\b.*\bAF_INET6\b", text, re.MULTILINE)
    assert "\nIPAddressAllow=localhost\n" in text
