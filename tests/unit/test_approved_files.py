"""An approval stands for the files that were seen when it was given, and for no others of that version."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.test_replaced import APP, NOW, choose, look, release

from slotd.core import replaced
from slotd.core.version import SCHEMES, parse
from slotd.model import AppRecord, Blocked, Release

NOTHING = "nothing shows that {} of {} is the file that was seen at the source before"


def tagged(tag: str, version: str, content: str, name: str = "") -> Release:
    made = release(version, content)
    assets = (dataclasses.replace(made.assets[0], name=name or made.assets[0].name),)
    return dataclasses.replace(made, tag=tag, assets=assets)


def with_digest(content: str, digest: str) -> Release:
    made = release("1.5", content)
    return dataclasses.replace(made, assets=(dataclasses.replace(made.assets[0], digest=digest),))


def chosen(*releases: Release, waiting: Sequence[str]) -> str:
    """The digest of what an update to the approved 1.5 would install; empty if nothing."""
    record = AppRecord("notes", approved="1.5", available="1.5")
    return choose(*releases, record=record, wanted="1.5", automatic=True, replaced=waiting).digest


def above(number: int, **more: Any) -> list[Release]:
    return [dataclasses.replace(release(f"1.6.{each}", "x"), **more) for each in range(number)]


@pytest.mark.parametrize("tag", ["1.5", "release-1.5", "V1.5", "v1.5.0", "1.5.0.0"])
@pytest.mark.parametrize("name", ["", "notes.tar.gz"])
def test_what_is_published_anew_under_another_spelling_of_the_approved_version_waits(tag: str, name: str) -> None:
    app = dataclasses.replace(APP, source=dataclasses.replace(APP.source, asset=(name or APP.source.asset[0],)))
    version = tag.removeprefix("release-").lstrip("vV")
    first, other = tagged("v1.5", "1.5", "a", name), tagged(tag, version, "b", name)
    known, *_ = look({}, first, app=app)
    known, news, waiting = look(known, first, app=app, approved="1.5", available="1.5")
    assert (news, waiting) == ([], [])
    for gone in ((), (dataclasses.replace(first, assets=()),)):
        _, news, waiting = look(known, *gone, other, app=app, approved="1.5", available="1.5")
        assert (len(news), waiting) == (1, [version])
        assert chosen(other, waiting=waiting) == ""
    again = look(look(known, app=app, approved="1.5")[0], first, app=app, approved="1.5")
    assert again[1:] == ([], [])


def test_another_spelling_of_a_tag_is_no_other_file_where_the_bytes_are_the_same() -> None:
    known, *_ = look({}, release("1.5", "a"))
    for tag in ("1.5", "release-1.5", "v1.5"):
        known, news, waiting = look(known, tagged(tag, "1.5", "a"), approved="1.5")
        assert (news, waiting) == ([], [])
    assert look(known, tagged("release-1.5", "1.5", "b"))[2] == ["1.5"], "without an approval, too"


def test_both_spellings_at_once_leave_the_approved_one_to_be_installed() -> None:
    first, other = release("1.5", "a"), tagged("v1.5.0", "1.5.0", "b")
    known, *_ = look({}, first)
    _, news, waiting = look(known, other, first, approved="1.5")
    assert news == [NOTHING.format("notes-1.5.0.tar.gz", "1.5.0")]
    assert chosen(other, first, waiting=waiting) == first.assets[0].digest


def test_however_many_spellings_are_published_none_is_chosen_and_little_is_remembered() -> None:
    known, *_ = look({}, release("1.5", "a"))
    many = [tagged("v1.5" + ".0" * number, "1.5" + ".0" * number, "b") for number in range(1, 60)]
    many += [tagged(f"release-{each.tag}", f"0{each.version}", "b") for each in many]
    for _ in range(2):
        known, news, waiting = look(known, *many, approved="1.5", available="1.5")
        assert len(news) <= replaced.MOST
        assert chosen(*many, waiting=waiting) == ""
        assert len(known["pending"]) <= replaced.MOST
    known, *_ = look(known, *many, available="1.5")
    assert len(json.dumps(known)) < 32 * 1024


@pytest.mark.parametrize("more", [{}, {"yanked": True}], ids=["incomplete", "yanked"])
@pytest.mark.parametrize("held", ["approved", "available"])
def test_what_is_approved_is_not_forgotten_for_newer_releases(more: dict[str, Any], held: str) -> None:
    first, other = release("1.5", "a"), release("1.5", "b")
    known, *_ = look({}, first)
    flood = above(2 * replaced.MOST, **more)
    for releases in ((*flood, first), flood, above(2 * replaced.MOST, assets=flood[0].assets)):
        known, news, waiting = look(known, *releases, **{held: "1.5"})
        assert (news, waiting) == ([], [])
    _, news, waiting = look(known, *flood, other, approved="1.5", available="1.5")
    assert news == ["notes-1.5.tar.gz of 1.5 is another file than was first seen at the source"]
    assert chosen(other, waiting=waiting) == ""


def test_what_was_available_below_many_newer_ones_is_remembered_from_then_on() -> None:
    flood = above(2 * replaced.MOST)
    known, *_ = look({}, *flood, release("1.5", "a"))
    known, *_ = look(known, *flood, release("1.5", "a"), available="1.5")
    assert look(known, *flood, release("1.5", "a"), approved="1.5")[1:] == ([], [])
    assert look(known, *flood, release("1.5", "b"), approved="1.5")[2] == ["1.5"]


@pytest.mark.parametrize("digest", ["", "sha512:" + "b" * 128], ids=["left out", "of another kind"])
def test_a_digest_that_shows_nothing_of_the_approved_file_counts_as_another(digest: str) -> None:
    other = with_digest("b", digest)
    known, *_ = look({}, release("1.5", "a"))
    assert look(known, other)[1:] == ([], []), "without an approval nothing is known"
    known, news, waiting = look(known, other, approved="1.5", available="1.5")
    assert (news, waiting) == ([NOTHING.format("notes-1.5.tar.gz", "1.5")], ["1.5"])
    assert chosen(other, waiting=waiting) == ""
    # The approval is taken back then, and what waits still does, until it is accepted or as it was.
    known, news, waiting = look(known, other)
    assert (news, waiting) == ([], ["1.5"])
    assert look(known, release("1.5", "a"))[1:] == ([], [])
    accepted, was_waiting = replaced.accept(known, "1.5")
    assert was_waiting
    accepted, news, waiting = look(accepted, other, approved="1.5")
    assert (news, waiting) == ([], [])
    assert look(accepted, release("1.5", "c"), approved="1.5")[2] == ["1.5"]


def test_what_waits_does_so_too_when_its_digest_is_left_out() -> None:
    known, *_ = look(look({}, release("1.5", "a"))[0], release("1.5", "b"))
    assert look(known, with_digest("b", ""))[2] == ["1.5"]


def test_a_source_that_tells_nothing_lets_nothing_be_noticed_of_what_was_approved() -> None:
    bare = with_digest("", "")
    known, *_ = look({}, bare)
    for _ in range(2):
        known, news, waiting = look(known, bare, approved="1.5", available="1.5")
        assert (news, waiting) == ([], [])
    assert look(known, release("1.5", "b"), approved="1.5")[2] == ["1.5"]


def test_another_source_does_not_inherit_an_approval() -> None:
    known, *_ = look({}, release("1.5", "a"))
    other = dataclasses.replace(APP, source=dataclasses.replace(APP.source, repository="acme/fork"))
    assert look(known, release("1.5", "a"), app=other, approved="1.5")[2] == ["1.5"]


def test_what_failed_and_was_replaced_is_tried_but_what_was_approved_afterwards_stands_for_itself() -> None:
    bad, good, third = (release("1.5", content) for content in ("bad", "good", "third"))
    blocked = (Blocked("notes", "1.5", bad.assets[0].digest, "it crashed", NOW),)
    known, *_ = look({}, bad)
    known, news, waiting = look(known, good, blocked=blocked, approved="1.5")
    assert (news, waiting) == ([], []), "what was approved is what failed"
    assert look(known, third, blocked=blocked, approved="1.5")[2] == ["1.5"]
    assert look(known, third, blocked=blocked)[2] == []


def of_old(*releases: Release, pending: tuple[Release, ...] = ()) -> dict[str, Any]:
    """State in which each tag stands for itself."""

    def marks(found: Sequence[Release]) -> dict[str, str]:
        return {
            hashlib.sha256(f"{each.tag}\0{asset.name}".encode()).hexdigest()[:16]: asset.digest[:31]
            for each in found
            for asset in each.assets
        }

    waiting = {each.version: marks([each]) for each in pending}
    return {"of": replaced.read({}, APP.source).of, "files": marks(releases), "pending": waiting}


@pytest.mark.parametrize("approved", ["", "1.5"])
def test_what_was_remembered_by_tag_still_counts(approved: str) -> None:
    first, other = release("1.5", "a"), release("1.5", "b")
    known, news, waiting = look(of_old(first), first, approved=approved)
    assert (news, waiting, len(known["files"])) == ([], [], 1)
    assert look(known, other, approved=approved)[2] == ["1.5"]
    assert look(of_old(first), other, approved=approved)[2] == ["1.5"]
    told = look(of_old(first, pending=(other,)), other)
    assert told[1:] == ([], ["1.5"])
    for state in (of_old(first, pending=(other,)), told[0]):
        accepted, was_waiting = replaced.accept(state, "1.5")
        assert was_waiting
        assert look(accepted, other, approved="1.5")[1:] == ([], [])
        assert look(accepted, first, approved="1.5")[2] == ["1.5"]


@pytest.mark.parametrize("held", [None, 3, [1], {"IT": 7}, {"IT": [1, None, {}]}])
def test_damage_in_what_is_held_is_passed_over(held: object) -> None:
    known, *_ = look({}, release("1.5", "a"), available="1.5")
    if isinstance(held, dict):
        held = dict.fromkeys(known["held"], held["IT"])
    assert look({**known, "held": held}, release("1.5", "b"), approved="1.5")[2] == ["1.5"]


def test_versions_have_the_same_identity_exactly_if_they_are_equal() -> None:
    texts = "1 1.0 1.0.0 v1.0.0 1.0.1 1.0.0+a 1.0.0+b 1.0.0-rc.1 1.0rc1 1!1.0 0 0.0 1.10 1.1 1.0+1 1.0+01".split()
    texts += ["2024-01-02", "20240102", "2024.01.02", "2024-01-02-rc1", "2024-01-02.1"]
    for scheme in SCHEMES:
        found = [version for text in texts if (version := parse(scheme, text)) is not None]
        assert len(found) > 3
        for one, other in itertools.product(found, repeat=2):
            assert (one == other) == (one.identity == other.identity), (scheme, one, other)
