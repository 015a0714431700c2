"""`slotctl enable` on a tree of its own: what it writes, what it leaves alone, what it takes away again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from slotd.core.schema import App, Data, Policy, Service
from slotd.enable import FILE, MARKER, Restart, disable, enable, render
from slotd.errors import Failed, Misconfigured

DEMO = App("demo", service=Service(units=("demo.service", "demo.timer"), start_timeout_s=30))


def setting(text: str, key: str) -> str:
    found = re.search(rf"^{key}=(.*)$", text, re.MULTILINE)
    assert found is not None, f"no {key}= in\n{text}"
    return found[1]


def drop_in(root: Path, unit: str = "demo.service") -> Path:
    return root / "etc/systemd/system" / f"{unit}.d" / FILE


def test_the_unit_starts_after_the_boot_check_and_reports_its_failure() -> None:
    text = render(DEMO, "demo.service", Restart(), 252)
    assert setting(text, "After") == "slotd-boot.service"
    assert setting(text, "OnFailure") == "slotd-failed@%n.service"
    assert setting(text, "AssertPathExists") == "!%t/slotd/held-back/%n"


def test_the_boot_check_is_ordered_but_never_pulled_in() -> None:
    # A start of the app would count as a boot of the host.
    text = render(DEMO, "demo.service", Restart(), 257)
    assert not re.search(r"^(Wants|Requires|BindsTo|Upholds)=", text, re.MULTILINE)


@pytest.mark.parametrize("attempts", [1, 3, 10])
@pytest.mark.parametrize(("delay_s", "start_s"), [(0.1, 90), (5, 30), (60, 300)])
def test_a_crash_loop_reaches_the_start_limit(attempts: int, delay_s: float, start_s: float) -> None:
    app = App("demo", service=DEMO.service, policy=Policy(attempts=attempts))
    text = render(app, "demo.service", Restart(delay_s, start_s), 252)
    interval_s = int(setting(text, "StartLimitIntervalSec").removesuffix("s"))
    burst = int(setting(text, "StartLimitBurst"))
    assert interval_s > burst * (delay_s + start_s)
    assert burst > attempts


def test_a_timer_gets_no_start_limit() -> None:
    assert "StartLimit" not in render(DEMO, "demo.timer", Restart(), 257)


def test_an_old_systemd_is_not_given_a_key_that_it_complains_about() -> None:
    assert "RestartMode" not in render(DEMO, "demo.service", Restart(), 252)
    assert setting(render(DEMO, "demo.service", Restart(), 254), "RestartMode") == "direct"


def test_enable_writes_one_file_for_each_unit_and_disable_takes_them_away(tmp_path: Path) -> None:
    assert enable(DEMO, root=tmp_path) == [f"wrote {drop_in(tmp_path, unit)}" for unit in DEMO.service.units]
    assert drop_in(tmp_path).read_text().startswith(f"{MARKER} for demo: ")
    assert drop_in(tmp_path).stat().st_mode & 0o777 == 0o644
    assert len(disable(DEMO, root=tmp_path)) == 2
    assert not list((tmp_path / "etc/systemd/system").iterdir())


def test_the_disks_of_its_data_come_before_a_way_back_at_boot(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (tmp_path / "etc/fstab").write_text("LABEL=a /srv/demo ext4 nofail 0 2\nLABEL=b /srv/other ext4 nofail 0 2\n")
    (units / "srv-unit.mount").write_text("[Mount]\nWhat=/dev/x\nWhere=/srv/unit\n")
    app = replace(DEMO, data=Data(paths=("/srv/demo/data", "/srv/unit", "/var/lib/demo")))
    enable(app, root=tmp_path)
    found = sorted(at.parent.name for at in units.glob("*.d/50-slotd-demo.conf"))
    assert found == ["srv-demo.mount.d", "srv-unit.mount.d"]
    assert setting((units / found[0] / "50-slotd-demo.conf").read_text(), "Before").startswith("slotd-boot.service")
    assert enable(app, root=tmp_path) == []
    disable(app, root=tmp_path)
    assert [at.name for at in units.iterdir()] == ["srv-unit.mount"]


def test_enable_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    enable(DEMO, root=tmp_path)
    assert enable(DEMO, root=tmp_path) == []


def test_a_file_that_slotd_did_not_write_is_left_alone(tmp_path: Path) -> None:
    theirs = drop_in(tmp_path, "demo.timer")
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[Unit]\nAfter=mine.service\n")
    with pytest.raises(Failed, match=r"slotd did not write it"):
        enable(DEMO, root=tmp_path)
    assert not drop_in(tmp_path).exists(), "nothing is written when one of the files is someone else's"
    assert disable(DEMO, root=tmp_path) == []
    assert theirs.read_text() == "[Unit]\nAfter=mine.service\n"


def test_disable_keeps_other_drop_ins_and_other_apps(tmp_path: Path) -> None:
    other = App("demo-two", service=Service(units=("other.service",)))
    enable(DEMO, root=tmp_path)
    enable(other, root=tmp_path)
    neighbour = drop_in(tmp_path).with_name("override.conf")
    neighbour.write_text("[Service]\nNice=5\n")
    disable(DEMO, root=tmp_path)
    assert not drop_in(tmp_path).exists()
    assert neighbour.exists()
    assert drop_in(tmp_path, "other.service").exists()


def test_disable_finds_the_units_that_a_definition_no_longer_names(tmp_path: Path) -> None:
    enable(DEMO, root=tmp_path)
    disable(App("demo", service=Service(units=("demo.service",))), root=tmp_path)
    assert not drop_in(tmp_path, "demo.timer").exists()


def test_a_user_gets_them_in_the_own_configuration(tmp_path: Path) -> None:
    (written, *_) = enable(DEMO, root=tmp_path, user=True)
    assert written.endswith(f"systemd/user/demo.service.d/{FILE}")
    assert not (tmp_path / "etc").exists()


def test_an_app_without_units_cannot_be_enabled(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="names no units"):
        enable(App("demo"), root=tmp_path)
