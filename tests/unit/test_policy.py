"""Which release is chosen: stories of publishers, good and bad, and properties that hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core import schema
from slotd.core.assets import match
from slotd.core.policy import (
    Choice,
    asset_words,
    choose,
    effective_mode,
    may_apply_by_itself,
    news,
    share,
    too_old,
    version_to_apply,
)
from slotd.core.version import parse
from slotd.errors import BadOption, NoSuchVersion, NothingToDo
from slotd.model import AppRecord, AppState, AppView, Asset, Blocked, Mode, Release

NOW = 1_750_000_000.0
DAY = 86400.0
TEMPLATE = "radicale-{version}.tar.gz"


def release(version: str, *, age_days: float = 30, digest: str = "", tag: str = "", yanked: bool = False) -> Release:
    name = f"radicale-{version}.tar.gz"
    asset = Asset(name, f"https://example.org/{name}", 10, digest)
    return Release(version, tag or f"v{version}", NOW - age_days * DAY, "", yanked, (asset,))


def app(**changes: Any) -> schema.App:
    source: dict[str, Any] = {"type": "github", "repository": "Kozea/Radicale", "asset": (TEMPLATE,)}
    source |= {
        key: value for key, value in changes.items() if key in ("channel", "scheme", "versions", "asset", "type")
    }
    policy = {key: value for key, value in changes.items() if key in ("mode", "min_age_s")}
    rollout = {key: value for key, value in changes.items() if key in ("ring", "ring_delay_s", "fraction")}
    return schema.App(
        name="radicale",
        source=schema.Source(**source),
        policy=schema.Policy(**policy),
        rollout=schema.Rollout(**rollout),
    )


def pick(releases: list[Release], definition: schema.App | None = None, **changes: Any) -> Choice:
    asked: dict[str, Any] = {
        "current": "3.0",
        "record": AppRecord("radicale"),
        "blocked": (),
        "now": NOW,
        "machine_id": "0123456789abcdef",
        "arch": "x86_64",
    }
    return choose(releases, app=definition or app(), **(asked | changes))


def version(choice: Choice) -> str | None:
    return choice.release.version if choice.release else None


def test_the_highest_version_is_chosen_whatever_the_order_of_the_source() -> None:
    releases = [release("3.2"), release("3.10"), release("3.9"), release("2.99")]
    assert version(pick(releases)) == "3.10"


def test_a_release_is_not_chosen_because_the_source_calls_it_latest() -> None:
    releases = [release("latest", tag="latest"), release("3.1")]
    choice = pick(releases)
    assert version(choice) == "3.1"
    assert ("latest", "it is not a version of the scheme pep440") in choice.skipped


def test_nothing_below_or_beside_the_installed_version_is_chosen() -> None:
    assert pick([release("3.0"), release("2.9")]).release is None


def test_it_is_said_when_the_source_no_longer_offers_what_is_installed() -> None:
    choice = pick([release("2.9")])
    assert choice.release is None
    assert choice.skipped == (("2.9", "it is older than the installed 3.0"),)


def test_a_beta_without_a_prerelease_flag_is_still_a_beta() -> None:
    choice = pick([release("3.2-beta.1"), release("3.1")])
    assert version(choice) == "3.1"
    assert choice.skipped == (("3.2-beta.1", "it is a prerelease, and the channel is stable"),)
    assert version(pick([release("3.2-beta.1")], app(channel="prerelease"))) == "3.2-beta.1"


def test_the_specifier_is_obeyed_in_every_scheme() -> None:
    assert version(pick([release("5.0"), release("3.4")], app(versions=">=3,<4"))) == "3.4"
    semver = app(versions=">=3,<4", scheme="semver")
    assert version(pick([release("5.0.0"), release("4.0.0"), release("3.4.1")], semver, current="3.0.0")) == "3.4.1"


def test_a_withdrawn_release_is_taken_only_if_it_is_named() -> None:
    releases = [release("3.2", yanked=True), release("3.1")]
    assert version(pick(releases)) == "3.1"
    assert version(pick(releases, wanted="3.2")) == "3.2"


def test_a_release_without_its_file_is_passed_over_until_the_file_is_there() -> None:
    naked = replace(release("3.2"), assets=())
    choice = pick([naked, release("3.1")])
    assert version(choice) == "3.1"
    assert choice.skipped == (("3.2", "its asset radicale-3.2.tar.gz is not there (yet)"),)


def test_a_blocked_version_stays_blocked_until_the_publisher_replaces_its_file() -> None:
    old, new = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    block = Blocked("radicale", "3.1", old, "it crashed at start", NOW)
    bad = [release("3.1", digest=old)]
    why = "it is blocked on this host: it crashed at start (`slotctl update radicale --force` tries it again)"
    assert pick(bad, blocked=[block]).skipped == (("3.1", why),)
    assert version(pick([release("3.1", digest=new)], blocked=[block])) == "3.1"
    assert pick([release("3.1")], blocked=[block]).release is None, "a source without digests unblocks nothing"
    assert pick([release("3.1", digest=new)], blocked=[replace(block, digest="")]).release is None
    assert version(pick([release("3.2", digest=old)], blocked=[block])) == "3.2"


def test_someone_can_say_that_a_blocked_version_is_tried_again() -> None:
    block = Blocked("radicale", "3.1", "", "it crashed", NOW)
    assert version(pick([release("3.1")], blocked=[block], wanted="3.1")) == "3.1"
    assert version(pick([release("3.1")], blocked=[block], force=True)) == "3.1"


def test_a_block_of_another_spelling_is_still_a_block() -> None:
    block = Blocked("radicale", "v3.1.0", "", "", NOW)
    assert pick([release("3.1")], blocked=[block]).release is None


def test_a_release_must_be_as_old_as_min_age_says() -> None:
    definition = app(min_age_s=7 * DAY)
    choice = pick([release("3.2", age_days=2), release("3.1", age_days=8)], definition)
    assert version(choice) == "3.1"
    assert "policy.min_age is 7d" in choice.skipped[0][1]


def test_an_unknown_age_counts_as_too_young_only_where_an_age_is_asked_for() -> None:
    unknown = replace(release("3.1"), published=0.0)
    assert version(pick([unknown])) == "3.1"
    assert pick([unknown], app(min_age_s=DAY)).release is None


def test_a_release_dated_in_the_future_is_too_young() -> None:
    assert pick([release("3.1", age_days=-5)], app(min_age_s=DAY)).release is None


def test_a_later_ring_waits_for_its_turn() -> None:
    definition = app(ring=2, ring_delay_s=7 * DAY)
    assert pick([release("3.1", age_days=13)], definition).release is None
    assert version(pick([release("3.1", age_days=15)], definition)) == "3.1"
    assert version(pick([release("3.1", age_days=0)], app(ring=0))) == "3.1"


def test_a_fraction_of_all_hosts_goes_first_and_a_larger_one_holds_the_smaller() -> None:
    hosts = [f"machine-{number}" for number in range(400)]

    def of(fraction: float) -> set[str]:
        return {h for h in hosts if pick([release("3.1")], app(fraction=fraction), machine_id=h).release}

    assert of(0.0) == set()
    assert of(1.0) == set(hosts)
    assert of(0.2) < of(0.6)
    assert 40 < len(of(0.2)) < 120


def test_a_host_without_a_machine_id_is_in_no_fraction() -> None:
    assert pick([release("3.1")], app(fraction=0.9), machine_id="").release is None


def test_another_release_begins_with_other_hosts() -> None:
    assert share("machine", "radicale", "3.1") != share("machine", "radicale", "3.2")


def test_a_first_installation_takes_what_is_there() -> None:
    assert version(pick([release("0.1")], current="")) == "0.1"


def test_nothing_is_guessed_about_an_installed_version_that_does_not_parse() -> None:
    choice = pick([release("3.1")], current="custom-build")
    assert choice.release is None
    assert "custom-build" in choice.skipped[0][1]
    with pytest.raises(BadOption):
        pick([release("3.1")], current="custom-build", wanted="3.1")
    assert version(pick([release("3.1")], current="custom-build", wanted="3.1", force=True)) == "3.1"


def test_going_down_must_be_asked_for_by_version_and_with_force() -> None:
    releases = [release("3.1"), release("2.9")]
    with pytest.raises(BadOption, match=r"not newer than the installed 3\.0"):
        pick(releases, wanted="2.9")
    assert version(pick(releases, wanted="2.9", force=True)) == "2.9"
    assert version(pick(releases, force=True)) == "3.1"
    assert pick([release("2.9")], force=True).release is None


def test_a_version_that_is_not_offered_is_an_error_that_says_what_is() -> None:
    with pytest.raises(NoSuchVersion, match=r"3\.1"):
        pick([release("3.1")], wanted="9.9")
    with pytest.raises(BadOption, match="not a version"):
        pick([release("3.1")], wanted="latest")
    with pytest.raises(NothingToDo):
        pick([release("3.0")], wanted="3.0")
    assert version(pick([release("3.0")], wanted="3.0", force=True)) == "3.0"
    with pytest.raises(NoSuchVersion, match="not there"):
        pick([replace(release("3.1"), assets=())], wanted="3.1", force=True)


def test_a_version_may_be_named_by_its_tag_or_another_spelling() -> None:
    releases = [release("3.1", tag="radicale-v3.1")]
    for wanted in ("3.1", "v3.1", "3.1.0", "radicale-v3.1"):
        assert version(pick(releases, wanted=wanted)) == "3.1"


def test_a_named_version_outside_of_the_specifier_needs_force() -> None:
    with pytest.raises(BadOption, match="outside of"):
        pick([release("5.0")], app(versions="<4"), wanted="5.0")
    assert version(pick([release("5.0")], app(versions="<4"), wanted="5.0", force=True)) == "5.0"


def test_the_prefix_of_a_tag_is_no_part_of_the_version() -> None:
    tagged = replace(release("3.1"), version="Radicale-v3.1", tag="Radicale-v3.1")
    assert version(pick([tagged])) == "3.1"


def test_what_was_approved_is_found_beside_a_newer_one() -> None:
    record = AppRecord("radicale", approved="3.1")
    choice = pick([release("3.2"), release("3.1")], record=record)
    assert version(choice) == "3.2"
    assert choice.approved is not None
    assert version(choice.approved) == "3.1"
    assert choice.approved.assets[0].name == "radicale-3.1.tar.gz"
    block = Blocked("radicale", "3.1", "", "", NOW)
    assert pick([release("3.2"), release("3.1")], record=record, blocked=[block]).approved is None


def test_what_was_approved_is_applied_by_itself_under_every_rule_and_nothing_else_is() -> None:
    releases = [release("3.2"), release("3.1")]
    assert version(pick(releases, wanted="3.1", automatic=True)) == "3.1"
    block = Blocked("radicale", "3.1", "", "it crashed", NOW)
    blocked = pick(releases, wanted="3.1", automatic=True, blocked=[block])
    assert blocked.release is None
    assert any(name == "3.1" and why.startswith("it is blocked on this host") for name, why in blocked.skipped)
    assert pick([release("3.1", yanked=True)], wanted="3.1", automatic=True).release is None
    assert pick([release("3.2")], wanted="3.1", automatic=True).release is None
    assert pick(releases, wanted="3.0", automatic=True).release is None


def test_a_flood_of_tags_that_are_no_versions_does_not_flood_the_reader() -> None:
    choice = pick([release(f"build-x{number}") for number in range(3000)] + [release("3.1")])
    assert version(choice) == "3.1"
    assert len(choice.skipped) < 60


# -- files -----------------------------------------------------------------------------------------


def offering(*names: str) -> Release:
    return Release("1.2.3", "v1.2.3", NOW, assets=tuple(Asset(name, f"https://example.org/{name}") for name in names))


@pytest.mark.parametrize(
    ("template", "arch", "name"),
    [
        ("caddy_{version}_{os}_{arch}.tar.gz", "x86_64", "caddy_1.2.3_linux_amd64.tar.gz"),
        ("app-{tag}-{arch}.zip", "x86_64", "app-v1.2.3-x86_64.zip"),
        ("app-{arch}", "aarch64", "app-arm64"),
        ("app-{arch}", "arm64", "app-aarch64"),
        ("app-{os}-{arch}", "x86_64", "app-Linux-x86_64"),
        ("app-{arch}", "riscv64", "app-riscv64"),
        ("app-{arch}", "made-up", "app-made-up"),
    ],
)
def test_the_usual_spellings_of_architecture_and_system_fit(template: str, arch: str, name: str) -> None:
    source = schema.Source(type="github", asset=(template,))
    found = match(source, offering("app-linux-amd64-debug", name, "app-mips"), arch)
    assert [asset.name for asset in found.assets] == [name]
    assert asset_words(offering(name), source, arch)["arch"] in name


def test_a_name_must_fit_as_a_whole() -> None:
    source = schema.Source(type="github", asset=("app-{version}.tar.gz",))
    names = ("app-1.2.3.tar.gz.asc", "xapp-1.2.3.tar.gz", "app-1.2.30.tar.gz", "app-*.tar.gz")
    has = "app-*.tar.gz, app-1.2.30.tar.gz, xapp-1.2.3.tar.gz, app-1.2.3.tar.gz.asc"
    problem = match(source, offering(*names), "x86_64").problem
    assert problem == f"its asset app-1.2.3.tar.gz is not there (yet); it has {has}"


def test_all_of_several_files_must_be_there() -> None:
    source = schema.Source(type="github", asset=("a-{version}", "b-{version}"))
    assert match(source, offering("a-1.2.3"), "x86_64").problem
    assert [a.name for a in match(source, offering("b-1.2.3", "a-1.2.3"), "x86_64").assets] == ["a-1.2.3", "b-1.2.3"]


def test_of_a_python_package_the_wheel_for_every_machine_is_taken_else_the_source() -> None:
    source = schema.Source(type="pypi", package="app")
    wheel, binary, sdist = (
        "app-1.2.3-py3-none-any.whl",
        "app-1.2.3-cp311-cp311-manylinux_x86_64.whl",
        "app-1.2.3.tar.gz",
    )
    assert match(source, offering(sdist, binary, wheel), "x86_64").assets[0].name == wheel
    assert match(source, offering(binary, sdist), "x86_64").assets[0].name == sdist
    assert "only wheels for certain machines" in match(source, offering(binary), "x86_64").problem


def test_a_folder_with_one_file_and_its_sums_needs_no_template() -> None:
    source = schema.Source(type="directory", path="/srv/releases")
    assert (
        match(source, offering("app.tar.zst", "app.tar.zst.asc", "SHA256SUMS"), "x86_64").assets[0].name
        == "app.tar.zst"
    )
    assert "several files" in match(source, offering("one.zip", "two.zip"), "x86_64").problem


# -- may it be applied -----------------------------------------------------------------------------


def shown(mode: Mode, *, approved: str = "", available: str = "3.1", held: bool = False,
          state: AppState = AppState.UPDATE_AVAILABLE) -> AppView:  # fmt: skip
    return AppView("radicale", state=state, version="3.0", available=available, approved=approved, mode=mode, held=held)


def test_the_mode_decides_what_happens_without_a_person() -> None:
    assert may_apply_by_itself(shown(Mode.AUTO))
    assert not may_apply_by_itself(shown(Mode.AUTO, available=""))
    assert not may_apply_by_itself(shown(Mode.MANUAL, approved="3.1"))
    assert not may_apply_by_itself(shown(Mode.APPROVE))
    assert not may_apply_by_itself(shown(Mode.APPROVE, approved="3.0"))  # which is installed
    assert may_apply_by_itself(shown(Mode.APPROVE, approved="3.1"))


def test_what_is_held_misconfigured_or_not_installed_is_never_updated_by_itself() -> None:
    assert not may_apply_by_itself(shown(Mode.AUTO, held=True))
    assert not may_apply_by_itself(shown(Mode.AUTO, state=AppState.MISCONFIGURED))
    assert not may_apply_by_itself(shown(Mode.AUTO, state=AppState.ABSENT))


def test_what_was_approved_is_applied_and_nothing_newer() -> None:
    assert version_to_apply(shown(Mode.APPROVE, approved="3.1", available="3.2")) == "3.1"
    assert version_to_apply(shown(Mode.AUTO, available="3.2")) == ""


def test_what_was_set_over_the_bus_goes_before_the_definition() -> None:
    assert effective_mode(app(mode=Mode.AUTO), AppRecord("radicale")) is Mode.AUTO
    assert effective_mode(app(mode=Mode.AUTO), AppRecord("radicale", mode=Mode.MANUAL)) is Mode.MANUAL


# -- properties ------------------------------------------------------------------------------------

texts = st.one_of(
    st.from_regex(r"v?[0-9]\.[0-9]{1,2}(\.[0-9])?((a|b|rc|\.dev|-beta\.)[0-9])?", fullmatch=True),
    st.sampled_from(["latest", "nightly", "", "1.0-alpine"]),
)
some_releases = st.lists(
    st.builds(
        release,
        texts,
        age_days=st.floats(-5, 60),
        digest=st.sampled_from(["", f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"]),
        yanked=st.booleans(),
    ),
    max_size=10,
)
some_blocks = st.lists(
    st.builds(
        Blocked, st.just("radicale"), texts, st.sampled_from(["", f"sha256:{'a' * 64}"]), st.just("bad"), st.just(NOW)
    ),
    max_size=4,
)


@given(some_releases, some_blocks, texts, st.floats(0, 20), st.integers(0, 3))
def test_what_is_chosen_by_itself_is_never_blocked_withdrawn_young_a_prerelease_or_lower(
    releases: list[Release], blocked: list[Blocked], current: str, age_days: float, ring: int
) -> None:
    definition = app(min_age_s=age_days * DAY, ring=ring, ring_delay_s=DAY, asset=("radicale-{version}.tar.gz",))
    choice = pick(releases, definition, blocked=blocked, current=current)
    if choice.release is None:
        return
    chosen = parse("pep440", choice.release.version)
    installed = parse("pep440", current)
    assert chosen is not None
    assert not chosen.is_prerelease
    assert not choice.release.yanked
    assert installed is None or chosen > installed
    assert NOW - choice.release.published >= max(age_days, ring) * DAY or max(age_days, ring) == 0
    for block in blocked:
        if parse("pep440", block.version) == chosen:
            assert block.digest
            assert choice.digest
            assert block.digest != choice.digest


@given(some_releases)
def test_nothing_better_is_left_behind(releases: list[Release]) -> None:
    choice = pick(releases, current="")
    good = [
        v
        for r in releases
        if not r.yanked and (v := parse("pep440", r.version)) and not v.is_prerelease and v.text == r.version
    ]
    if good:
        assert choice.release is not None
        chosen = parse("pep440", choice.release.version)
        assert chosen is not None
        assert chosen >= max(good)


# --- what a source does not say, and how far one may go back


def remembered(*releases: Release, known: object = None, now: float = NOW, quiet_days: float = 30) -> Any:
    return news(known, releases, now, quiet_days * DAY)


def test_a_source_that_says_nothing_new_is_noticed_once_it_has_been_long() -> None:
    known, silence = remembered(release("1.0", age_days=3))
    assert silence == ""
    known, silence = remembered(release("1.0", age_days=30), known=known, now=NOW + 26 * DAY)
    assert silence == ""
    known, silence = remembered(release("1.0", age_days=31), known=known, now=NOW + 28 * DAY)
    assert silence == "the source has said nothing new for 31 days"
    assert known["told"] is False  # that is for who tells it
    again, silence = remembered(release("1.0"), known={**known, "told": True}, now=NOW + 40 * DAY)
    assert (silence, again["told"]) == ("the source has said nothing new for 43 days", True)


def test_anything_new_ends_the_silence() -> None:
    old = {"of": remembered(release("1.0"))[0]["of"], "since": NOW - 90 * DAY, "told": True}
    known, silence = remembered(release("1.0"), release("1.1", age_days=80), known=old)
    assert (silence, known["since"], known["told"]) == ("", NOW, False)


def test_a_clock_that_was_set_back_and_a_quiet_of_nothing_tell_no_silence() -> None:
    of = remembered(release("1.0", age_days=90))[0]["of"]
    assert remembered(release("1.0", age_days=1), known={"of": of, "since": NOW + DAY, "told": True})[1] == ""
    assert remembered(release("1.0", age_days=900), quiet_days=0)[1] == ""


def test_what_a_source_offers_never_takes_an_app_to_an_older_version() -> None:
    for offered in (["1.0"], ["1.0", "1.9"], ["2.0"], ["1.99", "2.0.dev1"]):
        assert pick([release(each) for each in offered], current="2.0").release is None


def test_a_publisher_says_how_far_back_one_may_go() -> None:
    two, three = replace(release("2.0"), oldest="1.5"), release("3.0")
    assert too_old("pep440", "1.4", [three, two]) == ("1.5", "2.0")
    assert too_old("pep440", "1.4", [two, replace(three, oldest="1.0")]) == ("1.5", "2.0")  # once said, it stays
    assert too_old("pep440", "1.5", [three, two]) == ("", "")
    assert too_old("pep440", "1.4", [three, replace(two, oldest="soon")]) == ("", "")
