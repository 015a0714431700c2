"""What `slotctl doctor` makes of what it sees: start limits that some failures never reach, journals that are lost."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from slotd.cli.facts import journal_kept, storage_of
from slotd.core.diagnosis import AppFacts, Facts, Finding, Severity, UnitFacts, diagnose

MACHINE = "0123456789abcdef0123456789abcdef"


def of_unit(**facts: float) -> list[Finding]:
    unit = UnitFacts("app.service", **facts)  # type: ignore[arg-type]
    found = diagnose(Facts(now=0.0, apps=(AppFacts("app", (unit,)),)))
    return [each for each in found if each.check == "start-limit"]


@pytest.mark.parametrize(
    ("facts", "severity", "says"),
    [
        ({"delay_s": 2.0}, Severity.ERROR, "cannot be reached: 5 starts with 2 s between them take longer than 10 s"),
        ({"interval_s": 0.0, "start_s": 90.0}, Severity.ERROR, "is off"),
        ({"delay_s": 2.0, "start_s": 90.0}, Severity.ERROR, "cannot be reached"),
        ({"start_s": 90.0}, Severity.WARNING, "counts crashes, but no start that hangs until its timeout"),
        ({"start_s": 90.0}, Severity.WARNING, "up to 90 s for each, may take 450.5 s, and it looks at 10 s"),
        ({"start_s": 1.9}, Severity.WARNING, "counts crashes, but no start that hangs"),
        ({"start_s": math.inf, "interval_s": 600.0}, Severity.WARNING, "its TimeoutStartSec= is infinity"),
    ],
)
def test_a_start_limit_that_a_failure_never_reaches_is_found_and_the_failure_is_named(
    facts: dict[str, float], severity: Severity, says: str
) -> None:
    (finding,) = of_unit(**facts)
    assert finding.severity is severity
    assert says in finding.what
    assert "nobody is told" in finding.why
    assert "slotctl enable app" in finding.mend


@pytest.mark.parametrize("facts", [{}, {"start_s": 1.8}, {"start_s": 90.0, "interval_s": 461.0}, {"restarts": False}])
def test_a_start_limit_that_every_failure_reaches_is_none(facts: dict[str, float]) -> None:
    assert of_unit(**facts) == []


def journal(root: Path, *places: str) -> bool:
    """Written in this order."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text(f"{MACHINE}\n")
    for second, place in enumerate(places, start=1):
        path = root / place / "log/journal" / MACHINE / "system.journal"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (second, second))
    return journal_kept(root)


def test_the_journal_is_kept_where_it_is_written_to_var_now_not_where_an_old_file_lies_there(tmp_path: Path) -> None:
    assert journal(tmp_path / "1", "var")
    assert journal(tmp_path / "2", "run", "var")
    assert not journal(tmp_path / "3", "run")
    assert not journal(tmp_path / "4", "var", "run")
    assert not journal(tmp_path / "5")


@pytest.mark.parametrize(
    ("conf", "storage"),
    [
        ("", "auto"),
        ("# /etc/systemd/journald.conf\n[Journal]\n#Storage=volatile\n", "auto"),
        ("[Journal]\nStorage=persistent\n# /etc/systemd/journald.conf.d/x.conf\n[Journal]\n Storage = Volatile\n",
         "volatile"),
        ("[Journal]\nStorage=none\nStorage=\n", "auto"),
        ("[Upload]\nStorage=none\n", "auto"),
    ],
)  # fmt: skip
def test_the_last_word_on_storage_is_what_journald_goes_by(conf: str, storage: str) -> None:
    assert storage_of(conf) == storage


@pytest.mark.parametrize(
    ("kept", "storage", "says", "mend"),
    [
        (False, "auto", "The journal is volatile.", "mkdir -p /var/log/journal"),
        (True, "volatile", "journald.conf says Storage=volatile", "set Storage=persistent"),
        (True, "none", "journald.conf says Storage=none", "set Storage=persistent"),
    ],
)
def test_a_journal_that_is_lost_is_found_with_what_mends_it(kept: bool, storage: str, says: str, mend: str) -> None:
    (finding,) = diagnose(Facts(now=0.0, journal_kept=kept, journal_storage=storage))
    assert (finding.check, finding.severity) == ("journal", Severity.WARNING)
    assert says in finding.what
    assert finding.mend.startswith(mend)


def test_a_journal_that_is_kept_is_no_finding() -> None:
    assert diagnose(Facts(now=0.0, journal_storage="persistent")) == []
