"""What else can happen to a machine during a trial: a hang, slotd replaced or gone, jumps of the clock, no memory."""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.vm.guest import GuestError
from tests.vm.oracle import judge
from tests.vm.world import GuestNotes, World, begin_update, wait_trial

HANG_S = 2400.0
LONG_TRIAL = "/etc/slotd/apps.d/notes.toml.d/long.toml"

Story = Callable[[GuestNotes, World, random.Random], list[str]]


def hangs_in_a_panic(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """2.0 makes the kernel panic, at every boot, until it is gone."""
    return _hangs(notes, world)


def hangs_in_a_spin(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """2.0 leaves no time to anyone: the watchdog of the machine is not fed any more."""
    return _hangs(notes, world)


def _hangs(notes: GuestNotes, world: World) -> list[str]:
    notes.machine.boot()
    _long_trial(notes)
    begin_update(notes)
    # Nobody switches this machine off or on from here on: only its watchdog does.
    notes.wait_found("SELECT count(*) FROM jobs WHERE result = 'rolled-back'", "1", timeout_s=HANG_S)
    notes.machine.wait_until_up()
    notes.wait_settled()
    _, wrong = judge(notes, world.before, good=False, was_signed=True)
    boots = int(notes.machine.run("journalctl --list-boots --no-pager | wc -l").stdout)
    counted = sum(event["kind"] == "boot-counted" for event in notes.look()["events"])
    # Installing, and this one; then one for each attempt but the first start, and the one that went back.
    return wrong + ([] if boots >= 5 and counted == 2 else [f"{boots} boots, {counted} of them counted"])


def goes_back_alone(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """slotd masked, no bus, no network: `slotd boot` alone goes back after three power cuts."""
    _on_long_trial(notes)
    gone = "slotd.service slotd-recover.service dbus.service dbus.socket net.service outside.socket releases.socket"
    notes.machine.run(f"systemctl mask --quiet {gone}; sync")
    for _ in range(3):
        notes.machine.cut()
        notes.machine.power_on()
        notes.machine.wait_for("systemctl is-active --quiet notes.service", timeout_s=600)
    answer = notes.machine.wait_for("curl --silent --max-time 20 http://127.0.0.1:8901/", timeout_s=300)
    found = notes.look()
    wrong = [] if '"version": "1.0"' in answer else [f"{answer} answers"]
    wrong += [] if found["data"] == world.before["data"] else [f"the data are {found['data']}"]
    wrong += [] if found["slot"]["version"] == "1.0" else [f"the active slot holds {found['slot']}"]
    wrong += [] if notes.machine.run("ip -brief address show eth0").stdout.count("10.0.2.15") == 0 else ["no network?"]
    # With everyone back, the daemon ends what was begun.
    notes.machine.run(f"systemctl unmask --quiet {gone}; sync")
    notes.machine.cut()
    notes.machine.boot()
    notes.wait_settled()
    return wrong + judge(notes, world.before, good=False, was_signed=True)[1]


def is_upgraded_on_trial(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """A newer slotd comes by dpkg in mid-trial: the trial goes on and ends."""
    _on_long_trial(notes)
    _install(notes, world, broken=False)
    notes.machine.run(f"rm {LONG_TRIAL}")
    notes.slotctl("status", "notes")
    if notes.wait_state()["version"] != "2.0" or "trial" not in notes.now_at():
        return [f"the trial did not outlive the upgrade: {notes.now_at()}"]
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkGood 'sa{sv}' notes 0")
    notes.wait_settled()
    return judge(notes, world.before, good=True, was_signed=True)[1]


def is_upgraded_to_a_broken_one(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """The newer slotd does not start: 2.0 is healthy and stays until the boots are spent; a mended one ends it."""
    _on_long_trial(notes)
    _install(notes, world, broken=True)
    wrong = []
    if notes.wait_state()["version"] != "2.0":
        wrong.append("a healthy version was rolled back because slotd does not start")
    for _ in range(3):
        notes.machine.run("sync")
        notes.machine.cut()
        notes.machine.power_on()
        notes.machine.wait_for("systemctl is-active --quiet notes.service", timeout_s=600)
    if (version := notes.wait_state(timeout_s=300)["version"]) != "1.0":
        wrong.append(f"{version} answers after three boots")
    _install(notes, world, broken=False)
    notes.machine.run("systemctl reset-failed slotd; systemctl start slotd", check=False)
    notes.wait_settled()
    return wrong + judge(notes, world.before, good=False, was_signed=True)[1]


def clock_jumps(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """The clock jumps by years while 2.0 is watched, and again over a power cut; then 2.0 is marked bad."""
    _on_long_trial(notes)
    for year in (2020 + chance.randrange(5), 2031 + chance.randrange(6), 2019):
        notes.machine.run(f"date --set='{year}-03-01 12:00:00'")
        notes.slotctl("status", "notes")
    notes.machine.run("sync")
    notes.machine.cut()
    notes.machine.rtc = f"{2036 + chance.randrange(2)}-01-01T00:00:00"
    notes.machine.boot()
    notes.machine.run("systemctl start slotd-prune.service", timeout_s=300)
    if notes.wait_state()["version"] != "2.0":
        return ["a jump of the clock ended the trial"]
    notes.machine.run("busctl call org.slotd1 /org/slotd1 org.slotd1.Manager MarkBad 'sa{sv}' notes 0")
    notes.wait_settled()
    return judge(notes, world.before, good=False, was_signed=True)[1]


def eats_memory(notes: GuestNotes, world: World, chance: random.Random) -> list[str]:
    """2.0 takes more memory than its unit may have, again and again."""
    notes.machine.boot()
    notes.machine.write_file("/etc/systemd/system/notes.service.d/memory.conf", "[Service]\nMemoryMax=96M\n")
    notes.machine.run("systemctl daemon-reload")
    _long_trial(notes)
    begin_update(notes)
    notes.wait_settled(timeout_s=900)
    wrong = judge(notes, world.before, good=False, was_signed=True)[1]
    killed = notes.machine.run("journalctl --no-pager -u notes.service | grep -c oom-kill", check=False).stdout.strip()
    return wrong + ([] if int(killed or 0) >= 1 else ["nothing was killed for its memory"])


# What 2.0 is like in each.
CASES: dict[str, tuple[Story, str]] = {
    story.__name__.replace("_", "-"): (story, behaviour)
    for story, behaviour in (
        (hangs_in_a_spin, "trap spin"),
        (goes_back_alone, "well"),
        (is_upgraded_on_trial, "well"),
        (is_upgraded_to_a_broken_one, "well"),
        (hangs_in_a_panic, "trap panic"),
        (clock_jumps, "well"),
        (eats_memory, "eat-memory"),
    )
}


def run_case(world: World, name: str, chance: random.Random) -> list[str]:
    """What is wrong with how one case ended, on a machine of its own; then its journal and console are kept."""
    story, behaviour = CASES[name]
    with world.guest(name, world.publisher(behaviour), base=world.installed) as notes:
        try:
            wrong = story(notes, world, chance)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            world.keep(notes, name)
    return wrong


def _long_trial(notes: GuestNotes) -> None:
    notes.machine.write_file(LONG_TRIAL, '[policy]\ntrial = "2h"\n')
    notes.machine.run("systemctl reload slotd || systemctl restart slotd; sync")


def _on_long_trial(notes: GuestNotes) -> None:
    notes.machine.boot()
    _long_trial(notes)
    begin_update(notes)
    wait_trial(notes)
    notes.machine.run("sync")


def _install(notes: GuestNotes, world: World, *, broken: bool) -> None:
    """Another build of the package, newer by its version; a broken one cannot start its daemon."""
    with tempfile.TemporaryDirectory(dir=world.directory) as directory:
        tree, package = Path(directory) / "tree", Path(directory) / "newer.deb"
        subprocess.run(["dpkg-deb", "-R", str(world.deb), str(tree)], check=True)
        control = tree / "DEBIAN/control"
        newer = "+newer1" if broken else "+newer2"
        control.write_text(re.sub(r"^(Version: .*)$", rf"\1{newer}", control.read_text(), flags=re.MULTILINE))
        if broken:
            daemon = tree / "usr/lib/python3/dist-packages/slotd/service/daemon.py"
            daemon.write_text("raise ImportError('this build is broken')\n")
        subprocess.run(
            ["dpkg-deb", "-b", "--root-owner-group", str(tree), str(package)], check=True, capture_output=True
        )
        notes.machine.write_file("/root/newer.deb", package.read_bytes())
    done = notes.machine.run("dpkg --force-confold -i /root/newer.deb", check=False, timeout_s=600)
    if done.returncode and not broken:
        raise GuestError(f"dpkg ended with {done.returncode}:\n{done.stdout}{done.stderr}")
