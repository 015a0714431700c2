"""Versions and specifiers: real tags of real projects, in the scheme that their definition names."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core.specifier import parse_specifier
from slotd.core.version import SCHEMES, Version, parse, version_of_tag


def must(scheme: str, text: str) -> Version:
    version = parse(scheme, text)
    assert version is not None, text
    return version


@pytest.mark.parametrize(
    ("scheme", "ordered"),
    [
        ("pep440", ["1.0.dev1", "1.0a1", "1.0-beta.2", "1.0rc1", "1.0", "1.0.post1", "v1.1", "1.10", "2!0.1"]),
        ("semver", ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "v1.1.0"]),
        ("date", ["2023-12-31", "20240601-rc1", "20240601", "20240601.2", "RELEASE.2024-06-01T10-00-00Z", "20240602"]),
    ],
)  # fmt: skip
def test_versions_are_ordered_as_their_scheme_says(scheme: str, ordered: list[str]) -> None:
    versions = [must(scheme, text) for text in ordered]
    assert sorted(versions) == versions
    assert all(low < high for low, high in itertools.pairwise(versions))


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        ("pep440", "1.2.3-alpine"),
        ("pep440", "latest"),
        ("pep440", "2024-06-01"),
        ("pep440", ""),
        ("pep440", " 1.0"),
        ("pep440", "1." + "9" * 5000),
        ("pep440", "１.2"),
        ("semver", "1.2"),
        ("semver", "01.2.3"),
        ("semver", "latest"),
        ("date", "2024-13-01"),
        ("date", "2024-02-30"),
        ("date", "1.2.3"),
        ("date", "latest"),
        ("date", "2024-06-01T99-00-00Z"),
    ],
)
def test_what_does_not_parse_is_not_guessed_at(scheme: str, text: str) -> None:
    assert parse(scheme, text) is None


@pytest.mark.parametrize(
    ("scheme", "text", "is_prerelease"),
    [
        ("pep440", "4.20.0", False),
        ("pep440", "4.20.0-beta.1", True),
        ("pep440", "4.20.0.dev3", True),
        ("pep440", "4.20.0.post1", False),
        ("semver", "1.2.3-rc.1", True),
        ("semver", "1.2.3+build.5", False),
        ("date", "2024-06-01", False),
        ("date", "2024.06.01-beta2", True),
        ("date", "RELEASE.2024-06-01T00-00-00Z", False),
    ],
)
def test_a_version_judges_for_itself_whether_it_is_a_prerelease(scheme: str, text: str, is_prerelease: bool) -> None:
    assert must(scheme, text).is_prerelease is is_prerelease


def test_two_builds_of_one_semver_version_are_the_same_version() -> None:
    assert must("semver", "1.2.3+a") == must("semver", "1.2.3+b")


def test_versions_of_two_schemes_are_never_compared() -> None:
    with pytest.raises(TypeError):
        assert must("pep440", "1.2.3") < must("semver", "1.2.4")


@pytest.mark.parametrize(
    ("scheme", "tag", "version"),
    [
        ("pep440", "v1.2.3", "1.2.3"),
        ("pep440", "V1.2.3", "1.2.3"),
        ("pep440", "1.2.3", "1.2.3"),
        ("pep440", "release-1.2.3", "1.2.3"),
        ("pep440", "release/v1.2.3", "1.2.3"),
        ("semver", "radicale-v3.1.0", "3.1.0"),
        ("semver", "radicale@3.1.0", "3.1.0"),
        ("date", "RELEASE.2024-06-01T00-00-00Z", "RELEASE.2024-06-01T00-00-00Z"),
        ("pep440", "nightly", "nightly"),
        ("pep440", "latest", "latest"),
        ("pep440", "beta-1.2.3", "beta-1.2.3"),
    ],
)
def test_a_tag_loses_known_prefixes_only(scheme: str, tag: str, version: str) -> None:
    assert version_of_tag(scheme, tag, ["radicale"]) == version


def test_the_tag_of_another_project_in_the_repository_is_not_ours() -> None:
    tag = version_of_tag("pep440", "helm-chart-9.9.9", ["radicale"])
    assert parse("pep440", tag) is None


@given(st.sampled_from(SCHEMES), st.text(max_size=150))
def test_any_tag_gives_a_version_or_none_and_never_an_error(scheme: str, tag: str) -> None:
    text = version_of_tag(scheme, tag, ["app"])
    version = parse(scheme, text)
    if version is not None:
        assert parse(scheme, version.text) == version
        assert not (version < version)


@pytest.mark.parametrize(
    ("scheme", "specifier", "inside", "outside"),
    [
        ("pep440", ">=4.20,<5", ["4.20", "4.99.1"], ["4.19.9", "5.0", "5.0rc1"]),
        ("pep440", "~=1.4", ["1.4", "1.99"], ["2.0"]),
        ("semver", ">=4.20,<5", ["4.20.0", "4.99.1"], ["4.19.9", "5.0.0", "5.0.0-rc.1"]),
        ("semver", "==1.4.*", ["1.4.0", "1.4.9"], ["1.5.0"]),
        ("semver", "~=1.4.2", ["1.4.2", "1.4.9"], ["1.4.1", "1.5.0"]),
        ("semver", "~=1.4", ["1.4.0", "1.9.0"], ["2.0.0", "1.3.9"]),
        ("semver", "!=1.4.2", ["1.4.3"], ["1.4.2"]),
        ("semver", ">1.4.2,<=1.5.0", ["1.4.3", "1.5.0"], ["1.4.2", "1.5.1"]),
        ("date", ">=2024-06,<2025", ["2024-06-01", "2024-12-31"], ["2024-05-31", "2025-01-01"]),
        ("date", "==2024-12", ["2024-12-31"], ["2025-01-01"]),
        ("pep440", "", ["0.1", "99"], []),
        ("semver", "", ["0.1.0"], []),
    ],
)
def test_a_specifier_means_the_same_in_every_scheme(
    scheme: str, specifier: str, inside: list[str], outside: list[str]
) -> None:
    found = parse_specifier(scheme, specifier)
    assert [text for text in inside if not found.allows(must(scheme, text))] == []
    assert [text for text in outside if found.allows(must(scheme, text))] == []


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        ("pep440", "latest"),
        ("semver", "latest"),
        ("pep440", "4.20"),
        ("semver", "^1.2"),
        ("semver", ">=1.*"),
        ("semver", "===1.2.3"),
        ("date", ">=yesterday"),
        ("pep440", ">=4,,<5"),
        ("pep440", ">=latest"),
        ("semver", "~=1"),
    ],
)
def test_what_is_no_specifier_is_refused_with_a_reason(scheme: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_specifier(scheme, text)


@given(st.sampled_from(SCHEMES), st.text(alphabet="0123456789.<>=!~,*v-rc ", max_size=30))
def test_any_specifier_is_read_or_refused(scheme: str, text: str) -> None:
    with suppress(ValueError):
        assert parse_specifier(scheme, text).text.strip() in ("", text.strip())
