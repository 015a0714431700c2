"""One emulated machine, once: the rest of what is done to such machines is `make vm`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.system.image import REPOSITORY, slotd_image
from tests.vm.disk import make_disk
from tests.vm.guest import Guest

pytestmark = pytest.mark.vm


def test_a_machine_whose_power_went_comes_up_with_its_boot_check_done(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "deb"], cwd=REPOSITORY, check=True)
    (deb,) = (REPOSITORY / "dist").glob("slotd_*_all.deb")
    with Guest(make_disk(slotd_image(deb)), tmp_path / "guest", releases_port=1) as guest:
        guest.power_on()
        guest.wait_for("systemctl is-active --quiet slotd.service", timeout_s=180)
        # A journal is larger than what the port takes at once.
        assert len(guest.run("head -c 200000 /dev/zero | tr '\\0' x").stdout) == 200_000
        guest.run("systemctl enable --quiet slotd-boot.service; touch /var/lib/slotd/kept; sync")
        guest.cut()
        guest.power_on()
        guest.wait_for("systemctl is-active --quiet slotd-boot.service", timeout_s=180)
        guest.run("test -e /var/lib/slotd/kept && grep -q . /run/slotd/boot && test -c /dev/watchdog0")
