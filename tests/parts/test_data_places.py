"""Data whose file system is not there are not mistaken for data that are empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.trees import mounted

from slotd import errors
from slotd.data import DataSpec
from slotd.data.places import require_mounted


def test_data_on_a_file_system_that_is_not_mounted_are_not_touched(tmp_path: Path) -> None:
    """As at boot, when the disk is `nofail` or far away: what was restored would be hidden by it later."""
    disk, fstab = tmp_path / "a disk" / "mount", tmp_path / "fstab"
    escaped = str(disk).replace(" ", "\\040")
    fstab.write_text(f"# LABEL=x {tmp_path}/data ext4 defaults 0 2\nLABEL=y {escaped} ext4 defaults,nofail 0 2\n")
    inside, outside = DataSpec((disk / "data",)), DataSpec((tmp_path / "data",))
    with mounted("ext4", tmp_path / "a disk", size=16 << 20):
        require_mounted(inside, fstab)
    with pytest.raises(errors.Failed, match="is not mounted"):
        require_mounted(inside, fstab)
    require_mounted(outside, fstab)
    fstab.write_text(f"LABEL=y {escaped} ext4 noauto 0 2\n")
    require_mounted(inside, fstab)
