"""The ledger of a seed: what counts, and what is tried again; the page that is written from it."""

from __future__ import annotations

from pathlib import Path

from tests.vm.ledger import Ended, Ledger, build_of
from tests.vm.report import write_report

RIGHT = Ended("clock-jumps", "first", 100.0, ())
WRONG = Ended("cut 3", "first", 60.0, ("2.0 answers",), "well", 7, 12.5, 2, "stage", "2.0")


def written(path: Path) -> Ledger:
    ledger = Ledger(path, "first", keep_right=False)
    ledger.add(RIGHT)
    ledger.add(WRONG)
    return ledger


def test_a_run_that_goes_on_knows_what_ended_before_it(tmp_path: Path) -> None:
    written(tmp_path / "ledger")
    again = Ledger(tmp_path / "ledger", "first", keep_right=False)
    assert again.cases == [RIGHT]
    assert again.cuts == [WRONG]


def test_what_another_build_did_does_not_count_and_what_it_did_wrong_never_does(tmp_path: Path) -> None:
    written(tmp_path / "ledger")
    other = Ledger(tmp_path / "ledger", "second", keep_right=False)
    assert not other.cases
    assert not other.cuts
    kept = Ledger(tmp_path / "ledger", "second", keep_right=True)
    assert kept.cases == [RIGHT]
    assert not kept.cuts


def test_a_later_end_replaces_an_earlier_one(tmp_path: Path) -> None:
    ledger = written(tmp_path / "ledger")
    mended = Ended("cut 3", "first", 61.0, (), "well", 7, 12.5, 2, "stage", "2.0")
    ledger.add(mended)
    assert Ledger(tmp_path / "ledger", "first", keep_right=False).cuts == [mended]


def test_another_package_is_another_build(tmp_path: Path) -> None:
    (tmp_path / "one.deb").write_bytes(b"one")
    (tmp_path / "two.deb").write_bytes(b"two")
    assert build_of(tmp_path / "one.deb") != build_of(tmp_path / "two.deb")


def test_the_page_tells_what_ended_wrong_what_was_not_run_and_that_there_were_two_builds(tmp_path: Path) -> None:
    ledger = written(tmp_path / "ledger")
    ledger.add(Ended("cut 4", "second", 50.0, (), "well", 8, 20.0, 1, "trial", "2.0"))
    write_report(tmp_path / "page.md", 12, ledger, ["eats-memory", "48 of 50 power cuts"])
    page = (tmp_path / "page.md").read_text()
    assert "cut 3 ended wrong: 2.0 answers" in page
    assert "| 3 | 2 | 1 | 0 | 2 |" in page  # power cuts, machines, right, on 1.0, on 2.0
    assert "Not run, for want of time: eats-memory, 48 of 50 power cuts." in page
    assert "2 on first, 1 on second" in page
