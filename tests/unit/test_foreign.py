"""Foreign JSON is read strictly, and every refusal names its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core import release as form
from slotd.core.foreign import MOST_DEPTH, parse
from slotd.core.pipconf import default_index, index_url
from slotd.core.release import release_from_json, release_to_json, releases_from_json, state_from_json
from slotd.core.schema import Limits
from slotd.core.simpleindex import links
from slotd.errors import Misconfigured, SourceFailed
from slotd.model import Asset, Release

LIMITS = Limits()
PLAIN = release_to_json(
    Release("1.0", "v1.0", 5.0, "notes", False, (Asset("a", "https://h/a", 1, "sha256:" + "0" * 64),))
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_any_document_is_read_as_it_is(value: object) -> None:
    assert parse(json.dumps(value).encode(), "x").value == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_refusal(body: bytes) -> None:
    message = "the place"
    try:
        parse(body, "the place")
    except SourceFailed as failed:
        message = failed.message
    assert "the place" in message


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse(json.dumps(["[" * 1000 + '\\"' + "{" * 1000]).encode(), "x").value
    nested = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse(nested.encode(), "x").value
    with pytest.raises(SourceFailed, match="nested"):
        parse(f"[{nested}]".encode(), "x")


def test_an_unfinished_text_of_escapes_does_not_take_long() -> None:
    with pytest.raises(SourceFailed, match="not JSON"):
        parse(b'"' + b'\\"' * 2_000_000, "x")


def test_moments_are_seconds_since_the_epoch() -> None:
    for text in (
        "2026-01-31T12:00:00Z",
        "2026-01-31T13:00:00+01:00",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00.000Z",
    ):
        assert parse(json.dumps({"at": text}).encode(), "x")["at"].moment() == 1769860800.0
    assert parse(b'{"at": 1769860800}', "x")["at"].moment() == 1769860800.0
    assert parse(b'{"at": null}', "x")["at"].moment() == 0.0
    for bad in ('"soon"', "-1", "1e300", "true", "[]", '"2026-13-01"'):
        with pytest.raises(SourceFailed, match=r"x: at: "):
            parse(f'{{"at": {bad}}}'.encode(), "x")["at"].moment()


def test_prose_is_cut_and_made_harmless() -> None:
    def prose(text: str, most: int = 100) -> str:
        return parse(json.dumps([text]).encode(), "x").items(1).__next__().prose(most)

    assert prose("a\r\nb\rc\td") == "a\nb\nc\td"
    assert prose("\x1b[31mred\u202eback") == "\ufffd[31mred\ufffdback"
    assert prose("ééé", 3) == "é"
    prose("half \ud800 sign").encode()


names = st.text(min_size=1, max_size=40).filter(form.is_file_name)
assets = st.builds(
    Asset,
    names,
    st.just("https://host/file"),
    st.integers(0, form.MOST_BYTES),
    st.sampled_from(["", "sha256:" + "ab" * 32, "sha512:" + "0f" * 64]),
)
releases = st.builds(
    Release,
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}(-rc\.[0-9])?", fullmatch=True),
    st.from_regex(r"v[!-~]{1,40}", fullmatch=True),
    st.floats(0, 4e9),
    st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=200),
    st.booleans(),
    st.lists(assets, max_size=5, unique_by=lambda asset: asset.name).map(tuple),
)


@given(releases)
def test_a_release_comes_back_from_json_as_it_was(release: Release) -> None:
    assert release_from_json(json.loads(json.dumps(release_to_json(release))), LIMITS) == release


@given(st.sampled_from(sorted(PLAIN)), values)
def test_a_release_with_anything_in_a_field_is_read_or_refused(field: str, value: object) -> None:
    try:
        found = release_from_json(PLAIN | {field: value}, LIMITS)
    except SourceFailed as failed:
        message = failed.message
    else:
        message = f"a release: {field}"
        assert form.is_version(found.version)
        assert all(form.is_file_name(asset.name) for asset in found.assets)
    assert f"a release: {field}" in message


ASSET = PLAIN["assets"][0]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"version": "../1"}, "'../1' cannot be a version"),
        ({"version": "1.0/x"}, "cannot be a version"),
        ({"version": "-1"}, "cannot be a version"),
        ({"version": "1{slot}"}, "cannot be a version"),
        ({"version": "1 0"}, "cannot be a version"),
        ({"version": ""}, "cannot be a version"),
        ({"tag": "a b"}, "cannot be a tag"),
        ({"published": float("nan")}, "out of range"),
        ({"published": 10**400}, "out of range"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"assets": [ASSET, ASSET]}, "two files have the same name"),
        ({"assets": [ASSET | {"name": "../a"}]}, "not a plain file name"),
        ({"assets": [ASSET | {"name": "."}]}, "not a plain file name"),
        ({"assets": [ASSET | {"url": "javascript:alert(1)"}]}, "not an http, https or file address"),
        ({"assets": [ASSET | {"url": "https://h/ä"}]}, "not an http, https or file address"),
        ({"assets": [ASSET | {"digest": "sha256:0"}]}, "not a sha256 or sha512 digest"),
        ({"assets": [ASSET | {"size": True}]}, "expected a whole number"),
        ({"assets": [ASSET | {"size": 2**60}]}, "out of range"),
        ({"assets": [ASSET | {"mode": 0}]}, "unknown key 'mode'"),
    ],
)
def test_a_release_that_is_not_as_we_write_it_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(SourceFailed) as failed:
        release_from_json(PLAIN | change, LIMITS)
    assert sentence in failed.value.message


def test_a_list_of_too_many_releases_is_refused() -> None:
    with pytest.raises(SourceFailed, match="it has 3 entries, more than 2"):
        releases_from_json([PLAIN] * 3, Limits(index_releases=2))


def test_a_listing_fits_a_frame_by_leaving_out_the_oldest() -> None:
    large = [Release(f"{n}.0", f"{n}", notes="x" * 60_000) for n in range(200, 0, -1)]
    fitting, warnings = form.fit(large, LIMITS)
    assert form.json_bytes(fitting) <= form.LISTING_BYTES
    assert fitting[0]["version"] == "200.0"
    assert warnings == [f"The source lists 200 releases; the oldest {200 - len(fitting)} were left out."]


def test_warnings_are_few_short_and_printable() -> None:
    found = form.bounded_warnings([f"{n}\x1b" + "x" * 9999 for n in range(500)])
    assert len(found) == form.MOST_WARNINGS
    assert found[-1] == "… and 451 more of this kind."
    assert form.warnings_from_json(found) == tuple(found)


def test_pips_settings_are_weighed_as_pip_does() -> None:
    first, second = "[global]\nindex-url = https://a/simple\n", "[install]\nindex_url = https://b/simple\n"
    assert index_url([first], {}) == "https://a/simple"
    assert index_url([second, first], {}) == "https://b/simple"
    assert index_url([first, first.replace("/a/", "/c/")], {}) == "https://c/simple"
    assert index_url([second], {"PIP_INDEX_URL": "https://d/simple"}) == "https://d/simple"
    assert index_url(["not an [ini file"], {}) == ""
    with pytest.raises(Misconfigured, match="use no index"):
        index_url(["[global]\nno-index = true\n"], {})
    assert default_index('x = 1\nPyPI = PackageIndex(\n    "https://index.example/", file_domain="f"\n)\n') == (
        "https://index.example/simple"
    )
    assert default_index("") == ""


def test_a_page_of_links_gives_files_as_the_newer_api_does() -> None:
    digest = "ab" * 32
    page = f"""<!DOCTYPE html><html><body><h1>x</h1><a>no address</a>
      <a href="../../f/x%2B1.tar.gz#sha256={digest}" data-requires-python="&gt;=3.8" data-yanked="broken">text</a>
      <A HREF='https://h/x-2.whl'>two</A><a href="https://[::1/x">bad</a><a href="/unclosed"""
    assert links(page.encode(), 10) == [
        {
            "filename": "x+1.tar.gz",
            "url": "../../f/x%2B1.tar.gz",
            "hashes": {"sha256": digest},
            "requires-python": ">=3.8",
            "yanked": "broken",
        },
        {"filename": "x-2.whl", "url": "https://h/x-2.whl", "hashes": {}, "requires-python": "", "yanked": False},
    ]
    with pytest.raises(SourceFailed, match="more than 1 files"):
        links(page.encode(), 1)


@pytest.mark.attack
@pytest.mark.parametrize("depth", [70, 500, 900])
def test_a_state_that_is_nested_too_deeply_to_be_written_down_is_refused(depth: int) -> None:
    state = json.loads('{"a":' * depth + "[]" + "}" * depth)
    with pytest.raises(SourceFailed, match="nested too deeply"):
        state_from_json(state, LIMITS)
    assert state_from_json({"key": {"pages": [{}, []]}}, LIMITS)
