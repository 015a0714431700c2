"""Files that are others than when they were first seen: the rules, and what is remembered for them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from slotd.core import policy, replaced, schema
from slotd.model import AppRecord, Asset, Blocked, Release

APP = schema.App(
    "notes",
    source=schema.Source(type="github", repository="acme/notes", asset=("notes-{version}.tar.gz",)),
    verify=schema.Verify(require=("sha256",)),
)
NOW = 1_800_000_000.0


def release(version: str, content: str, *, size: int = 0, digest: bool = True, url: str = "https://x/a") -> Release:
    name = f"notes-{version}.tar.gz"
    mark = f"sha256:{content.encode().hex():0<64}" if digest else ""
    return Release(version, f"v{version}", NOW - 86400, assets=(Asset(name, url, size, mark),))


def look(
    known: object,
    *releases: Release,
    app: schema.App = APP,
    blocked: tuple[Blocked, ...] = (),
    approved: str = "",
    available: str = "",
) -> tuple[Any, list[str], list[str]]:
    """What is remembered, told and waits, as between two checks: what is remembered goes through JSON."""
    memory = replaced.read(json.loads(json.dumps(known)), app.source)
    seen, news = replaced.look(memory, releases, app=app, blocked=blocked, approved=approved, available=available)
    return seen.plain(), news, list(seen.pending)


def test_a_file_that_stays_the_same_is_nothing_new() -> None:
    known, news, waiting = look({}, release("1.0", "a"), release("1.1", "b"))
    assert (news, waiting) == ([], [])
    again, news, waiting = look(known, release("1.1", "b"), release("1.0", "a"), release("1.2", "c"))
    assert (news, waiting) == ([], [])
    assert len(again["files"]) == 3


def test_a_replaced_file_is_told_once_and_waits_until_it_is_accepted_or_as_it_was() -> None:
    known, *_ = look({}, release("1.1", "b"))
    known, news, waiting = look(known, release("1.1", "other"))
    assert news == ["notes-1.1.tar.gz of 1.1 is another file than was first seen at the source"]
    assert waiting == ["1.1"]
    known, news, waiting = look(known, release("1.1", "other"))
    assert (news, waiting) == ([], ["1.1"])
    accepted, was_waiting = replaced.accept(known, "1.1")
    assert was_waiting
    assert look(accepted, release("1.1", "other"))[1:] == ([], [])
    assert look(known, release("1.1", "b"))[1:] == ([], [])
    _, news, waiting = look(accepted, release("1.1", "b"))
    assert (len(news), waiting) == (1, ["1.1"])


def test_accepting_what_does_not_wait_changes_nothing() -> None:
    known, *_ = look({}, release("1.1", "b"))
    assert replaced.accept(known, "1.1") == (known, False)
    assert replaced.accept(known, "") == (known, False)
    assert replaced.accept(None, "1.1")[1] is False


def test_a_file_that_is_away_for_a_while_is_still_known() -> None:
    known, *_ = look({}, release("1.1", "b"))
    known, *_ = look(known, dataclasses.replace(release("1.1", "b"), assets=()))
    known, *_ = look(known)
    _, news, waiting = look(known, release("1.1", "other"))
    assert (len(news), waiting) == (1, ["1.1"])


def test_what_waits_still_does_when_the_file_was_away() -> None:
    known, *_ = look(look({}, release("1.1", "b"))[0], release("1.1", "other"))
    known, _, waiting = look(known, dataclasses.replace(release("1.1", "b"), assets=()))
    assert waiting == ["1.1"]
    assert look(known, release("1.1", "other"))[1:2] == ([],)


def test_without_a_digest_the_size_tells_and_without_both_nothing_does() -> None:
    sized = [release("1.1", "", size=size, digest=False) for size in (5, 6)]
    assert look(look({}, sized[0])[0], sized[1])[2] == ["1.1"]
    bare = release("1.1", "", digest=False)
    assert look(look({}, sized[0])[0], bare)[1:] == ([], [])
    assert look(look({}, bare)[0], sized[0])[1:] == ([], [])
    assert look(look({}, sized[0])[0], release("1.1", "a", size=6))[1:] == ([], [])


def test_a_file_of_this_host_may_still_grow() -> None:
    growing = [release("1.1", "", size=size, digest=False, url="file:///srv/a") for size in (5, 6)]
    assert look(look({}, growing[0])[0], growing[1])[1:] == ([], [])


def test_another_source_starts_anew() -> None:
    known, *_ = look({}, release("1.1", "b"))
    other = dataclasses.replace(APP, source=dataclasses.replace(APP.source, repository="acme/fork"))
    assert look(known, release("1.1", "other"), app=other)[1:] == ([], [])


def test_what_the_definition_does_not_want_may_be_replaced_every_night() -> None:
    for version, more in (("1.2.dev1", {}), ("2.0", {"versions": "<2"})):
        wanted = dataclasses.replace(APP, source=dataclasses.replace(APP.source, **more))
        known, *_ = look({}, release(version, "b"), app=wanted)
        assert look(known, release(version, "other"), app=wanted)[1:] == ([], [])
    nightly = dataclasses.replace(APP, source=dataclasses.replace(APP.source, channel="prerelease"))
    known, *_ = look({}, release("1.2.dev1", "b"), app=nightly)
    assert look(known, release("1.2.dev1", "other"), app=nightly)[2] == ["1.2.dev1"]


def test_a_version_that_failed_here_and_was_replaced_needs_no_more_consent() -> None:
    bad, good = release("1.1", "bad"), release("1.1", "good")
    known, *_ = look({}, bad)
    blocked = (Blocked("notes", "1.1", bad.assets[0].digest, "it crashed", NOW),)
    known, news, waiting = look(known, good, blocked=blocked)
    assert (news, waiting) == ([], [])
    assert look(known, release("1.1", "third"))[2] == ["1.1"]


def test_little_is_remembered_however_much_is_offered() -> None:
    known: Any = {}
    for mark in ("a", "b", "c"):
        known, *_ = look(known, *(release(f"1.{number}", mark) for number in range(500)))
    assert (len(known["files"]), len(known["pending"])) == (replaced.MOST, replaced.MOST)
    assert len(json.dumps(known)) < 16 * 1024


def test_a_damaged_memory_is_an_empty_one() -> None:
    for known in (None, [], "x", {"of": 7}, {"of": "x", "files": [1], "pending": {"1.1": 3}}):
        assert look(known, release("1.1", "b"))[1:] == ([], [])


def choose(*releases: Release, **more: Any) -> policy.Choice:
    usual = {"app": APP, "current": "1.0", "record": AppRecord("notes"), "blocked": (), "now": NOW, "machine_id": "m"}
    return policy.choose(releases, **usual | more)


def test_what_was_replaced_is_passed_over_for_an_older_one_unless_forced() -> None:
    both = release("1.2", "c"), release("1.1", "b")
    choice = choose(*both, replaced=("1.2",))
    assert choice.release is not None
    assert choice.release.version == "1.1"
    ((version, why),) = choice.skipped
    assert version == "1.2"
    assert why.startswith("it was replaced at its source after it was first seen here")
    forced = choose(*both, replaced=("1.2",), force=True).release
    assert forced is not None
    assert forced.version == "1.2"


def test_a_release_without_its_sums_or_signatures_is_not_complete_and_an_older_one_is_offered() -> None:
    app = dataclasses.replace(APP, verify=schema.Verify(require=("sha256", "minisign"), checksums="SHA256SUMS"))
    old = release("1.1", "b")
    more = tuple(Asset(name, "https://x/s") for name in ("SHA256SUMS", "notes-1.1.tar.gz.minisig"))
    whole = dataclasses.replace(old, assets=(*old.assets, *more))
    half = dataclasses.replace(release("1.2", "c"), assets=(*release("1.2", "c").assets, *more[:1]))
    choice = choose(half, whole, app=app)
    assert choice.release is not None
    assert choice.release.version == "1.1"
    ((version, why),) = choice.skipped
    assert version == "1.2"
    assert why.startswith("it is not complete (yet): it has no file notes-1.2.tar.gz.minisig; if that is called")
    assert "`signature` under [verify]" in why
